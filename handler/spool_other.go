//go:build !linux

package handler

import "os"

// place does nothing: the file grows as it is written.
func place(*os.File, int64, int64) error { return nil }
