package netns

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program in a user namespace of its own cannot trace processes outside. One
// that root put into a namespace without that could trace other processes of its
// user, or reach their files by /proc/<pid>/root, and so walk around both. A
// Landlock domain keeps a program from what is outside of it (landlock(7)).

// Versions of the interface: with REFER, a domain that handles files can let
// programs move them between folders; with scopes, it need not handle files.
const (
	landlockRefer = 2
	landlockScope = 6
)

// confineTracing keeps the calling thread, and what it executes, from tracing
// processes that it does not start itself.
func confineTracing() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || version < landlockRefer {
		return &Unavailable{
			Reason: "the kernel has neither user namespaces nor Landlock here",
			Mend:   "without either, programs could be traced out of the namespace: allow user namespaces, or boot with lsm=landlock,… (Linux 5.19 or newer)",
			Err:    errno,
		}
	}
	attr := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}
	if version < landlockScope {
		// Nobody without capabilities makes block devices anyway.
		attr = unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_REFER}
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("making a Landlock ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	if attr.Handled_access_fs != 0 {
		if err := allowMoves(int(fd)); err != nil {
			return err
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("entering a Landlock domain: %w", errno)
	}
	return nil
}

// allowMoves lets files be moved everywhere, as they can be without Landlock.
func allowMoves(ruleset int) error {
	root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_REFER, Parent_fd: int32(root)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		err = fmt.Errorf("adding a Landlock rule: %w", errno)
	}
	return errors.Join(err, unix.Close(root))
}
