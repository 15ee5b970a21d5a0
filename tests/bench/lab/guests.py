"""Guests of wyvern-vmm and of QEMU microvm, from the same kernel and the same files, driven by wyvern-bench."""

import contextlib
import functools
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

EXTRA = pathlib.Path("/opt/wyvern/extra")
BENCH = EXTRA / "wyvern-bench"
GUEST = pathlib.Path("/usr/share/wyvern/guest")
LIBEXEC = pathlib.Path("/usr/libexec/wyvern")
VIRTIOFSD = "/usr/libexec/virtiofsd"
MEMORY_MIB = 256
CID = 42
ROOT = "console=ttyS0 quiet panic=1 pci=lastbus=0 rootfstype=erofs ro init=/sbin/wyvern-agent"
INITRD = "console=ttyS0 quiet panic=1 pci=lastbus=0"


def qemu_program():
    """Debian 13's QEMU: installed, or the one of the lab itself, which run.sh adds."""
    installed = pathlib.Path("/usr/bin/qemu-system-x86_64")
    if installed.exists():
        return [str(installed)]
    root = EXTRA / "qemu"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries),
            str(root / "usr/bin/qemu-system-x86_64"), "-L", str(root / "usr/share/qemu"),
            "-L", str(root / "usr/share/seabios")]


def qemu(cmdline, *devices, initrd=None, shared=False):
    """Its firmware is qboot: the default with ACPI, SeaBIOS, takes longer."""
    memory = ["-m", str(MEMORY_MIB)]
    machine = "microvm,accel=kvm,pcie=on,acpi=on,pic=off,pit=off,rtc=off,x-option-roms=off,usb=off"
    if shared:
        memory += ["-object", f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on"]
        machine += ",memory-backend=ram"
    return [*qemu_program(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-M", machine, "-cpu", "host", "-smp", "1", *memory,
            "-bios", "qboot.rom", "-kernel", str(GUEST / "vmlinux"),
            *(["-initrd", str(initrd)] if initrd else []), "-append", cmdline,
            "-serial", "stdio", "-device", "virtio-rng-pci",
            "-device", f"vhost-vsock-pci,guest-cid={CID}", *devices]


def disk_of_qemu(path, read_only=False):
    """As ours has it: a thread of its own, io_uring, not through the page cache."""
    return ["-drive", f"if=none,id=disk,format=raw,file={path},cache.direct=on,aio=io_uring" + (",read-only=on" if read_only else ""),
            "-object", "iothread,id=io", "-device", "virtio-blk-pci,drive=disk,iothread=io"]


class Run:
    """A wyvern-bench that holds its guest; `values` of its JSON lines, `text` of the others."""

    def __init__(self, argv, timeout=600):
        self.process = subprocess.Popen([str(BENCH), *map(str, argv)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.values, self.text, self.streams, self.pid = {}, "", {}, 0
        end = time.monotonic() + timeout
        for line in self.process.stdout:
            if time.monotonic() > end:
                break
            if line.startswith('{"'):
                value = json.loads(line)
                if "stream" in value:
                    self.streams[value["stream"]] = value
                else:
                    self.values.update(value)
            elif line.startswith("pid "):
                self.pid = int(line.split()[1])
                break
            else:
                self.text += line
        if self.pid and not self.process.poll():
            return
        code = self.process.wait()
        raise RuntimeError(f"wyvern-bench {argv[0]} failed with {code}:\n{self.text[-3000:]}")

    def operations(self):
        """{operation: (count, ns)} that the measuring guest reported. Precondition: it has ended."""
        if "BENCH error" in self.text:
            raise RuntimeError(self.text[-2000:])
        return {m[1]: (int(m[2]), int(m[3])) for m in re.finditer(r"BENCH (\S+) (\d+) (\d+)", self.text)}

    def took(self, operation):
        """Nanoseconds. Precondition: it has ended."""
        operations = self.operations()
        if operation not in operations:
            raise RuntimeError(f"the guest said nothing of {operation}:\n{self.text[-2000:]}")
        return operations[operation][1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Ends the guest; its console is in `text` afterwards."""
        self.process.stdin.close()
        self.text += self.process.stdout.read()
        if code := self.process.wait():
            raise RuntimeError(f"wyvern-bench failed with {code}:\n{self.text[-3000:]}")


def ours(*arguments, kernel=GUEST / "vmlinux"):
    return ["boot", "--vmm", LIBEXEC / "wyvern-vmm", "--kernel", kernel, "--memory", MEMORY_MIB << 20,
            *arguments, "--hold"]


def peer(command, *arguments):
    return ["peer", "--cid", CID, *arguments, "--hold", "--", *command]


@functools.cache
def initrd():
    """The measuring guest as the only file of an initrd."""
    path = pathlib.Path("/tmp/bench-initrd")
    with tempfile.TemporaryDirectory() as tree:
        os.mkdir(f"{tree}/dev")
        os.mknod(f"{tree}/dev/console", 0o600 | 0o020000, os.makedev(5, 1))
        subprocess.run(["cp", EXTRA / "wyvern-bench-guest", f"{tree}/init"], check=True)
        archive = subprocess.run(["busybox", "sh", "-c", "find . | busybox cpio -o -H newc 2>/dev/null"], cwd=tree,
                                 check=True, stdout=subprocess.PIPE).stdout
    path.write_bytes(archive)
    return path


@contextlib.contextmanager
def virtiofsd(directory):
    """Debian's file server on a socket; one connection. O_DIRECT reaches the host's file, as with wyvern-fs: by default it drops it.
    Without a pool of threads, its default: the thread of the queue does the work."""
    with tempfile.TemporaryDirectory() as tmp:
        path = f"{tmp}/fs.sock"
        process = subprocess.Popen([VIRTIOFSD, "--socket-path", path, "--shared-dir", str(directory), "--cache", "auto",
                                    "--sandbox", "chroot", "--allow-direct-io", "--log-level", "error"])
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            yield path
        finally:
            process.kill()
            process.wait()
