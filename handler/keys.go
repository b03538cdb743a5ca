package handler

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
)

// keyPoll is how often key files are looked at.
const keyPoll = time.Second

// keyFiles reads master keys, creates the first where that is asked for, and takes
// up what becomes of the files.
type keyFiles struct {
	paths    []string
	generate bool
	poll     time.Duration // default: keyPoll
	log      *zap.Logger

	mu     sync.Mutex
	keys   *tokens.Keyring // nil until all files have been read
	stamps []keyStamp      // of the files when they were last read
	failed string          // why what is in the files now is not in force

	start, end sync.Once
	ended      chan struct{}
}

// read loads the keyring. A first file that is missing and may be created is no
// error; create makes it.
func (k *keyFiles) read() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.paths) == 0 {
		return errors.New("no master_key_file: name one, or make one with `caddy starpod keygen FILE`")
	}
	if _, err := os.Stat(k.paths[0]); k.generate && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	k.stamps = k.look() // before reading: what is written meanwhile is read again
	keys, err := k.load()
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w; make one with `caddy starpod keygen`, or add `generate_key`", err)
	}
	if err == nil {
		k.keys = keys
	}
	return err
}

// load reads all files, which must be there.
func (k *keyFiles) load() (*tokens.Keyring, error) {
	keys := make([]*tokens.Key, 0, len(k.paths))
	for _, path := range k.paths {
		key, err := tokens.ReadKeyFile(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return tokens.NewKeyring(keys[0], keys[1:]...), nil
}

// create makes the first key file if it is missing, and reads all.
func (k *keyFiles) create() error {
	k.mu.Lock()
	missing := k.keys == nil
	k.mu.Unlock()
	if !missing {
		return nil
	}
	if _, err := tokens.CreateKeyFile(k.paths[0]); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return k.read()
}

// ring returns the keyring, creating the first key if the app has not started.
func (k *keyFiles) ring() (*tokens.Keyring, error) {
	if err := k.create(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, nil
}

// watch creates what is missing and takes up changes until stop is called. Polling
// sees what notifications of the kernel tell of, and also what they do not: files
// of other machines, and links in a path that are led elsewhere, as Kubernetes does.
func (k *keyFiles) watch() error {
	if err := k.create(); err != nil {
		return err
	}
	k.start.Do(func() { go k.follow() })
	return nil
}

func (k *keyFiles) stop() { k.end.Do(func() { close(k.ended) }) }

func (k *keyFiles) follow() {
	interval := k.poll
	if interval == 0 {
		interval = keyPoll
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var last []keyStamp
	for {
		select {
		case <-k.ended:
			return
		case <-ticker.C:
		}
		now := k.look()
		// What still changes is half of something.
		if slices.EqualFunc(now, last, keyStamp.same) {
			k.refresh(now)
		}
		last = now
	}
}

// refresh reads files that are not as they were when they were last read. What
// cannot be used leaves the keys from before in force, and is told of once.
func (k *keyFiles) refresh(now []keyStamp) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.EqualFunc(now, k.stamps, keyStamp.same) {
		return
	}
	k.stamps = now
	keys, err := k.load()
	if err != nil {
		if text := err.Error(); text != k.failed {
			k.failed = text
			k.log.Error("the key files cannot be used as they are now; the keys from before stay in force",
				zap.Error(err), zap.String("mend", "put the keys there with mode 0600; they are taken up within seconds"))
		}
		return
	}
	k.keys = keys
	message := "the key files have changed; their keys are in force"
	if k.failed != "" {
		message = "the key files can be used again; their keys are in force"
	}
	k.failed = ""
	k.log.Info(message, zap.Strings("files", k.paths))
}

// keyStamp tells one state of a file from another.
type keyStamp struct {
	info os.FileInfo // nil where there is none
	err  string
}

func (k *keyFiles) look() []keyStamp {
	stamps := make([]keyStamp, len(k.paths))
	for i, path := range k.paths {
		info, err := os.Stat(path)
		if err != nil {
			stamps[i].err = err.Error()
			continue
		}
		stamps[i].info = info
	}
	return stamps
}

func (s keyStamp) same(other keyStamp) bool {
	if s.info == nil || other.info == nil {
		return s.info == nil && other.info == nil && s.err == other.err
	}
	return os.SameFile(s.info, other.info) && s.info.Size() == other.info.Size() &&
		s.info.Mode() == other.info.Mode() && s.info.ModTime().Equal(other.info.ModTime())
}
