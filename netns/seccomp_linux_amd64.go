package netns

import "golang.org/x/sys/unix"

// machineABIs: x86-64 without its x32 variant, whose numbers begin at bit 30, and
// i386 (arch/x86/entry/syscalls).
var machineABIs = []abi{
	{
		architecture: unix.AUDIT_ARCH_X86_64,
		socket:       unix.SYS_SOCKET, socketpair: unix.SYS_SOCKETPAIR, ioctl: unix.SYS_IOCTL,
		ioUring: unix.SYS_IO_URING_SETUP, limit: 1 << 30,
	},
	{architecture: unix.AUDIT_ARCH_I386, socket: 359, socketpair: 360, ioctl: 54, ioUring: 425, socketcall: 102},
}
