"""Many at once, and many after another: containers of one pod that are restarted over and over, pods that come and go together."""

import concurrent.futures
import json
import os
import pathlib
import re
import threading
import time

import pytest

from harness import cri as harness
from harness import traces
from harness.cri import Cri, Pod
from harness.ctr import call, wait_until
from harness.pods import cri  # noqa: F401 (a fixture)
from harness.sandbox import PARTS, Watch, fds, memory

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]

MIB = 1 << 20


def in_guest(pod: Pod, script: str) -> str:
    done = call(["wyvern", "exec", "--namespace", "k8s.io", "--guest", pod.id, "--", "sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


class Sizes:
    """What must not grow with the number of containers that there have been: of the pod's processes, and in its guest."""

    def __init__(self, pod: Pod, pids: dict):
        self.pod, self.pids = pod, pids

    def look(self) -> dict:
        sizes = {}
        for part, pid in self.pids.items():
            # The shim's pools have as many threads as there were calls at once.
            sizes[f"{part}: descriptors"] = (fds(pid), 8)
            sizes[f"{part}: threads"] = (len(os.listdir(f"/proc/{pid}/task")), 8)
            # Of the VMM without the guest's memory, which is a file's.
            sizes[f"{part}: kB"] = (memory(pid)["Anonymous"], 1536)
        words = in_guest(self.pod, "ls /proc/1/fd | wc -l; ls /proc/1/task | wc -l; wc -l < /proc/1/mounts; find /sys/fs/cgroup -type d | wc -l; "
                                   "ls -d /proc/[0-9]* | wc -l; grep VmRSS /proc/1/status; echo 3 > /proc/sys/vm/drop_caches; grep -E 'MemAvailable|SUnreclaim' /proc/meminfo")
        counts = [int(number) for number in re.findall(r"\d+", words)]
        names = [("agent: descriptors", 3), ("agent: threads", 3), ("guest: mounts", 0), ("guest: cgroups", 0), ("guest: processes", 4),
                 ("agent: kB", 1536), ("guest: kB not free", 6144), ("guest: kB of slabs", 3072)]
        assert len(counts) == len(names), words
        counts[6] = -counts[6]
        sizes |= {name: (count, room) for (name, room), count in zip(names, counts, strict=True)}
        return sizes


@pytest.mark.limit(5400)
@pytest.mark.thorough
def test_scenario_42_ten_containers_restarted_under_probes(cri, long):
    """Each is restarted over and over, while others ask for all that a kubelet asks for."""
    rounds = 20 if long else 2
    watch = Watch()
    with Pod(cri, "wyvern") as pod:
        pids = {part: watch.pid(PARTS[part]) for part in ("shim", "vmm", "fs")}
        names = [f"c{i}" for i in range(10)]
        running, lock, ended = {}, threading.Lock(), threading.Event()
        failures, asked = [], dict.fromkeys(("exec", "probe", "update", "stats", "logs"), 0)

        def start(name: str, number: int) -> None:
            container = pod.run("sh", "-c", f"echo {name} {number}; exec sleep 100000", name=name)
            with lock:
                running[name] = (container, number)

        def ask() -> None:
            """Of a container that may go at any moment: an error counts if it was still there afterwards."""
            turn = 0
            while not ended.is_set():
                turn += 1
                name = names[turn % len(names)]
                with lock:
                    entry = running.get(name)
                if entry is None:
                    time.sleep(0.05)
                    continue
                container, number = entry
                kind = list(asked)[turn % len(asked)]
                try:
                    if kind == "exec":
                        assert pod.exec_sync(container, "echo", "hi")[:2] == (0, "hi\n")
                    elif kind == "probe":
                        assert pod.exec_sync(container, "sh", "-c", "exit 3", seconds=20)[0] == 3
                    elif kind == "update":
                        cri.call("UpdateContainerResources", container_id=container, linux={"cpu_shares": 512 + turn % 512})
                    elif kind == "stats":
                        assert int(pod.figures(container)["memory"]["working_set_bytes"]["value"]) > 0
                    else:
                        assert pod.logs(container)[0] == ("stdout", f"{name} {number}")
                    asked[kind] += 1
                except (AssertionError, harness.CriError, OSError, KeyError, IndexError) as error:
                    with lock:
                        if running.get(name) == entry:
                            failures.append((name, number, kind, repr(error)))

        for name in names:
            start(name, 0)
        sizes = Sizes(pod, pids)
        restart(pod, names, running, lock, start, 1)
        before = sizes.look()
        asker = threading.Thread(target=ask)
        asker.start()
        begin = time.monotonic()
        try:
            for number in range(2, rounds + 1):
                restart(pod, names, running, lock, start, number)
        finally:
            ended.set()
            asker.join()
        seconds = (time.monotonic() - begin) / max(1, (rounds - 1) * len(names))
        after = sizes.look()
        for name in names:
            assert pod.logs(running[name][0]) == [("stdout", f"{name} {rounds}")]
    print(f"{rounds} rounds of 10, {seconds:.2f} s for each restart, beside {asked}: {json.dumps({k: (before[k][0], v[0]) for k, v in after.items()})}")
    assert not failures, failures
    assert all(asked.values()), asked
    grown = {name: (before[name][0], now) for name, (now, room) in after.items() if now > before[name][0] + room}
    assert not grown, grown


def restart(pod: Pod, names, running, lock, start, number: int) -> None:
    for name in names:
        with lock:
            container, _ = running.pop(name)
        pod.stop(container, 0)
        assert pod.exited(container) == 137
        pod.delete(container)
        start(name, number)


def available() -> int:
    """Bytes of the machine, what it could give back counted."""
    for name in ("sync", "3"):
        if name == "sync":
            os.sync()
        else:
            pathlib.Path("/proc/sys/vm/drop_caches").write_text(name)
    return int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) << 10


def busy(seconds: float) -> float:
    """The share of the processors' time that was used meanwhile."""
    def look():
        numbers = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]

    total, idle = look()
    time.sleep(seconds)
    later, idle_later = look()
    return 1 - (idle_later - idle) / (later - total)


