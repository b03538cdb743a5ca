package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// helperName is what a helper finds as its own name: the running program,
// executed again, takes the place of a command until the command can run.
const helperName = "starpod-namespace"

// Modes of a helper, its first argument.
const (
	modeSealed = "sealed" // make the namespace that it was started in
	modeJoined = "joined" // it was started in a namespace that is made
	modeJoin   = "join"   // enter the namespace that is named
)

// wireFD is the helper's end of the pair, the first of exec.Cmd.ExtraFiles.
const wireFD = 3

// A helper must not begin what the program does otherwise, so it takes over here.
func init() {
	if len(os.Args) < 2 || os.Args[0] != helperName {
		return
	}
	runtime.LockOSThread() // capabilities and filters belong to a thread
	h := new(helper)
	status, err := h.run(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, helperName+":", err)
	}
	os.Exit(status)
}

// Exit statuses of a helper that did not become the program, as env(1) gives them.
const (
	statusFailed        = 1
	statusNotExecutable = 126
	statusNotFound      = 127
)

type helper struct{ wire *wire }

// run returns when it failed. The error is for whom the wire does not reach.
func (h *helper) run(mode string, args []string) (status int, err error) {
	file := os.NewFile(wireFD, "parent")
	if h.wire, err = newWire(file); err != nil {
		return statusFailed, errors.New("this is a part of `caddy starpod run` and nothing to call by hand")
	}
	_ = file.Close()
	switch err := h.open(mode, args); {
	case errors.Is(err, unix.EPIPE):
		return statusFailed, nil // as below
	case err != nil:
		return statusFailed, err
	}
	var p program
	if err := h.wire.receive(&p); err != nil {
		return statusFailed, nil // whoever started this has ended, or does not want it any more
	}
	err = h.become(mode, p)
	failure := failed{Error: err.Error()}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		failure.Errno = int(errno)
	}
	status = statusNotExecutable
	if errors.Is(err, unix.ENOENT) {
		status = statusNotFound
	}
	return status, h.wire.send(failure)
}

// open makes the namespace and passes its sockets on.
func (h *helper) open(mode string, args []string) error {
	var (
		message opened
		files   []*os.File
		err     error
	)
	switch mode {
	case modeSealed:
		message, files, err = openSealed(args)
	case modeJoin:
		err = enterNetwork(args[0])
	}
	if err != nil {
		message = opened{Error: err.Error()}
		if u := (*Unavailable)(nil); errors.As(err, &u) {
			message.Reason = u.Reason
		}
	}
	defer closeAll(files)
	message.PID = os.Getpid()
	return h.wire.sendOpened(message, files)
}

// become takes from this process what the program shall not have, and executes
// it. It returns only what went wrong.
func (h *helper) become(mode string, p program) error {
	if err := keepMounts(); err != nil {
		return err
	}
	if runsAsRoot(p) { // in front of the covers, which are devices
		if err := guardKernel(); err != nil {
			return fmt.Errorf("keeping root's command from the kernel's settings, which takes Linux 5.12: %w; run it as another user", err)
		}
	}
	if err := coverAll(p.Covers, p.ResolvConf); err != nil {
		return err
	}
	if err := dropPrivileges(p.Become); err != nil {
		return err
	}
	if mode == modeJoin {
		if err := confineTracing(); err != nil {
			return err
		}
	}
	if err := filterCalls(); err != nil {
		return err
	}
	// Descriptors that this process inherited reach around every namespace.
	if err := unix.CloseRange(wireFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing descriptors: %w", err)
	}
	return &os.PathError{Op: "exec", Path: p.Path, Err: syscall.Exec(p.Path, p.Args, p.Env)}
}

func runsAsRoot(p program) bool {
	if p.Become != nil {
		return p.Become.UID == 0
	}
	return os.Getuid() == 0
}
