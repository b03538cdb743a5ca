//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package starpod

// hideTyping leaves it to term.ReadPassword.
func hideTyping(int) error { return nil }
