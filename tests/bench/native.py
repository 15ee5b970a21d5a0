#!/usr/bin/env python3
"""native.py BUILD OUT.json — what can be measured without a guest, on this host. Needs root: the VMM jails itself."""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import attach

RUNS = 5
BENCHMARKS = {
    "virtio_bench": "sandbox-vmm/virtio",
    "blk_bench": "sandbox-vmm/devices/blk",
    "net_bench": "sandbox-vmm/devices/net",
    "vsock_bench": "sandbox-vmm/devices/vsock",
    "fs_bench": "sandbox-vmm/devices/fs",
    "fs_ring_bench": "sandbox-vmm/bin/fs",
}
# What the programs call the time of the threads that serve.
CPU_COUNTERS = ("device_ns_per_item", "worker_ns_per_item", "server_ns_per_item")


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


def figures(name, runs):
    """Of a program's JSON: what -> {benchmark: figure}. ns: of one item (or one iteration), the median where the program knows it;
    cpu_ns: what the device's or server's threads spend on it; bytes_per_s."""
    found = {"ns": {}, "cpu_ns": {}, "bytes_per_s": {}}
    for run in runs:
        benchmark = f"{name}/" + run["name"].split("/manual_time")[0].split("/real_time")[0]
        if run.get("error_occurred"):
            print(f"native.py: {benchmark}: {run.get('error_message')}", file=sys.stderr)
            continue
        mean = 1e9 / run["items_per_second"] if "items_per_second" in run else run["real_time"]
        found["ns"][benchmark] = run.get("median_ns") or mean
        for counter in CPU_COUNTERS:
            if counter in run:
                found["cpu_ns"][benchmark] = run[counter]
        if "bytes_per_second" in run:
            found["bytes_per_s"][benchmark] = run["bytes_per_second"] * mean / found["ns"][benchmark]
    return found


def benchmarks(build, name, environment):
    out = subprocess.run([build / BENCHMARKS[name] / name, "--benchmark_format=json", "--benchmark_min_time=0.1"], check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ, **environment))
    return figures(name, json.loads(out.stdout)["benchmarks"])


def split_virtiofsd(ours):
    """Takes virtiofsd's figures out of ours: benchmark -> its, for those that do the same with our server."""
    peers = {}
    for name in [name for name in ours if name.endswith("/virtiofsd")]:
        for isolation in ("process", "thread"):
            peers[name.removesuffix("virtiofsd") + isolation] = ours[name]
        del ours[name]
    return peers


def virtiofsd():
    """How to start virtiofsd: this machine's, or Debian 13's that tests/lab runs in place; "" where neither is to be had."""
    for program in (shutil.which("virtiofsd"), "/usr/libexec/virtiofsd"):
        if program and os.access(program, os.X_OK):
            return program
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lab"))
    from lablib import machine, root  # pylint: disable=import-outside-toplevel
    from lablib.cache import LabError  # pylint: disable=import-outside-toplevel
    try:
        emulator = root.qemu(machine.ARCHES[platform.machine()])
        words = [*machine.tool(emulator, "virtiofsd")[:-1], emulator / "root/usr/libexec/virtiofsd"]
        return " ".join(str(word) for word in words)
    except (LabError, OSError, KeyError, StopIteration, subprocess.SubprocessError) as error:
        print(f"native.py: no figures of virtiofsd: {error!r}", file=sys.stderr)
        return ""


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


def add(figures_so_far, run):
    for name, figure in run.items():
        figures_so_far.setdefault(name, []).append(figure)


def main():
    build, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        vmm = stripped(build, "wyvern-vmm", directory)
        results["vmm_bytes"] = vmm.stat().st_size
        results["exec_ms"] = exec_ms(vmm)
        results["first_answer"] = first_answer(build / "bin/wyvern-bench", vmm)
        results["attach"] = attach.shares(build / "bin/wyvern-bench", vmm, stripped(build, "wyvern-fs", directory), directory)
    rust = rust_vmm(build.resolve())
    words = virtiofsd()
    environment = {"WYVERN_BENCH_VIRTIOFSD": words} if words else {}
    results.update({"ns": {}, "cpu_ns": {}, "bytes_per_s": {}, "peers": {"rust-vmm": {"ns": {}}, "virtiofsd": {}}})
    for _ in range(RUNS):  # in turn: both meet the same moods of the machine
        if rust:
            add(results["peers"]["rust-vmm"]["ns"], json.loads(subprocess.run([rust], check=True, stdout=subprocess.PIPE).stdout))
        for name in BENCHMARKS:
            for what, run in benchmarks(build, name, environment).items():
                add(results[what], run)
    for what in ("ns", "cpu_ns", "bytes_per_s"):
        results["peers"]["virtiofsd"][what] = split_virtiofsd(results[what])
    out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
