"""Devices of every kind that come and go in random order while the guest works; faults of its agent; what a VMM holds afterwards.

Our guest's kernel and Debian 13's. `--long`: 100 devices instead of 20. The seed is printed; WYVERN_TEST_SEED repeats a run.
ninja -C build/release wyvern-bench, then lab run --memory 3072 --add build/release/bin/wyvern-bench.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import random
import time

import pytest

from harness.ctr import call, more, wait_until
from harness.driven import MIB, Machine, Refused, needs_bench
from harness.kinds import Balloon, Disk, Image, Memory, Network, Port, Rng, Share, make_ext4

pytestmark = [pytest.mark.wyvern_only, needs_bench]
KERNELS = pathlib.Path("/opt/kernels")
STORE = pathlib.Path("/var/lib/wyvern/guests")
MEMORY = 384
MANY = 36  # more than bus 0 has slots
GROWTH = 4 * MIB  # of the VMM's anonymous memory, for what its allocator keeps
FREEZER = "/sys/fs/cgroup/frozen"


@pytest.fixture(scope="module")
def kernel(request):
    """Arguments of Machine."""
    if request.param == "ours":
        yield {}
        return
    name, source = "soak-debian-13", KERNELS / request.param
    done = call(["wyvern", "guest", "import", "--kernel", source / "vmlinuz", "--modules", source / "modules", "--name", name], timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    yield {"kernel": STORE / name / "vmlinux", "initrd": STORE / name / "initrd"}
    call(["wyvern", "guest", "remove", name])


OURS_FIRST = pytest.mark.parametrize("kernel", ["ours", more("debian-13")], indirect=True)


class Load:
    """What the guest does meanwhile: a disk written and read again with checksums, files made, moved and removed on a share, and a
    stream over vsock while there is a vsock device."""

    LOOP = ("n=0; while [ ! -e /run/stop ]; do n=$((n+1)); "
            "dd if=/dev/{disk} of=/run/piece bs=64k skip=$((n%16)) count=1 iflag=direct 2>/dev/null || echo read $n; "
            "dd if=/run/piece of=/dev/{disk} bs=64k seek=$((16+n%16)) count=1 oflag=direct 2>/dev/null || echo write $n; "
            "dd if=/dev/{disk} bs=64k skip=$((16+n%16)) count=1 iflag=direct 2>/dev/null | cmp - /run/piece || echo differs $n; "
            "mkdir -p /run/load/x/d$n && echo $n >/run/load/x/d$n/a && mv /run/load/x/d$n/a /run/load/x/d$n/b && "
            "[ \"$(cat /run/load/x/d$n/b)\" = $n ] && rm /run/load/x/d$n/b && rmdir /run/load/x/d$n || echo files $n; "
            "echo $n >/run/turns; usleep 20000; done")

    def __init__(self, machine: Machine, seed: random.Random):
        self.machine, self.file = machine, machine.scratch / "load-disk"
        self.content = seed.randbytes(2 * MIB)
        self.file.write_bytes(self.content)
        (machine.scratch / "load-share").mkdir()
        disk = machine.attach("load-disk", "blk", path=self.file, serial="load-disk")["node"]
        machine.attach("load-share", "fs", tag="load", directory=machine.scratch / "load-share")
        machine.sh("mkdir /run/load && mount -t virtiofs load /run/load")
        script = self.LOOP.format(disk=disk)
        machine.sh(f"({script}) >/run/wrong 2>&1 &")

    def stream(self):
        """8 MiB over vsock, under way."""
        return self.machine.begin("run", script="dd if=/dev/zero bs=64k count=128 2>/dev/null", out=self.machine.scratch / "stream")

    def check_stream(self, future) -> None:
        answer = self.machine.end(future)
        assert answer["bytes"] == 8 * MIB and answer["status"] == 0, answer
        assert hashlib.sha256((self.machine.scratch / "stream").read_bytes()).digest() == hashlib.sha256(bytes(8 * MIB)).digest()

    def check(self) -> None:
        """It goes on, and nothing went wrong."""
        turns = int(self.machine.sh("cat /run/turns 2>/dev/null || echo 0"))
        assert wait_until(lambda: int(self.machine.sh("cat /run/turns")) > turns, 30), "the load stands still"
        wrong = self.machine.sh("cat /run/wrong")
        assert not wrong, wrong

    def end(self) -> None:
        self.check()
        self.machine.sh("touch /run/stop; sleep 1; while [ -e /run/load/x/d$(cat /run/turns) ]; do usleep 100000; done")
        self.machine.sh("wait; umount /run/load")
        assert self.file.read_bytes()[:MIB] == self.content[:MIB]
        self.machine.detach("load-disk")
        self.machine.detach("load-share")


class Soak:
    """Random devices, at most 12 at once; one balloon and one mem at a time, as Linux and the machine have it."""

    KINDS = (Disk, Disk, Share, Network, Image, Rng, Port, Balloon, Memory)
    ALONE = (Balloon, Memory)

    def __init__(self, machine: Machine, load: Load, rng: random.Random):
        self.machine, self.load, self.rng = machine, load, rng
        self.there, self.numbers, self.cids, self.log = [], itertools.count(), itertools.count(4), []

    def come(self, cls) -> None:
        name = f"{cls.kind}{next(self.numbers)}"
        self.log.append(f"+{name}")
        device = cls(self.machine, name, self.rng, *([MEMORY * MIB] if cls is Memory else []))
        device.come()
        self.there.append(device)

    def go(self, device) -> None:
        self.log.append(f"-{device.name}")
        device.go()
        self.there.remove(device)
        self.machine.check_agreement(gone=[device.name])

    def step(self) -> None:
        stream = self.load.stream()
        possible = [cls for cls in self.KINDS if cls not in self.ALONE or not any(isinstance(d, cls) for d in self.there)]
        if self.there and (len(self.there) >= 12 or self.rng.random() < 0.45):
            self.go(self.rng.choice(self.there))
        else:
            self.come(self.rng.choice(possible))
        if self.there:
            self.rng.choice(self.there).use()
        self.machine.check_agreement()
        self.load.check_stream(stream)
        self.load.check()

    def exchange_vsock(self) -> None:
        """The guest's only vsock device goes, others come and go by the console port, another one comes with a new CID."""
        with pytest.raises(Refused) as second:
            self.machine.attach("vsock2", "vsock", cid=99)
        assert second.value.code == "FAILED_PRECONDITION" and "one vsock device" in second.value.text
        self.machine.detach("vsock")
        with pytest.raises(Refused):
            self.machine.ask("run", script="true")
        self.come(Rng)
        self.go(self.there[-1])
        self.machine.attach("vsock", "vsock", cid=next(self.cids))
        self.machine.ask("connect")
        assert self.machine.run("true")["status"] == 0
        self.machine.check_agreement()

    def empty(self) -> None:
        for device in self.rng.sample(self.there, len(self.there)):
            self.go(device)


