"""Bytes that programs copy inside themselves: what memcpy and memmove are asked for, by uprobes on them.

Those that a compiler makes without a call, most of a fixed few bytes, are not seen. Each call costs two exceptions, so this is done with
guests of its own.
"""

import ctypes
import os
import pathlib
import re
import struct
import subprocess

import guests
from counters import THREADS, TRACEFS, add_probe, prepare, sums, threads_of

TRIGGER = "hist:keys=common_pid:vals=bytes:size=4096"
STATIC = (guests.LIBEXEC / "wyvern-vmm", guests.LIBEXEC / "wyvern-fs", guests.EXTRA / "wyvern-boot-test")
VARIANT = re.compile(rb"__mem(cpy|move)_(?!chk|ifunc)\w+")
# In a program with the C library in question: which file it is and where in it the functions are that this processor gets.
ASK = """
import ctypes
places = set()
for name in ("memcpy", "memmove"):
    at = ctypes.cast(getattr(ctypes.CDLL("libc.so.6"), name), ctypes.c_void_p).value
    for line in open("/proc/self/maps"):
        words = line.split()
        start, end = (int(number, 16) for number in words[0].split("-"))
        if start <= at < end:
            places.add((words[5], at - start + int(words[2], 16)))
for path, offset in places:
    print(path, offset)
"""


def _sections(program):
    """[(type, flags, address, offset in the file, size, linked section)]"""
    at, = struct.unpack_from("<Q", program, 0x28)
    size, count = struct.unpack_from("<HH", program, 0x3a)
    return [struct.unpack_from("<IQQQQI", program, at + i * size + 4) for i in range(count)]


def _static(path):
    """File offsets of every variant in a static program, from its symbols."""
    program = path.read_bytes()
    sections = _sections(program)
    found = set()
    for kind, _, _, offset, size, linked in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = sections[linked][3]
        for at in range(offset, offset + size, 24):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", program, at)
            text = program[names + name:program.index(b"\0", names + name)]
            if VARIANT.fullmatch(text) and 0 < section < len(sections):
                found.add((str(path), value - sections[section][2] + sections[section][3]))
    if not found:
        raise RuntimeError(f"{path} has no symbol of memcpy: was it stripped?")
    return found


def _shared(*loader):
    done = subprocess.run([*loader, "/usr/bin/python3", "-c", ASK], stdout=subprocess.PIPE, text=True, check=True)
    return {(path, int(offset)) for path, offset in (line.split() for line in done.stdout.splitlines())}


def places():
    """Where the copies of all whom we compare are: (file, offset). QEMU may have a C library of its own; virtiofsd's is the machine's."""
    emulator = guests.qemu_program()
    loader = emulator[:emulator.index(str(guests.EXTRA / "qemu/usr/bin/qemu-system-x86_64"))] if len(emulator) > 1 else ()
    found = _shared() | _shared(*loader)
    for path in STATIC:
        if path.exists():
            found |= _static(path)
    return sorted(found)


class UserCopies:
    """with UserCopies() as copies: start one guest; copies.take(processes) before they are gone."""

    _probes = None

    def __init__(self):
        prepare()
        if UserCopies._probes is None:
            UserCopies._probes = {}
            for number, (path, offset) in enumerate(places()):
                add_probe("uprobe_events", f"p:wyvern/memcpy_{number} {path}:{offset:#x} bytes=%dx:u64")
                UserCopies._probes[f"wyvern/memcpy_{number}"] = TRIGGER
        self.triggers = {**UserCopies._probes, **THREADS}

    def __enter__(self):
        for event, trigger in self.triggers.items():
            pathlib.Path(TRACEFS, "events", event, "trigger").write_text(trigger)
        return self

    def __exit__(self, *_):
        for event, trigger in self.triggers.items():
            pathlib.Path(TRACEFS, "events", event, "trigger").write_text("!" + trigger)

    @staticmethod
    def take(processes):
        threads = threads_of(processes)
        return sum(total for event in UserCopies._probes for key, _, total in sums(event) if int(key.split(":")[1]) in threads)


def check():
    """That a copy by this machine's C library is seen."""
    source, target = bytes(1 << 20), ctypes.create_string_buffer(1 << 20)
    with UserCopies() as copies:
        ctypes.memmove(target, source, len(source))
        seen = copies.take({os.getpid()})
    if not len(source) <= seen < 2 * len(source):
        raise RuntimeError(f"{seen} bytes of {len(source)} seen")
