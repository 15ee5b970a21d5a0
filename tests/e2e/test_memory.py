"""Memory of a sandbox on the host: what its containers free and do not use goes back, and who pays when there is none left.

Sizes are those that a machine of 2 GiB holds; the first ones, of 1 GiB, are for --long and machines of 8 GiB (lab run --memory 8192).
"""

import os
import pathlib
import re
import time

import pytest

from harness.ctr import DEBIAN, Container, Events, call, check_output, more, wait_until

MIB = 1 << 20
GIB = 1 << 30
CGROUPS = pathlib.Path("/sys/fs/cgroup")
HUGE = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
LAYOUT = "/opt/images/busybox"
DEBIAN_LAYOUT = "/opt/images/debian"
# Python touches each page of so many bytes, says so, and ends. In pieces: what is more than all memory is refused at once (overcommit_memory 0).
FILL = "p = [bytearray(b'x') * min(8 << 20, {0} - i) for i in range(0, {0}, 8 << 20)]; print('full')"

pytestmark = [pytest.mark.wyvern_only, pytest.mark.limit(400), pytest.mark.leaves_nothing(20)]
sizes = pytest.mark.parametrize("size", [256 * MIB, more(GIB)], ids=["256MiB", "1GiB"])


def host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def needs(size: int) -> None:
    """Guest, page cache of guest and host, and what else runs here."""
    if host_memory() < 3 * size + GIB:
        pytest.skip(f"a host of {host_memory() // MIB} MiB is too small for {size // MIB} MiB: lab run --memory 8192")


class Charged:
    """The control group of a sandbox's VMM and file server."""

    def __init__(self, name: str, parent: str = "default"):
        self.path = CGROUPS / parent / f"wyvern-sandbox-{name}"

    def read(self, file: str) -> str:
        return (self.path / file).read_text()

    def current(self) -> int:
        return int(self.read("memory.current"))

    def stat(self, key: str) -> int:
        return int(re.search(rf"^{key} (\d+)$", self.read("memory.stat"), re.M)[1])

    def kills(self) -> int:
        return int(re.search(r"^oom_kill (\d+)$", self.read("memory.events"), re.M)[1])

    def comes_down_to(self, limit: int, seconds: float) -> float:
        """How long that took."""
        start = time.monotonic()
        assert wait_until(lambda: self.current() <= limit, seconds), \
            f"{self.current() // MIB} MiB after {seconds} s, not {limit // MIB}: {self.read('memory.stat')}"
        return time.monotonic() - start


def sleeping(size: int, *flags):
    """A container that may use that much, and something."""
    return Container(DEBIAN, "sleep", "100000", flags=["--memory-limit", str(size + 256 * MIB), *flags])


def fill(container: Container, size: int):
    return container.exec("python3", "-c", FILL.format(size), timeout=200)


# --- What goes back ---

@sizes
def test_memory_that_a_container_frees_goes_back_within_seconds(size):
    needs(size)
    with sleeping(size) as container:
        charged = Charged(container.name)
        assert fill(container, 16 * MIB).stdout == b"full\n"  # Python and its files are there
        time.sleep(5)
        before = charged.current()
        done = fill(container, size)
        assert done.stdout == b"full\n", done.stderr
        # It is free now; and it was the host's memory before.
        assert int(charged.read("memory.peak")) - before > size * 9 // 10
        took = charged.comes_down_to(before + 64 * MIB, 10)
        print(f"{size // MIB} MiB were back within {took:.1f} s")
        # And is there again for who needs it.
        assert fill(container, size).stdout == b"full\n"


@sizes
def test_page_cache_that_nobody_reads_goes_back_within_a_minute(size, scratch):
    needs(size)
    with open(scratch / "large", "wb") as file:
        file.truncate(size)
    mount = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:ro"]
    with sleeping(size, *mount) as container:
        charged = Charged(container.name)
        time.sleep(5)
        before = charged.current()
        # Not by the stream to the host, which is slower than the reclaim.
        read = container.exec("sh", "-c", "cat /data/large | wc -c", timeout=250)
        assert int(read.stdout) == size
        full = charged.current()
        assert full - before > size * 8 // 10, (before, full)
        took = charged.comes_down_to(before + 128 * MIB, 60)
        print(f"{(full - charged.current()) // MIB} MiB were back within {took:.1f} s")
        assert container.status() == "RUNNING" and charged.kills() == 0


