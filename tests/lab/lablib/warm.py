"""Saved machines: booted once, with containerd up, and continued by every later run.

Booting costs ten seconds of an emulated CPU; continuing costs one.  An entry belongs to one machine
image, size and containerd, and holds the machine's memory (`state`) and what it wrote to its disk
(`disk.qcow2` on top of the image).
"""

import dataclasses
import pathlib
import tempfile
import time

from lablib import cache, machine, session, stage, tsc
from lablib.cache import LabError
from lablib.machine import Boot

HERE = pathlib.Path(__file__).resolve().parent
SAVE_SECONDS = 120


def boot(cold: Boot, containerd: str) -> Boot:
    """What to boot so that it continues from a saved machine, which is made if need be."""
    entry = cache.entry(f"warm-{cold.arch.name}", _key(cold, containerd), lambda tmp: _save(cold, containerd, tmp))
    return dataclasses.replace(cold, disk=entry / "disk.qcow2", saved=entry / "state")


def _key(cold: Boot, containerd: str) -> str:
    # A saved machine has the clock rate of the host that saved it.
    rate = round((tsc.host_khz() or 0) / 5000)
    return cache.digest(rate, cold.disk.parent.name, cold.qemu.name, cold.cpus, cold.memory, containerd,
                        HERE / "machine.py", HERE.parent / "machine/run", stage.DISK_SIZE, HERE / "warm.py")


def _save(cold: Boot, containerd: str, out: pathlib.Path) -> None:
    disk = out / "disk.qcow2"
    cache.call(*machine.tool(cold.qemu, "qemu-img"), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", cold.disk, disk)
    with cache.step(f"saving a booted machine ({cold.cpus} CPUs, {cold.memory} MiB, containerd {containerd})"), \
            tempfile.TemporaryDirectory(prefix="wyvern-lab.") as tmp:
        build_disk = stage.make_disk(pathlib.Path(tmp), None, {}, [])
        once = dataclasses.replace(cold, disk=disk, build_disk=build_disk, keep_writes=True)
        with machine.Machine(once, None) as it:
            session.Session(it, session.Request([], containerd=containerd)).prepare(
                time.monotonic() + session.BOOT_SECONDS)
            time.sleep(1)  # let what has just started come to rest
            # Saved as running, so that it runs on at once where it is loaded; saving ends by stopping it.
            it.command("migrate", uri=f"file:{out / 'state'}")
            deadline = time.monotonic() + SAVE_SECONDS
            while (status := it.command("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > deadline:
                    raise LabError(f"the machine could not be saved: {status}")
                time.sleep(0.1)
            it.command("quit")
            it.process.wait(30)
