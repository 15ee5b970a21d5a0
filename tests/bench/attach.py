"""What the VMM itself takes to attach a device: all of AttachDevice but the guest's answer, so of a guest that is not booted yet, on this host.

In a lab machine the guest's answer can be waited for, but the VMM's code is emulated there, and its milliseconds say nothing.
"""

import contextlib
import json
import pathlib
import struct
import subprocess

ATTACHES = 20
MIB = 1 << 20


def write_kernel(path):
    """The least that Create takes: an ELF file of one segment, with a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY). It is never run."""
    address, note = 16 * MIB, struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 16 * MIB)
    headers = 64 + 2 * 56
    path.write_bytes(
        struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, address, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, headers, address, address, len(note), len(note), 4096)  # PT_LOAD
        + struct.pack("<IIQQQQQQ", 4, 4, headers, 0, 0, len(note), len(note), 4)  # PT_NOTE
        + note)


@contextlib.contextmanager
def machine(bench, vmm, file_server, directory):
    """ask(do, **words) -> milliseconds that the VMM took. In a network namespace of its own, for its taps."""
    kernel = directory / "kernel"
    write_kernel(kernel)
    with subprocess.Popen(["unshare", "--net", bench, "drive", "--vmm", vmm, "--fs", file_server, "--kernel", kernel, "--cmdline", "quiet",
                           "--memory", str(256 * MIB), "--vcpus", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()

        def ask(do, **words):
            process.stdin.write(json.dumps({"n": 0, "do": do, **words}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline() or '{"ok": false, "error": "it ended"}')
            if not answer["ok"]:
                raise RuntimeError(f"{do}: {answer['error']}")
            return (answer["end_ns"] - answer["begin_ns"]) / 1e6

        yield ask
        process.stdin.close()


def shares(bench, vmm, file_server, directory):
    """{kind: ms of each attach but the first}"""
    directory = pathlib.Path(directory)
    disk, share = directory / "disk", directory / "share"
    disk.write_bytes(bytes(8 * MIB))
    share.mkdir()
    kinds = {"blk": {"path": str(disk), "serial": "hot"}, "net": {"mac": "020000000101", "host": "10.88.0.1"},
             "fs": {"tag": "hot", "directory": str(share)}}
    took = {kind: [] for kind in kinds}
    with machine(bench, vmm, file_server, directory) as ask:
        for _ in range(ATTACHES + 1):
            for kind, words in kinds.items():
                took[kind].append(ask("attach", id="hot", kind=kind, **words))
                ask("detach", id="hot")
    return {kind: times[1:] for kind, times in took.items()}
