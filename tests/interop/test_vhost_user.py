"""Our vhost-user programs with other people's: QEMU as the front-end of wyvern-fs, Debian 13's virtiofsd as the back-end of ours.

Runs on the host: no KVM is needed. Build directory, guest kernel and test program come by environment (tests/suites/lab.sh).
"""

import hashlib
import os
import subprocess

import pytest

import emulated

# What a front-end's kernel does with a share, and its answers on the console.
SCRIPT = """mount -t virtiofs share /mnt || say mount failed
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


@pytest.mark.parametrize("version,queues", [("7.2", 1), pytest.param("10", 1, marks=pytest.mark.thorough), ("10", 4)])
def test_qemu_uses_wyvern_fs(tmp_path, version, queues):
    share = tmp_path / "share"
    share.mkdir()
    (share / "hello").write_text("from the host\n")
    big = os.urandom(8 << 20)
    (share / "big").write_bytes(big)
    (tmp_path / "outside").write_text("secret\n")
    socket = tmp_path / "fs.sock"
    words = emulated.qemu(version)
    command = [emulated.RELEASE / "bin/wyvern-fs", "--shared-dir", share, "--socket-path", socket, "--tag", "share", "--queues", queues]
    with emulated.server(command, socket) as served, emulated.Guest(
            words, tmp_path, emulated.initramfs(tmp_path, SCRIPT),
            ["-chardev", f"socket,id=fs,path={socket}",
             "-device", f"vhost-user-fs-pci,chardev=fs,tag=share,num-request-queues={queues}"]) as guest:
        answers = guest.finish()
        served.wait(timeout=10)  # the front-end's end is its own
    assert answers == [
        "hello from the host", f"sum {hashlib.sha256(big).hexdigest()} -", "list b link",
        "escape cat: can't open '/mnt/../mnt/outside': No such file or directory", "unmounted", "again from the host",
    ], guest.said()
    assert (share / "zeros").read_bytes() == bytes(4 << 20)
    assert (share / "d/link").read_text() == "from the guest\n"
    found = (share / "d/b").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o640, 12, 34)
    assert served.returncode == 0, guest.said()


@pytest.mark.parametrize("test", ["VirtiofsdOfQemu72", "VirtiofsdOfRust"])
def test_our_front_end_uses_virtiofsd(test):
    program = emulated.UNIT / "bin/fs/vhost_user_fs_test"
    done = subprocess.run([program, f"--gtest_filter=ForeignBackendTest.{test}"], capture_output=True, text=True,
                          env=dict(os.environ, WYVERN_TEST_VIRTIOFSD=" ".join(emulated.of_debian_13("virtiofsd"))), timeout=60,
                          check=False)
    assert done.returncode == 0 and "[  PASSED  ] 1 test" in done.stdout and "SKIPPED" not in done.stdout, done.stdout + done.stderr
