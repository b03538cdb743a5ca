"""Uses its secret once, then looks for it wherever a process can look, and
prints what it finds. The value is not in this file: it knows how it begins."""

import ctypes
import glob
import os
import subprocess
import sys

BEGINNING = b"sk-" + b"canary/"
MOST = 64 << 20  # bytes of one process


def read(path, most=1 << 20):
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        return f"{path}: {error.strerror}".encode()


def memory(pid):
    """What stands around the value in the memory of a process."""
    total = 0
    try:
        mem = open(f"/proc/{pid}/mem", "rb", 0)
    except OSError as error:
        yield error.strerror.encode()
        return
    for line in read(f"/proc/{pid}/maps").decode(errors="replace").splitlines():
        try:
            start, end = (int(n, 16) for n in line.split()[0].split("-"))
            if "rw" not in line.split()[1] or total > MOST:
                continue
            mem.seek(start)
            content = mem.read(min(end - start, MOST - total))
        except (OSError, ValueError, OverflowError, IndexError):
            continue
        total += len(content)
        at = content.find(BEGINNING)
        while at >= 0:
            yield content[max(0, at - 50) : at + 200]
            at = content.find(BEGINNING, at + 1)


def show(name, content):
    sys.stdout.buffer.write(b"\n== " + name.encode() + b"\n" + content)


def main():
    url = os.environ.get("URL")
    if url:
        for place in ["-H", "X-Key: " + os.environ["API_TOKEN"]], ["-d", os.environ["API_TOKEN"]]:
            asked = subprocess.run(["curl", "-sS", *place, url], capture_output=True, check=False)
            show("curl", asked.stdout + asked.stderr)
    everybody = [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]
    for pid in os.environ.get("ONLY", "").split() or everybody:
        for name in "environ", "cmdline", "maps", "auxv", "stack", "mountinfo":
            show(f"/proc/{pid}/{name}", read(f"/proc/{pid}/{name}"))
        show(f"/proc/{pid}/mem", b"\n".join(memory(pid)))
        for fd in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            show(fd, target.encode())
            if target.startswith("/") and not target.startswith("/dev/"):
                show(fd, read(fd))
    for name, value in os.environ.items():
        show(name, value.encode())
    for root in {os.environ.get(n, "/nowhere") for n in ("HOME", "TMPDIR", "XDG_DATA_HOME")} | {"/tmp"}:
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith("go-build")]
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and os.path.getmtime(path) > float(os.environ["SINCE"]):
                    show(path, read(path))
    libc = ctypes.CDLL(None, use_errno=True)
    victim = int(os.environ.get("ONLY", os.getppid()))
    attached = libc.ptrace(16, victim, 0, 0)  # PTRACE_ATTACH
    show("ptrace", b"attached" if attached == 0 else os.strerror(ctypes.get_errno()).encode())
    show("done", b"")


main()
