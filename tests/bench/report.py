#!/usr/bin/env python3
"""report.py NATIVE.json LAB.json — the table: what, figure, peer in the same run, ratio, target, met. Missing files are left out."""

import json
import pathlib
import statistics
import sys

MIB = 1024
rows = []


def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def figure(values, unit):
    """Median, and the spread where there is more than one value."""
    values = values if isinstance(values, list) else [values]
    text = f"{number(statistics.median(values))} {unit}".strip()
    return text if len(values) == 1 else f"{text} ({number(min(values))}–{number(max(values))})"


def median(values):
    return statistics.median(values) if isinstance(values, list) else values


def row(what, ours, unit, peer=None, peer_name="", at_most=None, at_least=None, ratio_at_most=None, ratio_at_least=None):
    ratio = median(ours) / median(peer) if peer is not None and median(peer) else None
    target, met = "–", "–"
    if ratio_at_most is not None and peer is not None and not median(peer):
        target, met = f"≤ {peer_name}", "yes" if median(ours) <= 0 else "**no**"
    for limit, value, sign, good in ((at_most, median(ours), "≤", lambda v, l: v <= l),
                                     (at_least, median(ours), "≥", lambda v, l: v >= l),
                                     (ratio_at_most, ratio, "≤", lambda v, l: v <= l),
                                     (ratio_at_least, ratio, "≥", lambda v, l: v >= l)):
        if limit is not None and value is not None:
            is_ratio = limit in (ratio_at_most, ratio_at_least) and value is ratio
            target = f"{sign} {limit} × {peer_name}" if is_ratio else f"{sign} {limit} {unit}"
            met = "yes" if good(value, limit) else "**no**"
    rows.append((what, figure(ours, unit), figure(peer, unit) + f" {peer_name}" if peer is not None else "–",
                 f"{ratio:.2f}" if ratio is not None else "–", target, met))


def native(data):
    answers = data["first_answer"]
    row("VMM exec → first API answer, jailed", [a["answered_ms"] for a in answers], "ms", at_most=5)
    row("— of it exec (`--version`)", data["exec_ms"], "ms")
    row("— until it serves donations", [a["serving_ms"] for a in answers], "ms")
    row("wyvern-vmm, stripped", data["vmm_bytes"] / (1 << 20), "MiB")
    row("wyvern-vmm after start: anonymous", [a["anonymous_kib"] / MIB for a in answers], "MiB", at_most=4)
    row("wyvern-vmm after start: with its program's pages", [a["pss_kib"] / MIB for a in answers], "MiB")
    for kind, times in data.get("attach", {}).items():
        row(f"hot-plug, the VMM's own share: {HOTPLUG[kind][0]}", times, "ms", at_most=2)
    for name, ns in data["ns"].items():
        peer, theirs = next(((peer, theirs) for peer, theirs in data["peers"].items() if name in theirs.get("ns", {})), ("", {}))
        row(name, ns, "ns", theirs.get("ns", {}).get(name), peer, ratio_at_most=1.0)
        if name in data["cpu_ns"]:
            row("— CPU time of who serves it", data["cpu_ns"][name], "ns", theirs.get("cpu_ns", {}).get(name), peer)
        if name in data["bytes_per_s"]:
            row("— that is", [rate / 1e6 for rate in data["bytes_per_s"][name]], "MB/s")


def as_list(values):
    return values if isinstance(values, list) else [values]


def nearly(values, nothing):
    """Differences of two runs: what is less than `nothing` is what boot and end cost now more, now less."""
    return [value if value >= nothing else 0 for value in values]


def calls(side):
    """Of the VMM and its back-ends together, of each round."""
    vmm = as_list(side["vmm_calls"])
    return [sum(each) for each in zip(vmm, as_list(side.get("server_calls", [0] * len(vmm))))]


def counts(what, unit, ours, peer, peer_name, target=True):
    limit = 1.0 if target else None
    row(f"{what}: exits per {unit}", ours["exits"], "", peer["exits"], peer_name, ratio_at_most=limit)
    row(f"{what}: system calls per {unit}", nearly(calls(ours), 0.05), "", nearly(calls(peer), 0.05), peer_name, ratio_at_most=limit)
    # Older files have none of these.
    if "wakeups" in ours and "wakeups" in peer:
        row(f"{what}: wake-ups per {unit}", ours["wakeups"], "", peer["wakeups"], peer_name, ratio_at_most=limit)
    if "copied" in ours and "copied" in peer:
        scale, name = (1024, "KiB") if unit == "MiB" else (1, "B")
        # By the kernel for them, and by themselves.
        copied = [[(value + side.get("copied_inside", 0)) / scale for value in as_list(side["copied"])] for side in (ours, peer)]
        copied = [nearly(each, 1 / scale) for each in copied]
        row(f"{what}: copied per {unit}", copied[0], name, copied[1], peer_name, ratio_at_most=limit)
    row(f"{what}: time", ours["us"], "µs", peer["us"], peer_name)


# name -> (what, what one of them is, peer)
OPERATIONS = {
    "blk-read": ("blk, 4 KiB read", "read", "QEMU"),
    "blk-seq": ("blk, reads of 1 MiB in order", "MiB", "QEMU"),
    "fs-read": ("fs, 4 KiB read", "read", "QEMU + virtiofsd"),
    "fs-lookup": ("fs, lookup", "lookup", "QEMU + virtiofsd"),
    "fs-walk": ("fs, walk of 50 000 files", "file", "QEMU + virtiofsd"),
    "fs-create": ("fs, 4 KiB file made and removed", "file", "QEMU + virtiofsd"),
    "net-ping": ("net, round trip", "round trip", "QEMU"),
    "net-send": ("net, guest → host", "MiB", "QEMU"),
    "net-receive": ("net, host → guest", "MiB", "QEMU"),
    "vsock-ping": ("vsock, round trip", "round trip", "QEMU + vhost"),
    "vsock-pull": ("vsock, guest → host", "MiB", "QEMU + vhost"),
    "vsock-push": ("vsock, host → guest", "MiB", "QEMU + vhost"),
}


