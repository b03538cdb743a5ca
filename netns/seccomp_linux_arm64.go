package netns

import "golang.org/x/sys/unix"

// machineABIs: arm64 and its 32-bit twin (arch/arm/tools/syscall.tbl).
var machineABIs = []abi{
	{
		architecture: unix.AUDIT_ARCH_AARCH64,
		socket:       unix.SYS_SOCKET, socketpair: unix.SYS_SOCKETPAIR, ioctl: unix.SYS_IOCTL,
		ioUring: unix.SYS_IO_URING_SETUP,
	},
	{architecture: unix.AUDIT_ARCH_ARM, socket: 281, socketpair: 288, ioctl: 54, ioUring: 425},
}
