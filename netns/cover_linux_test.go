package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCovers hides files and folders from a process, by whatever way it comes.
func TestCovers(t *testing.T) {
	dir := t.TempDir()
	got := probe(t, ownMounts(t), "covers", dir)
	const empty = "0 bytes"
	for name, want := range map[string]string{
		"the file":                               empty,
		"a symbolic link to it":                  empty,
		"a folder's symbolic link":               empty,
		"a file that is hidden by its link":      empty,
		"by another mount of the folder":         empty,
		"by another mount of a folder around it": empty,
		"a file with a space in its name":        empty,
		"a folder":                               "0 files",
		"a file in the folder":                   "ENOENT",
		"another file":                           "6 bytes",
		"a file that was replaced before":        empty,

		"writing the file":              "ok", // into /dev/null
		"its contents afterwards":       "6 bytes",
		"linking the file":              "EXDEV",
		"moving the file":               "EBUSY",
		"moving something over it":      "EBUSY",
		"removing the file":             "EBUSY",
		"uncovering the file":           "EPERM",
		"moving the folder around them": "ok",
		"the file in the moved folder":  empty,

		"a file that is not there":             "ok",
		"a file below a file":                  "ok",
		"a file with two names":                "it has 2 names (hard links), and the others would stay; remove them",
		"the folder that the command is in":    "the command would start in a folder that is hidden from it; start it elsewhere, or keep what is to be hidden in a folder of its own",
		"a folder around that":                 "the command would start in a folder that is hidden from it; start it elsewhere, or keep what is to be hidden in a folder of its own",
		"the other name of one with two names": "6 bytes",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "moved", "secret")); err != nil || string(text) != "secret" {
		t.Errorf("outside: got %q (%v), want the file as it was", text, err)
	}
}

func init() { probes["covers"] = probeCovers }

func probeCovers(args []string) (map[string]string, error) {
	dir, results := args[0], map[string]string{}
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string) error { return os.WriteFile(in(name), []byte("secret"), 0o600) }
	if err := errors.Join(
		keepMounts(),
		os.Mkdir(in("around"), 0o700), os.Mkdir(in("around/folder"), 0o700), os.Mkdir(in("again"), 0o700), os.Mkdir(in("whole"), 0o700),
		write("around/secret"), write("around/linked"), write("around/open"), write("around/twice"), write("around/with space"),
		write("around/replaced"), write("around/new"), write("around/folder/inner"),
		os.Rename(in("around/new"), in("around/replaced")),
		os.Symlink("secret", in("around/link")), os.Symlink("around", in("link")), os.Symlink(in("around/linked"), in("linked")),
		os.Link(in("around/twice"), in("around/twin")),
		unix.Mount(in("around"), in("again"), "", unix.MS_BIND, ""), unix.Mount(dir, in("whole"), "", unix.MS_BIND, ""),
		os.Chdir(in("around/folder")),
	); err != nil {
		return nil, err
	}
	for name, path := range map[string]string{
		"a file that is not there": in("nothing"), "a file below a file": in("around/open/below"), "a file with two names": in("around/twice"),
		"the folder that the command is in": in("around/folder"), "a folder around that": in("around"),
	} {
		err := cover(path)
		results[name] = outcome(err)
	}
	if err := os.Chdir("/"); err != nil {
		return nil, err
	}
	if err := coverAll([]string{in("around/secret"), in("linked"), in("around/folder"), in("around/with space"), in("around/replaced")}, ""); err != nil {
		return nil, err
	}
	if err := dropPrivileges(nil); err != nil {
		return nil, err
	}
	for name, path := range map[string]string{
		"the file": "around/secret", "a symbolic link to it": "around/link", "a folder's symbolic link": "link/secret",
		"a file that is hidden by its link": "around/linked", "by another mount of the folder": "again/secret",
		"by another mount of a folder around it": "whole/around/secret", "a file with a space in its name": "around/with space",
		"a folder": "around/folder", "a file in the folder": "around/folder/inner", "another file": "around/open",
		"a file that was replaced before": "around/replaced", "the other name of one with two names": "around/twin",
	} {
		results[name] = contents(in(path))
	}
	results["writing the file"] = outcome(os.WriteFile(in("around/secret"), []byte("new"), 0))
	results["linking the file"] = outcome(os.Link(in("around/secret"), in("around/copy")))
	results["moving the file"] = outcome(os.Rename(in("around/secret"), in("around/copy")))
	results["moving something over it"] = outcome(os.Rename(in("around/open"), in("around/secret")))
	results["removing the file"] = outcome(unix.Unlink(in("around/secret")))
	results["uncovering the file"] = outcome(unix.Unmount(in("around/secret"), unix.MNT_DETACH))
	results["moving the folder around them"] = outcome(os.Rename(in("around"), in("moved")))
	results["the file in the moved folder"] = contents(in("moved/secret"))
	results["its contents afterwards"] = contents(in("moved/open"))
	return results, nil
}