@pytest.mark.thorough
def test_page_cache_stays_without_a_limit_and_by_configuration(configure, scratch):
    size = 192 * MIB
    with open(scratch / "large", "wb") as file:
        file.truncate(size)
    mount = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:ro"]

    def reads(flags) -> int:
        with Container(DEBIAN, "sleep", "100000", flags=[*mount, *flags]) as container:
            charged = Charged(container.name)
            container.exec("cat", "/data/large", timeout=250)
            full = charged.current()
            time.sleep(30)
            return full - charged.current()

    allowed = ["--annotation", "io.wyvern.memory=512MiB"]
    assert reads(allowed) < 32 * MIB  # no container has a limit
    configure("memory:\n  reclaim: never\n")
    assert reads(["--memory-limit", str(512 * MIB)]) < 32 * MIB
    configure("memory:\n  reclaim: always\n")
    assert reads(allowed) > 128 * MIB


@pytest.mark.thorough
def test_files_that_are_read_all_the_time_stay(scratch):
    """A quarter of the limit, over and over: it is read from memory, not from the host each time."""
    (scratch / "hot").write_bytes(os.urandom(64 * MIB))
    mount = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:ro"]
    with sleeping(0, *mount) as container:
        script = "for i in $(seq 60); do cat /data/hot >/dev/null; sleep 1; done; grep -E '^workingset_refault_file' /sys/fs/cgroup/memory.stat"
        said = container.exec("sh", "-c", script, timeout=300).stdout.decode()
        refaulted = int(said.split()[1]) * 4096
        assert refaulted < 20 * 64 * MIB, f"{refaulted // MIB} MiB came back in 60 rounds of 64"


# --- Who pays when there is none left ---

def test_oom_in_a_container_kills_only_in_it():
    with Events() as events, sleeping(0) as container:
        done = fill(container, 400 * MIB)  # of 256
        assert done.returncode == 137, (done.returncode, done.stderr)
        assert wait_until(lambda: events.of(container.name, "/tasks/oom"), 10)
        assert container.status() == "RUNNING"
        assert container.exec("true").returncode == 0
        assert Charged(container.name).kills() == 0


def test_scenario_59_oom_that_ends_the_init_is_137_and_told_before_the_exit():
    with Events() as events, \
            Container(DEBIAN, "python3", "-c", FILL.format(400 * MIB), flags=["--memory-limit", str(128 * MIB)]) as container:
        assert container.wait_status("STOPPED", 60)
        assert container.delete_task() == 137
        assert wait_until(lambda: events.of(container.name, "/tasks/exit"), 10)
        topics = [topic for topic, _ in events.of(container.name)]
        assert topics.index("/tasks/oom") < topics.index("/tasks/exit"), topics


def test_oom_of_the_guest_as_a_whole_is_reported_as_that():
    """No limit of a container is reached: the guest has less than it wants."""
    done = call(["wyvern", "run", "--memory", "128MiB", DEBIAN_LAYOUT, "--", "python3", "-c", FILL.format(400 * MIB)], timeout=200)
    said = done.stderr.decode()
    assert done.returncode in (125, 137), (done.returncode, said)
    assert "the guest as a whole" in said and "out of memory" in said, said


# --- The host's limit ---

def declared(guest: int) -> int:
    """HostMemoryLimit of runtime/sandbox/host_memory.h, with overhead.memory as it is by default."""
    return guest + guest // 64 + 64 * MIB


