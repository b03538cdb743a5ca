package tokens

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// maxKeyFile is far more than any spelling of a key needs, in bytes.
const maxKeyFile = 4096

// ErrExposed is wrapped when a key file is open to others.
var ErrExposed = errors.New("others may use it")

// ReadKeyFile reads a key file (see [ParseKey]). One that group or others may
// read, write or run is refused with [ErrExposed], except on Windows, where the
// mode does not tell.
//
// On Linux, one that belongs to root may be readable in one of two ways besides,
// by which root hands a key to a process that is not root: by an access-control
// list that names this process's user alone, as systemd's LoadCredential= makes,
// and by a group that this process is in, as Kubernetes' fsGroup makes.
//
// The error wraps [fs.ErrNotExist] when there is no such file.
func ReadKeyFile(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	defer f.Close()
	// The mode is asked of the open file: a path could name another by now.
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("reading key file: %s is a directory; name a file in it", path)
	}
	if perm := info.Mode().Perm(); runtime.GOOS != "windows" && perm&0o077 != 0 && !handedByRoot(f, info) {
		return nil, fmt.Errorf("reading key file: %s has mode %04o, so %w; run: chmod 600 %s",
			path, perm, ErrExposed, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("reading key file: %s is larger than %d bytes, so it is no key file", path, maxKeyFile)
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("reading key file %s: %w", path, err)
	}
	return key, nil
}

// CreateKeyFile makes a random key and stores it as base64 and a newline in a
// new file of mode 0600; missing directories get mode 0700. The error wraps
// [fs.ErrExist] when there is such a file, which stays as it is.
func CreateKeyFile(path string) (*Key, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating key file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating key file: %w", err)
	}
	key, raw := GenerateKey()
	if err := writeKey(f, raw); err != nil {
		os.Remove(path) // half a key file would be refused at every later start
		return nil, fmt.Errorf("creating key file: %w", err)
	}
	syncDir(dir)
	return key, nil
}

func writeKey(f *os.File, raw []byte) error {
	_, err := fmt.Fprintln(f, base64.StdEncoding.EncodeToString(raw))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// syncDir makes the new name survive a power cut. Not every system can sync a
// directory, and the key is usable without, so a failure is no error.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}
