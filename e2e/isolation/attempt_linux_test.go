package isolation

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the program that tries to get out: `attack`, which runs
// inside, reads a list of attempts and makes each in a process of its own.

const (
	attackMode  = "attack"
	attemptMode = "attempt"

	// patience is how long an attempt waits for an answer.
	patience = 2 * time.Second
)

// attempt is one: its name and its arguments.
type attempt struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
}

// attack makes all attempts that standard input lists, and writes what came of
// each, in the same order.
func attack() error {
	var list []attempt
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		return err
	}
	results := make([]string, len(list))
	slots := make(chan struct{}, 8)
	var wait sync.WaitGroup
	for i, a := range list {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			out, err := exec.Command("/proc/self/exe", append([]string{attemptMode, a.Name}, a.Args...)...).CombinedOutput()
			results[i] = strings.TrimSpace(string(out))
			if err != nil {
				results[i] += " (" + err.Error() + ")"
			}
		})
	}
	wait.Wait()
	return json.NewEncoder(os.Stdout).Encode(results)
}

// attempts return what they obtained. Their errors are told by the name of the
// errno, if there is one.
var attempts = map[string]func(args []string) (string, error){
	"dial":         dial,
	"udp":          udp,
	"ping":         ping,
	"open":         open,
	"writable":     writable,
	"setns":        setns,
	"ptrace":       ptrace,
	"socket":       socket,
	"addr":         addAddress,
	"route":        addRoute,
	"flush":        flushRules,
	"own network":  ownNetwork,
	"own user":     ownUser,
	"abstract":     abstract,
	"unix":         unixSocket,
	"link":         link,
	"readlink":     readlink,
	"umount":       umount,
	"capabilities": capabilities,
	"descriptors":  descriptors,
	"become root":  becomeRoot,
	"io_uring":     ioUring,
	"type ahead":   typeAhead,
	"lookup":       lookup,
	"connect":      connect,
}

func makeAttempt(name string, args []string) {
	do, ok := attempts[name]
	if !ok {
		fmt.Println("no such attempt:", name)
		return
	}
	got, err := do(args)
	fmt.Println(strings.TrimSpace(got + " " + describe(err)))
}

func describe(err error) string {
	if err == nil {
		return ""
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	if net, ok := errors.AsType[net.Error](err); ok && net.Timeout() {
		return "timeout"
	}
	if errors.Is(err, io.EOF) {
		return "EOF"
	}
	return err.Error()
}

// dial connects over TCP and says what the other side says on being asked.
func dial(args []string) (string, error) {
	conn, err := net.DialTimeout("tcp", args[0], patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn)
}

func udp(args []string) (string, error) {
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn)
}

// question is what servers of the test answer with their name.
const question = "who are you?\n"

func ask(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, question); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// ping sends an ICMP echo request by a socket that needs no privilege.
func ping(args []string) (string, error) {
	ip := net.ParseIP(args[0])
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	echo := []byte{8, 0, 0, 0, 0, 0, 0, 1}
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(ip.To16()[12:])}
	if ip.To4() == nil {
		family, protocol, echo[0] = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128
		to = &unix.SockaddrInet6{Addr: [16]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, protocol)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, echo, 0, to); err != nil {
		return "", err
	}
	if _, _, err = unix.Recvfrom(fd, make([]byte, 64), 0); err != nil {
		return "", err
	}
	return "reply", nil
}

// open reads a file. PARENT stands for the process that runs the proxy.
func open(args []string) (string, error) {
	file, err := os.Open(parentPath(args[0]))
	if err != nil {
		return "", err
	}
	defer file.Close()
	if strings.HasSuffix(args[0], "/mem") { // nothing is mapped at 0
		if _, err := file.Seek(1<<22, io.SeekStart); err != nil {
			return "", err
		}
	}
	if info, err := file.Stat(); err == nil && info.IsDir() {
		names, err := file.Readdirnames(-1)
		return fmt.Sprint(len(names), " files"), err
	}
	text, err := io.ReadAll(io.LimitReader(file, 4096))
	return fmt.Sprint(len(text), " bytes"), err
}

// writable opens a file for writing, and writes nothing.
func writable(args []string) (string, error) {
	file, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	return "opened", file.Close()
}

// readlink tells what a link of /proc leads to.
func readlink(args []string) (string, error) { return os.Readlink(parentPath(args[0])) }

func parentPath(text string) string { return strings.ReplaceAll(text, "PARENT", parent()) }

// parent finds the process that started `attack`: its parent's parent.
func parent() string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getppid()) + "/stat")
	if err != nil {
		return "0"
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return "0"
	}
	return fields[1]
}

