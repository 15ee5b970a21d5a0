"""Read-only images on virtio-pmem: several in one device, each found and mounted where it lies; and none that a guest can change."""

import hashlib
import os
import pathlib
import re
import struct
import time

import pytest

from harness.ctr import BUSYBOX, call, check_output, run, unique, wait_until
from harness.guest import BOOT, GUEST, MIB, Guest, needs_boot_test

pytestmark = pytest.mark.wyvern_only

ALIGN = 2 * MIB  # where an image of a device may begin
IMAGE = GUEST / "image.erofs"


def digest(path) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def places(paths) -> list:
    """Where each image begins in its device, and behind them the device's end."""
    at = [0]
    for path in paths:
        at.append(at[-1] + (path.stat().st_size + ALIGN - 1) // ALIGN * ALIGN)
    return at


def tree(path: pathlib.Path, sizes) -> dict:
    """Files of random bytes, and the digest of each."""
    path.mkdir()
    for i, size in enumerate(sizes):
        (path / f"file{i}").write_bytes(os.urandom(size))
    return {f"./{each.name}": digest(each) for each in path.iterdir()}


def erofs(image: pathlib.Path, directory: pathlib.Path, *options) -> pathlib.Path:
    done = call(["mkfs.erofs", "--quiet", "-x-1", "-Enoinline_data", *options, image, directory])
    assert done.returncode == 0, done.stderr
    return image


def partition_table(path: pathlib.Path, parts) -> pathlib.Path:
    """A DOS partition table: an image of one sector, before those that it names."""
    table = bytearray(512)
    table[510:] = b"\x55\xaa"
    for i, (start, size) in enumerate(parts):
        struct.pack_into("<B3xB3xII", table, 446 + 16 * i, 0, 0x83, start // 512, size // 512)
    path.write_bytes(table)
    return path


def put_extra_device(image: pathlib.Path, offset: int) -> None:
    """Tells an EROFS that its extra device is a part of the one that it is mounted from (Linux: erofs_deviceslot, mapped_blkaddr)."""
    data = bytearray(image.read_bytes())
    extra, slot = struct.unpack_from("<HH", data, 1024 + 86)
    assert extra == 1
    struct.pack_into("<I", data, 128 * slot + 68, offset // 4096)
    compatible, = struct.unpack_from("<I", data, 1024 + 8)
    struct.pack_into("<I", data, 1024 + 8, compatible & ~1)  # without the checksum
    image.write_bytes(data)


def mounted(guest: Guest, device: str) -> dict:
    """What is in the files of an EROFS there."""
    guest.sh(f"mkdir -p /tmp/m && mount -t erofs -o ro,dax=always {device} /tmp/m && grep -q 'erofs ro.*dax=always' /proc/mounts")
    found = guest.sh("cd /tmp/m && find . -type f | xargs sha256sum && cd / && umount /tmp/m")
    return {name: value for value, name in (line.split() for line in found.splitlines())}


@needs_boot_test
def test_partitions_of_a_device_are_its_images(scratch):
    """The first image is a partition table, and the others are mounted as partitions, with DAX."""
    want = [tree(scratch / "1", [10, 5000, 3 * MIB]), tree(scratch / "2", [7, 100000])]
    files = [erofs(scratch / f"{i}.erofs", scratch / str(i)) for i in (1, 2)]
    at = [0] + [ALIGN + each for each in places(files)]
    table = partition_table(scratch / "table", [(at[1], at[2] - at[1]), (at[2], at[3] - at[2])])
    images = [table, *files]
    before = [digest(image) for image in images]
    with Guest(scratch, "--image", ",".join(map(str, images))) as guest:
        assert int(guest.sh("cat /sys/block/pmem1/size")) * 512 == at[3]
        # Every byte: images where they belong, and zeros between.
        whole = b"".join(image.read_bytes().ljust(end - start, b"\0") for image, start, end in zip(images, at, at[1:]))
        assert guest.sh("sha256sum /dev/pmem1").split()[0] == hashlib.sha256(whole).hexdigest()
        assert mounted(guest, "/dev/pmem1p1") == want[0]
        assert mounted(guest, "/dev/pmem1p2") == want[1]
        # What is written is lost, which the machine counts; the guest keeps it no longer than its page cache does.
        for start in at[:3]:
            guest.sh(f"echo spoiled | dd of=/dev/pmem1 bs=1 seek={start} conv=notrunc,fsync")
        guest.sh("echo 3 >/proc/sys/vm/drop_caches")
        assert guest.sh("sha256sum /dev/pmem1").split()[0] == hashlib.sha256(whole).hexdigest()
        assert guest.counters()["pmem1"]["flushes"] >= 3
    assert int(re.search(r"read-only writes (\d+)", guest.told.text())[1]) >= 3
    assert [digest(image) for image in images] == before


@needs_boot_test
def test_blobs_of_an_erofs_lie_behind_it_in_its_device(scratch):
    """As layers of a container image would: the metadata in one file, data in another, mounted as one from one device."""
    want = tree(scratch / "1", [4096, 123456, 3 * MIB])
    meta, blob = scratch / "meta", scratch / "blob"
    blob.touch()  # mkfs.erofs 1.8 makes none
    erofs(meta, scratch / "1", "--chunksize=4096", f"--blobdev={blob}")
    put_extra_device(meta, places([meta])[1])
    with Guest(scratch, "--image", f"{meta},{blob}") as guest:
        assert mounted(guest, "/dev/pmem1") == want


@needs_boot_test
def test_images_of_a_device_are_one_memslot(scratch):
    images = []
    for i, size in enumerate([1, 4097, 3 * MIB]):
        images.append(scratch / f"image{i}")
        images[-1].write_bytes(os.urandom(size))
    log = scratch / "calls"
    call(["strace", "-f", "-e", "trace=ioctl", "-o", log, BOOT, "--kernel", GUEST / "vmlinux", "--image", IMAGE,
          "--image", ",".join(map(str, images)), "--seconds", "1"])
    slots = [(int(start, 16), int(size)) for start, size in
             re.findall(r"KVM_SET_USER_MEMORY_REGION, \{[^}]*KVM_MEM_READONLY, guest_phys_addr=(\w+), memory_size=(\d+)", log.read_text())]
    assert len(slots) == 2, slots
    assert slots[0][0] + slots[0][1] == slots[1][0] and slots[0][1] == IMAGE.stat().st_size, slots
    assert slots[1][1] == places(images)[3], slots


# In a container that may do everything. `at` is where the image has been written to: before its superblock, in the data of a file, at the end.
SCRIPT = r"""
set -e
numbers=$(cat /sys/class/block/pmem0/dev)
mknod /dev/root-image b ${numbers%:*} ${numbers#*:}
cd /dev
end=$(($(cat /sys/class/block/pmem0/size) / 8 - 1))
echo "before $(sha256sum root-image | cut -d' ' -f1)"
spoil() { yes spoiled | dd of=root-image bs=$1 seek=$2 count=1 iflag=fullblock conv=notrunc,fsync 2>&1; }
echo "refused $(spoil 512 0 && echo no)"
blockdev --setrw root-image
for at in "512 0" "4096 $((end / 2))" "4096 $end"; do
  spoil $at >/dev/null && echo "written $at" || echo "not written $at"
done
echo "cached $(sha256sum root-image | cut -d' ' -f1)"
sync
echo 3 >/proc/sys/vm/drop_caches
echo "after $(sha256sum root-image | cut -d' ' -f1)"
"""


def test_cve_2026_24834_and_cve_2020_2025_container_cannot_change_the_guests_image():
    """Kata's and Cloud Hypervisor's guests wrote to the file that all sandboxes of a host boot from."""
    name, since = unique(), int(time.time())
    before = digest(IMAGE)
    done = run(BUSYBOX, "sh", "-c", SCRIPT, name=name, flags=["--privileged"])
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{said}\n{done.stderr.decode(errors='replace')}"
    assert digest(IMAGE) == before
    lines = dict(line.split(" ", 1) for line in said.splitlines() if line.split(" ", 1)[0] in ("before", "cached", "after"))
    assert lines["before"] == lines["after"] == before, said
    # The guest is told: its kernel refuses to write to the device.
    assert re.search(r"^refused dd: .*(not permitted|denied|[Rr]ead-only)", said, re.M), said
    # Who lifts that writes to the guest's page cache, and what comes out of it is dropped; the VMM tells its owner.
    assert said.count("\nwritten ") == 3 and lines["cached"] != before, said

    def logged() -> bool:
        log = call(["journalctl", "-u", "containerd", "--since", f"@{since}", "-o", "cat", "--no-pager"]).stdout.decode(errors="replace")
        return re.search(r"guest write to read-only memory at 0x[0-9a-f]+ dropped", log) is not None

    assert wait_until(logged, 10)
    assert check_output(BUSYBOX, "echo", "others live") == "others live\n"