@OURS_FIRST
@pytest.mark.limit(4000)
def test_devices_of_every_kind_come_and_go(kernel, scratch, long):
    steps = 100 if long else 20
    seed = int(os.environ.get("WYVERN_TEST_SEED") or time.time())
    print(f"WYVERN_TEST_SEED={seed}")
    rng = random.Random(seed)
    with Machine(scratch, memory=MEMORY, **kernel) as machine:
        load = Load(machine, rng)
        soak = Soak(machine, load, rng)
        try:
            for cls in dict.fromkeys(Soak.KINDS):  # what is made once, for the first of its kind
                soak.come(cls)
                machine.check_agreement()
            soak.empty()
            soak.exchange_vsock()
            before = machine.held()
            for step in range(steps):
                soak.step()
                if step % 10 == 9:
                    soak.exchange_vsock()
            soak.empty()
        except BaseException:
            print(f"seed {seed}: {' '.join(soak.log)}")
            raise
        after = machine.held()
        load.check()
        load.end()
        assert after["anonymous"] <= before["anonymous"] + GROWTH, (before, after)
        print(f"before {before}\nafter {after}")
        for what in ("fds", "threads", "memslots"):
            assert after[what] == before[what], (what, before, after)
        counters = machine.counters()
        assert counters["hotplug.unsettled_addresses"] == 0
        assert after["rolled_back"] == before["rolled_back"], counters
        for method in ("pci_rescan", "pci_remove"):
            print(f"{method}: {counters[f'upcall.{method}.micros'] / counters[f'upcall.{method}.calls'] / 1000:.1f} ms each")
    assert not [p for p in pathlib.Path("/proc").glob("[0-9]*/comm") if _comm(p) in ("wyvern-fs", "wyvern-vmm")]


