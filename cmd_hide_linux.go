package starpod

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hideProcess makes this process not dumpable: others of the same user, such as
// the command, can then read neither its memory nor its environment, nor attach
// a debugger to it (prctl(2), ptrace(2)). What it starts is not affected.
func hideProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding the memory of this process: %w", err)
	}
	return nil
}

// closeInherited keeps descriptors beside the standard ones, which this process
// was started with, from the command: they may be open files or sockets that the
// command could not open.
func closeInherited() error {
	const first = 3
	if err := unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing inherited descriptors: %w", err)
	}
	return nil
}

// scrubArguments overwrites the values in the arguments of this process, which
// every process can read in /proc/PID/cmdline, and returns copies of what the
// flags held. The runtime's strings lie where the kernel looks (proc_pid_cmdline(5)).
func scrubArguments(values []string) []string {
	kept := make([]string, len(values))
	for i, value := range values {
		kept[i] = strings.Clone(value)
	}
	for _, arg := range os.Args {
		for _, value := range kept {
			_, secret, found := strings.Cut(value, "=")
			if found && strings.HasSuffix(arg, value) {
				memory := unsafe.Slice(unsafe.StringData(arg), len(arg))
				for i := len(arg) - len(secret); i < len(arg); i++ {
					memory[i] = '*'
				}
			}
		}
	}
	return kept
}
