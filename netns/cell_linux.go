package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cell is the namespace of one command. A helper waits in it until the command
// may begin, and then becomes the command, so the process that was started is the
// command's: its process id, process group, terminal and exit status are those
// that it would have had.
type Cell struct {
	wire      *wire
	far       *os.File // the helper's end, until it has one of its own
	farFD     int
	letGo     sync.Once
	cmd       *exec.Cmd
	program   program
	namespace string // path of the namespace to start in; "" for a new one
	ended     chan struct{}
}

// Seal makes of cmd, which has not started yet, one that starts a helper in a
// sealed namespace of its own, or in the namespace that the configuration names.
// After cmd.Start, [Cell.Open] gives the sockets of the namespace, and
// [Cell.Enter] lets the command begin. The command's Path, Args and Env are taken
// when Seal is called.
func Seal(cmd *exec.Cmd, c CellConfig) (*Cell, error) {
	if cmd.Process != nil {
		return nil, errors.New("preparing a command that has already started")
	}
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	if len(cmd.ExtraFiles) > 0 {
		return nil, errors.New("a command that gets files beside the standard ones cannot be isolated: they may reach around the namespace")
	}
	if err := checkStandardFiles(cmd); err != nil {
		return nil, err
	}
	near, far, err := wirePair()
	if err != nil {
		return nil, err
	}
	cell := &Cell{wire: near, far: far, farFD: int(far.Fd()), cmd: cmd, namespace: c.Namespace, ended: make(chan struct{})}
	cell.program = program{Path: cmd.Path, Args: cmd.Args, Env: cmd.Environ()}
	cmd.Path = "/proc/self/exe"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{far}
	switch {
	case c.Namespace == "":
		cmd.Args = append([]string{helperName, modeSealed}, portTexts(c.Ports)...)
		cmd.SysProcAttr = helperAttributes(cmd.SysProcAttr, c)
	case c.Late || !hasUserNamespaces():
		cmd.Args = []string{helperName, modeJoin, c.Namespace}
		cmd.SysProcAttr = joinAttributes(cmd.SysProcAttr)
		cell.program.Become = c.User
	default:
		cmd.Args = []string{helperName, modeJoined}
		cmd.SysProcAttr = helperAttributes(cmd.SysProcAttr, c)
	}
	return cell, nil
}

func portTexts(ports []uint16) []string {
	if len(ports) == 0 {
		ports = []uint16{80, 443}
	}
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = strconv.Itoa(int(port))
	}
	return texts
}

// helperCapabilities are what a helper needs in the user namespace that is its
// own: to furnish the network, listen at low ports, cover files and drop it all.
var helperCapabilities = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}

// helperAttributes maps the user, and its groups where root allows, to
// themselves: a program sees the same owners as outside.
func helperAttributes(attr *syscall.SysProcAttr, c CellConfig) *syscall.SysProcAttr {
	if attr == nil {
		attr = new(syscall.SysProcAttr)
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNS
	if c.Namespace == "" {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	uid, gid := os.Getuid(), os.Getgid()
	groups := []int(nil)
	if c.User != nil {
		uid, gid = int(c.User.UID), int(c.User.GID)
		attr.Credential = &syscall.Credential{Uid: c.User.UID, Gid: c.User.GID, Groups: c.User.Groups}
	}
	if os.Geteuid() == 0 {
		attr.GidMappingsEnableSetgroups = true
		if c.User == nil {
			groups, _ = os.Getgroups()
		} else {
			for _, g := range c.User.Groups {
				groups = append(groups, int(g))
			}
		}
	}
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	attr.GidMappings = idMap(gid, groups)
	attr.AmbientCaps = helperCapabilities
	return attr
}

// hasUserNamespaces reports whether this process may make one. The kernel makes it
// before it finds that there is nothing to execute.
func hasUserNamespaces() bool {
	cmd := exec.Command("/proc/self/exe/nothing")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS}
	err := cmd.Start()
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT)
}

// joinAttributes are for a helper of root that enters a namespace by itself.
func joinAttributes(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	if attr == nil {
		attr = new(syscall.SysProcAttr)
	}
	attr.Cloneflags |= unix.CLONE_NEWNS
	return attr
}

// idMap maps each group once; the kernel takes 340 lines (user_namespaces(7)).
func idMap(gid int, groups []int) []syscall.SysProcIDMap {
	const most = 340
	mapped := map[int]bool{}
	var lines []syscall.SysProcIDMap
	for _, g := range append([]int{gid}, groups...) {
		if !mapped[g] && len(lines) < most {
			mapped[g] = true
			lines = append(lines, syscall.SysProcIDMap{ContainerID: g, HostID: g, Size: 1})
		}
	}
	return lines
}

// Start starts the helper: cmd.Start, and from within the namespace where the
// configuration names one. (A process is born in the namespace of the thread that
// starts it.)
func (c *Cell) Start() error {
	start := func() error { return asDumpable(c.cmd.Start) }
	if c.namespace != "" {
		start = func() error { return inNamespace(c.namespace, c.cmd.Start) }
	}
	err := start()
	c.letGo.Do(func() { _ = c.far.Close() })
	if err != nil {
		return errors.Join(unavailable(err), c.wire.conn.Close())
	}
	return nil
}

