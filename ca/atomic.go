package ca

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// createFile makes path with this content, whole or not at all. If path exists,
// it stays as it is and the error is fs.ErrExist.
func createFile(path string, data []byte, mode fs.FileMode) error {
	temp, err := writeTemp(path, data, mode)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err = os.Link(temp, path); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return createDirectly(path, data, mode)
}

// createDirectly is createFile for file systems without hard links: it does not
// overwrite either, but a reader may see the file before it is whole.
func createDirectly(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err = writeAndClose(f, data, mode); err != nil {
		_ = os.Remove(path)
	}
	return err
}

// replaceFile puts this content at path in one step: a reader sees the old file
// or the new one. The directory is created with mode 0700 if it is missing.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp, err := writeTemp(path, data, mode)
	if err != nil {
		return err
	}
	if err = os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
	}
	return err
}

// writeTemp writes a hidden file beside path and returns its name.
func writeTemp(path string, data []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return "", err
	}
	if err = writeAndClose(f, data, mode); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// writeAndClose sets the mode itself, so that the umask has no say.
func writeAndClose(f *os.File, data []byte, mode fs.FileMode) error {
	_, err := f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}
