"""Each kind of device as a test attaches it to a running guest: `come` attaches it and uses it, `go` uses it once more and detaches it.

What a guest has done through a device is checked on the host: the bytes of a disk, a file of a share, a line through a port.
"""

import hashlib
import pathlib
import random
import shutil
import socket
import subprocess

from harness.driven import GUEST, MIB, Machine, Refused
from harness.guest import settles

DISK_BYTES = 8 * MIB
BLOCK = 64 << 10


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Device:
    kind = ""

    def __init__(self, machine: Machine, name: str, rng: random.Random):
        self.machine, self.name, self.rng = machine, name, rng
        self.scratch = machine.scratch / name
        self.scratch.mkdir()

    def attach(self, **words) -> dict:
        return self.machine.attach(self.name, self.kind, **words)

    def come(self) -> None:
        self.node = self.attach()["node"]
        self.use()

    def use(self) -> None:
        """That its driver has it."""
        self.machine.sh(f"[ -e /sys/bus/virtio/devices/{self.node}/driver ]")

    def go(self, **words) -> None:
        self.machine.detach(self.name, **words)
        self.forget()

    def forget(self) -> None:
        shutil.rmtree(self.scratch)


class Rng(Device):
    kind = "rng"


class Balloon(Device):
    kind = "balloon"

    def come(self):
        self.node = self.attach(page_reporting=True, deflate_on_oom=True)["node"]
        self.use()


class Disk(Device):
    """Its content is random; the guest reads all of it, and writes one block, which the host finds."""
    kind = "blk"

    def come(self):
        self.file = self.scratch / "disk"
        self.content = bytearray(self.rng.randbytes(DISK_BYTES))
        self.file.write_bytes(self.content)
        self.node = self.attach(path=self.file, serial=self.name)["node"]
        assert self.machine.sh(f"cat /sys/block/{self.node}/serial") == self.name
        self.use()

    def use(self):
        seen = self.machine.sh(f"dd if=/dev/{self.node} bs={BLOCK} iflag=direct 2>/dev/null | sha256sum")
        assert seen.split()[0] == sha256(self.content)

    def go(self, **words):
        block = self.rng.randrange(DISK_BYTES // BLOCK)
        self.machine.sh(f"yes {self.name} | head -c {BLOCK} | dd of=/dev/{self.node} bs={BLOCK} seek={block} count=1 conv=notrunc,fsync "
                        "iflag=fullblock 2>/dev/null")
        self.machine.detach(self.name, **words)
        line = f"{self.name}\n".encode()
        self.content[block * BLOCK:(block + 1) * BLOCK] = (line * (BLOCK // len(line) + 1))[:BLOCK]
        assert self.file.read_bytes() == self.content, f"{self.name}: what the guest wrote is not on the host, or more is"
        self.forget()


class Image(Device):
    """The guest's own image once more, which it can read but not change."""
    kind = "pmem"

    def come(self):
        self.node = self.attach(path=GUEST / "image.erofs")["node"]
        self.use()

    def use(self):
        with open(GUEST / "image.erofs", "rb") as image:
            assert self.machine.sh(f"head -c {MIB} /dev/{self.node} | sha256sum").split()[0] == sha256(image.read(MIB))


class Share(Device):
    """A directory by a wyvern-fs of its own."""
    kind = "fs"

    def come(self):
        self.directory = self.scratch / "shared"
        self.directory.mkdir()
        (self.directory / "in").write_text(self.name)
        self.attach(tag=self.name, directory=self.directory)
        self.machine.sh(f"mkdir -p /run/{self.name} && mount -t virtiofs {self.name} /run/{self.name}")
        self.use()

    def use(self):
        there = f"/run/{self.name}/x"
        assert self.machine.sh(f"cat {there}/in; echo {self.name} >{there}/out") == self.name
        assert (self.directory / "out").read_text() == f"{self.name}\n"

    def go(self, **words):
        self.machine.sh(f"umount /run/{self.name} && rmdir /run/{self.name}")
        super().go(**words)


class Network(Device):
    """A tap in a network namespace of its own, which answers pings."""
    kind = "net"

    def come(self):
        number = self.rng.randrange(1, 250)
        digits = f"0200{self.rng.randrange(1 << 32):08x}"
        self.host = f"10.77.{number}.1"
        self.node = self.attach(mac=digits, host=self.host)["node"]
        assert self.machine.sh(f"cat /sys/class/net/{self.node}/address").replace(":", "") == digits
        self.machine.sh(f"ip addr add 10.77.{number}.2/24 dev {self.node} && ip link set {self.node} up")
        self.use()

    def use(self):
        self.machine.sh(f"ping -c 1 -W 10 -s 1200 {self.host}")


class Port(Device):
    kind = "console"

    def come(self):
        path = self.scratch / "port.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(30)
            attached = self.machine.begin("attach", id=self.name, kind=self.kind, ports=[{"name": self.name, "socket": path}])
            try:
                self.socket = listener.accept()[0]
            except TimeoutError:
                self.machine.end(attached)
                raise
        answer = self.machine.end(attached)
        self.machine.devices[self.name] = {"kind": self.kind, **answer}
        self.node = answer["node"]
        self.use()

    def use(self):
        self.machine.sh(f"echo {self.name} >/dev/{self.node}")
        self.socket.settimeout(30)
        said = b""
        while not said.endswith(b"\n"):
            piece = self.socket.recv(100)
            assert piece, said
            said += piece
        assert said.replace(b"\r", b"") == f"{self.name}\n".encode()

    def forget(self):
        self.socket.close()
        super().forget()


class Memory(Device):
    """Grows by 64 MiB and shrinks again: without plugged memory it can go. The guest's driver says that it has unplugged before it has
    taken its blocks out of the kernel; meanwhile the agent keeps it."""
    kind = "mem"
    grow = 64 * MIB

    def __init__(self, machine, name, rng, memory: int):
        super().__init__(machine, name, rng)
        self.memory = memory

    def come(self):
        super().come()
        total = self._total()
        grown = self.machine.ask("memory", bytes=self.memory + self.grow, deadline_ms=30000)
        assert grown["bytes"] == self.memory + self.grow, grown
        assert self._total() > total + self.grow // 2

    def _total(self) -> int:
        return int(self.machine.sh("grep MemTotal /proc/meminfo").split()[1]) << 10

    def go(self, **words):
        shrunk = self.machine.ask("memory", bytes=self.memory, deadline_ms=60000)
        assert shrunk["bytes"] == self.memory, shrunk

        def goes() -> bool:
            try:
                self.machine.detach(self.name, **words)
            except Refused as refused:
                assert "the kernel still has memory of it" in refused.text, refused
                return False
            return True

        settles(goes, lambda gone: gone, 60)
        self.forget()


def make_ext4(path: pathlib.Path, size: int = 32 * MIB) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(path)], check=True)
