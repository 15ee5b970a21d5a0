"""Acceptance scenarios of containerd shims that need a guest and have no better place; their numbers are those of tests/conformance."""

import os
import signal
import socket
import threading
import time

import pytest

from harness.ctr import BUSYBOX, DEBIAN, Container, Events, call, ctr, more, shell, wait_until
from harness.sandbox import Watch
from test_wyvern_cli import wyvern


def bind(source, target, options="rbind:rw"):
    return ["--mount", f"type=bind,src={source},dst={target},options={options}"]


@pytest.mark.wyvern_only
def test_scenario_31_guest_that_powers_itself_off():
    """Its kernel is gone: one exit, 137, in seconds; the task is deleted as any other."""
    with Events() as events, Container() as container:
        wyvern("exec", "--guest", container.name, "--", "busybox", "poweroff", "-f", timeout=60)
        assert wait_until(lambda: events.of(container.name, "/tasks/exit"), 30)
        assert container.wait_status("STOPPED", 10)
        assert container.delete_task() == 137
        assert len(events.of(container.name, "/tasks/exit")) == 1


@pytest.mark.wyvern_only
@pytest.mark.thorough  # the guest has 80 s to obey
@pytest.mark.limit(400)
def test_scenario_31_machine_that_stands_still():
    """State answers at once, and SIGKILL and delete end in bounded time."""
    watch = Watch()
    with Container() as container:
        os.kill(watch.pid("wyvern-vmm"), signal.SIGSTOP)
        begin = time.monotonic()
        assert container.status() == "RUNNING"
        assert time.monotonic() - begin < 5  # ctr's own start, too
        container.kill("SIGKILL")
        assert container.wait_status("STOPPED", 120)
        assert container.delete_task() == 137


@pytest.mark.wyvern_only
def test_scenario_71_clock_after_the_machine_stood_still():
    watch = Watch()
    with Container() as container:
        vmm = watch.pid("wyvern-vmm")
        os.kill(vmm, signal.SIGSTOP)
        time.sleep(6)
        os.kill(vmm, signal.SIGCONT)
        before = time.time()
        said = int(container.exec("date", "+%s").stdout)
        assert int(before) - 1 <= said <= time.time() + 1


def test_scenario_52_configuration_exchanged_by_a_link(scratch):
    """As a kubelet does: new files in a directory of their own, then one rename of the link ..data."""
    def publish(version: str):
        directory = scratch / f"..{version}"
        directory.mkdir()
        (directory / "key").write_text(f"{version}\n")
        (scratch / "..tmp").symlink_to(directory.name)
        (scratch / "..tmp").rename(scratch / "..data")

    publish("one")
    (scratch / "key").symlink_to("..data/key")
    with Container(flags=bind(scratch, "/config", "rbind:ro")) as container:
        assert container.exec("cat", "/config/key").stdout == b"one\n"
        publish("two")
        assert wait_until(lambda: container.exec("cat", "/config/key").stdout == b"two\n", 10)
        # And by who has been looking all the time.
        script = "while [ $(cat /config/key) != three ]; do sleep 0.1; done; echo seen"
        threading.Timer(1, publish, ["three"]).start()
        assert container.exec("timeout", "30", "sh", "-c", script).stdout == b"seen\n"


def test_scenario_53_host_paths_of_every_kind(scratch):
    (scratch / "dir").mkdir()
    (scratch / "dir/in").write_text("in\n")
    (scratch / "file").write_text("old\n")
    (scratch / "link").symlink_to("file")
    os.mkfifo(scratch / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scratch / "socket"))
        flags = [word for name in ("dir", "file", "link", "fifo", "socket") for word in bind(scratch / name, f"/mnt/{name}")]
        with Container(flags=flags) as container:
            done = container.exec("sh", "-c", "cd /mnt; cat dir/in file link; stat -c %F dir file link fifo socket")
            assert done.stdout.decode().splitlines() == [
                "in", "old", "old", "directory", "regular file", "regular file", "fifo", "socket"], done
            # A bound file is the file that was there: another that takes its name on the host is not seen, as with runc.
            (scratch / "new").write_text("new\n")
            (scratch / "new").rename(scratch / "file")
            assert container.exec("cat", "/mnt/file").stdout == b"old\n"
            assert container.exec("sh", "-c", "echo written >/mnt/dir/out").returncode == 0
    assert (scratch / "dir/out").read_text() == "written\n"


@pytest.mark.thorough
def test_scenario_53_many_volumes(scratch):
    flags = []
    for i in range(100):
        (scratch / f"v{i}").mkdir()
        (scratch / f"v{i}/n").write_text(f"{i}\n")
        flags += bind(scratch / f"v{i}", f"/v/{i}")
    output = shell("i=0; while [ $i -lt 100 ]; do cat /v/$i/n; i=$((i + 1)); done", flags=flags, timeout=200)
    assert output.split() == [str(i) for i in range(100)]


def test_scenario_55_read_only_root_with_a_tmpfs():
    flags = ["--read-only", "--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m:mode=1770:uid=7"]
    output = shell("touch /x 2>/dev/null && echo written; stat -c '%a %u' /scratch; "
                   "dd if=/dev/zero of=/scratch/f bs=64k count=64 2>&1 | grep -o 'No space left'", flags=flags)
    assert output == "1770 7\nNo space left\n"


PTRACE = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
child = os.fork()
if child == 0:
    while True:
        signal.pause()
assert libc.ptrace(16, child, None, None) == 0, os.strerror(ctypes.get_errno())  # PTRACE_ATTACH
assert os.WIFSTOPPED(os.waitpid(child, 0)[1])
assert libc.ptrace(17, child, None, None) == 0  # PTRACE_DETACH
os.kill(child, signal.SIGABRT)
status = os.waitpid(child, 0)[1]
print(os.WTERMSIG(status), os.WCOREDUMP(status))
"""


def test_scenario_72_core_dumps_and_ptrace_leave_the_agent_alone():
    with Container(DEBIAN, "sleep", "1000") as container:
        done = container.exec("sh", "-c", f"cd /tmp && ulimit -c unlimited && python3 -c '{PTRACE}'", timeout=120)
        assert done.returncode == 0 and done.stdout.split()[0] == b"6", done
        assert container.exec("true").returncode == 0
        assert container.status() == "RUNNING"


@pytest.mark.parametrize("children", [more(1), 3])
def test_scenario_13_children_end_with_pid_1(scratch, children):
    """What it left behind does not write on."""
    script = f"for i in $(seq {children}); do (trap '' HUP TERM; while :; do date >>/data/$i; sleep 0.1; done) & done; sleep 1; exit 5"
    done = call(["ctr", "run", "--rm", "--runtime", os.environ.get("WYVERN_TEST_RUNTIME", "io.containerd.wyvern.v2"),
                 *bind(scratch, "/data"), BUSYBOX, f"pid1-{os.getpid()}-{children}", "sh", "-c", script])
    assert done.returncode == 5, done.stderr
    sizes = [(scratch / str(i + 1)).stat().st_size for i in range(children)]
    assert all(sizes)
    time.sleep(0.5)
    assert sizes == [(scratch / str(i + 1)).stat().st_size for i in range(children)]


def test_scenario_14_paused_across_a_restart_of_containerd():
    with Container() as container:
        assert ctr("task", "pause", container.name).returncode == 0
        assert call(["systemctl", "restart", "containerd"]).returncode == 0
        assert wait_until(lambda: ctr("version").returncode == 0, 60)
        assert container.status() == "PAUSED"
        assert ctr("task", "resume", container.name).returncode == 0
        assert container.exec("true").returncode == 0
