package handler

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/starpod/caddy-starpod/tokens"
)

// keyFiles reads master keys, and creates the first where that is asked for.
type keyFiles struct {
	paths    []string
	generate bool

	mu   sync.Mutex
	keys *tokens.Keyring // nil until all files have been read
}

// read loads the keyring. A first file that is missing and may be created is no
// error; create makes it.
func (k *keyFiles) read() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.paths) == 0 {
		return errors.New("no master_key_file: name one, or make one with `caddy starpod keygen FILE`")
	}
	keys := make([]*tokens.Key, 0, len(k.paths))
	for i, path := range k.paths {
		key, err := tokens.ReadKeyFile(path)
		if errors.Is(err, os.ErrNotExist) {
			if i == 0 && k.generate {
				return nil
			}
			return fmt.Errorf("%w; make one with `caddy starpod keygen %s`, or add `generate_key`", err, path)
		}
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	k.keys = tokens.NewKeyring(keys[0], keys[1:]...)
	return nil
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
