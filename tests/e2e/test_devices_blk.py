"""virtio-blk under Linux's driver and fio, in a bare machine (harness/guest.py): content under pauses of the machine and of the queues,
discard, zeroes, a size that changes."""

import os
import pathlib
import random
import shutil
import threading

import pytest

from harness.ctr import DEBIAN, call, more
from harness.guest import MIB, Guest, needs_boot_test, settles

pytestmark = [pytest.mark.wyvern_only, needs_boot_test]

PACKED = 34  # VIRTIO_F_RING_PACKED
# /dev/vdb is the disk of Debian's programs.
TOOLS = "mkdir /tmp/tools && mount -t erofs -o ro /dev/vdb /tmp/tools"
RUN = "/tmp/tools/ld.so --library-path /tmp/tools /tmp/tools/"


@pytest.fixture(scope="module")
def tools(tmp_path_factory) -> pathlib.Path:
    """A disk with fio and blkdiscard of the debian image, and the libraries that they need."""
    base = tmp_path_factory.mktemp("wyvern-e2e-tools")
    image, tree, disk = base / "image", base / "tree", base / "tools.erofs"
    image.mkdir()
    tree.mkdir()

    def succeed(*argv):
        done = call(argv)
        assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
        return done.stdout.decode()

    succeed("ctr", "image", "mount", DEBIAN, image)
    try:
        loader = image / "lib64/ld-linux-x86-64.so.2"
        files = {str(image / "usr/bin/fio"), str(image / "usr/sbin/blkdiscard")}
        for program in ("/usr/bin/fio", "/usr/sbin/blkdiscard"):
            listed = succeed("chroot", image, "/lib64/ld-linux-x86-64.so.2", "--list", program)
            files |= {f"{image}{line.split()[2]}" for line in listed.splitlines() if " => /" in line}
        for file in files:
            shutil.copy(file, tree)
        shutil.copy(loader, tree / "ld.so")
    finally:
        succeed("ctr", "image", "unmount", "--rm", image)
    succeed("mkfs.erofs", "--quiet", disk, tree)
    shutil.rmtree(tree)
    disk.chmod(0o400)
    yield disk
    shutil.rmtree(base)


def disk(path: pathlib.Path, contents: bytes | int) -> pathlib.Path:
    """`contents` an int: that many bytes, all of them a hole."""
    with open(path, "wb") as f:
        f.truncate(contents) if isinstance(contents, int) else f.write(contents)
    return path


def allocated(path: pathlib.Path) -> int:
    return path.stat().st_blocks * 512


class Interrupter:
    """While a with statement runs: the machine is paused, and memory is plugged and unplugged, which stops and starts the queues of all
    devices with whatever they have in flight."""

    def __init__(self, guest: Guest):
        self.guest = guest
        self.seed = random.randrange(1 << 32)
        self.pauses = self.plugs = 0
        self.ending = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.ending.set()
        self.thread.join()
        if kind is None and self.failure:
            raise self.failure

    def _run(self):
        rng = random.Random(self.seed)
        try:
            while not self.ending.wait(rng.uniform(0.005, 0.15)):
                if rng.random() < 0.3:
                    self.guest.tell(f"plug {rng.choice((0, 32, 64, 128))}")
                    self.plugs += 1
                else:
                    self.guest.tell(f"pause {rng.randrange(1, 40)}")
                    self.pauses += 1
        except BaseException as error:
            self.failure = error


@pytest.mark.limit(400)
@pytest.mark.parametrize("flags, queues", [((), 2), more(("--split", "--pool"), 2), more(("--pool",), 1), more(("--split", "--lanes", "2"), 4)],
                         ids=["packed-io_uring", "split-pool", "packed-pool-one", "split-io_uring-lanes"])
