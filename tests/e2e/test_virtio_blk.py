"""virtio-blk with Linux's driver: our guest's kernel in a bare machine, with the image's shell as its first process.

No runtime has a block device yet: the machine is made by wyvern-boot-test, whose device threads have the filters of wyvern-vmm. The suite
lab adds that program to its machines: lab run --add build/release/sandbox-vmm/machine/wyvern-boot-test.
"""

import os
import pathlib
import re

import pytest

from harness.ctr import call

BOOT = pathlib.Path("/opt/wyvern/extra/wyvern-boot-test")
GUEST = pathlib.Path("/usr/share/wyvern/guest")
CMDLINE = ("console=ttyS0 quiet panic=-1 pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro rootwait=10 "
           "init=/bin/sh -- /dev/vda")
SIZE = 1 << 20

# On /dev/vda. Copies the read-only disk, vdc, to vdb: four at once, each to stable storage. The last one to close a disk drops what the
# kernel holds of it, so cmp reads from the devices.
SCRIPT = r"""
say() { echo "answer: $*"; }
mount -t sysfs sys /sys
cd /sys/block
say serials $(cat vdb/serial) $(cat vdc/serial)
say sectors $(cat vdb/size) $(cat vdc/size)
say read-only $(cat vdb/ro) $(cat vdc/ro)
for i in 0 16 32 48; do
  dd if=/dev/vdc of=/dev/vdb bs=16k skip=$i seek=$i count=16 conv=notrunc,fsync 2>/dev/null || say failed $i &
done
wait
say copies are $(cmp /dev/vdb /dev/vdc && echo equal)
text=$(dd if=/dev/zero of=/dev/vdc bs=4k count=1 conv=notrunc,fsync 2>&1) && text="written: $text"
say the write: $text
poweroff -f
"""


def disk(path: pathlib.Path, contents: bytes) -> pathlib.Path:
    path.write_bytes(contents)
    return path


def counters(text: str) -> list:
    """Of each disk, by name."""
    return [{name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}
            for line in re.findall(r"^disk\d: (.*)$", text, re.M)]


@pytest.mark.wyvern_only
@pytest.mark.skipif(not BOOT.exists(), reason="this machine was started without wyvern-boot-test (lab run --add)")
@pytest.mark.parametrize("flags", [[], ["--pool"]], ids=["io_uring", "pool"])
def test_linux_writes_one_disk_and_cannot_write_the_other(scratch, flags):
    script = disk(scratch / "script", SCRIPT.encode().ljust(64 << 10, b"\0"))
    original = os.urandom(SIZE)
    written, kept = disk(scratch / "written", bytes(SIZE)), disk(scratch / "kept", original)
    done = call([BOOT, "--kernel", GUEST / "vmlinux", "--image", GUEST / "image.erofs", "--cmdline", CMDLINE, "--seconds", "60", *flags,
                 "--read-only-disk", script, "--disk", written, "--read-only-disk", kept])
    said, told = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{said[-2000:]}\n{told}"
    answers = [line.split("answer: ", 1)[1].strip() for line in said.splitlines() if "answer: " in line]
    assert answers[:-1] == ["serials disk1 disk2", f"sectors {SIZE // 512} {SIZE // 512}", "read-only 0 1", "copies are equal"], said
    assert re.match("the write: dd: .*(not permitted|denied)", answers[-1]), answers

    assert written.read_bytes() == original
    assert kept.read_bytes() == original
    _, first, second = counters(told)
    assert first["bytes_written"] >= SIZE and first["bytes_read"] >= SIZE and first["flushes"] > 0, told
    assert second["bytes_read"] >= SIZE and second["writes"] == second["flushes"] == 0, told
    assert not any(each[name] for each in counters(told) for name in ("io_errors", "bad_requests", "faults")), told
