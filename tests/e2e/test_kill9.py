"""kill -9 of every process of ours, and of containerd: reported once, and nothing is left."""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import time

import pytest

from harness import traces
from harness.ctr import BUSYBOX, RUNTIME, WYVERN, Container, Events, call, ctr, more, run, run_argv, wait_until
from harness.sandbox import PARTS, RUNC_SHIM, Watch, fds, memory
from harness.shim import wait_for

# On an idle lab machine 5 s; a host with other work gives the emulated one less time.
SECONDS = float(os.environ.get("WYVERN_TEST_KILL_SECONDS", "5"))
KILLED = PARTS if RUNTIME == WYVERN else {"shim": RUNC_SHIM}


@pytest.fixture
def disk(scratch):
    """A file system on a loop device: (device, where it is mounted)."""
    image, point = scratch / "disk.img", scratch / "mnt"
    point.mkdir()
    with open(image, "wb") as f:
        f.truncate(16 << 20)
    assert call(["mke2fs", "-q", "-t", "ext4", image]).returncode == 0
    device = call(["losetup", "--find", "--show", image]).stdout.decode().strip()
    try:
        assert call(["mount", device, point]).returncode == 0
        yield device, point
    finally:
        call(["umount", "-l", point])
        if backed(device):
            call(["losetup", "-d", device])


def backed(device: str) -> bool:
    return pathlib.Path("/sys/block", os.path.basename(device), "loop/backing_file").exists()