@pytest.mark.parametrize("seconds", [10, more(120)])
def test_scenario_66_full_guest_never_meets_the_hosts_oom_killer(seconds, scratch):
    """All memory of the guest touched, its page cache dirty all the time, and the host's limit at guest memory and overhead."""
    guest = 256 * MIB
    mount = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:rw"]
    # Nearly all that is free is Python's, and the files go through what is left.
    load = ("import os, re, time\n"
            "free = int(re.search(r'MemAvailable:\\s+(\\d+)', open('/proc/meminfo').read())[1]) * 1024\n"
            "b = bytearray(free - (40 << 20)); b[::4096] = b'x' * ((len(b) + 4095) // 4096)\n"
            f"end = time.monotonic() + {seconds}\n"
            "n = 0\n"
            "while time.monotonic() < end:\n"
            "    with open(f'/data/f{n % 4}', 'wb') as f:\n"
            "        for _ in range(64): f.write(os.urandom(1 << 20))\n"
            "    n += 1\n"
            "print('wrote', n)\n")
    with Container(DEBIAN, "sleep", "100000", flags=mount) as container:
        charged = Charged(container.name)
        assert int(charged.read("memory.max")) == declared(guest)
        done = container.exec("python3", "-c", load, timeout=seconds + 200)
        assert done.returncode == 0 and b"wrote" in done.stdout, (done.returncode, done.stderr)
        assert charged.kills() == 0, charged.read("memory.events")
        assert container.status() == "RUNNING"


# --- Huge pages ---

@pytest.fixture
def pool():
    """Sets the number of free huge pages of 2 MiB; as before afterwards."""
    if not HUGE.exists():
        pytest.skip("this host has no huge pages of 2 MiB")
    before = (HUGE / "nr_hugepages").read_text()

    def resize(pages: int) -> None:
        pathlib.Path("/proc/sys/vm/compact_memory").write_text("1")
        (HUGE / "nr_hugepages").write_text(str(pages))
        got = int((HUGE / "nr_hugepages").read_text())
        if got < pages:
            pytest.skip(f"memory is in pieces: {got} of {pages} huge pages")

    yield resize
    (HUGE / "nr_hugepages").write_text(before)


def in_use() -> int:
    """Pages that are taken or reserved."""
    count = lambda name: int((HUGE / name).read_text())  # noqa: E731
    return count("nr_hugepages") - count("free_hugepages") + count("resv_hugepages")


def test_huge_pages_are_reserved_and_come_back(pool, configure):
    pool(140)
    configure("memory:\n  huge_pages: 2MiB\n")
    with Container(DEBIAN, "sleep", "100000") as container:
        assert in_use() == 128  # 256 MiB
        assert fill(container, 64 * MIB).stdout == b"full\n"
        assert in_use() == 128
        # Of small pages it has only what its processes need.
        assert Charged(container.name).current() < 160 * MIB
    assert wait_until(lambda: in_use() == 0, 10)


def test_huge_pages_that_the_host_has_not_are_one_clear_error(pool, configure):
    pool(10)
    configure("memory:\n  huge_pages: 2MiB\n")
    done = call(["wyvern", "run", LAYOUT, "--", "true"])
    said = done.stderr.decode()
    assert done.returncode == 125 and "need 128 free pages of that size, and the host has 10" in said, said
    assert "nr_hugepages" in said and in_use() == 0


@pytest.mark.parametrize("pages", [more("none"), "transparent"])
def test_transparent_huge_pages_are_as_configured(pages, configure):
    enabled = pathlib.Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    before = re.search(r"\[(\w+)\]", enabled.read_text())[1]
    try:
        enabled.write_text("advise")
        configure(f"memory:\n  huge_pages: {pages}\n")
        with Container(DEBIAN, "sleep", "100000") as container:
            assert fill(container, 64 * MIB).stdout == b"full\n"
            huge = Charged(container.name).stat("shmem_thp")
            assert huge == 0 if pages == "none" else huge > 0, huge
    finally:
        enabled.write_text(before)


@pytest.mark.thorough
def test_containers_work_with_each_kind_of_pages(pool, configure):
    pool(140)
    for pages in ("none", "transparent", "2MiB"):
        configure(f"memory:\n  huge_pages: {pages}\n")
        assert check_output(DEBIAN, "sh", "-c", "cat /etc/debian_version >/dev/null && echo fine") == "fine\n", pages
