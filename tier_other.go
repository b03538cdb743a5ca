//go:build !linux

package starpod

func hasNetAdmin() bool { return false }
