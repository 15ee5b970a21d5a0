#!/usr/bin/env python3
"""measure.py [--rounds N] [PART…] — the measurements that need a machine with KVM; run in the lab by tests/bench/run.sh.

Writes what was measured to /out/lab.json; progress and profiles go to stdout. Parts: boot ctr memory stdio blk fs net vsock
hotplug roots bridge.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bridge  # noqa: E402
import counters  # noqa: E402
import guests  # noqa: E402
import hotplug  # noqa: E402
import network  # noqa: E402
import operations  # noqa: E402
import roots  # noqa: E402
import storage  # noqa: E402
import user_copies  # noqa: E402
from figures import RUNS, keep, medians, say  # noqa: E402
from guests import Run, ours, peer, qemu  # noqa: E402

WYVERN = "io.containerd.wyvern.v2"
RUNC = "io.containerd.runc.v2"
BUSYBOX = "docker.io/library/busybox:latest"


def pairs(first, second, runs=RUNS):
    """Both in turn, after one of each that is not counted."""
    first(), second()
    a, b = [], []
    for _ in range(runs):
        a.append(first())
        b.append(second())
    return a, b


# VMM exec → agent answers

def boot():
    image = guests.GUEST / "image.erofs"
    pmem = ours("--image", image, "--cmdline", f"{guests.ROOT} root=/dev/pmem0 rootflags=dax=always", "--agent")
    copy = shutil.copy(image, "/var/tmp/bench-image")  # where it is is read-only
    disk = ours("--disk", copy, "--cmdline", f"{guests.ROOT} root=/dev/vda", "--agent")
    os.sync()  # a direct read of a page that is still dirty writes it out first
    other = peer(qemu(f"{guests.ROOT} root=/dev/vda", *guests.disk_of_qemu(copy, read_only=True)), "--agent")

    # In turn; of each the first is not counted. QEMU's microvm has the root as a disk, so ours is measured with one too, beside the pmem
    # that sandboxes have.
    sides = {"pmem": pmem, "disk": disk, "peer": other}
    values = {name: [] for name in sides}
    for _ in range(RUNS + 1):
        for name, argv in sides.items():
            with Run(argv) as run:
                values[name].append({key: ms for key, ms in run.values.items() if key.endswith("_ms")})
    counted_runs = {name: runs[1:] for name, runs in values.items()}
    keep("boot", **{name: [run["agent_ms"] for run in runs] for name, runs in counted_runs.items()},
         phases=medians(counted_runs["pmem"]), peer_phases=medians(counted_runs["peer"]))
    for name, argv in (("wyvern", pmem), ("wyvern-disk", disk), ("qemu", other)):
        try:
            _, counts = operations.counted(operations.Side(argv=lambda *_, argv=argv: argv), 0)
            keep(f"boot-counts-{name}", **counts)
        except RuntimeError as error:
            say(f"boot-counts-{name}: {error}")


# `ctr run --rm … true`

def ctr_run(runtime, *command, name=[0], flags=()):
    name[0] += 1
    start = time.monotonic()
    done = subprocess.run(["ctr", "run", "--rm", "--runtime", runtime, *flags, BUSYBOX, f"bench-{name[0]}", *command],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    took = (time.monotonic() - start) * 1000
    if done.returncode != 0:
        raise RuntimeError(f"ctr run with {runtime}: {done.returncode}: {done.stderr}")
    return took, done.stderr


EVENT = re.compile(r"^\S+ (\d+):(\d+):([0-9.]+) \S+ \S+ \S+ (/\S+)", re.M)


def event_phases(runtime):
    """Milliseconds between containerd's events of one run, named by the event that ends each."""
    with tempfile.TemporaryFile("w+") as log:
        watcher = subprocess.Popen(["ctr", "events"], stdout=log)
        time.sleep(0.5)
        start = time.time()
        ctr_run(runtime, "true")
        end = time.time()
        time.sleep(0.2)
        watcher.kill()
        watcher.wait()
        log.seek(0)
        last, phases = start % 86400, {}
        for hours, minutes, seconds, topic in EVENT.findall(log.read()):
            at = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            if topic.startswith(("/tasks/", "/containers/create", "/snapshot/prepare")):
                phases[topic] = phases.get(topic, 0) + (at - last) * 1000
                last = at
    phases["ctr ends"] = (end % 86400 - last) * 1000
    return phases


def ctr():
    a, b = pairs(lambda: ctr_run(WYVERN, "true")[0], lambda: ctr_run(RUNC, "true")[0])
    timelines = []
    for _ in range(RUNS):
        with tempfile.NamedTemporaryFile() as file:
            subprocess.run(["wyvern", "run", "--timeline", file.name, "/opt/images/busybox", "--", "true"], check=True,
                           stdin=subprocess.DEVNULL)
            timelines.append({p["name"]: (p["end_ns"] - p["start_ns"]) / 1e6 for p in json.load(file)})
    own, others = zip(*((event_phases(WYVERN), event_phases(RUNC)) for _ in range(RUNS)))
    keep("ctr", ours=a, peer=b, events=medians(own), peer_events=medians(others), phases=medians(timelines))