# name -> (what, how many times QEMU's it may take)
HOTPLUG = {"blk": ("a disk", 0.7), "net": ("a network interface", 0.7), "fs": ("a share", 0.7), "vcpu": ("a vCPU", 1.5)}
# name -> (what, unit, how many of fio's units that is)
ROOTS = {"randread": ("4 KiB reads anywhere", "/s", 1), "randwrite": ("4 KiB writes anywhere, with their fsync", "/s", 1),
         "read": ("reads in order", "MB/s", 1e6), "write": ("writes in order, with their fsync", "MB/s", 1e6)}


def lab(data):
    if boot := data.get("boot"):
        row("VMM exec → agent answers, root on virtio-blk", boot["disk"], "ms", boot["peer"], "QEMU microvm", ratio_at_most=1.2)
        row("VMM exec → agent answers, root on pmem as in a sandbox", boot["pmem"], "ms", boot["peer"], "QEMU microvm, virtio-blk")
        for name, ms in boot["phases"].items():
            row(f"— {name}", ms, "ms", boot["peer_phases"].get(name), "QEMU microvm")
    if peer := data.get("boot-counts-qemu"):
        for name, root in (("boot-counts-wyvern-disk", "virtio-blk"), ("boot-counts-wyvern", "pmem")):
            if ours := data.get(name):
                row(f"boot, root on {root}: VM exits", ours["exits"], "", peer["exits"], "QEMU microvm")
                row(f"boot, root on {root}: exits to the VMM", ours["to_vmm"], "", peer["to_vmm"], "QEMU microvm")
                row(f"boot, root on {root}: the VMM's system calls", ours["vmm_calls"], "", peer["vmm_calls"], "QEMU microvm")
    if ctr := data.get("ctr"):
        row("`ctr run --rm … true`, cold", ctr["ours"], "ms", ctr["peer"], "runc", ratio_at_most=1.5)
        for name, ms in ctr["events"].items():
            row(f"— until {name}", ms, "ms", ctr["peer_events"].get(name), "runc")
        for name, ms in ctr["phases"].items():
            row(f"— of `wyvern run`: {name}", ms, "ms")
    for n in (1, 10):
        if memory := data.get(f"memory-{n}"):
            vmm = memory["vmm"]
            row(f"wyvern-vmm at N={n}: private (anonymous or written)", vmm["private"] / MIB, "MiB", at_most=4 if n == 1 else None)
            row(f"— clean pages of its program that only it maps, N={n}", vmm["private_program"] / MIB, "MiB")
            row(f"wyvern-vmm at N={n}: PSS", vmm["pss"] / MIB, "MiB", at_most=6 if n == 10 else None)
            for role in ("shim", "fs", "anchor"):
                row(f"— {role} at N={n}: PSS", memory[role]["pss"] / MIB, "MiB")
            row(f"all host processes of a sandbox at N={n}: PSS", memory["sandbox_pss"] / MIB, "MiB",
                at_most=25 if n == 10 else None)
            row(f"— beside it, guest memory touched at N={n}", (vmm["guest_pss"] + memory["fs"]["guest_pss"]) / MIB, "MiB")
    if agent := data.get("agent"):
        row("agent RSS in the guest", agent["rss_kib"] / MIB, "MiB", at_most=4)
    if stdio := data.get("stdio"):
        row("stdio, container → containerd", stdio["ours"], "MB/s", stdio["peer"], "runc", ratio_at_least=0.5)
    for name, (what, limit) in HOTPLUG.items():
        if hot := data.get(f"hotplug-{name}"):
            row(f"hot-plug, asked for → usable: {what}", hot["ours"], "ms", hot["peer"], "QEMU q35", ratio_at_most=limit)
            row("— of it the VMM's own, emulated here", hot["vmm"], "ms")
    for name, (what, unit, scale) in ROOTS.items():
        if root := data.get(f"root-{name}"):
            disk, share = ([value / scale for value in root[side]] for side in ("disk", "share"))
            row(f"fio, root on a disk: {what}", disk, unit, share, "root on the share")
    if stream := data.get("bridge-bytes_per_s"):
        ours, peer = ([rate / 1e6 for rate in stream[side]] for side in ("ours", "peer"))
        row("TCP between two containers over a bridge: stream", ours, "MB/s", peer, "runc")
    if trips := data.get("bridge-round_trip_us"):
        row("— round trip of a byte", trips["ours"], "µs", trips["peer"], "runc")
    for name, (what, unit, peer_name) in OPERATIONS.items():
        if sides := data.get(name):
            counts(what, unit, sides["ours"], sides["peer"], peer_name)
            if "ours on vhost" in sides:  # of net: the host's kernel moves the packets, which is opt-in
                counts(f"— on vhost: {what}", unit, sides["ours on vhost"], sides["peer on vhost"], "QEMU + vhost", target=False)


def main():
    for path, add in zip(sys.argv[1:], (native, lab)):
        if pathlib.Path(path).exists():
            add(json.loads(pathlib.Path(path).read_text()))
    print("| what | figure | peer, same run | ratio | target | met |\n|---|---|---|---|---|---|")
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


main()
