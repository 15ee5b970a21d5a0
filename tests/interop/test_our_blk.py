"""What QEMU 7.2 and 10 do to our blk back-end while a Linux guest uses its disk: packed rings, a reset, memory that comes and goes, a
migration to another QEMU with a back-end of its own."""

import hashlib
import os
import pathlib
import time

import pytest

import emulated

SERVE = emulated.UNIT / "vhost_user/testing/vhost_user_serve"
MIB = 1 << 20
QEMUS = [pytest.param("7.2", marks=pytest.mark.thorough), "10"]
# Numbers of the specification (sandbox-vmm/vhost_user/messages.h).
SET_LOG_BASE, RESET_DEVICE, ADD_MEM_REG, REM_MEM_REG = 6, 34, 37, 38


def disk_of(directory, size: int, start: bytes = b"") -> tuple:
    """A file of random content, and that."""
    content = start.ljust(512 if start else 0, b"\0") + os.urandom(size)
    content = content[:size]
    (directory / "disk").write_bytes(content)
    return directory / "disk", content


def blk(socket, version: str, *options: str) -> list:
    size = 256 if version == "7.2" else 1024  # why: test_our_backends.py
    return ["-chardev", f"socket,id=d,path={socket}",
            "-device", ",".join(["vhost-user-blk-pci,id=disk,chardev=d,num-queues=1", f"queue-size={size}", *options])]


def sum_of(content: bytes) -> str:
    return f"sum {hashlib.sha256(content).hexdigest()} -"


PACKED = """say packed $(cut -c35 /sys/block/vda/device/features)
say sum $(sha256sum </dev/vda)
dd if=/dev/zero of=/dev/vda bs=64k count=16 seek=16 conv=notrunc,fsync 2>/dev/null && say written
echo 3 >/proc/sys/vm/drop_caches
say sum $(sha256sum </dev/vda)
poweroff -f
"""


@pytest.mark.parametrize("version", QEMUS)
def test_packed_ring(tmp_path, version):
    words = emulated.qemu(version)
    disk, content = disk_of(tmp_path, 8 * MIB)
    socket = tmp_path / "blk.sock"
    with emulated.server([SERVE, "blk", socket, disk, "untracked"], socket), \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, PACKED), blk(socket, version, "packed=on")) as guest:
        answers = guest.finish()
        said = guest.said()
    after = content[:MIB] + bytes(MIB) + content[2 * MIB:]
    assert answers == ["packed 1", sum_of(content), "written", sum_of(after)], said
    assert disk.read_bytes() == after


# The first boot leaves a mark on the disk and reads until it is reset.
RESET = """first=$(dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d '\\0')
say boot $first
if [ "$first" = first ]; then
  printf second | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null
  say busy
  while :; do echo 3 >/proc/sys/vm/drop_caches; cat /dev/vda >/dev/null; done
fi
say sum $(sha256sum </dev/vda)
poweroff -f
"""


@pytest.mark.parametrize("version", QEMUS)
def test_reset_under_load(tmp_path, version):
    """The machine is reset while requests are in flight; its next boot uses the same session."""
    words = emulated.qemu(version)
    disk, content = disk_of(tmp_path, 32 * MIB, b"first")
    socket = tmp_path / "blk.sock"
    with emulated.server([SERVE, "blk", socket, disk], socket), \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, RESET), blk(socket, version), reboots=True) as guest:
        guest.wait_for("busy")
        time.sleep(0.5)
        before = guest.requests().count(RESET_DEVICE)
        guest.command("system_reset")
        answers = guest.finish()
        requests, said = guest.requests(), guest.said()
    assert answers == ["boot first", "busy", "boot second", sum_of(b"second".ljust(512, b"\0") + content[512:])], said
    # Only 10 is sure to ask the back-end to reset itself.
    assert version == "7.2" or requests.count(RESET_DEVICE) > before, requests
    assert "session is over" in emulated.log_of(socket).read_text() and "0 requests refused" in emulated.log_of(socket).read_text(), said


SUMS = """say ready
n=0
while [ $n -lt 10 ]; do
  echo 3 >/proc/sys/vm/drop_caches
  say sum $(sha256sum </dev/vda)
  n=$((n + 1))
done
poweroff -f
"""


