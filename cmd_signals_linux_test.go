package starpod

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// trapping tells of each signal, and ends with SIGUSR2.
const trapping = `for s in INT TERM HUP QUIT USR1 WINCH; do trap "echo got $s" $s; done
trap 'echo got USR2; kill $!; exit 7' USR2
sleep 60 >/dev/null & echo ready; while :; do wait $!; done`

// startTrapping starts a shell under run, and waits until it is there. No
// terminal is near, as for a service.
func startTrapping(t *testing.T, script string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = typed{args: runLine(nil, "sh", "-c", script)}.prepare(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A signal that does not arrive must not hang the tests.
	patience := time.AfterFunc(time.Minute, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	t.Cleanup(func() {
		patience.Stop()
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	})
	lines = bufio.NewScanner(stdout)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("first line: got %q, want ready", lines.Text())
	}
	return cmd, lines
}

func TestCmdRunForwardsSignals(t *testing.T) {
	t.Parallel()
	cmd, lines := startTrapping(t, trapping)
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGWINCH, unix.SIGUSR2} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		want := "got " + strings.TrimPrefix(unix.SignalName(sig), "SIG")
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("%v: got %q, want %q", sig, lines.Text(), want)
		}
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("status: got %d, want 7", got)
	}
}

func TestCmdRunEndsAsItsCommandDoes(t *testing.T) {
	t.Parallel()
	cmd, _ := startTrapping(t, "echo ready; exec sleep 60")
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+15 {
		t.Errorf("status: got %d, want %d", got, 128+15)
	}
}

// nohup's promise holds for the command, too.
func TestCmdRunKeepsAnIgnoredHangupIgnored(t *testing.T) {
	t.Parallel()
	cmd := typed{args: runLine(nil, "sh", "-c", `kill -HUP $$; echo survived`)}.prepare(t)
	cmd.Args = append([]string{"nohup"}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	nohup, err := exec.LookPath("nohup")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = nohup
	if out, err := cmd.Output(); err != nil || string(out) != "survived\n" {
		t.Errorf("got %q (%v), want it to survive", out, err)
	}
}

// openTerminal makes a pseudo-terminal (pty(7)).
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return keyboard, terminal
}

// onTerminal starts a command with a terminal of its own, in the foreground.
func onTerminal(t *testing.T, cmd *exec.Cmd) (keyboard *os.File) {
	t.Helper()
	keyboard, terminal := openTerminal(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	return keyboard
}

// readUntil reads what the terminal shows up to a text, and returns it.
func readUntil(t *testing.T, keyboard *os.File, text string) string {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 256)
	for !strings.Contains(seen.String(), text) {
		n, err := keyboard.Read(buf)
		if err != nil {
			t.Fatalf("got %q (%v), want %q", seen.String(), err, text)
		}
		seen.Write(buf[:n])
	}
	return seen.String()
}

func TestCmdRunLetsTheKeyboardInterruptOnce(t *testing.T) {
	t.Parallel()
	cmd := typed{args: runLine(nil, "sh", "-c", `trap 'echo interrupted' INT; trap 'echo last; kill $!; exit 5' USR1
		sleep 60 & echo ready; while :; do wait $!; done`)}.prepare(t)
	keyboard := onTerminal(t, cmd)
	readUntil(t, keyboard, "ready")
	if _, err := keyboard.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	seen := readUntil(t, keyboard, "interrupted")
	// Signals are forwarded one after the other: were the interrupt to come a
	// second time, it would come before this one.
	if err := cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	seen += readUntil(t, keyboard, "last")
	_ = cmd.Wait()
	if got := strings.Count(seen, "interrupted"); got != 1 || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("got %d interrupts and %v, want 1 and status 5", got, cmd.ProcessState)
	}
}

func TestCmdSealAsksOnATerminal(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	cmd := typed{args: []string{"seal", "--key-file", key, "--host", "h.test"}}.prepare(t)
	keyboard := onTerminal(t, cmd)
	readUntil(t, keyboard, "Value (it is not shown): ")
	if _, err := keyboard.WriteString("typed-s3cret\n"); err != nil {
		t.Fatal(err)
	}
	shown := readUntil(t, keyboard, tokenPrefix)
	rest, _ := io.ReadAll(keyboard)
	_ = cmd.Wait()
	if shown += string(rest); strings.Contains(shown, "typed-s3cret") || cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("got %q and %v, want the value not shown", shown, cmd.ProcessState)
	}
	token := shown[strings.Index(shown, tokenPrefix):]
	got := typed{args: []string{"inspect", "--key-file", key, "--reveal"}, stdin: token}.succeed(t).stdout
	if !strings.Contains(got, "value    typed-s3cret\n") {
		t.Errorf("got %s, want what was typed", got)
	}
}
