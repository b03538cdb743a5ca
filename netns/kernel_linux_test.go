package netns

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGuardKernel keeps root, who needs no capability for it, from what steers the
// kernel and from the machine's devices.
func TestGuardKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes devices")
	}
	got := probe(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, "kernel", t.TempDir())
	for name, want := range map[string]string{
		"/proc/sys/kernel/core_pattern":                 "EROFS",
		"/proc/sys/kernel/core_pattern of another proc": "EROFS",
		"/proc/sys/net/ipv4/ip_forward":                 "EROFS",
		"a file of sysfs":                               "EROFS",
		"what is mounted in sysfs":                      "EROFS",
		"a control group":                               "EROFS",
		"a disk":                                        "EACCES",
		"a character device that is root's":             "EACCES",
		"one in a folder":                               "EACCES",
		"a disk in another folder of the machine":       "EACCES",
		"/dev/null":                                     "ok",
		"/dev/ptmx":                                     "ok",
		"what the program is to write about itself":     "ok",
		"a file of its own in the folder of devices":    "ok",
		"a file elsewhere":                              "ok",
	} {
		if got[name] != want {
			t.Errorf("%s: got %s, want %s", name, got[name], want)
		}
	}
}

func init() { probes["kernel"] = probeKernel }

func probeKernel(args []string) (map[string]string, error) {
	dir := args[0]
	// Numbers of devices that do no harm: /dev/null, /dev/zero, and a disk that is
	// not there.
	null, zero, nothing := int(unix.Mkdev(1, 3)), int(unix.Mkdev(1, 5)), int(unix.Mkdev(250, 250))
	if err := errors.Join(
		keepMounts(),
		unix.Mount("tmpfs", "/dev", "tmpfs", 0, "mode=755"), os.Mkdir("/dev/pts", 0o755), os.Mkdir("/dev/input", 0o755), os.Mkdir(dir+"/proc", 0o755), os.Mkdir(dir+"/cgroup", 0o755),
		unix.Mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=000"), unix.Mount("proc", dir+"/proc", "proc", 0, ""), unix.Mount("cgroup2", dir+"/cgroup", "cgroup2", 0, ""),
		unix.Mount("/proc/uptime", "/proc/uptime", "", unix.MS_BIND, ""), // as containers do
		unix.Mknod("/dev/null", unix.S_IFCHR|0o666, null), unix.Mknod("/dev/ptmx", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 2))),
		unix.Mknod("/dev/sda", unix.S_IFBLK|0o660, nothing), unix.Mknod("/dev/mem", unix.S_IFCHR|0o640, zero),
		unix.Mknod("/dev/input/event0", unix.S_IFCHR|0o660, zero), unix.Mknod(dir+"/disk", unix.S_IFCHR|0o666, zero),
		os.Chmod("/dev/null", 0o666), os.Chmod("/dev/ptmx", 0o666), // whatever the umask is
	); err != nil {
		return nil, err
	}
	if err := errors.Join(guardKernel(), dropPrivileges(nil)); err != nil {
		return nil, err
	}
	results := map[string]string{}
	for name, path := range map[string]string{
		"/proc/sys/kernel/core_pattern":                 "/proc/sys/kernel/core_pattern",
		"/proc/sys/kernel/core_pattern of another proc": dir + "/proc/sys/kernel/core_pattern",
		"/proc/sys/net/ipv4/ip_forward":                 "/proc/sys/net/ipv4/ip_forward",
		"a file of sysfs":                               "/sys/kernel/profiling",
		"a disk":                                        "/dev/sda", "a character device that is root's": "/dev/mem", "one in a folder": "/dev/input/event0",
		"a disk in another folder of the machine": dir + "/disk", "/dev/null": "/dev/null", "/dev/ptmx": "/dev/ptmx",
		"what the program is to write about itself": "/proc/self/comm",
	} {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_ = file.Close()
		}
		results[name] = outcome(err)
	}
	results["a control group"] = outcome(os.Mkdir(dir+"/cgroup/starpod-probe", 0o700))
	results["what is mounted in sysfs"] = outcome(os.Mkdir("/sys/fs/cgroup/starpod-probe", 0o700))
	results["a file of its own in the folder of devices"] = outcome(os.WriteFile("/dev/file", nil, 0o600))
	results["a file elsewhere"] = outcome(os.WriteFile(dir+"/file", nil, 0o600))
	return results, nil
}
