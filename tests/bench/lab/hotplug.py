"""Part hotplug: from the word to the VMM until the guest can use a device, ours beside QEMU's q35 and its device_add.

Both guests run Debian 13's kernel, which has what each needs: drivers as modules, and for QEMU ACPI's hot-plug. In both the same program
(guest/usable.cc) looks every millisecond and says on a virtio-console port that the device can be used. Ours is taken up by its agent; in
QEMU's the kernel does it, and the program puts a new CPU online, as udev would. What exists before either clock starts: the open disk, the
tap, the file server. Lines, answers and clock are this process's: CLOCK_MONOTONIC.
"""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

import guests
from figures import keep, say

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e"))
from harness import driven  # noqa: E402

KERNELS, STORE, NAME = pathlib.Path("/opt/kernels/debian-13"), pathlib.Path("/var/lib/wyvern/guests"), "bench-debian-13"
PROGRAM = guests.EXTRA / "wyvern-bench-guest"
PORT, TAP, TAG = "bench.usable", "benchtap", "benchshare"
MEMORY_MIB, CPUS, MIB = 384, 2, 1 << 20
MINIMUM = 20
UPCALLS = {"attach": "pci_rescan", "vcpus": "cpu_online"}
rounds = MINIMUM


class Watcher:
    """The program's port: orders there, answers here, with the time at which they came."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.stream = None

    def accept(self):
        self.listener.settimeout(60)
        self.stream = self.listener.accept()[0]
        self.stream.settimeout(90)
        self.data = b""

    def line(self):
        while b"\n" not in self.data:
            piece = self.stream.recv(4096)
            if not piece:
                raise RuntimeError("the guest's program is gone")
            self.data += piece
        at = time.monotonic_ns()
        line, self.data = self.data.split(b"\n", 1)
        return line.decode().strip(), at

    def look(self, order):
        self.stream.sendall(f"{order}\n".encode())
        self.expect("looking")

    def expect(self, word):
        """When it came."""
        line, at = self.line()
        if line.split()[0] != word:
            raise RuntimeError(f"the guest's program said {line!r}, not {word!r}")
        return at

    def usable(self):
        """When it was said. Afterwards the guest's program holds nothing of the device."""
        at = self.expect("usable")
        self.expect("free")
        return at

    def close(self):
        for each in (self.stream, self.listener):
            if each is not None:
                each.close()


def start_line(disk):
    """Starts the program, which is on a disk; its port is found by its name."""
    return (f"head -c {PROGRAM.stat().st_size} /dev/{disk} >/run/usable && chmod 755 /run/usable && for p in /sys/class/virtio-ports/*; do "
            f"read -r n <$p/name && [ $n = {PORT} ] && break; done; setsid /run/usable usable /dev/${{p##*/}} </dev/null >/dev/null 2>&1 &")