@pytest.mark.parametrize("version", QEMUS)
def test_memory_is_added_under_load(tmp_path, version):
    """A pc-dimm comes: running rings see another memory table. (The guest's kernel does not take such memory: it is told by ACPI.)"""
    words = emulated.qemu(version)
    disk, content = disk_of(tmp_path, 16 * MIB)
    socket = tmp_path / "blk.sock"
    with emulated.server([SERVE, "blk", socket, disk], socket), \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, SUMS), blk(socket, version), memory=",slots=4,maxmem=2G") as guest:
        guest.wait_for(sum_of(content))
        before = guest.requests().count(ADD_MEM_REG)
        for number in range(4):
            guest.command("object-add", **{"qom-type": "memory-backend-memfd", "id": f"m{number}", "size": 128 * MIB, "share": True})
            guest.command("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"m{number}")
        told = guest.requests().count(ADD_MEM_REG) - before
        when = len(guest.answers())
        answers = guest.finish()
        said = guest.said()
    assert answers == ["ready"] + [sum_of(content)] * 10, said
    # Each came while the guest was reading, and was told as a region of its own, or with others of its neighbourhood again.
    assert when < len(answers) and told >= 4, (when, told)
    assert "0 requests refused" in said, said


# Linux has a program's memory in the movable part first, and that is what came; the disk's reads go straight to it. Then it goes again.
USES = """echo online_movable >/sys/devices/system/memory/auto_online_blocks
total() { sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; }
least=$(total)
read_all() { dd if=/dev/vda bs=48M iflag=direct 2>/dev/null | sha256sum; }
say ready
while [ $(total) -le $((least + 120000)) ]; do sleep 0.1; done
say more $(read_all)
while [ $(total) -gt $((least + 20000)) ]; do sleep 0.1; done
say less $(read_all)
poweroff -f
"""


def test_memory_that_the_guest_uses_comes_and_goes(tmp_path):
    """virtio-mem with a slot for each part that is plugged (QEMU 10): the guest's buffers lie in memory that was not there at the start."""
    words = emulated.qemu("10")
    disk, content = disk_of(tmp_path, 96 * MIB)
    socket = tmp_path / "blk.sock"
    memory = ["-object", f"memory-backend-memfd,id=more,size={512 * MIB},share=on",
              "-device", "virtio-mem-pci,id=mem,memdev=more,requested-size=0,dynamic-memslots=on"]
    with emulated.server([SERVE, "blk", socket, disk], socket), \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, USES), [*blk(socket, "10"), *memory], mib=128,
                           memory=",slots=1,maxmem=2G") as guest:
        guest.wait_for("ready")
        files = pathlib.Path(f"/proc/{guest.process.pid}/fd")
        more = next(fd for fd in files.iterdir() if "memfd" in os.readlink(fd) and fd.stat().st_size == 512 * MIB)
        before = guest.requests()
        guest.command("qom-set", **{"path": "/machine/peripheral/mem", "property": "requested-size", "value": 256 * MIB})
        guest.wait_for(f"more {sum_of(content)[4:]}")
        during, touched = guest.requests()[len(before):], more.stat().st_blocks * 512
        guest.command("qom-set", **{"path": "/machine/peripheral/mem", "property": "requested-size", "value": 0})
        answers = guest.finish()
        after = guest.requests()[len(before) + len(during):]
        said = guest.said()
    assert answers == ["ready", f"more {sum_of(content)[4:]}", f"less {sum_of(content)[4:]}"], said
    assert touched >= 48 * MIB, touched
    assert ADD_MEM_REG in during and REM_MEM_REG in after, (during, after)
    assert "0 requests refused" in said, said


# What was read here is summed there: pages that the device wrote after they had been sent would have the other half's content, which is
# where they were used before.
MIGRATES = """exec 3</dev/vda  # while it is open its pages stay
half() { dd if=/dev/vda bs=1M skip=$1 count=20 2>/dev/null | sha256sum; }
say ready
n=0
while [ $n -lt 9 ]; do
  for first in 0 20; do
    echo 3 >/proc/sys/vm/drop_caches
    say sum $(half $first)
    say sum $(half $first)
  done
  n=$((n + 1))
done
poweroff -f
"""


def await_state(guest, reached) -> None:
    """Until what query-migrate says is as wanted, while the migration lasts."""
    deadline = time.monotonic() + 120
    while not reached(state := guest.command("query-migrate")):
        assert state["status"] in ("setup", "active", "device") and time.monotonic() < deadline, (state, guest.said())
        time.sleep(0.1)


@pytest.mark.thorough  # test_our_fs.py migrates by default
@pytest.mark.parametrize("version", QEMUS)
def test_migration_under_load(tmp_path, version):
    words = emulated.qemu(version)
    disk, content = disk_of(tmp_path, 40 * MIB)
    halves = [sum_of(content[:20 * MIB]), sum_of(content[20 * MIB:])]
    archive = emulated.initramfs(tmp_path, MIGRATES)
    here, there, wire = tmp_path / "here.sock", tmp_path / "there.sock", tmp_path / "wire"
    with emulated.server([SERVE, "blk", here, disk], here), emulated.server([SERVE, "blk", there, disk], there), \
            emulated.Guest(words, tmp_path, archive, [*blk(there, version), "-incoming", f"unix:{wire}"], name="there") as target:
        with emulated.Guest(words, tmp_path, archive, blk(here, version), name="here") as source:
            source.wait_for(halves[1])
            # It lasts until every page has been sent and the device has written many again, then it may end.
            source.command("migrate-set-parameters", **{"max-bandwidth": 4 * MIB, "downtime-limit": 1})
            source.command("migrate", uri=f"unix:{wire}")
            await_state(source, lambda state: state.get("ram", {}).get("dirty-sync-count", 0) >= 2)
            until = len(source.answers()) + 4
            await_state(source, lambda state: state["status"] == "completed" or len(source.answers()) >= until)
            source.command("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 10000})
            await_state(source, lambda state: state["status"] == "completed")
            requests, first = source.requests(), source.answers()
        second = target.finish()
        said = target.said() + source.text()
    assert SET_LOG_BASE in requests, requests
    assert first[0] == "ready" and len(second) >= 4, said
    # A line of the console may be cut in two by the move, and then it is neither's.
    length = len(halves[0])
    sums = [halves.index(line) if line in halves else line for line in [*first[1:], *second] if line.startswith("sum ") and len(line) == length]
    assert set(sums) == {0, 1} and 35 <= len(sums) <= 36, (sums, said)
