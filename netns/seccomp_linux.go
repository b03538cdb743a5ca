package netns

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a network namespace does not contain is closed by a system call filter
// (seccomp(2)), which programs inherit and cannot take off:
//
//   - sockets of other families than unix, inet, inet6 and netlink. AF_VSOCK
//     reaches the hypervisor and its other guests from every namespace;
//   - io_uring, which makes sockets past any filter;
//   - TIOCSTI and TIOCLINUX, which type into the terminal that the program shares
//     with the shell that started it (ioctl_tty(2)).
//
// A program for another architecture than this one's, or its 32-bit twin, makes
// no system call at all.

// Offsets into struct seccomp_data. Arguments are 64 bits wide; families and
// ioctl numbers are 32-bit, so the lower half decides, as it does in the kernel.
const (
	dataNumber       = 0
	dataArchitecture = 4
	dataArgs         = 16
)

// abi is one way to make system calls on a machine.
type abi struct {
	architecture                       uint32 // AUDIT_ARCH_*
	socket, socketpair, ioctl, ioUring uint32
	socketcall                         uint32 // 0 where there is none
	limit                              uint32 // numbers from here on are another ABI; 0 for none
}

var allowedFamilies = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// forbiddenIoctls type into a terminal.
var forbiddenIoctls = []uint32{unix.TIOCSTI, unix.TIOCLINUX}

// filterCalls puts the filter on the calling thread and what it executes.
func filterCalls() error {
	if len(machineABIs) == 0 {
		return errors.New("no system call filter is known for " + runtime.GOARCH)
	}
	instructions, err := bpf.Assemble(callFilter(machineABIs))
	if err != nil {
		return fmt.Errorf("assembling the system call filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(instructions))
	for i, in := range instructions {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("installing the system call filter: %w", errno)
	}
	return nil
}

func refuse(errno unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

var permit = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}

// callFilter is one block for each ABI, entered if the architecture is its own.
func callFilter(abis []abi) []bpf.Instruction {
	var all []bpf.Instruction
	for _, a := range abis {
		block := a.block()
		all = append(all, bpf.LoadAbsolute{Off: dataArchitecture, Size: 4})
		all = append(all, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.architecture, SkipTrue: uint8(len(block))})
		all = append(all, block...)
	}
	return append(all, refuse(unix.ENOSYS))
}

// block judges the calls of one ABI and always returns.
func (a abi) block() []bpf.Instruction {
	block := []bpf.Instruction{bpf.LoadAbsolute{Off: dataNumber, Size: 4}}
	if a.limit != 0 {
		block = append(block,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: a.limit, SkipTrue: 1},
			refuse(unix.ENOSYS))
	}
	block = append(block,
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.ioUring, SkipTrue: 1},
		refuse(unix.ENOSYS))
	if a.socketcall != 0 {
		// Its arguments are in memory, where no filter sees them.
		block = append(block,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.socketcall, SkipTrue: 1},
			refuse(unix.ENOSYS))
	}
	var families []bpf.Instruction
	families = append(families, bpf.LoadAbsolute{Off: dataArgs, Size: 4})
	for _, family := range allowedFamilies {
		families = append(families, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: family, SkipTrue: 1}, permit)
	}
	families = append(families, refuse(unix.EAFNOSUPPORT))
	block = append(block,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.socket, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: a.socketpair, SkipTrue: uint8(len(families))})
	block = append(block, families...)

	block = append(block,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.ioctl, SkipTrue: 1},
		permit,
		bpf.LoadAbsolute{Off: dataArgs + 8, Size: 4})
	for _, request := range forbiddenIoctls {
		block = append(block, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: request, SkipTrue: 1}, refuse(unix.EPERM))
	}
	return append(block, permit)
}
