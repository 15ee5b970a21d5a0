#!/usr/bin/env python3
"""native.py BUILD OUT.json — what can be measured without a guest, on this host. Needs root: the VMM jails itself."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

RUNS = 5
BENCHMARKS = {
    "virtio_bench": "sandbox-vmm/virtio",
    "fs_bench": "sandbox-vmm/devices/fs",
    "vsock_bench": "sandbox-vmm/devices/vsock",
}


def stripped(build, name, directory):
    """As installed."""
    target = pathlib.Path(directory, name)
    subprocess.run(["strip", "-o", target, build / "bin" / name], check=True)
    return target


def first_answer(bench, vmm):
    lines = subprocess.run([bench, "first-answer", "--vmm", vmm, "--runs", str(RUNS + 1)], check=True,
                           stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines][1:]


def exec_ms(vmm):
    """The part of it that any program of this size pays."""
    times = []
    for _ in range(RUNS + 1):
        start = time.monotonic()
        subprocess.run([vmm, "--version"], check=True, stdout=subprocess.DEVNULL)
        times.append((time.monotonic() - start) * 1000)
    return times[1:]


def benchmarks(build, name):
    """{benchmark: ns of one item (or one iteration)}"""
    out = subprocess.run([build / BENCHMARKS[name] / name, "--benchmark_format=json", "--benchmark_min_time=0.1"], check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return {f"{name}/{run['name'].split('/manual_time')[0].split('/real_time')[0]}":
            run.get("median_ns") or (1e9 / run["items_per_second"] if "items_per_second" in run else run["real_time"])
            for run in json.loads(out.stdout)["benchmarks"]}


def rust_vmm(build):
    """The program with the same ring operations on rust-vmm's crates; None where there is no Rust toolchain."""
    source = pathlib.Path(__file__).resolve().parent / "rust-vmm"
    made = build / "bench/rust-vmm"
    try:
        subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", made], cwd=source, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"native.py: no figures of rust-vmm: {error}", file=sys.stderr)
        return None
    return made / "release/rust-vmm-peer"


def add(figures, run):
    for name, ns in run.items():
        figures.setdefault(name, []).append(ns)


def main():
    build, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        vmm = stripped(build, "wyvern-vmm", directory)
        results["vmm_bytes"] = vmm.stat().st_size
        results["exec_ms"] = exec_ms(vmm)
        results["first_answer"] = first_answer(build / "bin/wyvern-bench", vmm)
    peer = rust_vmm(build.resolve())
    results["benchmarks"], results["rust"] = {}, {}
    for _ in range(RUNS):  # in turn: both meet the same moods of the machine
        if peer:
            add(results["rust"], json.loads(subprocess.run([peer], check=True, stdout=subprocess.PIPE).stdout))
        for name in BENCHMARKS:
            add(results["benchmarks"], benchmarks(build, name))
    out.write_text(json.dumps(results, indent=1))


main()
