//go:build !unix

package starpod

import (
	"errors"
	"os/exec"

	"github.com/starpod/caddy-starpod/netns"
)

// becomeUser has no counterpart here.
func becomeUser(_ *exec.Cmd, u *netns.User) error {
	if u == nil {
		return nil
	}
	return errors.New("running a command as another user works on Unix only")
}
