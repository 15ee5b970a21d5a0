"""A guest under QEMU (TCG, no KVM) whose devices are vhost-user back-ends, and the QEMUs there are: Debian 12's 7.2 on this machine
and Debian 13's 10, unpacked by tests/lab and run in place."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket as sockets
import subprocess
import sys
import time

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests/lab"))

from lablib import machine, root  # noqa: E402

ARCH = machine.ARCHES["x86_64"]
RELEASE = TREE / "build/release"
UNIT = TREE / "build/unit/sandbox-vmm"
# Of this machine, and of the root that tests/lab unpacks.
QEMUS = ["7.2", "10"]

PROLOGUE = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
PATH=/bin; busybox --install /bin
say() { echo "answer: $*"; }
"""


def qemu(version: str) -> list:
    """The words of a QEMU's command; skips where this machine has none of that version."""
    if version == "10":
        emulator = root.qemu(ARCH)
        share = emulator / "root/usr/share"
        return [*machine.tool(emulator, ARCH.qemu), "-L", share / "qemu", "-L", share / "seabios"]
    program = shutil.which(ARCH.qemu)
    if program is None:
        pytest.skip(f"no {ARCH.qemu} here (Debian package qemu-system-x86)")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if f"version {version}." not in said:
        pytest.skip(f"{ARCH.qemu} here is not {version}: {said.splitlines()[0]}")
    return [program]


def of_debian_13(name: str) -> list:
    """The words of a program of the emulator's root; skips where it is not there."""
    emulator = root.qemu(ARCH)
    for directory in ("usr/bin", "usr/sbin", "usr/libexec"):
        if (emulator / "root" / directory / name).exists():
            return [*machine.tool(emulator, name)[:-1], str(emulator / "root" / directory / name)]
    return pytest.skip(f"no {name} in the emulator's root (tests/lab/lablib/root.py)")


def initramfs(directory: pathlib.Path, script: str, programs=()) -> pathlib.Path:
    """busybox, `programs` (static) in /bin, and `script` as /init behind PROLOGUE."""
    tree = directory / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "mnt"):
        (tree / name).mkdir(parents=True)
    for program in ("/bin/busybox", *programs):
        shutil.copy(program, tree / "bin")
    (tree / "init").write_text(PROLOGUE + script)
    (tree / "init").chmod(0o755)
    archive = directory / "initramfs.cpio"
    with open(archive, "wb") as out:
        names = subprocess.run(["find", ".", "-print0"], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names, stdout=out, check=True)
    return archive


class Guest:
    """A running QEMU; what the guest says by `say` are its answers. Several of one directory need names of their own."""

    def __init__(self, words: list, directory: pathlib.Path, archive: pathlib.Path, devices: list, *, name: str = "guest", mib: int = 256,
                 memory: str = "", reboots: bool = False):
        self.directory = directory
        self.console = directory / f"{name}.console"
        self.control = directory / f"{name}.qmp"
        self.trace = directory / f"{name}.trace"
        kernel = os.environ.get("WYVERN_TEST_KERNEL") or pytest.skip("WYVERN_TEST_KERNEL names no guest kernel")
        with open(self.console, "wb") as out:
            self.process = subprocess.Popen(
                [*words, "-M", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "max", "-m", f"{mib}{memory}",
                 "-object", f"memory-backend-memfd,id=ram,size={mib}M,share=on", "-nodefaults", "-display", "none",
                 *([] if reboots else ["-no-reboot"]), "-serial", "stdio", "-qmp", f"unix:{self.control},server=on,wait=off",
                 "-trace", "vhost_user_write", "-D", self.trace,
                 "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1", *devices],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def command(self, execute: str, **arguments):
        """One QMP command: what it returns."""
        with sockets.socket(sockets.AF_UNIX) as stream:
            stream.settimeout(60)
            stream.connect(str(self.control))
            with stream.makefile("rw") as lines:
                for words in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                    lines.write(json.dumps(words) + "\n")
                    lines.flush()
                    answer = {}
                    while not answer.keys() & {"return", "error"}:  # greeting and events
                        answer = json.loads(lines.readline())
                    assert "return" in answer, (words, answer)
        return answer["return"]

    def requests(self) -> list:
        """The vhost-user requests that this QEMU has sent so far, by number (sandbox-vmm/vhost_user/messages.h)."""
        return [int(number) for number in re.findall(r"vhost_user_write req:(\d+)", self.trace.read_text())]

    def text(self) -> str:
        return self.console.read_text(errors="replace")

    def answers(self) -> list:
        return [line.split("answer: ", 1)[1].strip() for line in self.text().splitlines() if "answer: " in line]

    def wait_for(self, answer: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while answer not in self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, f"no {answer!r}:\n{self.said()}"
            time.sleep(0.05)

    def finish(self, seconds: float = 240) -> list:
        """Its answers, once it has powered off."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the guest does not end:\n{self.said()}")
        return self.answers()

    def said(self) -> str:
        """For a failure: the console, and what the back-ends logged."""
        logs = [log.read_text() for log in self.directory.glob("*.log")]
        return "\n".join([self.text()[-3000:], *logs])


def log_of(socket: pathlib.Path) -> pathlib.Path:
    return socket.with_suffix(".log")


@contextlib.contextmanager
def server(command: list, socket: pathlib.Path, **options):
    """A program that listens on `socket`, once it does; killed at the end. What it says on stderr is in <socket>.log."""
    with open(log_of(socket), "a", encoding="utf-8") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log, text=True, **options)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            pytest.fail(f"{command[0]}: {log_of(socket).read_text()}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
