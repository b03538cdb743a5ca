//go:build !linux

package starpod

// hideProcess has no counterpart here.
func hideProcess() error { return nil }

// closeInherited has no counterpart here.
func closeInherited() error { return nil }

// scrubArguments has no counterpart here.
func scrubArguments(values []string) []string { return values }
