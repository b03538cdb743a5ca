package tokens

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// handedByRoot reports whether root has let this process read a file that is
// closed to all others but a group of this process.
//
// Who is not root can neither own such a file nor make one, so it is what the
// machine's administrator wants, as with the keys of other servers. It does not
// keep the members of that group out. Root itself has no need of it, and what
// others may write is not a key that root has chosen.
func handedByRoot(f *os.File, info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid != 0 || os.Geteuid() == 0 || info.Mode().Perm()&0o077 != 0o040 {
		return false
	}
	// With a list, the group's bits of the mode are the most that it grants to
	// anybody but the owner, and to whom is in the list.
	entries, err := accessList(f)
	if err != nil {
		return false
	}
	if entries == nil {
		return inGroup(stat.Gid)
	}
	for _, e := range entries {
		readable := e.permissions&aclRead != 0
		switch {
		case !readable, e.tag == aclOwner, e.tag == aclMask:
		case e.tag == aclUser && int(e.id) == os.Geteuid():
		case e.tag == aclOwningGroup && inGroup(stat.Gid):
		default:
			return false
		}
	}
	return true
}

func inGroup(id uint32) bool {
	groups, err := os.Getgroups()
	return os.Getegid() == int(id) || err == nil && slices.Contains(groups, int(id))
}

// What stands in the attribute system.posix_acl_access: a version, then entries
// of tag, permissions and id, all little-endian. See linux/posix_acl_xattr.h.
const (
	aclAttribute = "system.posix_acl_access"
	aclVersion   = 2
	aclEntrySize = 8

	aclOwner       = 0x01
	aclUser        = 0x02
	aclOwningGroup = 0x04
	aclMask        = 0x10

	aclRead = 0x04
)

// maxAccessList is far more than a list that names one user needs, in bytes.
const maxAccessList = 1024

type aclEntry struct {
	tag, permissions uint16
	id               uint32 // of a user or group that is named
}

// accessList returns nil without an error where a file has no list.
func accessList(f *os.File) ([]aclEntry, error) {
	buffer := make([]byte, maxAccessList)
	n, err := unix.Fgetxattr(int(f.Fd()), aclAttribute, buffer)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text := buffer[:n]
	if len(text) < 4 || binary.LittleEndian.Uint32(text) != aclVersion || len(text[4:])%aclEntrySize != 0 {
		return nil, errors.New("not an access-control list that is known")
	}
	entries := []aclEntry{}
	for e := range slices.Chunk(text[4:], aclEntrySize) {
		entries = append(entries, aclEntry{
			tag:         binary.LittleEndian.Uint16(e),
			permissions: binary.LittleEndian.Uint16(e[2:]),
			id:          binary.LittleEndian.Uint32(e[4:]),
		})
	}
	return entries, nil
}
