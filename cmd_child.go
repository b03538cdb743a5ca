package starpod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses, as shells and env(1) give them.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
	signalStatus        = 128 // plus the number of the signal
)

// notStarted reports why a command did not start, and ends with the status that
// a shell would give.
func notStarted(cmd *cobra.Command, err error) error {
	status := statusNotExecutable
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		status = statusNotFound
	}
	cmd.PrintErrln("Error: running the command:", err)
	return exit(cmd, status)
}

// caughtSignals are signals of this process on their way to the command. They
// are caught before there is a command, and delivered when it runs.
type caughtSignals chan os.Signal

// catchSignals begins to catch. A signal that this process was told to ignore,
// as nohup does, stays ignored by the command as well.
func catchSignals() caughtSignals {
	caught := make(caughtSignals, 16)
	for _, sig := range forwardedSignals {
		if !signal.Ignored(sig) {
			signal.Notify(caught, sig)
		}
	}
	return caught
}

func (c caughtSignals) stop() { signal.Stop(c) }

// deliver passes signals on until done is closed.
func (c caughtSignals) deliver(to *os.Process, done <-chan struct{}) {
	for {
		select {
		case sig := <-c:
			if !sentByTerminal(sig) {
				_ = to.Signal(sig) // it may have ended meanwhile
			}
		case <-done:
			return
		}
	}
}

// waitChild waits for a command that has started, and returns its exit status.
func waitChild(cmd *exec.Cmd, signals caughtSignals) (int, error) {
	done := make(chan struct{})
	go signals.deliver(cmd.Process, done)
	err := cmd.Wait()
	close(done)
	if cmd.ProcessState == nil {
		return 0, fmt.Errorf("waiting for the command: %w", err)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return signalStatus + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
