"""The host processes of one sandbox."""

import os
import pathlib

from harness import traces

SHIM = "containerd-shim-wyvern-v2"
PARTS = {"shim": SHIM, "vmm": "wyvern-vmm", "fs": "wyvern-fs", "anchor": "wyvern-anchor"}
RUNC_SHIM = "containerd-shim-runc-v2"


class Watch:
    """Names the processes that appeared since it was made."""

    def __init__(self):
        self.before = set(traces.processes())

    def new(self) -> dict:
        return {pid: name for pid, name in traces.processes().items() if pid not in self.before}

    def pid(self, program: str) -> int:
        """The one new process running program."""
        found = [pid for pid, name in self.new().items() if name == program]
        assert len(found) == 1, f"{program}: {found} of {self.new()}"
        return found[0]


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> dict:
    """kB by name (Rss, Pss, Private_Dirty, …) of /proc/<pid>/smaps_rollup."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(value) for name, value, *_ in (line.split() for line in lines)}
