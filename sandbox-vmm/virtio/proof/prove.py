#!/usr/bin/env python3
"""prove.py CBMC… — proves the ring cores: every harness of proof/*.c, three runs of CBMC each.

1. It holds, with CBMC's own checks (bounds, pointers, overflow) and all loops unwound to their end.
2. Every REACHED of it is reached: it does not hold for want of inputs.
3. With the fault that seeds.tsv puts into a copy of the core it does not hold: it proves what it says.

One line a harness for $WYVERN_RESULTS, or stdout: "PASS proof/NAME", "FAIL proof/NAME: why". What passed is remembered in
$WYVERN_CACHE/proof by the hash of all that went in.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

PROOFS = pathlib.Path(__file__).resolve().parent
CORE = PROOFS.parent
CORES = ("ring_core.h", "split_ring_core.h", "split_ring_core.c", "packed_ring_core.h", "packed_ring_core.c", "in_order_core.h")
CPU_SECONDS = 300  # of one run; most take one
CACHE = pathlib.Path(os.environ.get("WYVERN_CACHE") or pathlib.Path.home() / ".cache/wyvern") / "proof"


class Wrong(Exception):
    """Why a harness fails."""


def harnesses():
    """{name: its file}"""
    return {name: path for path in sorted(PROOFS.glob("*.c"))
            for name in re.findall(r"^void (proof_\w+)\(void\)", path.read_text(), re.M)}


def seeds():
    """{name: [(unwind, core, from, to), …]}"""
    table = {}
    for line in (PROOFS / "seeds.tsv").read_text().splitlines():
        if not line.startswith("#"):
            name, unwind, core, before, after = line.split("\t")
            table.setdefault(name, []).append((unwind, core, before, after))
    return table


def tree(directory, seed=None):
    """The cores and the harnesses below directory, one of the cores with a fault if a seed is given; directory."""
    (directory / "virtio/proof").mkdir(parents=True)
    for name in CORES:
        text = (CORE / name).read_text()
        if seed and seed[1] == name:
            if text.count(seed[2]) != 1:
                raise Wrong(f"seeds.tsv: {name} has {text.count(seed[2])} times '{seed[2]}'")
            text = text.replace(seed[2], seed[3])
        (directory / "virtio" / name).write_text(text)
    for path in PROOFS.glob("*.[ch]"):
        (directory / "virtio/proof" / path.name).write_text(path.read_text())
    return directory


def run(cbmc, sources, path, name, unwind, *options):
    """[(property, description, status), …]"""
    files = [sources / "virtio" / core for core in CORES if core.endswith(".c")]
    command = [*cbmc, "--json-ui", "--function", name, "--unwind", unwind, "--unwinding-assertions", "--drop-unused-functions",
               "-I", sources, *options, sources / "virtio/proof" / path.name, *files]
    done = subprocess.run(["prlimit", f"--cpu={CPU_SECONDS}", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False)
    if -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
        raise Wrong(f"no verdict in {CPU_SECONDS} s")
    try:
        messages = json.loads(done.stdout)
    except ValueError:
        raise Wrong(f"CBMC ended with {done.returncode}: {done.stderr.strip()[-300:]}") from None
    for message in messages:
        if "result" in message:
            return [(found["property"], found["description"], found["status"]) for found in message["result"]]
    texts = [message["messageText"] for message in messages if message.get("messageType") == "ERROR"]
    raise Wrong(f"CBMC ended with {done.returncode}: {' '.join(texts)[:300]}")


def check(cbmc, name, path, rows):
    unwind = rows[0][0]
    with tempfile.TemporaryDirectory(prefix="wyvern-proof.") as scratch:
        sound = tree(pathlib.Path(scratch, "sound"))
        found = run(cbmc, sound, path, name, unwind)
        failed = [f"{text} ({what})" for what, text, status in found if status != "SUCCESS"]
        if failed:
            raise Wrong(f"does not hold: {'; '.join(failed[:3])}")
        if not any(what.startswith(f"{name}.assertion") for what, _, _ in found):
            raise Wrong("proves nothing")
        found = run(cbmc, sound, path, name, unwind, "-DWV_REACHED", "--no-standard-checks")
        reached = [(text, status) for what, text, status in found if what.startswith(f"{name}.") and text.startswith("reached ")]
        missed = [text for text, status in reached if status != "FAILURE"]
        if missed or not reached:
            raise Wrong(f"not reached: {'; '.join(missed) or 'there is no REACHED'}")
        for number, seed in enumerate(rows):
            found = run(cbmc, tree(pathlib.Path(scratch, f"seed{number}"), seed), path, name, unwind, "--no-standard-checks")
            if not any(".assertion" in what and status == "FAILURE" for what, _, status in found):
                raise Wrong(f"holds also with the fault '{seed[3]}' in place of '{seed[2]}'")
    return len(reached)


def key(version, name, path, rows):
    """What a verdict depends on."""
    digest = hashlib.sha256(f"{version}\0{name}\0{rows}\0".encode())
    for file in (pathlib.Path(__file__), *sorted(PROOFS.glob("*.h")), path, *(CORE / core for core in CORES)):
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def verdict(cbmc, version, name, path, rows):
    """The result line, and what to say about it."""
    stamp = CACHE / key(version, name, path, rows)
    if stamp.exists():
        return f"PASS proof/{name}", f"{name}: proved before, {stamp.read_text()}"
    begin = time.monotonic()
    try:
        reached = check(cbmc, name, path, rows)
    except Wrong as wrong:
        return f"FAIL proof/{name}: {wrong}", f"{name}: {wrong}"
    text = f"{reached} reached, {len(rows)} fault{'s' if len(rows) > 1 else ''} found, {time.monotonic() - begin:.1f} s"
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp.write_text(text)
    return f"PASS proof/{name}", f"{name}: {text}"


def main():
    cbmc = sys.argv[1:]
    if not cbmc:
        sys.exit(__doc__.splitlines()[0])
    version = subprocess.run([*cbmc, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(f"CBMC {version}")
    known, table = harnesses(), seeds()
    lines = [f"FAIL proof/{name}: has no row in seeds.tsv" for name in known if name not in table]
    lines += [f"FAIL proof/{name}: seeds.tsv has it, proof/*.c does not" for name in table if name not in known]
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for line, text in pool.map(lambda name: verdict(cbmc, version, name, known[name], table[name]),
                                   [name for name in known if name in table]):
            print(text, flush=True)
            lines.append(line)
    results = os.environ.get("WYVERN_RESULTS")
    with open(results, "a", encoding="utf-8") if results else os.fdopen(os.dup(1), "w") as out:
        out.write("".join(f"{line}\n" for line in lines))
    sys.exit(any(line.startswith("FAIL") for line in lines))


main()
