package netns

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// User is who a program runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	Name     string
	Home     string
}

// LookupUser finds a user by name or number.
func LookupUser(text string) (*User, error) {
	found, err := user.Lookup(text)
	if err != nil {
		if _, numeric := strconv.ParseUint(text, 10, 32); numeric != nil {
			return nil, err
		}
		if found, err = user.LookupId(text); err != nil {
			// A number that nobody bears is a user all the same.
			found, err = &user.User{Uid: text, Gid: text, Username: text, HomeDir: "/"}, nil
		}
	}
	u := &User{Name: found.Username, Home: found.HomeDir}
	if u.UID, err = parseID(found.Uid); err != nil {
		return nil, err
	}
	if u.GID, err = parseID(found.Gid); err != nil {
		return nil, err
	}
	groups, err := found.GroupIds()
	if err != nil {
		groups = nil // not in the user database
	}
	for _, text := range groups {
		if gid, err := parseID(text); err == nil && gid != u.GID {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

// InvokingUser returns who called sudo (sudo(8), SUDO_UID), nil if nobody did.
func InvokingUser() (*User, error) {
	uid := os.Getenv("SUDO_UID")
	if uid == "" || os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := LookupUser(uid)
	if err != nil {
		return nil, fmt.Errorf("finding the user who called sudo: %w", err)
	}
	return u, nil
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no numeric id", text)
	}
	return uint32(id), nil
}
