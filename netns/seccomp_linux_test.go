package netns

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// families are those that name another way out, or more of the kernel than a
// program needs; a number above all of them stands for those to come.
var families = map[string]int{
	"AF_AX25": unix.AF_AX25, "AF_KEY": unix.AF_KEY, "AF_PACKET": unix.AF_PACKET, "AF_RDS": unix.AF_RDS, "AF_CAN": unix.AF_CAN,
	"AF_TIPC": unix.AF_TIPC, "AF_BLUETOOTH": unix.AF_BLUETOOTH, "AF_ALG": unix.AF_ALG, "AF_NFC": unix.AF_NFC, "AF_VSOCK": unix.AF_VSOCK,
	"AF_KCM": unix.AF_KCM, "AF_QIPCRTR": unix.AF_QIPCRTR, "AF_SMC": unix.AF_SMC, "AF_XDP": unix.AF_XDP, "AF_MCTP": 45, "the next one": 46,
	"AF_UNSPEC": unix.AF_UNSPEC,
}

// TestFilterCalls makes each call for real, before and after the filter.
func TestFilterCalls(t *testing.T) {
	got := probe(t, nil, "filter")
	want := map[string]string{
		"socket AF_UNIX": "ok", "socket AF_INET": "ok", "socket AF_NETLINK": "ok", "socketpair AF_UNIX": "ok",
		"socketpair AF_VSOCK": "EAFNOSUPPORT", "socketpair AF_TIPC": "EAFNOSUPPORT",
		"AF_VSOCK with a bit that the kernel drops": "EAFNOSUPPORT",
		"io_uring": "ENOSYS",
		"TIOCSTI":  "EPERM", "TIOCLINUX": "EPERM", "TIOCSTI with a bit that the kernel drops": "EPERM",
		"another ioctl":     "ENOTTY", // /dev/null is no terminal
		"a second filter":   "ok",
		"a program, inside": "EAFNOSUPPORT",
	}
	for name := range families {
		want["socket "+name] = "EAFNOSUPPORT"
	}
	for name, errno := range want {
		if got[name] != errno {
			t.Errorf("%s: got %s, want %s", name, got[name], errno)
		}
	}
}

func init() { probes["filter"] = probeFilter }

func probeFilter([]string) (map[string]string, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := filterCalls(); err != nil {
		return nil, err
	}
	results := map[string]string{}
	call := func(name string, number, a, b, c, d uintptr) {
		_, _, errno := unix.RawSyscall6(number, a, b, c, d, 0, 0)
		results[name] = outcome(errno)
	}
	const droppedBit = 1 << 40
	for name, family := range families {
		call("socket "+name, unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM, 0, 0)
	}
	call("socket AF_UNIX", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0, 0)
	call("socket AF_INET", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0, 0)
	call("socket AF_NETLINK", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, 0)
	call("AF_VSOCK with a bit that the kernel drops", unix.SYS_SOCKET, droppedBit|unix.AF_VSOCK, unix.SOCK_STREAM, 0, 0)
	var pair [2]int32
	for name, family := range map[string]uintptr{"AF_UNIX": unix.AF_UNIX, "AF_VSOCK": unix.AF_VSOCK, "AF_TIPC": unix.AF_TIPC} {
		call("socketpair "+name, unix.SYS_SOCKETPAIR, family, unix.SOCK_STREAM, 0, uintptr(unsafe.Pointer(&pair)))
	}
	var params [120]byte
	call("io_uring", unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0, 0)
	char := byte('x')
	call("TIOCSTI", unix.SYS_IOCTL, uintptr(null), unix.TIOCSTI, uintptr(unsafe.Pointer(&char)), 0)
	call("TIOCSTI with a bit that the kernel drops", unix.SYS_IOCTL, uintptr(null), droppedBit|unix.TIOCSTI, uintptr(unsafe.Pointer(&char)), 0)
	call("TIOCLINUX", unix.SYS_IOCTL, uintptr(null), unix.TIOCLINUX, uintptr(unsafe.Pointer(&char)), 0)
	call("another ioctl", unix.SYS_IOCTL, uintptr(null), unix.TIOCGWINSZ, uintptr(unsafe.Pointer(&params)), 0)
	// One that permits everything on top takes nothing away.
	results["a second filter"] = outcome(permitAll())
	call("a program, inside", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0, 0)
	return results, nil
}

func permitAll() error {
	filter := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
	prog := unix.SockFprog{Len: 1, Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestFilterOfEachABI asks the filter itself about calls that this test cannot
// make: those of the 32-bit twin, of x32 and of a foreign architecture.
func TestFilterOfEachABI(t *testing.T) {
	vm, err := bpf.NewVM(callFilter(machineABIs))
	if err != nil {
		t.Fatal(err)
	}
	const allow, notFamily = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
	const notThere, notAllowed = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS), unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	type question struct {
		name                 string
		number, architecture uint32
		first, second        uint32
		want                 uint32
	}
	questions := []question{{"any call of a foreign architecture", 1, 0xdeadbeef, 0, 0, notThere}}
	for i, a := range machineABIs {
		ask := func(name string, number, first, second, want uint32) {
			questions = append(questions, question{fmt.Sprintf("ABI %d: %s", i, name), number, a.architecture, first, second, want})
		}
		ask("read", 0, 0, 0, allow)
		ask("socket AF_INET6", a.socket, unix.AF_INET6, 0, allow)
		ask("socket AF_VSOCK", a.socket, unix.AF_VSOCK, 0, notFamily)
		ask("socketpair AF_UNIX", a.socketpair, unix.AF_UNIX, 0, allow)
		ask("socketpair AF_VSOCK", a.socketpair, unix.AF_VSOCK, 0, notFamily)
		ask("io_uring", a.ioUring, 0, 0, notThere)
		ask("TIOCSTI", a.ioctl, 0, unix.TIOCSTI, notAllowed)
		ask("TIOCLINUX", a.ioctl, 0, unix.TIOCLINUX, notAllowed)
		ask("another ioctl", a.ioctl, 0, unix.TCGETS, allow)
		if a.socketcall != 0 {
			ask("socketcall", a.socketcall, 1, 0, notThere)
		}
		if a.limit != 0 {
			ask("socket of the next ABI", a.limit|a.socket, unix.AF_VSOCK, 0, notThere)
		}
	}
	for _, q := range questions {
		// The machine of the library reads words from the network, the kernel's its own.
		data := make([]byte, 64)
		for offset, word := range map[int]uint32{dataNumber: q.number, dataArchitecture: q.architecture, dataArgs: q.first, dataArgs + 8: q.second} {
			data[offset], data[offset+1], data[offset+2], data[offset+3] = byte(word>>24), byte(word>>16), byte(word>>8), byte(word)
		}
		if got, err := vm.Run(data); err != nil || uint32(got) != q.want {
			t.Errorf("%s: got %#x (%v), want %#x", q.name, got, err, q.want)
		}
	}
}
