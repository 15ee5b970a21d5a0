"""Random scripts of the differential test on a share of wyvern-fs with POSIX ACLs, by Linux's own driver in a guest of QEMU, and on a
directory of the host: equal logs, equal file systems. No runtime asks for the ACLs yet, so tests/e2e has them not.

sandbox-vmm/devices/fs/differential says what is compared. WYVERN_FSDIFF_SEED: the first seed; "today": the day's. WYVERN_LONG=1: 20 000
steps.
"""

import datetime
import os
import subprocess

import pytest

import emulated

FSDIFF = emulated.RELEASE / "bin/wyvern-fsdiff"

# The log lies on the share, beside what the script works on.
SCRIPT = """mount -t virtiofs share /mnt || say mount failed
wyvern-fsdiff --dir /mnt/data {arguments} >/mnt/log 2>/mnt/errors
say done $?
umount /mnt
poweroff -f
"""


def first_seed() -> int:
    value = os.environ.get("WYVERN_FSDIFF_SEED", "20261122")
    return int(datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d")) if value == "today" else int(value)


# An even seed asks for holes, an odd one maps files; a guest that may cache, and one that may not. One of each without --long.
@pytest.mark.parametrize("script,cache", [(3, 1000), (4, 0), *(pytest.param(*case, marks=pytest.mark.thorough) for case in ((2, 1000), (5, 0)))])
def test_a_share_with_acls_is_like_the_directory(tmp_path, script, cache):
    for name in ("share", "share/data", "beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    steps = 5000 if os.environ.get("WYVERN_LONG") == "1" else 500
    arguments = ["--seed", str(first_seed() + script), "--steps", str(steps), "--guest", "--acls"]
    print("wyvern-fsdiff", *arguments)
    socket = tmp_path / "fs.sock"
    command = [emulated.RELEASE / "bin/wyvern-fs", "--shared-dir", tmp_path / "share", "--socket-path", socket, "--tag", "share",
               "--queues", 1, "--cache-ms", cache, "--posix-acl", "--posix-lock", "--flock"]
    with emulated.server(command, socket), emulated.Guest(
            emulated.qemu("10"), tmp_path, emulated.initramfs(tmp_path, SCRIPT.format(arguments=" ".join(arguments)), [FSDIFF]),
            ["-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=share,num-request-queues=1"]) as guest:
        assert guest.finish(600) == ["done 0"], guest.said()
    host = subprocess.run([FSDIFF, "--dir", tmp_path / "beside", "--beside", *arguments], capture_output=True, timeout=300, check=True)
    ours = (tmp_path / "share/log").read_bytes().splitlines()
    theirs = host.stdout.splitlines()
    differences = [f"in the guest: {a!r}\non the host:  {b!r}" for a, b in zip(ours, theirs) if a != b]
    assert not differences, differences[0]
    assert len(ours) == len(theirs) > steps
