//go:build unix

package starpod

import (
	"io/fs"
	"os/user"
	"strconv"
	"syscall"
)

// owner names who a file belongs to.
func owner(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return unknownOwner
	}
	id := strconv.FormatUint(uint64(stat.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "#" + id // as sudo takes it
}
