#!/usr/bin/env python3
"""check_deps.py — includes that break the design's promises: devices/ and virtio/ never include kvm, pci, transport or arch;
runtime/ and shim/ see sandbox-vmm/api only; agent/ sees itself, base and agent-proto only. Prints each, exits 1 if there is one.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FORBIDDEN = [
    (re.compile(r"^sandbox-vmm/(devices|virtio)/(?!.*(_test|_fuzz|_bench)\.cc|.*testing/)"), {"kvm", "pci", "transport", "arch", "machine"}),
    (re.compile(r"^(runtime|shim)/"), {"mem", "virtio", "kvm", "pci", "transport", "machine", "devices", "jail", "vhost_user"}),
]
ALLOWED = [
    (re.compile(r"^agent/"), {"agent", "base", "proto", "ttrpc", "upcall"}),
]


def main():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    bad = []
    for name in tracked:
        if not name.endswith((".h", ".cc", ".c")):
            continue
        includes = re.findall(r'^#include "([a-z_0-9]+)/[^"]+"', (ROOT / name).read_text(errors="replace"), re.M)
        wrong = set()
        for pattern, words in FORBIDDEN:
            wrong |= set(includes) & words if pattern.match(name) else set()
        for pattern, words in ALLOWED:
            wrong |= set(includes) - words if pattern.match(name) else set()
        bad += [f"{name}: may not include {word}/" for word in sorted(wrong)]
    for line in bad:
        print(line)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