// asDumpable calls f, which makes a user namespace. Only root may write the maps
// of the namespace of a process that is not dumpable, and one is not whose
// program got capabilities from its file, like a Caddy that may listen at port 443.
func asDumpable(f func() error) error {
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable == 1 {
		return f()
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return f()
	}
	err := f()
	return errors.Join(err, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// inNamespace calls f on a thread that has entered the namespace, and that ends
// with it.
func inNamespace(path string, f func() error) error {
	return onOwnThread(func() error {
		if err := enterNetwork(path); err != nil {
			return err
		}
		return f()
	})
}

// enterNetwork moves the calling thread.
func enterNetwork(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", path, err)
	}
	return nil
}

// unavailable tells why the kernel refused to make a namespace.
func unavailable(err error) error {
	u := &Unavailable{Err: err}
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		u.Reason = "unprivileged user namespaces are not allowed"
		u.Mend = "as root: sysctl -w kernel.unprivileged_userns_clone=1 (Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0), " +
			"or let the container run with them"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		u.Reason = "no more user or network namespaces are allowed"
		u.Mend = "as root: sysctl -w user.max_user_namespaces=10000 user.max_net_namespaces=10000"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		u.Reason = "the kernel has no user or network namespaces"
	default:
		return err
	}
	return u
}

// Open waits for the helper and returns its sockets; none but an empty Outlet for
// a namespace that was made before. The error is *Unavailable where this machine
// lacks what it takes.
func (c *Cell) Open(ctx context.Context) (*Outlet, error) {
	defer c.hurry(ctx)()
	message, files, err := c.wire.receiveOpened()
	c.letGoOfFar()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("waiting for the helper in the namespace: %w", err)
	}
	defer closeAll(files)
	if err := c.watch(message.PID); err != nil {
		return nil, err
	}
	if message.Error != "" {
		if message.Reason != "" {
			return nil, &Unavailable{Reason: message.Reason, Err: errors.New(message.Error)}
		}
		return nil, errors.New("making a namespace: " + message.Error)
	}
	outlet, err := newOutlet(message.Sockets, files)
	if err != nil {
		return nil, err
	}
	outlet.Note = message.Note
	return outlet, nil
}

// letGoOfFar gives up this process's copy of the helper's end, which would hide
// the helper's death. The command's Start may be under way in another goroutine,
// and nobody waits for its return, so the file itself must not be closed: its
// descriptor becomes one of /dev/null.
func (c *Cell) letGoOfFar() {
	c.letGo.Do(func() {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		defer null.Close()
		_ = unix.Dup3(int(null.Fd()), c.farFD, unix.O_CLOEXEC)
		runtime.KeepAlive(c.far)
	})
}

// watch closes ended when the process has ended (pidfd_open(2)). The helper is
// waiting now, so the process id is its own.
func (c *Cell) watch(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching the helper in the namespace: %w", err)
	}
	process := os.NewFile(uintptr(fd), "command")
	raw, err := process.SyscallConn()
	if err != nil {
		return errors.Join(err, process.Close())
	}
	go func() {
		defer close(c.ended)
		defer process.Close()
		_ = raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
	}()
	return nil
}

// Ended is closed when the command, once opened, has ended.
func (c *Cell) Ended() <-chan struct{} { return c.ended }

// Probe makes a sealed namespace and throws it away. The error is *Unavailable
// where this machine lacks what it takes.
func Probe(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cell, err := Seal(cmd, CellConfig{})
	if err != nil {
		return err
	}
	if err := cell.Start(); err != nil {
		return err
	}
	outlet, err := cell.Open(ctx)
	cell.Abandon()
	if err == nil {
		err = outlet.Close()
	}
	_ = cmd.Wait() // a helper that is not wanted ends with 1
	return err
}

// Enter lets the command begin, and returns when it has. The error is what
// executing it gave, like *os.PathError.
func (c *Cell) Enter(ctx context.Context, e Entry) error {
	defer c.wire.conn.Close()
	defer c.hurry(ctx)()
	if e.Env != nil {
		c.program.Env = e.Env
	}
	c.program.Covers, c.program.ResolvConf = e.Covers, e.ResolvConf
	if err := c.wire.send(c.program); err != nil {
		return fmt.Errorf("speaking to the helper in the namespace: %w", err)
	}
	var failure failed
	switch err := c.wire.receive(&failure); {
	case errors.Is(err, io.EOF):
		return nil // it has become the command
	case err != nil:
		return fmt.Errorf("hearing from the helper in the namespace: %w", err)
	case failure.Errno != 0:
		return &execError{failure.Error, syscall.Errno(failure.Errno)}
	}
	return errors.New(failure.Error)
}

// execError is a failure in the helper: its text and what caused it.
type execError struct {
	text  string
	errno syscall.Errno
}

func (e *execError) Error() string { return e.text }
func (e *execError) Unwrap() error { return e.errno }

// Abandon ends a helper that shall not become the command.
func (c *Cell) Abandon() {
	c.letGoOfFar()
	_ = c.wire.conn.Close()
}

// hurry makes what is said on the wire end with ctx.
func (c *Cell) hurry(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.wire.conn.SetDeadline(time.Unix(1, 0)) })
}
