"""Pods that outlive what made them: Wyvern upgraded by `wyvern install`, containerd exchanged for a later one."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from harness import cri as harness
from harness import traces
from harness.containerd import succeed
from harness.cri import Cri, Pod
from harness.ctr import RUNTIME, call, wait_until

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20), pytest.mark.limit(420)]

OLD = pathlib.Path("/opt/containerd-1.6/bin")
NEW = next(iter(pathlib.Path("/opt/wyvern/extra").glob("containerd-v2.*")), None)
BUSYBOX = "docker.io/library/busybox:latest"


@pytest.fixture(autouse=True)
def possible():
    why = harness.why_not()
    if why:
        pytest.skip(why)


@pytest.fixture(scope="module")
def warm_bridge(tmp_path_factory):
    """What the first pod of CNI leaves: sysctls' files, directories of its plugins."""
    with Cri(tmp_path_factory.mktemp("wyvern-e2e-warm")) as cri, Pod(cri, "runc"):
        pass


class System:
    """A root with installations of `wyvern install` below a directory, beside the machine's own; in a with statement."""

    def __init__(self, directory: pathlib.Path):
        self.root = directory / "root"
        self.stage = directory / "stage"
        (self.stage / "bin").mkdir(parents=True)
        for name in ("wyvern", "containerd-shim-wyvern-v2"):
            shutil.copy(shutil.which(name), self.stage / "bin" / name)
        shutil.copytree("/usr/libexec/wyvern", self.stage / "libexec")
        shutil.copytree("/usr/share/wyvern", self.stage / "share")

    def __enter__(self):
        (self.root / "proc").mkdir(parents=True)
        succeed("mount", "-t", "proc", "proc", self.root / "proc")  # who uses a version is seen there
        return self

    def __exit__(self, *_):
        succeed("umount", self.root / "proc")
        shutil.rmtree(self.root)

    @property
    def versions(self) -> pathlib.Path:
        return self.root / "usr/lib/wyvern"

    def change(self) -> None:
        """Other programs: what is behind the end of an ELF file is nobody's."""
        for path in [*(self.stage / "bin").iterdir(), *(self.stage / "libexec").iterdir()]:
            with open(path, "ab") as program:
                program.write(b"\0")

    def install(self) -> str:
        """What it said; `current` names the version."""
        return succeed(self.stage / "bin/wyvern", "install", "--root", self.root, "--without-containerd")

    def uninstall(self) -> subprocess.CompletedProcess:
        return call([self.stage / "bin/wyvern", "uninstall", "--root", self.root])

    def current(self) -> str:
        return os.readlink(self.versions / "current")

    def configuration(self) -> str:
        """Which makes the machine's Wyvern this one: through the links, as an installation has them."""
        usr = self.root / "usr"
        return json.dumps({
            "paths": {name: str(usr / "libexec/wyvern" / f"wyvern-{name}") for name in ("vmm", "fs", "anchor")},
            "sandbox": {"kernel": str(usr / "share/wyvern/guest/vmlinux"), "image": str(usr / "share/wyvern/guest/image.erofs")}})


