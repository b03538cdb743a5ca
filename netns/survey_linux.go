package netns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Survey looks at what is there, and changes nothing. It takes no privileges.
func Survey(c VethConfig) (Neighbours, error) {
	c = c.withDefaults()
	var found Neighbours
	paths, err := filepath.Glob(filepath.Join(recordDir, "*.json"))
	if err != nil {
		return found, err
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		held, err := isHeld(path)
		switch {
		case err != nil:
			return found, fmt.Errorf("looking at the record %s: %w", path, err)
		case held:
			found.Live = append(found.Live, name)
		default:
			found.Dead = append(found.Dead, name)
		}
	}
	if _, err := os.Lstat(filepath.Join(namespaceDir, c.Name)); err == nil && !slices.Contains(found.Dead, c.Name) {
		found.Taken = append(found.Taken, "the namespace "+c.Name)
	}
	if len(found.Dead) > 0 {
		return found, nil // the interface and the range may be theirs
	}
	if _, err := net.InterfaceByName(c.HostInterface); err == nil {
		found.Taken = append(found.Taken, "the interface "+c.HostInterface)
	}
	if inUse(c.Subnet.Masked()) {
		found.Taken = append(found.Taken, "the range "+c.Subnet.String())
	}
	return found, nil
}

// isHeld reports whether a process holds the lock of a record. The shared lock
// that tells is given up at once.
func isHeld(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil, nil
}