// contents tells what can be seen of a file or folder.
func contents(path string) string {
	entries, err := os.ReadDir(path)
	if err == nil {
		return fmt.Sprint(len(entries), " files")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return outcome(err)
	}
	return fmt.Sprint(len(text), " bytes")
}

// TestCoversOfAnotherNamespace: root of a namespace of its own gets the covers
// with it, as one piece.
func TestCoversOfAnotherNamespace(t *testing.T) {
	if !hasUserNamespaces() {
		t.Skip("needs user namespaces")
	}
	dir, err := os.MkdirTemp("", "starpod-nested-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := ownMounts(t)
	if os.Geteuid() == 0 { // who would need a capability to become root once more
		ordinary := &User{UID: 12345, GID: 12345}
		attr = helperAttributes(nil, CellConfig{Namespace: "none", User: ordinary})
		if err := os.Chown(dir, int(ordinary.UID), int(ordinary.GID)); err != nil {
			t.Fatal(err)
		}
	}
	got := probe(t, attr, "nested", dir)
	for name, want := range map[string]string{
		"the file":                      "0 bytes",
		"uncovering it":                 "EINVAL",
		"the folder without its mounts": "EINVAL",
		"a copy of the mount":           "EINVAL",
		"an overlay of the folder":      "EINVAL",
		"the folder with its mounts":    "0 bytes",
		"its mount uncovered":           "EINVAL",
		"another proc":                  "EPERM",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
}

func init() { probes["nested"] = probeNested }

// probeNested begins in the helper's namespace and goes on as a program in it
// that has made one of its own.
func probeNested(args []string) (map[string]string, error) {
	dir := args[0]
	file := filepath.Join(dir, "secret")
	if len(args) == 1 {
		if err := errors.Join(os.WriteFile(file, []byte("secret"), 0o600), os.Mkdir(filepath.Join(dir, "x"), 0o700), keepMounts(), coverAll([]string{file}, ""), dropPrivileges(nil)); err != nil {
			return nil, err
		}
		attr := helperAttributes(nil, CellConfig{Namespace: "none"})
		attr.GidMappingsEnableSetgroups, attr.Credential = false, nil
		return probeInside(attr, "nested", dir, "inside")
	}
	x, results := filepath.Join(dir, "x"), map[string]string{"the file": contents(file)}
	results["uncovering it"] = outcome(unix.Unmount(file, unix.MNT_DETACH))
	results["the folder without its mounts"] = outcome(unix.Mount(dir, x, "", unix.MS_BIND, ""))
	_, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE)
	results["a copy of the mount"] = outcome(err)
	results["an overlay of the folder"] = outcome(unix.Mount("overlay", x, "overlay", 0, "lowerdir="+dir+":"+x))
	results["another proc"] = outcome(unix.Mount("proc", x, "proc", 0, ""))
	if err := unix.Mount(dir, x, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return nil, err
	}
	results["the folder with its mounts"] = contents(filepath.Join(x, "secret"))
	results["its mount uncovered"] = outcome(unix.Unmount(filepath.Join(x, "secret"), unix.MNT_DETACH))
	return results, nil
}

func TestParseMounts(t *testing.T) {
	const line = `36 35 98:0 /mnt1 /a\040b\134c rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue`
	got, err := parseMounts(strings.NewReader(line + "\n"))
	if want := (mount{device: "98:0", root: "/mnt1", point: `/a b\c`, kind: "ext3"}); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	for _, broken := range []string{"36 35 98:0 / /a rw - ext3"[:20], "36 35 98:0 / /a rw -", "- ext3"} {
		if got, err := parseMounts(strings.NewReader(broken)); err == nil {
			t.Errorf("%q: got %+v, want an error", broken, got)
		}
	}
}
