package handler

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

var oldKey, newKey = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)

// TestKeyFilesAreWatched changes a key file in the ways of editors, scripts and
// Kubernetes, and finds the new key in force without a reload.
func TestKeyFilesAreWatched(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, path string)
	}{
		{"written in place", func(t *testing.T, path string) { writeKey(t, path, newKey) }},
		{"replaced by a rename", func(t *testing.T, path string) {
			writeKey(t, path+".new", newKey)
			must(t, os.Rename(path+".new", path))
		}},
		{"removed, and made again", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			writeKey(t, path, newKey)
		}},
		{"a link that is led elsewhere", func(t *testing.T, path string) {
			other := filepath.Join(t.TempDir(), "key")
			writeKey(t, other, newKey)
			must(t, os.Symlink(filepath.Dir(other), filepath.Join(filepath.Dir(filepath.Dir(path)), "..data_tmp")))
			must(t, os.Rename(filepath.Join(filepath.Dir(filepath.Dir(path)), "..data_tmp"), filepath.Dir(path)))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The folder of the file is a link itself, as in a volume of Kubernetes.
			real, volume := t.TempDir(), t.TempDir()
			must(t, os.Symlink(real, filepath.Join(volume, "..data")))
			path := filepath.Join(volume, "..data", "key")
			writeKey(t, path, oldKey)
			k, _ := watchedKeys(t, path)
			test.change(t, path)
			awaitKeys(t, k, newKey)
		})
	}
}

// TestKeyFilesThatCannotBeUsed leave the old key in force. It is told of once,
// and so is the recovery.
func TestKeyFilesThatCannotBeUsed(t *testing.T) {
	for _, test := range []struct {
		name, says string
		change     func(t *testing.T, path string)
	}{
		{"garbage", "parsing key", func(t *testing.T, path string) { replace(t, path, []byte("garbage"), 0o600) }},
		{"empty", "parsing key", func(t *testing.T, path string) { replace(t, path, nil, 0o600) }},
		{"readable for others", "chmod 600", func(t *testing.T, path string) { replace(t, path, newKey, 0o644) }},
		{"vanished", "no such file", func(t *testing.T, path string) { must(t, os.Remove(path)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			writeKey(t, path, oldKey)
			k, logs := watchedKeys(t, path)
			test.change(t, path)
			testbench.Await(t, 20*time.Second, func() error { return logged(logs, zapcore.ErrorLevel, test.says) })
			time.Sleep(10 * k.poll) // nothing may come, so there is nothing to wait for
			if n := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
				t.Errorf("got %d errors, want one: %v", n, logs.All())
			}
			if !opensWith(t, k, oldKey) {
				t.Error("the old key is not in force")
			}
			must(t, os.RemoveAll(path))
			writeKey(t, path, newKey)
			awaitKeys(t, k, newKey)
			if err := logged(logs, zapcore.InfoLevel, "can be used again"); err != nil {
				t.Error(err)
			}
			for _, key := range [][]byte{oldKey, newKey} {
				for _, entry := range logs.All() {
					text, _ := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()).EncodeEntry(entry.Entry, entry.Context)
					if found := testbench.FindSecret(text.Bytes(), string(key)); len(found) > 0 {
						t.Errorf("the log holds a key as %v: %s", found, text)
					}
				}
			}
		})
	}
}

// TestSeveralKeyFiles opens tokens of the older key after a rotation.
func TestSeveralKeyFiles(t *testing.T) {
	dir := t.TempDir()
	first, older := filepath.Join(dir, "key"), filepath.Join(dir, "older")
	writeKey(t, first, oldKey)
	writeKey(t, older, bytes.Repeat([]byte{3}, 32))
	k, _ := watchedKeys(t, first, older)
	writeKey(t, older, oldKey)
	writeKey(t, first, newKey)
	awaitKeys(t, k, newKey)
	testbench.Await(t, 20*time.Second, func() error {
		if !opensWith(t, k, oldKey) {
			return os.ErrInvalid
		}
		return nil
	})
	ring, err := k.ring()
	must(t, err)
	token, err := ring.Seal(tokens.Secret{Value: "v"})
	must(t, err)
	key, err := tokens.NewKey(newKey)
	must(t, err)
	if _, err := tokens.NewKeyring(key).Open(token); err != nil {
		t.Errorf("a new token is not sealed with the first key: %v", err)
	}
}

func watchedKeys(t *testing.T, paths ...string) (*keyFiles, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	k := &keyFiles{paths: paths, poll: 10 * time.Millisecond, log: zap.New(core), ended: make(chan struct{})}
	must(t, k.read())
	must(t, k.watch())
	t.Cleanup(k.stop)
	return k, logs
}

// writeKey writes in two halves, so that there is a moment with half a key.
func writeKey(t *testing.T, path string, key []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	for _, half := range [][]byte{key[:16], key[16:]} {
		_, err := f.Write(half)
		must(t, err)
	}
}

// replace leaves no moment at which the file is something else.
func replace(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path+".new", content, mode))
	must(t, os.Rename(path+".new", path))
}

func opensWith(t *testing.T, k *keyFiles, key []byte) bool {
	t.Helper()
	ring, err := k.ring()
	must(t, err)
	_, err = ring.Open(testbench.Seal(t, key, "v"))
	return err == nil
}

func awaitKeys(t *testing.T, k *keyFiles, key []byte) {
	t.Helper()
	testbench.Await(t, 20*time.Second, func() error {
		if !opensWith(t, k, key) {
			return os.ErrInvalid
		}
		return nil
	})
}

func logged(logs *observer.ObservedLogs, level zapcore.Level, text string) error {
	for _, entry := range logs.FilterLevelExact(level).All() {
		for _, field := range entry.Context {
			if err, ok := field.Interface.(error); ok && strings.Contains(err.Error(), text) {
				return nil
			}
		}
		if strings.Contains(entry.Message, text) {
			return nil
		}
	}
	return os.ErrNotExist
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
