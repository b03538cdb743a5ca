package starpod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/netns"
)

// commandUser is who the command runs as; nil for the user of this process.
func (f *runFlags) commandUser(log *zap.Logger) (*netns.User, error) {
	if f.user == "" {
		user, err := netns.InvokingUser()
		if user == nil && err == nil && os.Geteuid() == 0 {
			log.Info("the command runs as root, who owns most files of the system; --user names another user")
		}
		return user, err
	}
	user, err := netns.LookupUser(f.user)
	if err != nil {
		return nil, fmt.Errorf("--user: %w", err)
	}
	if uid := os.Geteuid(); uid != 0 {
		if int64(user.UID) == int64(uid) {
			return nil, nil
		}
		return nil, errors.New("--user: only root can run a command as somebody else")
	}
	return user, nil
}

// secretFiles are those that an isolated command finds empty, besides the folder
// of --data-dir.
func (f *runFlags) secretFiles() ([]string, error) {
	files := []string{filepath.Dir(defaultKeyFile())}
	for _, file := range slices.Concat(f.envFiles, f.keyFiles, f.sourceFiles) {
		path, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		if isStandardFile(path) {
			return nil, fmt.Errorf("%s is open as a standard file of the command, which could read it again: name the file itself, or give it through a pipe", file)
		}
		files = append(files, path)
	}
	return files, nil
}

// isStandardFile reports whether a regular file is one that the command inherits.
func isStandardFile(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	for _, file := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if other, err := file.Stat(); err == nil && os.SameFile(info, other) {
			return true
		}
	}
	return false
}