def is_free(device: str) -> bool:
    """Only an exclusive open tells: a mount left in another namespace keeps the device busy."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
    except OSError:
        return False
    return True


def volume(point):
    return ["--mount", f"type=bind,src={point},dst=/data,options=rbind:rw"]


def assert_device_is_free(device, point):
    """Once the host has unmounted it, nobody else holds it."""
    assert call(["umount", point]).returncode == 0
    assert wait_until(lambda: is_free(device), SECONDS)
    # With a holder this succeeds, too, and the device stays until the holder goes.
    assert call(["losetup", "-d", device]).returncode == 0
    assert wait_until(lambda: not backed(device), SECONDS)


def kill(part, container, watch):
    if part == "init":
        container.kill("SIGKILL")
    else:
        os.kill(watch.pid(KILLED[part]), signal.SIGKILL)


@pytest.mark.parametrize("part", ["shim", "vmm", "fs", more("anchor"), more("init")])
def test_kill_9(disk, part):
    """One exit, in time; and nothing holds the device of a volume in which the container had a file open."""
    if part != "init" and part not in KILLED:
        pytest.skip(f"{RUNTIME} has no process {part}")
    device, point = disk
    watch = Watch()
    with Events() as events:
        with Container(BUSYBOX, "sh", "-c", "echo x >/data/f; exec sleep 100000 3>/data/open", flags=volume(point)) as container:
            assert wait_until((point / "open").exists, 30)
            assert not is_free(device)
            kill(part, container, watch)
            begin = time.monotonic()
            assert wait_until(lambda: events.of(container.name, "/tasks/exit"), SECONDS + 25, 0.05), \
                "no TaskExit at all"
            seconds = time.monotonic() - begin
            time.sleep(1)
            exits = events.of(container.name, "/tasks/exit")
            assert len(exits) == 1, exits
            if not (part == "shim" and RUNTIME != WYVERN):
                assert exits[0][1]["exit_status"] == 137, exits
            assert seconds <= SECONDS, f"the exit came after {seconds:.1f} s"
            container.delete_task()
        # The leak check of every test looks at the rest.
    assert (point / "f").read_text() == "x\n"
    assert_device_is_free(device, point)


@pytest.mark.thorough
@pytest.mark.wyvern_only
@pytest.mark.parametrize("part", ["vmm", "fs"])
def test_kill_9_with_a_client_that_waits(part):
    watch = Watch()
    with subprocess.Popen(run_argv(BUSYBOX, "sh", "-c", "echo up; sleep 1000", flags=["--rm"]),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        os.kill(watch.pid(PARTS[part]), signal.SIGKILL)
        assert process.wait(timeout=SECONDS + 25) == 137


@pytest.mark.wyvern_only
def test_scenario_30_kill_9_in_the_middle_of_work(scratch):
    """The file server dies while the container writes to a volume: a defined end, no hang."""
    watch = Watch()
    flags = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:rw"]
    with Container(BUSYBOX, "sh", "-c", "while :; do dd if=/dev/zero of=/data/f bs=64k count=16; done",
                   flags=flags) as container:
        assert wait_until(lambda: (scratch / "f").exists(), 30)
        os.kill(watch.pid(PARTS["fs"]), signal.SIGKILL)
        assert wait_until(lambda: container.status() in ("STOPPED", ""), SECONDS + 25)


def restart_containerd(how: str):
    if how == "kill -9":
        pid = call(["systemctl", "show", "-P", "MainPID", "containerd"]).stdout.decode().strip()
        os.kill(int(pid), signal.SIGKILL)
        # Restart=always waits RestartSec first; the test does not.
        call(["systemctl", "reset-failed", "containerd"])
    assert call(["systemctl", "restart", "containerd"]).returncode == 0
    assert wait_until(lambda: ctr("version").returncode == 0, 60)


@pytest.mark.parametrize("how", ["kill -9", more("restart")])
def test_scenario_32_container_survives_containerd(scratch, how):
    """It runs on, writes on, and who waits for it at its shim waits on."""
    log = scratch / "log"
    script = "trap 'exit 9' TERM; i=0; while :; do echo $((i+=1)); sleep 0.1; done"
    with (concurrent.futures.ThreadPoolExecutor(1) as pool,
          Container(BUSYBOX, "sh", "-c", script, log=log) as container):
        waiting = pool.submit(wait_for, container.name, timeout=200)
        assert wait_until(lambda: log.exists() and log.stat().st_size > 10, 30)
        pid = container.pid()
        restart_containerd(how)
        assert not waiting.done()
        assert container.status() == "RUNNING"
        assert container.pid() == pid
        size = log.stat().st_size
        assert wait_until(lambda: log.stat().st_size > size, 30)
        assert container.exec("echo", "hi").stdout == b"hi\n"
        with Events() as events:
            container.kill("SIGTERM")
            assert wait_until(lambda: events.of(container.name, "/tasks/exit"), 30)
        code, message, status = waiting.result(timeout=30)
        assert (code, status) == (0, 9), message
        assert container.delete_task() == 9
    numbers = [int(line) for line in log.read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.thorough
def test_scenario_32_exit_while_containerd_is_down(scratch):
    stop = scratch / "stop"
    flags = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:rw"]
    with Container(BUSYBOX, "sh", "-c", "until [ -e /data/stop ]; do sleep 0.1; done; exit 6",
                   flags=flags) as container:
        assert call(["systemctl", "stop", "containerd"]).returncode == 0
        stop.touch()
        time.sleep(3)
        assert call(["systemctl", "start", "containerd"]).returncode == 0
        assert container.wait_status("STOPPED", 60)
        assert container.delete_task() == 6


def is_program(pid: str) -> bool:
    try:
        return bool(pathlib.Path("/proc", pid, "cmdline").read_bytes())
    except OSError:
        return False


def counts() -> dict:
    """How many of each; traces compares names, but two mounts at one place have one, and it looks at places of ours only."""
    containerd = int(call(["systemctl", "show", "-P", "MainPID", "containerd"]).stdout)
    files = [sum(len(d) + len(f) for _, d, f in os.walk(tree)) for tree in ("/run/wyvern", "/var/lib/wyvern")]
    return {
        "mounts": len(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": sum(1 for _ in os.walk("/sys/fs/cgroup")),
        "programs": sum(is_program(pid) for pid in os.listdir("/proc") if pid.isdigit()),
        "files": sum(files),
        "containerd's descriptors": fds(containerd),
    }


@pytest.mark.limit(3000)
def test_scenario_39_many_runs_leave_and_grow_nothing(long):
    assert run(BUSYBOX, "true").returncode == 0
    before, fewer = traces.snapshot(), counts()
    for _ in range(200 if long else 3):
        done = run(BUSYBOX, "echo", "hi")
        assert (done.returncode, done.stdout) == (0, b"hi\n"), done
    assert wait_until(lambda: not traces.left(before, traces.snapshot()), 10), traces.left(before, traces.snapshot())

    # containerd keeps a few connections for a while.
    def grown():
        return {name: (fewer[name], now) for name, now in counts().items()
                if now > fewer[name] + (5 if name == "containerd's descriptors" else 0)}

    assert wait_until(lambda: not grown(), 10), grown()


@pytest.mark.thorough
@pytest.mark.wyvern_only
@pytest.mark.limit(900)
def test_scenario_25_many_execs_grow_nothing(long):
    watch = Watch()
    with Container() as container:
        pids = {part: watch.pid(name) for part, name in PARTS.items()}
        for _ in range(5):
            assert container.exec("true").returncode == 0

        def sizes():
            return {part: (fds(pid), len(os.listdir(f"/proc/{pid}/task")), memory(pid)["Private_Dirty"])
                    for part, pid in pids.items()}

        before = sizes()
        for _ in range(200 if long else 30):
            assert container.exec("true").returncode == 0
        after = sizes()
    for part, (files, threads, private) in before.items():
        assert after[part][0] <= files + 2, (part, "fds", before, after)
        assert after[part][1] <= threads + 2, (part, "threads", before, after)
        if part != "vmm":
            assert after[part][2] <= private + 1024, (part, "kB private", before, after)


@pytest.mark.limit(900)
def test_host_mount_is_really_gone_after_umount(disk, long):
    """Sandboxes live; a file system mounted before them is unmounted: its device must be free."""
    device, point = disk
    containers = []
    try:
        containers = [Container() for _ in range(10 if long and RUNTIME == WYVERN else 3)]
        assert call(["umount", point]).returncode == 0
        assert is_free(device)
    finally:
        for container in containers:
            container.remove()


def test_volume_is_free_after_delete(disk):
    device, point = disk
    assert run(BUSYBOX, "sh", "-c", "mkdir /data/d && echo x > /data/d/f && cat /data/d/f",
               flags=volume(point)).stdout == b"x\n"
    assert (point / "d/f").read_text() == "x\n"
    assert call(["umount", point]).returncode == 0
    assert is_free(device)


@pytest.mark.thorough
@pytest.mark.wyvern_only
@pytest.mark.parametrize("part", ["shim", "vmm", "fs", "anchor", "init"])
def test_kill_9_under_load_leaves_no_busy_device(disk, part):
    """As test_kill_9, while the container writes to the volume."""
    device, point = disk
    watch = Watch()
    with Container(BUSYBOX, "sh", "-c", "while :; do dd if=/dev/zero of=/data/f bs=64k count=16; done",
                   flags=volume(point)) as container:
        assert wait_until(lambda: (point / "f").exists(), 30)
        kill(part, container, watch)
        assert wait_until(lambda: container.status() in ("STOPPED", ""), SECONDS + 25)
    assert_device_is_free(device, point)
