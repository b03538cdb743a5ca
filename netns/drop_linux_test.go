package netns

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDropPrivileges leaves no capability in any set, and no way to one.
func TestDropPrivileges(t *testing.T) {
	got := probe(t, ownMounts(t), "drop")
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if strings.Trim(got[set], "0") != "" || got[set] == "" {
			t.Errorf("%s: got %q, want none", set, got[set])
		}
	}
	if got["NoNewPrivs"] != "1" {
		t.Errorf("got NoNewPrivs %s, want 1", got["NoNewPrivs"])
	}
	if got["mounting"] != "EPERM" {
		t.Errorf("mounting: got %s, want EPERM", got["mounting"])
	}
}

func init() { probes["drop"] = probeDrop }

func probeDrop([]string) (map[string]string, error) {
	if err := dropPrivileges(nil); err != nil {
		return nil, err
	}
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return nil, err
	}
	results := map[string]string{"mounting": outcome(unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		results[name] = value
	}
	return results, nil
}

// TestConfineTracing keeps a process from another one of its user, which it could
// look into before, and not from its own.
func TestConfineTracing(t *testing.T) {
	cmd := exec.Command("sleep", "infinity")
	attr := new(syscall.SysProcAttr)
	if os.Geteuid() == 0 { // whose capabilities would do without
		attr.Credential = &syscall.Credential{Uid: 12345, Gid: 12345}
	}
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	other := strconv.Itoa(cmd.Process.Pid)
	open := probe(t, attr, "tracing", other, "open")
	if open["files"] != "ok" {
		t.Fatalf("without a domain, the other process's files: got %s, want ok", open["files"])
	}
	confined := probe(t, attr, "tracing", other, "confined")
	for _, name := range []string{"files", "memory", "environment", "debugger", "memory by call"} {
		if confined[name] != "EACCES" && confined[name] != "EPERM" {
			t.Errorf("%s: got %s, want it denied", name, confined[name])
		}
	}
	for _, name := range []string{"own files", "own child's files", "moving a file between folders"} {
		if confined[name] != "ok" {
			t.Errorf("%s: got %s, want ok", name, confined[name])
		}
	}
}

func init() { probes["tracing"] = probeTracing }

func probeTracing(args []string) (map[string]string, error) {
	other, results := "/proc/"+args[0], map[string]string{}
	if args[1] == "confined" {
		if err := errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), confineTracing()); err != nil {
			return nil, err
		}
	}
	read := func(name, path string) {
		file, err := os.Open(path)
		if err == nil {
			_ = file.Close()
		}
		results[name] = outcome(err)
	}
	read("files", other+"/root/etc/passwd")
	read("memory", other+"/mem")
	read("environment", other+"/environ")
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return nil, err
	}
	results["debugger"] = outcome(unix.PtraceSeize(pid))
	word := make([]byte, 8)
	local := []unix.Iovec{{Base: &word[0], Len: 8}}
	_, err = unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 1 << 22, Len: 8}}, 0)
	results["memory by call"] = outcome(err)
	read("own files", "/proc/self/root/etc/passwd")
	child := exec.Command("sleep", "infinity")
	if err := child.Start(); err != nil {
		return nil, err
	}
	read("own child's files", "/proc/"+strconv.Itoa(child.Process.Pid)+"/root/etc/passwd")
	_ = child.Process.Kill()
	_ = child.Wait()
	dir, err := os.MkdirTemp("", "starpod-move-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	results["moving a file between folders"] = outcome(errors.Join(
		os.Mkdir(dir+"/a", 0o700), os.Mkdir(dir+"/b", 0o700), os.WriteFile(dir+"/a/f", nil, 0o600), os.Rename(dir+"/a/f", dir+"/b/f")))
	return results, nil
}