# Memory of the host's processes

GUEST_MEMORY = re.compile(r"/memfd:.*(ram|guest)", re.I)


def memory_of(pid):
    """KiB of one process. private: what ends with it; program: clean pages of files, which every sandbox and the page cache
    share; guest and image memory by themselves."""
    sums = {"pss": 0, "private": 0, "private_program": 0, "guest_pss": 0, "image_pss": 0}
    guest = image = False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            where = line.split(None, 5)[5] if len(line.split(None, 5)) > 5 else ""
            guest, image = bool(GUEST_MEMORY.search(where)), where.endswith("image.erofs")
            continue
        name, _, value = line.partition(":")
        if name == "Pss":
            sums["guest_pss" if guest else "image_pss" if image else "pss"] += int(value.split()[0])
        elif name == "Private_Dirty" and not guest and not image:
            sums["private"] += int(value.split()[0])
        elif name == "Private_Clean" and not guest and not image:
            sums["private_program"] += int(value.split()[0])
    return sums


PROCESSES = {"shim": "containerd-shim-wyvern-v2", "vmm": "wyvern-vmm", "fs": "wyvern-fs", "anchor": "wyvern-anchor"}


def memory():
    started = 0
    for count in (1, 10):
        while started < count:
            started += 1
            subprocess.run(["ctr", "run", "-d", "--runtime", WYVERN, BUSYBOX, f"idle-{started}", "sleep", "100000"],
                           check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(3)
        found = {role: [] for role in PROCESSES}
        for proc in pathlib.Path("/proc").iterdir():
            if not proc.name.isdigit():
                continue
            try:
                exe = (proc / "exe").readlink().name
            except OSError:
                continue
            for role, name in PROCESSES.items():
                if exe == name:
                    found[role].append(memory_of(proc.name))
        say(f"processes at {count}: { {role: len(f) for role, f in found.items()} }")
        table = {role: medians(each) for role, each in found.items() if each}
        table["sandbox_pss"] = sum(f["pss"] + f["image_pss"] for each in found.values() for f in each) / count
        keep(f"memory-{count}", **table)
    if vmm := subprocess.run(["pgrep", "-o", "-x", "wyvern-vmm"], stdout=subprocess.PIPE, text=True).stdout.strip():
        profile("VMM memory", f"/proc/{vmm}/smaps")
    if shim := subprocess.run(["pgrep", "-o", "containerd-shim"], stdout=subprocess.PIPE, text=True).stdout.strip():
        profile("shim memory", f"/proc/{shim}/smaps")
    for i in range(1, started + 1):
        subprocess.run(["ctr", "task", "kill", "-s", "9", f"idle-{i}"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ctr", "task", "delete", "-f", f"idle-{i}"], check=False, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        subprocess.run(["ctr", "container", "delete", f"idle-{i}"], check=False)
    with Run(ours("--initrd", guests.initrd(), "--image", guests.GUEST / "image.erofs",
                  "--cmdline", f"{guests.INITRD} bench=agent-rss:1", "--agent", "--done")) as run:
        pass
    keep("agent", rss_kib=run.operations()["agent-rss"][0])


def profile(title, smaps):
    """The largest mappings of a process."""
    sizes, where = {}, ""
    for line in pathlib.Path(smaps).read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            parts = line.split(None, 5)
            where = f"{parts[1]} {parts[5] if len(parts) > 5 else 'anonymous'}"
        elif line.startswith("Pss:"):
            sizes[where] = sizes.get(where, 0) + int(line.split()[1])
    say(f"{title}, PSS in KiB: {dict(sorted(sizes.items(), key=lambda s: -s[1])[:12])}")


# MB/s of a container's stdout

def stdio():
    def rate(runtime, mib=128):
        _, err = ctr_run(runtime, "time", "dd", "if=/dev/zero", "bs=64k", f"count={mib * 16}")
        match = re.search(r"^real\s+(\d+)m ([0-9.]+)s", err, re.M)
        return mib / (int(match[1]) * 60 + float(match[2]))
    a, b = pairs(lambda: rate(WYVERN), lambda: rate(RUNC))
    keep("stdio", ours=a, peer=b)


PARTS = {"boot": boot, "ctr": ctr, "memory": memory, "stdio": stdio, "blk": storage.blk, "fs": storage.fs,
         "net": network.net, "vsock": network.vsock, "hotplug": hotplug.hotplug, "roots": roots.roots,
         "bridge": bridge.bridge}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=operations.rounds, help="of blk, fs, net, vsock and roots; of hotplug if more than 20")
    arguments.add_argument("parts", nargs="*", metavar="PART")
    chosen = arguments.parse_args()
    operations.rounds = hotplug.rounds = chosen.rounds
    subprocess.run(["modprobe", "-a", "vhost_vsock", "vhost_net"], check=False)
    counters.check()
    user_copies.check()
    failed = []
    for part in chosen.parts or PARTS:
        began = time.monotonic()
        try:
            PARTS[part]()
        except Exception:  # pylint: disable=broad-exception-caught
            failed.append(part)
            say(f"part {part} failed:\n{traceback.format_exc()}")
        say(f"part {part}: {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


main()
