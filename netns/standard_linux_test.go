package netns

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStandardFiles: what a command inherits must not lead around its namespace.
func TestStandardFiles(t *testing.T) {
	open := func(path string) *os.File {
		t.Helper()
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	socket := func(family, kind int) *os.File {
		t.Helper()
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { file.Close() })
		return file
	}
	pair := func(kind int) *os.File {
		t.Helper()
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[1]) })
		file := os.NewFile(uintptr(fds[0]), "socket")
		t.Cleanup(func() { file.Close() })
		return file
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	listening, err := listener.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listening.Close() })
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); out.Close() })
	regular := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(regular, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		file *os.File
		want string // "" is fine
	}{
		{"none", nil, ""},
		{"a pipe", in, ""},
		{"a file", open(regular), ""},
		{"a device", open(os.DevNull), ""},
		{"a pair of sockets, as Node gives", pair(unix.SOCK_STREAM), ""},
		{"a folder", open(t.TempDir()), "in which nothing would be hidden"},
		{"the folder that is the root", open("/"), "in which nothing would be hidden"},
		{"a network socket", socket(unix.AF_INET, unix.SOCK_STREAM), "leads around the isolation: put a pipe in between"},
		{"a datagram socket", socket(unix.AF_INET6, unix.SOCK_DGRAM), "leads around the isolation: put a pipe in between"},
		{"a netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW), "leads around the isolation: put a pipe in between"},
		{"a unix socket that is not connected", socket(unix.AF_UNIX, unix.SOCK_STREAM), "without a fixed other end"},
		{"a pair of datagram sockets, which can be connected anew", pair(unix.SOCK_DGRAM), "without a fixed other end"},
		{"a unix socket that listens", listening, "without a fixed other end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for place := range 3 {
				cmd := exec.Command("true")
				if test.file != nil {
					switch place {
					case 0:
						cmd.Stdin = test.file
					case 1:
						cmd.Stdout = test.file
					case 2:
						cmd.Stderr = test.file
					}
				}
				_, err := Seal(cmd, CellConfig{})
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("as standard file %d: got %v, want %q", place, err, test.want)
				}
			}
		})
	}
}
