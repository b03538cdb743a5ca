package starpod

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The folder of a proxy's files for clients is temporary. A proxy that is killed
// leaves it behind, and the next one removes it: it holds a file that is locked
// for as long as its proxy lives.
const (
	tempPrefix = "starpod-"
	lockFile   = "lock"
)

// tempDir is such a folder. Everybody may read it: nothing in it is secret, and
// commands may run as somebody else.
type tempDir struct {
	path string
	lock *os.File // nil on systems without locks
}

func makeTempDir() (*tempDir, error) {
	path, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return nil, err
	}
	d := &tempDir{path: path}
	if d.lock, err = lockedFile(path); err == nil {
		err = os.Chmod(path, 0o755)
	}
	if err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// write writes a file that everybody may read, whatever the umask is, in a folder
// that it makes.
func (d *tempDir) write(name string, content []byte) error {
	path := filepath.Join(d.path, name)
	if folder := filepath.Dir(path); folder != d.path {
		if err := errors.Join(os.Mkdir(folder, 0o755), os.Chmod(folder, 0o755)); err != nil {
			return err
		}
	}
	return errors.Join(os.WriteFile(path, content, 0o644), os.Chmod(path, 0o644))
}

func (d *tempDir) remove() error {
	err := os.RemoveAll(d.path)
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// removeAbandoned removes folders of this user that no proxy holds any more.
func removeAbandoned(parent string) {
	for _, folder := range abandoned(parent) {
		_ = os.RemoveAll(folder)
	}
}

// abandoned leaves out what cannot be looked at, which is somebody else's, and what
// is not named by numbers alone, which is not of a proxy.
func abandoned(parent string) []string {
	folders, _ := filepath.Glob(filepath.Join(parent, tempPrefix+"*"))
	return slices.DeleteFunc(folders, func(folder string) bool {
		number := strings.TrimPrefix(filepath.Base(folder), tempPrefix)
		return number == "" || strings.Trim(number, "0123456789") != "" || !isAbandoned(folder)
	})
}
