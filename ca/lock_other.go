//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package ca

// lockDir does nothing where there is no lock to be had.
func lockDir(string) (unlock func()) { return func() {} }
