//go:build unix

package starpod

import (
	"os/exec"
	"syscall"

	"github.com/starpod/caddy-starpod/netns"
)

// becomeUser makes a command run as u; nil changes nothing.
func becomeUser(cmd *exec.Cmd, u *netns.User) error {
	if u == nil {
		return nil
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	return nil
}
