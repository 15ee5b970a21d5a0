"""Files through the DAX window with Linux's virtio-fs driver: wyvern-fs with that option (and all the others), and a bare machine of
wyvern-vmm, asked for by its API, with the image's shell as its first process.

No runtime asks for a window yet: the machine is made by wyvern-bench. ninja -C build/release wyvern-bench, then
lab run --add build/release/bin/wyvern-bench.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess

import pytest

from harness.ctr import call, wait_until

BENCH = pathlib.Path("/opt/wyvern/extra/wyvern-bench")
GUEST = pathlib.Path("/usr/share/wyvern/guest")
LIBEXEC = pathlib.Path("/usr/libexec/wyvern")
CMDLINE = ("console=ttyS0 quiet panic=-1 pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro rootwait=10 "
           "init=/bin/sh -- /dev/vda")
MIB = 1 << 20
WINDOW = 16 * MIB
SIZE = 24 * MIB + 4711  # more than the window: ranges are given up and taken again

# On /dev/vda. With dax=always every file of the share is accessed by the window; what is beyond a file's end is written by requests.
SCRIPT = r"""
say() { echo "answer: $*"; }
mount -t proc proc /proc
mount -t virtiofs -o dax=always wyvern /run
say mounted $(grep ' /run ' /proc/mounts | grep -o 'dax=[a-z]*')
say sum $(sha256sum /run/source)
dd if=/run/source of=/run/target bs=64k conv=notrunc 2>/dev/null && say overwritten
cp /run/source /run/new && say copied
say same $(cmp /run/source /run/target && cmp /run/source /run/new && echo yes)
umount /run && say unmounted
echo BENCH done
sleep 1000
"""


@contextlib.contextmanager
def file_server(share: pathlib.Path, socket: pathlib.Path):
    """Serves one front-end and ends with it."""
    with subprocess.Popen([LIBEXEC / "wyvern-fs", "--shared-dir", share, "--socket-path", socket, "--queues", "1", "--flock",
                           "--posix-lock", "--posix-acl", "--dax-window-mib", str(WINDOW // MIB)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert wait_until(socket.exists, 10)
            yield process
        finally:
            process.kill()


@pytest.mark.wyvern_only
@pytest.mark.skipif(not BENCH.exists(), reason="this machine was started without wyvern-bench (lab run --add)")
def test_linux_reads_and_writes_by_the_window(scratch):
    share = scratch / "share"
    share.mkdir()
    content = os.urandom(SIZE)
    (share / "source").write_bytes(content)
    (share / "target").write_bytes(bytes(SIZE))
    script = scratch / "script"
    script.write_bytes(SCRIPT.encode().ljust(64 << 10, b"\0"))
    with file_server(share, scratch / "fs.sock") as server:
        done = call([BENCH, "boot", "--vmm", LIBEXEC / "wyvern-vmm", "--kernel", GUEST / "vmlinux", "--image", GUEST / "image.erofs",
                     "--cmdline", CMDLINE, "--disk", script, "--vhost-user", scratch / "fs.sock", "--dax-window", WINDOW, "--done"])
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{said[-3000:]}\n{done.stderr.decode(errors='replace')}"
        assert server.wait(timeout=15) == 0, server.stderr.read().decode(errors="replace")
    answers = [line.split("answer: ", 1)[1].strip() for line in said.splitlines() if "answer: " in line]
    assert answers == ["mounted dax=always", f"sum {hashlib.sha256(content).hexdigest()} /run/source", "overwritten", "copied", "same yes",
                       "unmounted"], said
    assert (share / "target").read_bytes() == content
    assert (share / "new").read_bytes() == content
    counters = json.loads(re.search(r'^{.*"share\.backend_requests".*$', said, re.M).group(0))
    # 13 ranges of source and of target at least, each mapped once; and unmapped, as the window has only eight.
    assert counters["share.backend_requests"] >= 2 * 2 * 13, counters
    assert counters["share.backend_requests_refused"] == 0, counters