def program_disk(directory):
    path = pathlib.Path(directory, "program")
    data = PROGRAM.read_bytes()
    path.write_bytes(data.ljust(-(-len(data) // 4096) * 4096, b"\0"))
    return path


class Ours(driven.Machine):
    """attach and detach by the API; which upcall the guest's share of the time is in."""

    def __init__(self, scratch, watcher, **kernel):
        super().__init__(scratch, memory=MEMORY_MIB, hotplug_memory=0, max_cpus=CPUS, **kernel)
        self.watcher, self.shares = watcher, {}

    def boot_devices(self):
        self.attach("program", "blk", path=program_disk(self.scratch), serial="program", read_only=True)
        self.attach("bench", "console", ports=[{"name": PORT, "socket": self.scratch / "usable.sock"}])
        self.watcher.accept()

    def after_boot(self):
        super().after_boot()
        disk = self.sh("for b in /sys/block/vd*; do [ \"$(cat $b/serial)\" = program ] && echo ${b##*/}; done")
        self.sh(start_line(disk))

    def timed(self, order, step, **words):
        """ns until usable. The VMM's own share, without what it waited for the guest: `shares`."""
        upcall = f"upcall.{UPCALLS[step]}.micros"
        before = self.counters().get(upcall, 0)
        self.watcher.look(order)
        answer = self.ask(step, **words)
        at = self.watcher.usable()
        waited = (self.counters()[upcall] - before) * 1000
        self.shares.setdefault(order.split()[0], []).append((answer["end_ns"] - answer["begin_ns"] - waited) / 1e6)
        return at - answer["begin_ns"]

    def blk(self, path, serial):
        took = self.timed(f"blk {serial}", "attach", id="hot", kind="blk", path=path, serial=serial)
        self.ask("detach", id="hot")
        return took

    def net(self, mac):
        took = self.timed(f"net {mac}", "attach", id="hot", kind="net", mac=mac.replace(":", ""), host="10.88.0.1")
        self.ask("detach", id="hot")
        return took

    def fs(self, directory):
        took = self.timed(f"fs {TAG}", "attach", id="hot", kind="fs", tag=TAG, directory=directory)
        self.ask("detach", id="hot")
        return took

    def vcpu(self):
        took = self.timed("cpu 1", "vcpus", count=2, deadline_ms=60000)
        self.ask("vcpus", count=1, deadline_ms=60000)
        return took


class Qemu:
    """q35 with root ports, driven by QMP; the program is its guest's first and only process."""

    def __init__(self, scratch, watcher, kernel, initrd):
        self.scratch, self.watcher, self.events, self.console = scratch, watcher, [], b""
        both = scratch / "initrd"  # of two archives the kernel takes the later one's /init; each begins at a multiple of 4
        modules = pathlib.Path(initrd).read_bytes()
        both.write_bytes(modules.ljust(-(-len(modules) // 4) * 4, b"\0") + guests.initrd().read_bytes())
        ports = [word for i in range(3) for word in ("-device", f"pcie-root-port,id=port{i},bus=pcie.0,chassis={i + 1},slot={i + 1}")]
        argv = [*guests.qemu_program(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-M", "q35,accel=kvm,memory-backend=ram", "-cpu", "host", "-smp", f"1,maxcpus={CPUS}", "-m", str(MEMORY_MIB),
                "-object", f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on",
                "-kernel", str(kernel), "-initrd", str(both), "-append", f"console=ttyS0 quiet panic=-1 bench_usable={PORT}",
                "-serial", "stdio", *ports,
                "-chardev", f"socket,id=usable,path={scratch / 'usable.sock'}", "-device", "virtio-serial-pci,addr=0x12",
                "-device", f"virtserialport,chardev=usable,name={PORT}", "-qmp", f"unix:{scratch / 'qmp.sock'},server=on,wait=off"]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while piece := self.process.stdout.read1(4096):
            self.console += piece

    def __enter__(self):
        try:
            self.watcher.accept()
            self.qmp = self._connect().makefile("rw", buffering=1)
            json.loads(self.qmp.readline())
            self.command("qmp_capabilities")
        except BaseException:
            self.__exit__()
            say(f"QEMU's guest did not start:\n{self.console[-3000:].decode(errors='replace')}")
            raise
        return self

    def _connect(self):
        path, end = self.scratch / "qmp.sock", time.monotonic() + 30
        while not path.exists() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(path))
        stream.settimeout(60)
        return stream

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join(10)

    def command(self, name, **arguments):
        self.qmp.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        while "return" not in (answer := json.loads(self.qmp.readline())):
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']}")
            self.events.append(answer)
        return answer["return"]

    def timed(self, order, **arguments):
        self.watcher.look(order)
        began = time.monotonic_ns()
        self.command("device_add", id="hot", **arguments)
        took = self.watcher.usable() - began
        self.delete()
        return took

    def delete(self):
        """Asked again now and then: a guest that is still busy with the arrival does not hear it."""
        for _ in range(20):
            with contextlib.suppress(RuntimeError):
                self.command("device_del", id="hot")
            end = time.monotonic() + 6
            while time.monotonic() < end:
                self.command("query-status")
                if any(event.get("event") == "DEVICE_DELETED" and event["data"].get("device") == "hot" for event in self.events):
                    self.events.clear()
                    return
                time.sleep(0.1)
        raise RuntimeError("QEMU's guest does not let go of the device")

    def forget(self, name, **arguments):
        """What the device was over: it lets go of that a moment after it has gone."""
        for _ in range(50):
            try:
                self.command(name, **arguments)
                return
            except RuntimeError as error:
                last = error
                time.sleep(0.1)
        raise last

    def blk(self, path, serial):
        self.command("blockdev-add", **{"driver": "raw", "node-name": serial, "file": {"driver": "file", "filename": str(path)}})
        took = self.timed(f"blk {serial}", driver="virtio-blk-pci", drive=serial, serial=serial, bus="port0")
        self.forget("blockdev-del", **{"node-name": serial})
        return took

    def net(self, mac):
        self.command("netdev_add", type="tap", id="tap", ifname=TAP, script="no", downscript="no")
        took = self.timed(f"net {mac}", driver="virtio-net-pci", netdev="tap", mac=mac, bus="port1", romfile="")
        self.forget("netdev_del", id="tap")
        return took

    def fs(self, directory):
        with guests.virtiofsd(directory) as path:
            self.command("chardev-add", id="fs", backend={"type": "socket", "data": {
                "addr": {"type": "unix", "data": {"path": path}}, "server": False}})
            took = self.timed(f"fs {TAG}", driver="vhost-user-fs-pci", chardev="fs", tag=TAG, bus="port2")
            self.forget("chardev-remove", id="fs")
        return took

    def vcpu(self):
        free = [cpu for cpu in self.command("query-hotpluggable-cpus") if "qom-path" not in cpu][0]
        return self.timed("cpu-on 1", driver=free["type"], **free["props"])


@contextlib.contextmanager
def both():
    done = subprocess.run(["wyvern", "guest", "import", "--kernel", KERNELS / "vmlinuz", "--modules", KERNELS / "modules", "--name", NAME],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    kernel = {"kernel": STORE / NAME / "vmlinux", "initrd": STORE / NAME / "initrd"}
    with contextlib.ExitStack() as stack:
        sides = []
        for make in (Ours, Qemu):
            scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            watcher = Watcher(scratch / "usable.sock")
            stack.callback(watcher.close)
            sides.append(stack.enter_context(make(scratch, watcher, **kernel)))
        yield sides


def hotplug():
    with tempfile.TemporaryDirectory() as directory, both() as (own, other):
        disk = pathlib.Path(directory, "disk")
        disk.write_bytes(bytes(8 * MIB))
        share = pathlib.Path(directory, "share")
        share.mkdir()
        for kind in ("blk", "net", "fs", "vcpu"):
            took = {own: [], other: []}
            for i in range(max(rounds, MINIMUM) + 1):
                arguments = {"blk": (disk, f"hot{i}"), "net": (f"02:00:00:00:01:{i % 256:02x}",), "fs": (share,), "vcpu": ()}[kind]
                for side, times in took.items():
                    times.append(getattr(side, kind)(*arguments) / 1e6)
            vmm = own.shares["cpu" if kind == "vcpu" else kind]
            # The first of each makes what is made once.
            keep(f"hotplug-{kind}", ours=took[own][1:], peer=took[other][1:], vmm=vmm[1:])
        complaints = re.findall(r"^.*(?:BUG:|WARNING: CPU|Oops).*$", own.sh("dmesg"), re.M)
        say(f"hotplug: the guest's kernel complained: {complaints}" if complaints else "hotplug: no complaint of the guest's kernel")