class Crowd:
    """Pods with one container each, made and removed by a few threads at once."""

    def __init__(self, cri: Cri, width: int):
        self.cri, self.pods = cri, []
        self.pool = concurrent.futures.ThreadPoolExecutor(width)

    def _add(self, _) -> Pod:
        pod = Pod(self.cri, "wyvern")
        pod.__enter__()
        pod.last = pod.run()
        return pod

    def grow(self, count: int):
        """(seconds, bytes) of each."""
        memory_before, begin = available(), time.monotonic()
        made = list(self.pool.map(self._add, range(count)))
        seconds = (time.monotonic() - begin) / count
        self.pods += made
        return seconds, (memory_before - available()) / count

    def ask(self) -> None:
        for answer in self.pool.map(lambda pod: pod.exec(pod.last, "hostname"), self.pods):
            assert answer == "web-0\n"

    def remove(self) -> float:
        """Seconds of each."""
        begin, count = time.monotonic(), len(self.pods)
        list(self.pool.map(lambda pod: pod.__exit__(), self.pods))
        self.pods.clear()
        return (time.monotonic() - begin) / count


@pytest.mark.limit(5400)
@pytest.mark.leaves_nothing(60)
def test_scenario_39_many_pods_at_once(cri, long):
    """100 with --long: they need a machine of 12 GiB (lab.sh); as many as the machine has memory for elsewhere."""
    wanted = min(100 if long else 8, (available() - 512 * MIB) // (96 * MIB))
    assert wanted >= 4, "the machine has no memory for four pods"
    half = int(wanted // 2)
    before = traces.snapshot()
    crowd = Crowd(cri, 8)
    try:
        few = crowd.grow(half)
        more = crowd.grow(half)
        idle = busy(5)
        crowd.ask()
    finally:
        count = len(crowd.pods)
        removal = crowd.remove() if count else 0
    print(f"{half} pods: {few[0]:.2f} s and {few[1] / MIB:.1f} MiB each; {half} beside them: {more[0]:.2f} s and {more[1] / MIB:.1f} MiB each; "
          f"{idle:.0%} of the processor while all are idle; all removed in {removal:.2f} s each")
    # The machine has what a busy host leaves it: over some seconds that changes by a factor of two.
    assert more[0] <= few[0] * (1.6 if long else 3) + 0.5, (few, more)
    assert more[1] <= few[1] * 1.25 + 4 * MIB, (few, more)
    assert wait_until(lambda: not traces.left(before, traces.snapshot()), 60), traces.left(before, traces.snapshot())
    with Pod(cri, "wyvern") as pod:
        assert pod.exec(pod.run(), "echo", "next") == "next\n"
