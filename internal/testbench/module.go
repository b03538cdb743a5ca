package testbench

import (
	"fmt"
	"os"
	"path/filepath"
)

// ModuleRoot returns the folder of go.mod above the package under test. It needs
// no testing.TB, so that TestMain can call it.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("looking for go.mod above the working directory: %w", os.ErrNotExist)
		}
		dir = parent
	}
}
