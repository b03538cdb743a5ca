package starpod

import "golang.org/x/sys/unix"

// hideProcess makes this process not dumpable: others of the same user, such as
// the command, can then read neither its memory nor its environment, nor attach
// a debugger to it (prctl(2), ptrace(2)). What it starts is not affected.
func hideProcess() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
