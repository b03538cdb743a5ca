package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// recordDir holds a file for each namespace that has been made, which lists what
// belongs to it. The file is locked for as long as its process lives, so whoever
// can lock one has found the remains of a process that was killed. Only root may
// open it: whoever can hold the locks can keep this process waiting.
const recordDir = "/run/starpod"

// record lists what one instance has made, and nothing that it has found.
type record struct {
	Name          string   `json:"name"`
	Inode         uint64   `json:"inode,omitempty"` // of the namespace; 0 while it is being made
	HostInterface string   `json:"host_interface"`
	Tables        []string `json:"tables,omitempty"`  // of iptables, and table/chain, which did not exist before any instance
	Folders       []string `json:"folders,omitempty"` // likewise; inner ones last
	file          *os.File
}

func recordPath(name string) string { return filepath.Join(recordDir, name+".json") }

// lockRecords keeps other processes from making and removing namespaces.
func lockRecords() (unlock func(), err error) {
	for {
		if err := os.Mkdir(recordDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		dir, err := os.Open(recordDir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by the last one that ended
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
			_ = dir.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		if there, err := os.Stat(recordDir); err == nil {
			if mine, err := dir.Stat(); err == nil && os.SameFile(there, mine) {
				return func() {
					_ = os.Remove(recordDir) // only when it is empty
					_ = dir.Close()
				}, nil
			}
		}
		_ = dir.Close()
	}
}

// newRecord makes the file, locked; the error is fs.ErrExist where the name is
// taken.
func newRecord(r record) (*record, error) {
	file, err := os.OpenFile(recordPath(r.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	r.file = file
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(os.NewSyscallError("flock", err), file.Close())
	}
	return &r, r.save()
}

func (r *record) save() error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := r.file.Truncate(0); err != nil {
		return err
	}
	_, err = r.file.WriteAt(text, 0)
	return err
}

// forget removes the file.
func (r *record) forget() error {
	return errors.Join(os.Remove(recordPath(r.Name)), r.file.Close())
}

// others reads the records that are there: dead ones, locked by this call, and
// live ones.
func others() (dead, live []*record, err error) {
	paths, err := filepath.Glob(filepath.Join(recordDir, "*.json"))
	if err != nil {
		return nil, nil, err
	}
	for _, path := range paths {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, nil, err
		}
		r := &record{}
		if text, err := os.ReadFile(path); err != nil || json.Unmarshal(text, r) != nil {
			r = &record{} // killed while it was written; nothing had been made
		}
		r.Name, r.file = strings.TrimSuffix(filepath.Base(path), ".json"), file
		if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			dead = append(dead, r)
			continue
		}
		_ = file.Close()
		live = append(live, r)
	}
	return dead, live, nil
}

// inherit takes over what instances share: the last one removes it.
func (r *record) inherit(from *record) {
	r.Tables = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Tables, from.Tables))))
	r.Folders = slices.Concat(r.Folders, slices.DeleteFunc(from.Folders, func(path string) bool {
		return slices.Contains(r.Folders, path) || filepath.Base(path) == from.Name
	}))
}

// makeFolder makes a folder unless it is there, and notes that before, so that it
// is known to whoever comes after a process that was killed.
func (r *record) makeFolder(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	r.Folders = append(r.Folders, path)
	if err := r.save(); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making a folder: %w", err)
	}
	return os.Chmod(path, 0o755) // whatever the umask is
}