def _comm(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


@OURS_FIRST
@pytest.mark.limit(600)
def test_more_devices_than_bus_0_has_slots(kernel, scratch):
    """Beyond its slots they are behind root ports, with bus numbers that the guest gave; each is used."""
    with Machine(scratch, memory=MEMORY, **kernel) as machine:
        rng = random.Random(1)
        devices = [(Disk if i % 6 == 0 else Rng)(machine, f"many{i}", rng) for i in range(MANY)]
        for device in devices:
            device.come()
        machine.check_agreement()
        behind = [name for name, device in machine.devices.items() if not device["pci_address"].startswith("0000:00:")]
        assert len(behind) >= MANY - 29, machine.devices
        for device in devices:
            device.use()
        for device in rng.sample(devices, len(devices)):
            device.go()
        machine.check_agreement(gone=[device.name for device in devices])
        again = Disk(machine, "again", rng)
        again.come()
        again.go()


@OURS_FIRST
@pytest.mark.limit(600)
def test_who_comes_gets_the_name_of_who_went(kernel, scratch):
    """What has gone is gone in the guest, too."""
    with Machine(scratch, memory=MEMORY, **kernel) as machine:
        rng, names = random.Random(6), []
        failures = {name for name in machine.counters() if ".failures." in name}  # while there was no agent yet
        for i in range(5):
            devices = [cls(machine, f"{cls.kind}{i}", rng) for cls in (Disk, Image, Network, Rng)]
            for device in devices:
                device.come()
            names.append([device.node for device in devices])
            for device in rng.sample(devices, len(devices)):
                device.go()
        assert [each[:3] for each in names] == [["vda", "pmem1", "eth0"]] * 5, names
        assert all(each[3].startswith("virtio") for each in names), names
        assert {name for name in machine.counters() if ".failures." in name} == failures


class WithLostDisk(Machine):
    def expected_complaint(self, line: str) -> bool:
        return "I/O error" in line


@OURS_FIRST
@pytest.mark.limit(600)
def test_mounted_disk_taken_by_force(kernel, scratch):
    """I/O errors in the guest and no hang; other devices do not notice, the guest goes on, and its name is free."""
    make_ext4(scratch / "disk")
    with WithLostDisk(scratch, memory=MEMORY, **kernel) as machine:
        other = Disk(machine, "other", random.Random(2))
        other.come()
        node = machine.attach("victim", "blk", path=scratch / "disk", serial="victim")["node"]
        machine.sh(f"mkdir /run/victim && mount -t ext4 /dev/{node} /run/victim && "
                   "dd if=/dev/zero of=/run/victim/f bs=64k count=64 conv=fsync 2>/dev/null")
        machine.sh("(n=0; while dd if=/dev/zero of=/run/victim/w bs=64k count=8 conv=fsync 2>/dev/null; do n=$((n+1)); done; "
                   "echo $n >/run/stopped) >/dev/null 2>&1 &")
        with pytest.raises(Refused) as refused:
            machine.detach("victim")
        assert refused.value.code == "FAILED_PRECONDITION", refused.value
        machine.check_agreement()
        machine.detach("victim", force=True)
        machine.check_agreement(gone=["victim"])
        assert wait_until(lambda: machine.sh("cat /run/stopped 2>/dev/null || true"), 30), "the writer hangs"
        assert machine.sh(f"dd if=/dev/{node} bs=4k count=1 iflag=direct 2>/dev/null | wc -c") == "0"
        machine.sh("timeout 20 umount /run/victim || timeout 20 umount -l /run/victim", seconds=60)
        other.use()
        machine.attach("next", "blk", path=scratch / "disk", serial="next")
        machine.detach("next")
        other.go()
        assert machine.counters()["hotplug.unsettled_addresses"] == 0


@contextlib.contextmanager
def stalled(machine: Machine):
    """The agent is process 1, which no signal stops; its cgroup does. The shell on the port is no member."""
    machine.sh(f"mkdir -p {FREEZER} && echo 1 >{FREEZER}/cgroup.procs && echo 1 >{FREEZER}/cgroup.freeze")
    try:
        yield
    finally:
        machine.sh(f"echo 0 >{FREEZER}/cgroup.freeze; echo 1 >/sys/fs/cgroup/cgroup.procs")


def _late(machine: Machine, name: str, scratch: pathlib.Path) -> float:
    """An attach that the agent does not answer; the seconds until it was decided."""
    (scratch / name).write_bytes(bytes(MIB))
    began = time.monotonic()
    with pytest.raises(Refused) as late:
        machine.attach(name, "blk", path=scratch / name, serial=name, deadline_ms=1000)
    assert late.value.code == "DEADLINE_EXCEEDED", late.value
    return time.monotonic() - began


@OURS_FIRST
@pytest.mark.limit(600)
def test_agent_that_stalls(kernel, scratch):
    """Nothing is half attached: the deadline is kept, the device is taken back, and the next call works when the agent does."""
    with Machine(scratch, memory=MEMORY, **kernel) as machine:
        present = Disk(machine, "present", random.Random(3))
        present.come()
        before = machine.held()
        with stalled(machine):
            assert _late(machine, "late", scratch) < 6
            assert "late" not in {name.split(".")[0] for name in machine.counters()}
            began = time.monotonic()
            with pytest.raises(Refused) as stays:  # it stays: the guest did not let it go
                machine.detach("present", deadline_ms=1000)
            assert stays.value.code == "DEADLINE_EXCEEDED" and time.monotonic() - began < 4, stays.value
            assert machine.rolled_back() == before["rolled_back"] + 1
        present.use()
        machine.attach("late", "blk", path=scratch / "late", serial="late")
        machine.detach("late")
        machine.check_agreement(gone=["late"])
        assert machine.counters()["hotplug.unsettled_addresses"] == 0
        after = machine.held()
        assert (after["fds"], after["memslots"]) == (before["fds"], before["memslots"]), (before, after)
        present.go()


@OURS_FIRST
@pytest.mark.limit(600)
def test_forced_detach_while_the_agent_stalls(kernel, scratch):
    """The device is gone at once on the host; its place is used again only after the guest was told."""
    with WithLostDisk(scratch, memory=MEMORY, **kernel) as machine:
        Disk(machine, "present", random.Random(4)).come()
        with stalled(machine):
            machine.detach("present", force=True, deadline_ms=1000)
            assert machine.counters()["hotplug.unsettled_addresses"] == 1
            assert _late(machine, "early", scratch) < 6
        next_one = Rng(machine, "next", random.Random(5))
        next_one.come()
        machine.check_agreement(gone=["present", "early"])
        assert machine.counters()["hotplug.unsettled_addresses"] == 0
        next_one.go()


@OURS_FIRST
@pytest.mark.limit(600)
def test_stream_that_is_cut(kernel, scratch):
    """The vsock device goes by force while the agent owes an answer on it: the call is made again by the console port."""
    with Machine(scratch, memory=MEMORY, **kernel) as machine:
        streams = machine.counters()["upcall.streams"]
        with stalled(machine):
            attached = machine.begin("attach", id="between", kind="rng", deadline_ms=30000)
            time.sleep(0.5)
            machine.detach("vsock", force=True, deadline_ms=1000)
        machine.devices["between"] = {"kind": "rng", **machine.end(attached)}
        assert machine.counters()["upcall.streams"] > streams
        machine.attach("vsock", "vsock", cid=77)
        machine.ask("connect")
        machine.check_agreement()
        machine.detach("between")


@OURS_FIRST
@pytest.mark.limit(900)
def test_vcpus_come_and_go(kernel, scratch, long):
    """1 → 4 → 1, without growth; a thread for each that is online."""
    with Machine(scratch, memory=MEMORY, max_cpus=4, **kernel) as machine:
        threads = []
        for _ in range(50 if long else 5):
            for count in (4, 1):
                reached = machine.ask("vcpus", count=count, deadline_ms=60000)
                assert (reached["vcpus"], reached["why"]) == (count, ""), reached
                assert machine.sh("cat /sys/devices/system/cpu/online") == ("0-3" if count == 4 else "0")
            threads.append(machine.held()["threads"])
        assert threads[0] == threads[-1], threads
