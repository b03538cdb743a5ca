package starpod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/starpod/caddy-starpod/tokens"
)

func (d *doctor) checkKeys(context.Context) []finding {
	if len(d.plan.keys) == 0 {
		return []finding{absent("", "no key file to check", "make one: caddy starpod keygen")}
	}
	var found []finding
	seen := map[plannedKey]bool{}
	for _, key := range d.plan.keys {
		if !seen[key] {
			seen[key] = true
			found = append(found, checkKey(key))
		}
	}
	return found
}

// checkKey looks at a key file from outside before it is read: a pipe would block.
func checkKey(key plannedKey) finding {
	path := key.path
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && key.generate:
		return absent(path, "is not there yet: the first start makes it", "")
	case errors.Is(err, fs.ErrNotExist):
		return broken(path, "is missing", commandLine("caddy", "starpod", "keygen", path))
	case err != nil:
		return broken(path, "cannot be looked at: "+err.Error(), runAsOwner(filepath.Dir(path)))
	case !info.Mode().IsRegular():
		return broken(path, "is no regular file", "name a file that `caddy starpod keygen` has made")
	}
	if f, unsafe := checkFolder(path); unsafe {
		return f
	}
	mode := info.Mode().Perm()
	_, err = tokens.ReadKeyFile(path)
	switch {
	case errors.Is(err, tokens.ErrExposed):
		return broken(path, fmt.Sprintf("mode %04o: others may use it", mode), commandLine("chmod", "600", path))
	case errors.Is(err, fs.ErrPermission) && mode&0o400 == 0:
		return broken(path, fmt.Sprintf("mode %04o: not even its owner may read it", mode), commandLine("chmod", "600", path))
	case errors.Is(err, fs.ErrPermission):
		return broken(path, "you may not read it: it belongs to "+owner(info), runAsOwner(path))
	case err != nil:
		return broken(path, fmt.Sprintf("%d bytes that are no key: wanted are 32 raw bytes, 64 hex digits or the base64 of 32 bytes", info.Size()),
			"restore it from a copy; or, which loses all tokens made with it: "+
				commandLine("mv", path, path+".broken")+" && "+commandLine("caddy", "starpod", "keygen", path))
	}
	return good(path, fmt.Sprintf("a key of 32 bytes, mode %04o, owner %s", mode, owner(info)))
}

// checkFolder reports whether others may put another file in the place of one.
func checkFolder(path string) (finding, bool) {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o022 == 0 || info.Mode()&fs.ModeSticky != 0 {
		return finding{}, false
	}
	return broken(path, fmt.Sprintf("others may replace it: its folder %s has mode %04o", dir, info.Mode().Perm()),
		commandLine("chmod", "go-w", dir)), true
}

// runAsOwner is the mend for what only another user may read.
func runAsOwner(path string) string {
	if info, err := os.Stat(path); err == nil {
		if name := owner(info); name != unknownOwner {
			return "examine it as the user that runs the proxy: " + commandLine("sudo", "-u", name, "caddy", "starpod", "doctor")
		}
	}
	return "examine it as the user that runs the proxy"
}

const unknownOwner = "unknown"
