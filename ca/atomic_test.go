package ca

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestNewFilesAreCreatedAndOldOnesKept(t *testing.T) {
	for what, create := range map[string]func(string, []byte, fs.FileMode) error{
		"with hard links": createFile, "without": createDirectly,
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if err := create(path, []byte("precious"), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := create(path, []byte("new"), 0o644); !errors.Is(err, fs.ErrExist) {
				t.Errorf("error = %v, want ErrExist", err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(readAll(t, path)); got != "precious" || info.Mode() != 0o640 {
				t.Errorf("file holds %q, mode %v; want %q, 0640", got, info.Mode(), "precious")
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestReplaceFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "child"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, []byte("x"), 0o644); err == nil {
		t.Error("replaceFile replaced a directory")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
