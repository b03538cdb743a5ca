package tokens

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of the user and the groups that a key is handed to, and of others.
const (
	proxyUser, otherUser                = 65001, 65002
	proxyGroup, proxyGroup2, otherGroup = 65003, 65004, 65005
)

// asProxy calls f on a thread that runs as the user and the groups of the proxy,
// and ends with it.
func asProxy(t *testing.T, f func()) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread is of no use to others
		group := uint32(proxyGroup2)
		for _, call := range [][4]uintptr{ // of the thread alone, which those of package syscall are not
			{unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group))},
			{unix.SYS_SETRESGID, proxyGroup, proxyGroup, proxyGroup},
			{unix.SYS_SETRESUID, proxyUser, proxyUser, proxyUser},
		} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				failed <- errno
				return
			}
		}
		f()
		failed <- nil
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// A list as the kernel takes it.
func accessListText(entries ...aclEntry) []byte {
	text := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		text = binary.LittleEndian.AppendUint16(text, e.tag)
		text = binary.LittleEndian.AppendUint16(text, e.permissions)
		text = binary.LittleEndian.AppendUint32(text, e.id)
	}
	return text
}

func TestReadKeyFileHandedByRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it hands files to other users")
	}
	const (
		aclGroup, aclOther = 0x08, 0x20
		nobody             = ^uint32(0)
	)
	owner, closed := aclEntry{aclOwner, aclRead, nobody}, aclEntry{aclOther, 0, nobody}
	mask, noGroup := aclEntry{aclMask, aclRead, nobody}, aclEntry{aclOwningGroup, 0, nobody}
	groupReads := aclEntry{aclOwningGroup, aclRead, nobody}
	toProxy := aclEntry{aclUser, aclRead, proxyUser}
	dir, err := os.MkdirTemp("/dev/shm", "starpod-keys-") // a tmpfs, which has lists
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		mode       os.FileMode
		user       int
		group      int
		list       []aclEntry
		wantMode   os.FileMode // of what the list makes of it
		wantHanded bool
	}{
		{name: "to its group", mode: 0o440, group: proxyGroup, wantHanded: true},
		{name: "to one of its groups", mode: 0o640, group: proxyGroup2, wantHanded: true},
		{name: "to its group, writable", mode: 0o660, group: proxyGroup},
		{name: "to its group, executable", mode: 0o550, group: proxyGroup},
		{name: "to its group and all", mode: 0o444, group: proxyGroup},
		{name: "by another user", mode: 0o440, user: otherUser, group: proxyGroup},
		{name: "by itself", mode: 0o440, user: proxyUser, group: proxyGroup},
		{name: "to another group and all", mode: 0o444, group: otherGroup},
		{name: "as systemd does", mode: 0o400, list: []aclEntry{owner, toProxy, noGroup, mask, closed}, wantMode: 0o440, wantHanded: true},
		{name: "to it and its group", mode: 0o400, group: proxyGroup, list: []aclEntry{owner, toProxy, groupReads, mask, closed}, wantMode: 0o440, wantHanded: true},
		{name: "to it and another group", mode: 0o400, group: otherGroup, list: []aclEntry{owner, toProxy, groupReads, mask, closed}, wantMode: 0o440},
		{name: "to it and another user", mode: 0o400, list: []aclEntry{owner, toProxy, {aclUser, aclRead, otherUser}, noGroup, mask, closed}, wantMode: 0o440},
		{name: "to its group and another user", mode: 0o400, group: proxyGroup, list: []aclEntry{owner, {aclUser, aclRead, otherUser}, groupReads, mask, closed}, wantMode: 0o440},
		{name: "to it and a group with a name", mode: 0o400, list: []aclEntry{owner, toProxy, noGroup, {aclGroup, aclRead, otherGroup}, mask, closed}, wantMode: 0o440},
		{name: "to it by another user", mode: 0o400, user: otherUser, list: []aclEntry{owner, toProxy, noGroup, mask, closed}, wantMode: 0o440},
		{name: "to it, writable", mode: 0o600, list: []aclEntry{owner, {aclUser, 6, proxyUser}, noGroup, {aclMask, 6, nobody}, closed}, wantMode: 0o460},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "key")
			t.Cleanup(func() { os.Remove(path) })
			if err := errors.Join(os.WriteFile(path, []byte(hex.EncodeToString(rawKey)), 0o600), os.Chown(path, tt.user, tt.group), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			if tt.list != nil {
				if err := unix.Setxattr(path, aclAttribute, accessListText(tt.list...), 0); err != nil {
					t.Fatal(err)
				}
				if info, err := os.Stat(path); err != nil || info.Mode() != tt.wantMode {
					t.Fatalf("got mode %v (%v) with the list, want %v", info.Mode(), err, tt.wantMode)
				}
			}
			var err error
			asProxy(t, func() { _, err = ReadKeyFile(path) })
			if tt.wantHanded && err != nil {
				t.Errorf("got error %v, want the key", err)
			}
			if !tt.wantHanded && !errors.Is(err, ErrExposed) {
				t.Errorf("got error %v, want %v", err, ErrExposed)
			}
			if _, err := ReadKeyFile(path); !errors.Is(err, ErrExposed) {
				t.Errorf("as root: got error %v, want %v", err, ErrExposed)
			}
		})
	}
}