def test_fio_finds_what_it_wrote_under_pauses(scratch, tools, long, flags, queues):
    size = 64 if long else 8
    target = disk(scratch / "disk", size * MIB)
    with Guest(scratch, *flags, "--queues", queues, "--hotplug", 128, disks=[tools, target], cpus=2,
               cmdline="memory_hotplug.online_policy=auto-movable") as guest:
        assert (PACKED in guest.features("/sys/block/vdc")) == ("--split" not in flags)
        assert guest.sh("ls /sys/block/vdc/mq | wc -l") == str(min(queues, 2))  # one for each processor at most
        guest.sh(TOOLS)
        before = guest.counters()["disk2"]
        with Interrupter(guest) as interrupter:
            said = guest.sh(RUN + "fio --name=verify --filename=/dev/vdc --ioengine=libaio --direct=1 --rw=randwrite --bsrange=4k-64k "
                            f"--iodepth=32 --numjobs=2 --size={size // 2}m --offset_increment={size // 2}m --cpus_allowed=0-1 "
                            "--cpus_allowed_policy=split --fsync=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --do_verify=1 "
                            "--verify_state_save=0 --group_reporting", seconds=300)
        done = guest.counters()["disk2"]
        assert "err= 0" in said, said
        assert interrupter.pauses > 5 and interrupter.plugs > 2, (interrupter.seed, interrupter.pauses, interrupter.plugs)
        assert done["bytes_written"] - before["bytes_written"] == size * MIB, said
        assert done["bytes_read"] - before["bytes_read"] >= size * MIB, said
        assert done["flushes"] > before["flushes"], (done, said)


def test_what_the_guest_discards_is_the_hosts_again(scratch, tools):
    """By range, by zeroes in two ways, and by fstrim of a file system."""
    contents = os.urandom(8 * MIB)
    raw, ext4 = disk(scratch / "raw", contents), disk(scratch / "ext4", 32 * MIB)
    assert call(["mke2fs", "-q", "-t", "ext4", "-E", "nodiscard", ext4]).returncode == 0
    with Guest(scratch, disks=[tools, raw, ext4]) as guest:
        guest.sh(TOOLS)
        full = allocated(raw)
        guest.sh(RUN + f"blkdiscard -o {1 * MIB} -l {2 * MIB} /dev/vdc")
        assert full - allocated(raw) == 2 * MIB
        guest.sh(RUN + f"blkdiscard -z -o {4 * MIB} -l {1 * MIB} /dev/vdc")
        counters = guest.counters()["disk2"]
        assert counters["discards"] >= 1 and counters["write_zeroes"] >= 1, counters
        guest.sh("sync")
        expected = bytearray(contents)
        expected[1 * MIB:3 * MIB] = bytes(2 * MIB)
        expected[4 * MIB:5 * MIB] = bytes(1 * MIB)
        assert raw.read_bytes() == expected

        guest.sh("mkdir /tmp/m && mount -t ext4 /dev/vdd /tmp/m && dd if=/dev/urandom of=/tmp/m/file bs=1M count=8 && sync")
        full = allocated(ext4)
        assert full > 8 * MIB
        guest.sh("rm /tmp/m/file && sync && busybox fstrim /tmp/m")
        assert full - allocated(ext4) >= 7 * MIB, (full, allocated(ext4))
        guest.sh("umount /tmp/m")
    assert call(["e2fsck", "-f", "-n", ext4]).returncode == 0


def test_size_changes_while_the_guest_runs(scratch):
    kept, grows = disk(scratch / "kept", os.urandom(MIB)), disk(scratch / "grows", os.urandom(4 * MIB))
    kept.chmod(0o400)
    with Guest(scratch, "--queues", 2, disks=[kept, grows], cpus=2) as guest:
        assert guest.sh("echo $(cat /sys/block/vdb/serial) $(cat /sys/block/vdc/serial) $(cat /sys/block/vdb/ro)") == "disk1 disk2 1"
        size = lambda: int(guest.sh("cat /sys/block/vdc/size")) * 512  # noqa: E731
        assert size() == 4 * MIB
        guest.tell("resize 2 24")
        settles(size, lambda now: now == 24 * MIB)
        guest.sh("dd if=/dev/vdb of=/dev/vdc bs=64k seek=352 conv=notrunc,fsync")  # at 22 MiB
        assert grows.stat().st_size == 24 * MIB
        with open(grows, "rb") as f:
            f.seek(22 * MIB)
            assert f.read(MIB) == kept.read_bytes()
        guest.tell("resize 2 2")
        settles(size, lambda now: now == 2 * MIB)
        assert grows.stat().st_size == 2 * MIB
        assert guest.sh("dd if=/dev/vdc bs=64k 2>/dev/null | wc -c") == str(2 * MIB)
        assert guest.counters()["disk2"]["capacity_sectors"] == 2 * MIB // 512
