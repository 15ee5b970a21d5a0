"""A guest in a bare machine with devices, driven from outside: wyvern-boot-test, our guest's kernel, and a shell on the serial console.

The suite lab adds the program to its machines: lab run --add build/release/sandbox-vmm/machine/wyvern-boot-test. Its device threads have
the filters of wyvern-vmm.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest

from harness.ctr import wait_until

BOOT = pathlib.Path("/opt/wyvern/extra/wyvern-boot-test")
GUEST = pathlib.Path("/usr/share/wyvern/guest")
MIB = 1 << 20
needs_boot_test = pytest.mark.skipif(not BOOT.exists(), reason="this machine was started without wyvern-boot-test (lab run --add)")

# On /dev/vda, the guest's first process. A command is a line; what it prints ends with "@number=code@".
SHELL = r"""
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size=100% tmp /tmp
stty -echo
echo "@0=0@"
while read -r line; do eval "$line"; done
"""
CMDLINE = ("console=ttyS0 quiet panic=-1 pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro rootwait=10 {} "
           "init=/bin/sh -- /dev/vda")
# Counters that are 0 unless the driver or the host did what it must not. (virtio-mem's over_requested is none: a driver may ask for what was
# requested a moment before.)
WRONG = re.compile(r"faults|bad_\w+|\w+_errors|\w*refused\w*|host_failures|(rx|tx)_bad_\w+|rx_too_long|stats_ignored")
# Of the kernel: that it is broken, that it has killed, that a device was wrong.
COMPLAINT = re.compile(r"^.*(?:BUG:|WARNING: CPU|Oops|Call Trace|Out of memory|I/O error|not a head|id \d+ out of range).*$", re.M)


class Guest:
    """In a with statement, at whose end it is powered off: no device may have seen anything wrong, nor the kernel."""

    def __init__(self, scratch: pathlib.Path, *flags, disks=(), memory=256, cpus=1, cmdline="", prefix=()):
        """`disks`: files, from /dev/vdb; one that cannot be written is attached as read-only."""
        script = scratch / "shell"
        script.write_bytes(SHELL.encode().ljust(64 << 10, b"\0"))
        argv = [*prefix, BOOT, "--kernel", GUEST / "vmlinux", "--image", GUEST / "image.erofs", "--cmdline", CMDLINE.format(cmdline),
                "--memory", memory, "--cpus", cpus, "--seconds", 600, *flags, "--read-only-disk", script]
        for disk in disks:
            argv += ["--disk" if disk.stat().st_mode & 0o200 else "--read-only-disk", disk]
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.console, self.told = Stream(self.process.stdout), Stream(self.process.stderr)
        self.commands = 0
        self.telling = threading.Lock()

    def __enter__(self):
        try:
            self._until(self.console, rb"@0=(0)@\r?\n", 60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.power_off()
        finally:
            self._end()

    def _end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        for stream in (self.console, self.told):
            stream.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _until(self, stream, pattern: bytes, seconds: float):
        found = stream.until(pattern, seconds)
        assert found, f"{pattern} did not come\nconsole: {self.console.text()[-2000:]}\nstderr: {self.told.text()[-2000:]}"
        return found

    def tell(self, command: str, seconds: float = 30) -> str:
        """A command for the machine; what it answered. Any thread."""
        name = command.split()[0]
        with self.telling:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
            answer, verdict = self._until(self.told, rf"^{name}: (done|[^=\n]*)\n".encode(), seconds)
        assert verdict == "done", f"{command}: {verdict}"
        return answer

    def sh(self, command: str, seconds: float = 60, code: int | None = 0) -> str:
        """A line for the shell in the guest: what it printed, without the last end of line. `code` None: whatever it is."""
        self.commands += 1
        self.tell(f"type {{ {command}; }} </dev/null 2>&1; echo \"@{self.commands}=$?@\"")
        output, ended = self._until(self.console, rf"@{self.commands}=(\d+)@\r?\n".encode(), seconds)
        output = output.replace("\r\n", "\n")
        assert code is None or int(ended) == code, f"{command}: exit code {ended}\n{output}"
        return output.removesuffix("\n")

    def counters(self) -> dict:
        """Device -> counter -> value."""
        return parse_counters(self.tell("counters"))

    def meminfo(self) -> dict:
        """/proc/meminfo, in bytes."""
        return {name: int(kb) << 10 for name, kb in re.findall(r"^(\w+): +(\d+) kB$", self.sh("cat /proc/meminfo"), re.M)}

    def resident(self) -> int:
        """Bytes of the host's memory that the machine costs: its anonymous pages, and those of its memfds, mapped or not."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        files = {}
        for fd in pathlib.Path(f"/proc/{self.pid}/fd").iterdir():
            if os.readlink(fd).startswith("/memfd:"):
                found = fd.stat()
                files[found.st_ino] = found.st_blocks * 512
        return (int(re.search(r"^RssAnon:\s+(\d+) kB$", status, re.M)[1]) << 10) + sum(files.values())

    def features(self, device: str) -> set:
        """Numbers of the feature bits that Linux has negotiated; `device`: a directory below /sys that has a virtio device."""
        return {i for i, bit in enumerate(self.sh(f"cat {device}/device/features")) if bit == "1"}

    def power_off(self) -> None:
        said = self.sh("dmesg")
        complaints = COMPLAINT.findall(said)
        assert not complaints, "\n".join(complaints)
        self.tell("type poweroff -f")
        assert self.process.wait(30) == 0, self.told.text()[-3000:]
        self.told.until(rb"^event: (power_off)", 5)
        wrong = {f"{device} {name}": value for device, each in parse_counters(self.told.text()).items()
                 for name, value in each.items() if value and WRONG.fullmatch(name)}
        assert not wrong, wrong


def parse_counters(text: str) -> dict:
    return {device: {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", rest)}
            for device, rest in re.findall(r"^(\w+):((?: \w+=\d+)+)$", text, re.M)}


class Stream:
    """What a process writes, read by a thread, so that it never waits for us."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.data = b""
        self.at = 0  # what until() has not returned yet begins here
        self.ended = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while piece := os.read(self.pipe.fileno(), 1 << 16):
            with self.changed:
                self.data += piece
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def until(self, pattern: bytes, seconds: float):
        """(what came before, the pattern's group), or None if it does not come."""
        expression, deadline = re.compile(pattern, re.M), time.monotonic() + seconds
        with self.changed:
            while not (match := expression.search(self.data, self.at)):
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    return None
                self.changed.wait(left)
            before, self.at = self.data[self.at:match.start()], match.end()
        return before.decode(errors="replace"), match[1].decode(errors="replace")

    def text(self) -> str:
        with self.changed:
            return self.data.decode(errors="replace")

    def close(self):
        self.thread.join(10)
        self.pipe.close()


@contextlib.contextmanager
def network_of(pid: int):
    """Sockets that are made within belong to the network namespace of that process."""
    with open("/proc/self/ns/net", "rb") as own, open(f"/proc/{pid}/ns/net", "rb") as other:
        os.setns(other.fileno(), os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(own.fileno(), os.CLONE_NEWNET)


def settles(value, expected, seconds: float = 20) -> None:
    """Fails unless value() becomes what expected(value) accepts."""
    last = []

    def check() -> bool:
        last[:] = [value()]
        return expected(last[0])

    assert wait_until(check, seconds), f"still {last[0]} after {seconds} s"