def programs_of(shim: int) -> dict:
    """pid -> what is run, of a shim and its children."""
    found = {shim: os.readlink(f"/proc/{shim}/exe")}
    for pid in traces.processes():
        with contextlib.suppress(OSError):
            parent = int(re.search(r"^PPid:\t(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1])
            if parent == shim:
                found[pid] = os.readlink(f"/proc/{pid}/exe")
    return found


def shim_of(pod: Pod) -> int:
    return int(re.search(r"^PPid:\t(\d+)", pathlib.Path(f"/proc/{pod.pid()}/status").read_text(), re.M)[1])


def test_scenario_35_wyvern_is_upgraded_under_living_pods(warm_bridge, scratch, configure):
    del warm_bridge
    (scratch / "cri").mkdir()
    with System(scratch) as system, Cri(scratch / "cri", programs=system.root / "usr/bin") as cri:
        system.install()
        first = system.current()
        configure(system.configuration())
        with Pod(cri, "wyvern") as old:
            one = old.run()
            shim = shim_of(old)
            before = programs_of(shim)
            assert len(before) == 5, before  # and VMM, file server, two anchors
            assert all(path.startswith(f"{system.versions / first}/") for path in before.values()), before

            system.change()
            assert f"version {first} kept for" in system.install()
            second = system.current()
            assert second != first
            # The pod goes on with what it began with, also for what comes now.
            assert old.exec(one, "echo", "alive") == "alive\n"
            two = old.run(mounts=[(scratch, "/data")])
            assert "stage" in old.exec(two, "ls", "/data")
            after = programs_of(shim)
            assert len(after) == 6 and set(after.values()) == set(before.values()), after
            old.stop(one, 0)
            old.delete(one)

            # Beside it one of the new version.
            with Pod(cri, "wyvern") as new:
                three = new.run()
                now = programs_of(shim_of(new))
                assert len(now) == 5 and all(path.startswith(f"{system.versions / second}/") for path in now.values()), now
                assert "0% packet loss" in new.shell(three, f"ping -c 2 -w 20 {old.ip()}")
                refused = system.uninstall()
                assert refused.returncode == 125 and b"end these sandboxes" in refused.stderr, refused
                assert set(after.values()) <= set(programs_of(shim).values())

                # The new version's `delete` undoes what the old one has left.
                os.kill(shim, signal.SIGKILL)
                assert wait_until(lambda: old.state() == "SANDBOX_NOTREADY", 40)
                assert old.exited(two) in (137, 255)
                assert wait_until(lambda: not set(after) & set(traces.processes()), 20), traces.processes()
                old.remove()
                assert new.exec(three, "echo", "alive") == "alive\n"
        said = system.install()
        assert f"version {first} removed" in said, said
        done = system.uninstall()
        assert done.returncode == 0, done
        assert not system.versions.exists() and not os.path.lexists(system.root / "usr/bin/containerd-shim-wyvern-v2")


def test_scenario_35_a_container_of_a_pod_whose_programs_are_gone(warm_bridge, scratch, configure):
    """A package that is upgraded in place, or removed by force: the pod has what it needs by descriptor."""
    del warm_bridge
    (scratch / "cri").mkdir()
    libexec = scratch / "libexec"
    shutil.copytree("/usr/libexec/wyvern", libexec)
    configure(json.dumps({"paths": {name: str(libexec / f"wyvern-{name}") for name in ("vmm", "fs", "anchor")}}))
    with Cri(scratch / "cri") as cri, Pod(cri, "wyvern") as pod:
        shutil.rmtree(libexec)
        one = pod.run()
        assert pod.exec(one, "echo", "here") == "here\n"
        anchor = next(pid for pid, path in programs_of(shim_of(pod)).items() if path.endswith("wyvern-anchor (deleted)"))
        assert pathlib.Path(f"/proc/{anchor}/comm").read_text() == "wyvern-anchor\n"


@pytest.mark.skipif(not OLD.exists(), reason="the machine has no containerd 1.6")
def test_scenario_35_containerd_from_1_6_to_2_1_under_a_living_pod(scratch):
    """The same root and state directory: 1.6, 1.7, and 2.1 where it was handed in."""
    numbers = "i=0; trap 'exit 9' TERM; while :; do echo $((i+=1)); sleep 0.2; done"
    with Cri(scratch, programs=OLD) as cri, Pod(cri, "wyvern") as pod:
        container = pod.run("sh", "-c", numbers)
        done = cri.ctr("run", "-d", "--runtime", RUNTIME, "--null-io", BUSYBOX, "task", "sleep", "100000")
        assert done.returncode == 0, done.stderr
        try:
            sandbox, pid = pod.pid(), task_pid(cri)
            for programs in (pathlib.Path("/usr/bin"), *([NEW] if NEW else [])):
                seen = len(pod.logs(container))
                cri.change(programs)
                version = cri.call("Version")["runtime_version"].lstrip("v")
                assert version.startswith("1.7" if programs != NEW else "2."), version
                assert pod.state() == "SANDBOX_READY" and pod.pid() == sandbox
                assert pod.container(container)["state"] == "CONTAINER_RUNNING"
                assert wait_until(lambda: len(pod.logs(container)) > seen + 5, 30), pod.logs(container)[-3:]  # noqa: B023
                assert pod.exec(container, "echo", "by exec") == "by exec\n"
                assert int(pod.figures(container)["memory"]["working_set_bytes"]["value"]) > 0
                # A container that comes now, and goes.
                another = pod.run()
                assert pod.exec(another, "hostname") == "web-0\n"
                pod.stop(another, 0)
                assert pod.exited(another) == 137
                pod.delete(another)
                assert task_pid(cri) == pid
                done = cri.ctr("task", "exec", "--exec-id", "again", "task", "echo", "hi")
                assert done.stdout == b"hi\n", (version, done.stderr)
            pod.stop(container, 20)
            assert pod.exited(container) == 9
            lines = [int(line) for _, line in pod.logs(container)]
            assert lines == list(range(1, len(lines) + 1)), "lines are lost or doubled"
            # Its end by a containerd that did not start it.
            assert cri.ctr("task", "kill", "-s", "SIGKILL", "task").returncode == 0
            assert wait_until(lambda: b"STOPPED" in cri.ctr("task", "ls").stdout, 30)
        finally:
            cri.ctr("task", "delete", "--force", "task")
            cri.ctr("container", "delete", "task")


def task_pid(cri: Cri) -> int:
    for line in cri.ctr("task", "ls").stdout.decode().splitlines():
        if line.split()[0] == "task":
            assert line.split()[2] == "RUNNING", line
            return int(line.split()[1])
    raise AssertionError("no task")
