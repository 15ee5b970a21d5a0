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
    for name, ns in data["ns"].items():
        peer, theirs = next(((peer, theirs) for peer, theirs in data["peers"].items() if name in theirs.get("ns", {})), ("", {}))
        row(name, ns, "ns", theirs.get("ns", {}).get(name), peer, ratio_at_most=1.0)
        if name in data["cpu_ns"]:
            row("— CPU time of who serves it", data["cpu_ns"][name], "ns", theirs.get("cpu_ns", {}).get(name), peer)
        if name in data["bytes_per_s"]:
            row("— that is", [rate / 1e6 for rate in data["bytes_per_s"][name]], "MB/s")


def counts(what, unit, ours, peer, peer_name):
    total = [side["vmm_calls"] + side.get("server_calls", 0) for side in (ours, peer)]
    # Differences of two runs: what is this little is what boot and end cost now more, now less.
    total = [calls if calls >= 0.05 else 0 for calls in total]
    row(f"{what}: exits per {unit}", ours["exits"], "", peer["exits"], peer_name, ratio_at_most=1.0)
    row(f"{what}: system calls per {unit}", total[0], "", total[1], peer_name, ratio_at_most=1.0)
    if "wakeups" in ours and "wakeups" in peer:  # older files have none
        row(f"{what}: wake-ups per {unit}", ours["wakeups"], "", peer["wakeups"], peer_name, ratio_at_most=1.0)
    row(f"{what}: time", ours["us"], "µs", peer["us"], peer_name)


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
    for name, what, unit, peer_name in (
            ("blk-read", "blk, 4 KiB read", "read", "QEMU"), ("fs-read", "fs, 4 KiB read", "read", "QEMU + virtiofsd"),
            ("fs-lookup", "fs, lookup", "lookup", "QEMU + virtiofsd"), ("vsock-ping", "vsock, round trip", "round trip",
                                                                       "QEMU + vhost"),
            ("vsock-pull", "vsock, guest → host", "MiB", "QEMU + vhost"),
            ("vsock-push", "vsock, host → guest", "MiB", "QEMU + vhost")):
        if both := data.get(name):
            counts(what, unit, both["ours"], both["peer"], peer_name)


def main():
    for path, add in zip(sys.argv[1:], (native, lab)):
        if pathlib.Path(path).exists():
            add(json.loads(pathlib.Path(path).read_text()))
    print("| what | figure | peer, same run | ratio | target | met |\n|---|---|---|---|---|---|")
    for cells in rows:
        print("| " + " | ".join(cells) + " |")


main()
