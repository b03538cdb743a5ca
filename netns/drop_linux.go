package netns

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropPrivileges makes the calling thread, and what it executes, a user without
// any capability who cannot gain one: the bounding, ambient, inheritable,
// permitted and effective sets are empty, and set-user-ID bits and file
// capabilities have no effect (capabilities(7), PR_SET_NO_NEW_PRIVS).
func dropPrivileges(become *User) error {
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && capability > unix.CAP_SETPCAP {
			break // beyond the last one that the kernel knows
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d: %w", capability, err)
		}
	}
	if become != nil {
		if err := becomeUser(become); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	return nil
}

func becomeUser(u *User) error {
	groups := make([]int, len(u.Groups))
	for i, gid := range u.Groups {
		groups[i] = int(gid)
	}
	err := errors.Join(syscall.Setgroups(groups), syscall.Setgid(int(u.GID)))
	if err == nil {
		err = syscall.Setuid(int(u.UID)) // last: it takes the right to the others
	}
	if err != nil {
		return fmt.Errorf("becoming user %d: %w", u.UID, err)
	}
	return nil
}