// setns enters the network of another process, to dial from there.
func setns(args []string) (string, error) {
	fd, err := unix.Open(parentPath(args[0]), unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	if err := unix.Setns(fd, 0); err != nil {
		return "", err
	}
	return "entered", nil
}

func ptrace([]string) (string, error) {
	pid, err := strconv.Atoi(parent())
	if err != nil {
		return "", err
	}
	const seize = 0x4206
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, seize, uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return "", errno
	}
	return "attached", nil
}

// socket makes one of a family and a type.
func socket(args []string) (string, error) {
	var numbers [3]int
	for i := range args {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			return "", err
		}
		numbers[i] = n
	}
	fd, err := unix.Socket(numbers[0], numbers[1], numbers[2])
	if err != nil {
		return "", err
	}
	_ = unix.Close(fd)
	return "made", nil
}

// ask the kernel by netlink, as ip(8) and nft(8) do.
func addAddress([]string) (string, error) {
	return tool("ip", "address", "add", "198.51.100.9/24", "dev", "lo")
}
func addRoute([]string) (string, error) {
	return tool("ip", "route", "add", "198.51.100.0/24", "dev", "lo")
}
func flushRules([]string) (string, error) { return tool("nft", "flush", "ruleset") }

func tool(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", errors.New(strings.TrimSpace(strings.ReplaceAll(string(out), "\n", " ")))
	}
	return "done", nil
}

// ownNetwork makes a user and a network namespace where everything is allowed,
// and tries to make a way out of it.
func ownNetwork(args []string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	out, err := exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c",
		`ip link set lo up && ip route add local default dev lo && exec "$0" `+attemptMode+` dial "$1"`,
		self, args[0]).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// ownUser makes a user namespace only, and tries to change the network.
func ownUser(args []string) (string, error) {
	out, err := exec.Command("unshare", append([]string{"--user", "--map-root-user", "--mount"}, args...)...).CombinedOutput()
	return strings.TrimSpace(strings.ReplaceAll(string(out), "\n", " ")), err
}

// abstract connects to a socket that has a name and no file.
func abstract(args []string) (string, error) {
	conn, err := net.DialTimeout("unix", "@"+args[0], patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn)
}

// unixSocket connects to a socket that has a file.
func unixSocket(args []string) (string, error) {
	conn, err := net.DialTimeout("unix", args[0], patience)
	if err != nil {
		return "", err
	}
	return "connected", conn.Close()
}

// link reads a file by another name that it makes, symbolic or hard.
func link(args []string) (string, error) {
	dir, err := os.MkdirTemp(args[2], "link-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	name := dir + "/name"
	if args[0] == "hard" {
		err = os.Link(args[1], name)
	} else {
		err = os.Symlink(args[1], name)
	}
	if err != nil {
		return "", err
	}
	return open([]string{name})
}

func umount(args []string) (string, error) {
	if err := unix.Unmount(args[0], unix.MNT_DETACH); err != nil {
		return "", err
	}
	return open(args)
}

// capabilities lists what is left in any set.
func capabilities([]string) (string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	var kept []string
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if strings.HasPrefix(name, "Cap") && strings.Trim(value, "0") != "" || name == "NoNewPrivs" && value != "1" {
			kept = append(kept, name+"="+value)
		}
	}
	return fmt.Sprint(kept), nil
}

// descriptors lists what `attack` was started with.
func descriptors([]string) (string, error) {
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(os.Getppid()) + "/fd")
	if err != nil {
		return "", err
	}
	var found []string
	for _, entry := range entries {
		target, err := os.Readlink("/proc/" + strconv.Itoa(os.Getppid()) + "/fd/" + entry.Name())
		if err == nil && strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "/tmp") || strings.HasPrefix(target, "/var") {
			found = append(found, target)
		}
	}
	return fmt.Sprint(found), nil
}

// becomeRoot uses a copy of id(1) that is set-user-ID root.
func becomeRoot(args []string) (string, error) {
	out, err := exec.Command(args[0], "-u").CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func ioUring([]string) (string, error) {
	var params [120]byte
	if _, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(pointer(&params)), 0); errno != 0 {
		return "", errno
	}
	return "made", nil
}

// typeAhead puts a character into the terminal's input, for the shell outside.
func typeAhead([]string) (string, error) {
	char := [1]byte{'x'}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(pointer(&char))); errno != 0 {
		return "", errno
	}
	return "typed", nil
}

// lookup asks the system's resolver.
func lookup(args []string) (string, error) {
	out, err := exec.Command("getent", "ahosts", args[0]).CombinedOutput()
	address, _, _ := strings.Cut(string(out), " ")
	return address, err
}

// connect asks the proxy for a tunnel.
func connect(args []string) (string, error) {
	proxy := strings.TrimPrefix(os.Getenv("HTTP_PROXY"), "http://")
	conn, err := net.DialTimeout("tcp", proxy[strings.LastIndexByte(proxy, '@')+1:], patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", args[0])
	return bufio.NewReader(conn).ReadString('\n')
}
