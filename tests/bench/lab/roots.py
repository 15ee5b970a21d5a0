"""Part roots: fio on a container's root that is a disk (containerd's snapshotter blockfile, no virtio-fs) beside one that is a share."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys

import operations
from figures import keep

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e"))
from harness import containerd  # noqa: E402
from harness.ctr import DEBIAN, run  # noqa: E402

MIB = 1 << 20
IMAGE_MIB = 1024  # more than the image of Debian and fio's file
# What figure of fio's: operations or bytes in a second. Reads by O_DIRECT, or the guest's page cache would answer.
JOBS = {"randread": (["--rw=randread", "--bs=4k", "--size=16m", "--direct=1"], "read", "iops"),
        "randwrite": (["--rw=randwrite", "--bs=4k", "--size=16m", "--end_fsync=1"], "write", "iops"),
        "read": (["--rw=read", "--bs=1m", "--size=128m", "--direct=1"], "read", "bw_bytes"),
        "write": (["--rw=write", "--bs=1m", "--size=128m", "--end_fsync=1"], "write", "bw_bytes")}


def _fio(start, job):
    words, direction, figure = JOBS[job]
    done = start("fio", "--name=it", "--filename=/var/tmp/it", "--ioengine=psync", "--output-format=json", *words,
                 flags=["--env", "LANG=C"], timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"fio {job}: {done.stdout.decode()[-1000:]}{done.stderr.decode()[-1000:]}")
    return json.loads(done.stdout)["jobs"][0][direction][figure]


def roots():
    directory = pathlib.Path("/var/tmp/bench-roots")
    directory.mkdir()
    try:
        with containerd.blockfile(directory, IMAGE_MIB) as daemon:
            done = daemon.ctr("images", "import", "--snapshotter", daemon.snapshotter, "/opt/images/debian.tar", timeout=900)
            if done.returncode != 0:
                raise RuntimeError(done.stderr.decode())

            def on_disk(*words, flags, **options):
                return daemon.run(*words, image=DEBIAN, flags=["--rm", *flags], **options)

            for job in JOBS:
                disk, share = [], []
                for _ in range(operations.rounds + 1):
                    disk.append(_fio(on_disk, job))
                    share.append(_fio(functools.partial(run, DEBIAN), job))
                keep(f"root-{job}", disk=disk[1:], share=share[1:])  # the first of each is not counted
    finally:
        subprocess.run(["sync"], check=False)
        shutil.rmtree(directory)
