"""Parts blk and fs: a disk, and a share, beside QEMU's disk and QEMU with virtiofsd."""

import os
import pathlib
import subprocess

import guests
from guests import ours, peer, qemu
from operations import Side, compare

MIB = 1 << 20
DIRECTORIES, FILES_IN_EACH = 500, 100  # guest/guest.h knows the latter
DISK_MIB = 800
BLOCK_OPERATIONS = {"blk-read": (500, 2500), "blk-seq": (128, 768)}
# (low, high, what one of them is)
SHARE_OPERATIONS = {"fs-read": (500, 2500, 1), "fs-lookup": (500, 2500, 1), "fs-walk": (DIRECTORIES // 5, DIRECTORIES, FILES_IN_EACH),
                    "fs-create": (100, 500, 1)}


def _settle(*files):
    """On the disk: a direct read of a page that is still dirty writes it out first, and io_uring leaves that to another thread. Whoever is
    measured first would pay for it."""
    os.sync()
    for path in files:
        subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True)


def _line(operation, count, directory=None):
    return f"{guests.INITRD} bench={operation}:{count}" + (f" bench_dir={directory}" if directory else "")


def blk():
    disk, initrd = pathlib.Path("/var/tmp/bench-disk"), guests.initrd()
    with open(disk, "wb") as file:
        for _ in range(DISK_MIB):
            file.write(b"y" * MIB)
    _settle(disk)

    for operation, (low, high) in BLOCK_OPERATIONS.items():
        def own_disk(count, _, name=operation):
            return ours("--initrd", initrd, "--disk", disk, "--cmdline", _line(name, count), "--done")

        def other_disk(count, _, name=operation):
            return peer(qemu(_line(name, count), *guests.disk_of_qemu(disk), initrd=initrd), "--done")
        compare(operation, {"ours": Side(argv=own_disk), "peer": Side(argv=other_disk)}, low, high)


def fs():
    directory, initrd = pathlib.Path("/var/tmp/bench-share"), guests.initrd()
    directory.mkdir()
    (directory / "data").write_bytes(b"x" * (16 * MIB))
    for i in range(DIRECTORIES):
        (directory / f"tree/{i}").mkdir(parents=True)
        for j in range(FILES_IN_EACH):
            os.close(os.open(directory / f"tree/{i}/file-{j}", os.O_CREAT | os.O_WRONLY, 0o644))
    _settle(directory / "data")

    for operation, (low, high, per) in SHARE_OPERATIONS.items():
        def own_share(count, _, name=operation):
            return ours("--initrd", initrd, "--fs", guests.LIBEXEC / "wyvern-fs", "--export", directory,
                        "--cmdline", _line(name, count, "x"), "--done")

        def other_share(count, socket, name=operation):
            return peer(qemu(_line(name, count, "."), "-chardev", f"socket,id=fs,path={socket}", "-device",
                             "vhost-user-fs-pci,chardev=fs,tag=wyvern", initrd=initrd, shared=True), "--done")
        compare(operation, {"ours": Side(argv=own_share, servers=("wyvern-fs",)),
                            "peer": Side(argv=other_share, servers=("virtiofsd",), within=lambda: guests.virtiofsd(directory))},
                low, high, per)
