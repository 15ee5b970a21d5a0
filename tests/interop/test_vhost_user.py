"""Our vhost-user programs with other people's: QEMU as the front-end of wyvern-fs, Debian 13's virtiofsd as the back-end of ours.

Runs on the host: no KVM is needed. Build directory, guest kernel and test program come by environment (tests/suites/lab.sh).
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests/lab"))

from lablib import machine, root  # noqa: E402

ARCH = machine.ARCHES["x86_64"]
BUILD = TREE / "build/release"
UNIT_TEST = TREE / "build/unit/sandbox-vmm/bin/fs/vhost_user_fs_test"

# /init of QEMU's guest: what a front-end's kernel does with a share, and its answers on the console.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
PATH=/bin; busybox --install /bin
say() { echo "answer: $*"; }
mount -t virtiofs share /mnt || say mount failed
say hello $(cat /mnt/hello)
say sum $(sha256sum </mnt/big)
dd if=/dev/zero of=/mnt/zeros bs=64k count=64 2>/dev/null
mkdir /mnt/d && echo from the guest >/mnt/d/a && mv /mnt/d/a /mnt/d/b && ln -s b /mnt/d/link && chmod 640 /mnt/d/b && chown 12:34 /mnt/d/b
say list $(ls /mnt/d)
say escape $(cat /mnt/../mnt/outside 2>&1 | tail -1)
umount /mnt && say unmounted
mount -t virtiofs share /mnt && say again $(cat /mnt/hello)
umount /mnt
poweroff -f
"""


def initramfs(directory: pathlib.Path) -> pathlib.Path:
    tree = directory / "initramfs"
    for name in ("bin", "proc", "dev", "mnt"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    archive = directory / "initramfs.cpio"
    with open(archive, "wb") as out:
        names = subprocess.run(["find", ".", "-print0"], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names, stdout=out, check=True)
    return archive


@pytest.mark.parametrize("queues", [1, 4])
def test_qemu_uses_wyvern_fs(tmp_path, queues):
    share = tmp_path / "share"
    share.mkdir()
    (share / "hello").write_text("from the host\n")
    big = os.urandom(8 << 20)
    (share / "big").write_bytes(big)
    (tmp_path / "outside").write_text("secret\n")
    socket = tmp_path / "fs.sock"
    kernel = os.environ["WYVERN_TEST_KERNEL"]
    server = subprocess.Popen([BUILD / "bin/wyvern-fs", "--shared-dir", share, "--socket-path", socket, "--tag", "share",
                               "--queues", str(queues)], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        emulator = root.qemu(ARCH)
        files = emulator / "root/usr/share"
        qemu = subprocess.run(
            [*machine.tool(emulator, ARCH.qemu), "-L", files / "qemu", "-L", files / "seabios",
             "-M", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "max", "-m", "256",
             "-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-nodefaults", "-display", "none", "-no-reboot",
             "-serial", "stdio", "-kernel", kernel, "-initrd", initramfs(tmp_path),
             "-append", "console=ttyS0 quiet panic=-1", "-chardev", f"socket,id=fs,path={socket}",
             "-device", f"vhost-user-fs-pci,chardev=fs,tag=share,num-request-queues={queues}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=240, check=False)
        server.wait(timeout=10)  # the front-end's end is its own
    finally:
        server.kill()
        said = server.communicate()[1]
    text = qemu.stdout.decode(errors="replace")
    answers = [line.split("answer: ", 1)[1].strip() for line in text.splitlines() if "answer: " in line]
    assert answers == [
        "hello from the host", f"sum {hashlib.sha256(big).hexdigest()} -", "list b link",
        "escape cat: can't open '/mnt/../mnt/outside': No such file or directory", "unmounted", "again from the host",
    ], f"{text[-3000:]}\n{qemu.stderr.decode()[-2000:]}\n{said}"
    assert (share / "zeros").read_bytes() == bytes(4 << 20)
    assert (share / "d/link").read_text() == "from the guest\n"
    found = (share / "d/b").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o640, 12, 34)
    assert server.returncode == 0, said


@pytest.mark.parametrize("test", ["VirtiofsdOfQemu72", "VirtiofsdOfRust"])
def test_our_front_end_uses_virtiofsd(test):
    emulator = root.qemu(ARCH)
    loader = machine.tool(emulator, "virtiofsd")[:-1]
    program = emulator / "root/usr/libexec/virtiofsd"
    assert program.exists()
    done = subprocess.run([UNIT_TEST, f"--gtest_filter=ForeignBackendTest.{test}"], capture_output=True, text=True,
                          env=dict(os.environ, WYVERN_TEST_VIRTIOFSD=" ".join([*loader, str(program)])), timeout=60, check=False)
    assert done.returncode == 0 and "[  PASSED  ] 1 test" in done.stdout and "SKIPPED" not in done.stdout, done.stdout + done.stderr
