//go:build !unix

package starpod

import "os"

// lockedFile has no counterpart here.
func lockedFile(string) (*os.File, error) { return nil, nil }

// isAbandoned cannot tell here.
func isAbandoned(string) bool { return false }
