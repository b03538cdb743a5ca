package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inOwnRun is for root: a process with a /run of its own.
func inOwnRun(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it keeps records in /run")
	}
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
}

// TestRecords are root's alone, since a lock on them keeps the next start waiting,
// and tell the dead from the living.
func TestRecords(t *testing.T) {
	got := probe(t, inOwnRun(t), "records")
	for name, want := range map[string]string{
		"the folder":                     "drwx------",
		"a record":                       "-rw-------",
		"a name that is taken":           "true",
		"found":                          "dead: killed written, live: alive",
		"what the killed one shared":     "[filter nat] [/etc/netns]",
		"the folder after the last one":  "ENOENT",
		"the folder before the last one": "ok",
	} {
		if got[name] != want {
			t.Errorf("%s: got %s, want %s", name, got[name], want)
		}
	}
}

func init() { probes["records"] = probeRecords }

func probeRecords([]string) (map[string]string, error) {
	if err := errors.Join(keepMounts(), unix.Mount("tmpfs", "/run", "tmpfs", 0, "")); err != nil {
		return nil, err
	}
	results := map[string]string{}
	mode := func(name, path string) {
		info, err := os.Lstat(path)
		if err != nil {
			results[name] = outcome(err)
			return
		}
		results[name] = info.Mode().String()
	}
	unlock, err := lockRecords()
	if err != nil {
		return nil, err
	}
	alive, err := newRecord(record{Name: "alive", Tables: []string{"nat"}})
	if err != nil {
		return nil, err
	}
	killed, err := newRecord(record{Name: "killed", Tables: []string{"filter"}, Folders: []string{"/etc/netns", "/etc/netns/killed"}})
	if err != nil {
		return nil, err
	}
	mode("the folder", recordDir)
	mode("a record", recordPath("alive"))
	_, err = newRecord(record{Name: "alive"})
	results["a name that is taken"] = fmt.Sprint(errors.Is(err, fs.ErrExist))
	// One ended, and one was killed while it wrote.
	if err := errors.Join(killed.file.Close(), os.WriteFile(filepath.Join(recordDir, "written.json"), []byte(`{"name":`), 0o600)); err != nil {
		return nil, err
	}
	dead, live, err := others()
	if err != nil || len(dead) != 2 || len(live) != 1 {
		return nil, fmt.Errorf("got %d dead and %d live records (%w)", len(dead), len(live), err)
	}
	results["found"] = fmt.Sprintf("dead: %s %s, live: %s", dead[0].Name, dead[1].Name, live[0].Name)
	alive.inherit(dead[0])
	results["what the killed one shared"] = fmt.Sprint(alive.Tables, alive.Folders)
	if err := errors.Join(dead[0].forget(), dead[1].forget()); err != nil {
		return nil, err
	}
	unlock()
	_, err = os.Lstat(recordDir)
	results["the folder before the last one"] = outcome(err)
	if unlock, err = lockRecords(); err != nil {
		return nil, err
	}
	err = alive.forget()
	unlock()
	mode("the folder after the last one", recordDir)
	return results, err
}
