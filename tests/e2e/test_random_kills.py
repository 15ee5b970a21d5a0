"""kill -9 at random moments, of random processes, while containers come, work and go: what was hit ends, the rest goes on, nothing is left."""

import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time

import pytest

from harness import traces
from harness.ctr import BUSYBOX, WYVERN, call, ctr, run, unique, wait_until
from harness.sandbox import PARTS

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(40), pytest.mark.limit(3000)]

# No call may take longer; an emulated machine with a few guests that start is slow.
PATIENCE = 120


def shim_of(pid: int) -> str:
    """The id of the sandbox that a process of ours belongs to; empty: it is gone, or of none."""
    try:
        for _ in range(3):
            argv = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if os.path.basename(argv[0].decode()) == PARTS["shim"] and b"-id" in argv:
                return argv[argv.index(b"-id") + 1].decode()
            pid = int(re.search(r"^PPid:\t(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1])
    except (OSError, TypeError, ValueError):
        pass
    return ""


class Hits:
    """What was killed, and when: sandbox -> how often; containerd's ends concern everybody."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sandboxes, self.containerd, self.log = {}, 0, []

    def of(self, name: str) -> bool:
        with self.lock:
            return name in self.sandboxes

    def ends(self) -> int:
        with self.lock:
            return self.containerd


class Life(threading.Thread):
    """Containers one after another: made, loaded, asked, ended, deleted. `faults`: what should not have been."""

    def __init__(self, number: int, seed: int, volume: pathlib.Path, hits: Hits, until: float):
        super().__init__(daemon=True)
        self.random = random.Random(f"{seed}/{number}")
        self.volume, self.hits, self.until = volume, hits, until
        self.faults, self.lived, self.done = [], 0, 0

    def run(self):
        while time.monotonic() < self.until and not self.faults:
            name = unique(f"k{self.done}")
            self.done += 1
            ends = self.hits.ends()
            try:
                self._one(name)
                self.lived += 1
            except AssertionError as error:
                # Whoever was hit may fail in any way but by hanging.
                if not self.hits.of(name) and self.hits.ends() == ends:
                    self.faults.append(f"{name} was not hit: {error}")
            except subprocess.TimeoutExpired as error:
                self.faults.append(f"{name} hangs: {error}")
            self._remove(name)

    def _call(self, *argv) -> bytes:
        done = ctr(*argv, timeout=PATIENCE)
        assert done.returncode == 0, (argv, done.returncode, done.stderr)
        return done.stdout

    def _one(self, name: str) -> None:
        script = f"while :; do dd if=/dev/zero of=/data/{name} bs=64k count=8 2> /dev/null; cat /data/{name} > /dev/null; done"
        self._call("run", "-d", "--runtime", WYVERN, "--null-io", "--mount", f"type=bind,src={self.volume},dst=/data,options=rbind:rw",
                   BUSYBOX, name, "sh", "-c", script)
        for number in range(self.random.randint(0, 3)):
            assert self._call("task", "exec", "--exec-id", f"e{number}", name, "echo", "hi") == b"hi\n"
        if self.random.random() < 0.3:
            self._call("task", "metrics", name)
        self._call("task", "kill", "-s", "SIGKILL", name)
        assert wait_until(lambda: self._stopped(name), PATIENCE), f"{name} does not end"
        self._call("task", "delete", name)
        self._call("container", "delete", name)

    def _stopped(self, name: str) -> bool:
        lines = self._call("task", "ls").decode().splitlines()
        return not any(line.split()[0] == name and line.split()[2] in ("RUNNING", "UNKNOWN") for line in lines)

    def _remove(self, name: str) -> None:
        """In the end it must go, whatever has happened to it."""
        def gone() -> bool:
            ctr("task", "kill", "-s", "SIGKILL", "--all", name, timeout=PATIENCE)
            ctr("task", "delete", "--force", name, timeout=PATIENCE)
            ctr("container", "delete", name, timeout=PATIENCE)
            tasks, containers = ctr("task", "ls", "-q", timeout=PATIENCE), ctr("container", "ls", "-q", timeout=PATIENCE)
            return (tasks.returncode, containers.returncode) == (0, 0) and name not in (tasks.stdout + containers.stdout).decode().split()

        try:
            if not wait_until(gone, PATIENCE, 1):
                self.faults.append(f"{name} cannot be removed: {ctr('task', 'ls').stdout.decode()}")
        except subprocess.TimeoutExpired as error:
            self.faults.append(f"{name} hangs as it is removed: {error}")


def kill_containerd(hits: Hits) -> None:
    pid = int(call(["systemctl", "show", "-P", "MainPID", "containerd"]).stdout)
    with hits.lock:
        hits.containerd += 1
        hits.log.append("containerd")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    call(["systemctl", "reset-failed", "containerd"])
    assert call(["systemctl", "restart", "containerd"]).returncode == 0
    assert wait_until(lambda: ctr("version").returncode == 0, 60)
    with hits.lock:  # who began while it was away, too
        hits.containerd += 1


def kill_one(hits: Hits, chance: random.Random) -> None:
    part = chance.choice(["shim", "vmm", "fs", "anchor"])
    found = [pid for pid, name in traces.processes().items() if name == PARTS[part]]
    if not found:
        return
    pid = chance.choice(sorted(found))
    sandbox = shim_of(pid)
    if not sandbox.startswith("k"):
        return
    with hits.lock:
        hits.sandboxes[sandbox] = hits.sandboxes.get(sandbox, 0) + 1
        hits.log.append(part)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_scenario_36_random_kills_leave_nothing(scratch, long):
    seed = int(os.environ.get("WYVERN_TEST_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    seconds, lives = (1800, 3) if long else (25, 2)
    before, hits, until = traces.snapshot(), Hits(), time.monotonic() + seconds
    chance = random.Random(seed)
    threads = [Life(number, seed, scratch, hits, until) for number in range(lives)]
    for thread in threads:
        thread.start()
    next_containerd = time.monotonic() + chance.uniform(5, 20 if not long else 90)
    try:
        while time.monotonic() < until and not any(thread.faults for thread in threads):
            time.sleep(chance.uniform(0.2, 5))
            if time.monotonic() > next_containerd:
                kill_containerd(hits)
                next_containerd = time.monotonic() + chance.uniform(30, 120)
            else:
                kill_one(hits, chance)
    finally:
        for thread in threads:
            thread.join(4 * PATIENCE)
    kills = {part: hits.log.count(part) for part in sorted(set(hits.log))}
    print(f"seed {seed}: killed {kills}; {sum(t.done for t in threads)} containers, {sum(t.lived for t in threads)} of them to their end")
    faults = [fault for thread in threads for fault in thread.faults] + [f"{t.name} does not end" for t in threads if t.is_alive()]
    assert not faults, (seed, faults)
    assert hits.log, "nothing was killed"
    # What its process had no time to undo is undone by who comes next at the latest.
    assert run(BUSYBOX, "echo", "next").stdout == b"next\n"
    assert wait_until(lambda: not traces.left(before, traces.snapshot()), 40), (seed, traces.left(before, traces.snapshot()))
