"""Limits of linux.resources, in the guest and on the host, by both cgroup drivers; what cannot be is refused with its field."""

import json
import os
import pathlib

import pytest

from harness import ttrpc
from harness.ctr import call, wait_until
from harness.shim import Shim, default_spec

CGROUPS = pathlib.Path("/sys/fs/cgroup")
MIB = 1 << 20
INVALID_ARGUMENT, FAILED_PRECONDITION, UNAVAILABLE = 3, 9, 14
FILES = "cpu.weight cpu.max cpu.max.burst memory.max memory.low memory.high pids.max hugetlb.2MB.max io.max"
# Says all the time what its own cgroup in the guest has.
TELL = (f"cd /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup); while :; do grep . {FILES} >/told/new; echo end >>/told/new; "
        "mv /told/new /told/now; sleep 0.3; done")

pytestmark = pytest.mark.wyvern_only


@pytest.fixture
def disk(scratch):
    """A whole disk of the host: (path, major, minor)."""
    image = scratch / "disk.img"
    image.write_bytes(b"")
    os.truncate(image, 64 * MIB)
    path = call(["losetup", "-f", "--show", image]).stdout.decode().strip()
    number = os.stat(path).st_rdev
    yield path, os.major(number), os.minor(number)
    call(["losetup", "-d", path])


@pytest.fixture
def telling(scratch, busybox_root):
    """A spec whose container tells, and what it told: a dictionary by file."""
    told = scratch / "told"
    told.mkdir()
    spec = default_spec(busybox_root, ["sh", "-c", TELL])
    spec["mounts"] += [
        {"destination": "/told", "type": "bind", "source": str(told), "options": ["rbind", "rw"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}]

    def now() -> dict:
        assert wait_until((told / "now").exists, 30), "the container told nothing"
        lines = (told / "now").read_text().splitlines()
        return {} if lines[-1:] != ["end"] else dict(line.split(":", 1) for line in lines[:-1])

    return spec, now


def start(shim):
    code, message, _ = shim.call("Create", shim.create())
    assert code == 0, message
    code, message, _ = shim.call("Start", {1: shim.name})
    assert code == 0, message


def update(shim, resources: dict):
    any_message = ttrpc.encode({1: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
                                2: json.dumps(resources)})
    code, message, _ = shim.call("Update", {1: shim.name, 2: any_message})
    return code, message


def sandbox_cgroup(spec: dict, name: str) -> pathlib.Path:
    return CGROUPS / pathlib.Path(spec["linux"]["cgroupsPath"].lstrip("/")).parent / f"wyvern-sandbox-{name}"


def read(directory: pathlib.Path, name: str) -> str:
    return (directory / name).read_text().strip()


def test_scenario_57_limits_reach_the_guest_and_the_host(scratch, telling, disk):
    spec, told = telling
    path, major, minor = disk
    spec["linux"].setdefault("devices", []).append({"path": path, "type": "b", "major": major, "minor": minor})
    resources = spec["linux"].setdefault("resources", {})
    resources.setdefault("devices", []).append({"allow": True, "type": "b", "major": major, "minor": minor, "access": "rw"})
    resources.update({
        "cpu": {"shares": 512, "quota": 150000, "period": 100000, "burst": 20000, "cpus": "0"},
        "memory": {"limit": 300 * MIB, "reservation": 20 * MIB},
        "pids": {"limit": 77},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        "blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 8 * MIB}],
                    "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 500}]},
        "unified": {"memory.high": str(280 * MIB)}})
    with Shim(scratch / "bundle", spec) as shim:
        start(shim)
        guest = told()
        assert guest["cpu.weight"] == "59" and guest["cpu.max"] == "150000 100000" and guest["cpu.max.burst"] == "20000", guest
        assert guest["memory.max"] == str(300 * MIB) and guest["memory.low"] == str(20 * MIB), guest
        assert guest["memory.high"] == str(280 * MIB) and guest["pids.max"] == "77", guest
        assert guest["hugetlb.2MB.max"] == str(4 * MIB), guest
        assert guest["io.max"].endswith(f"rbps={8 * MIB} wbps=max riops=max wiops=500"), guest
        assert not guest["io.max"].startswith(f"{major}:{minor} "), "the host's number in the guest"
        host = sandbox_cgroup(spec, shim.name)
        assert read(host, "cpu.weight") == "59"
        assert read(host, "cpu.max") == "200000 100000", "the quota and overhead.cpu_percent"
        assert read(host, "cpuset.cpus") == "0"
        assert read(host, "memory.low") == str(20 * MIB)
        assert read(host, "io.max") == f"{major}:{minor} rbps={8 * MIB} wbps=max riops=max wiops=500"
        assert int(read(host, "memory.max")) > 300 * MIB


def test_an_update_changes_what_it_names(scratch, telling):
    spec, told = telling
    spec["linux"].setdefault("resources", {}).update(
        {"cpu": {"shares": 1024, "quota": 50000}, "memory": {"limit": 128 * MIB}, "pids": {"limit": 100}})
    with Shim(scratch / "bundle", spec) as shim:
        start(shim)
        host = sandbox_cgroup(spec, shim.name)
        assert told()["cpu.weight"] == "100" and read(host, "cpu.max") == "100000 100000"
        own = CGROUPS / spec["linux"]["cgroupsPath"].lstrip("/")  # where a client looks that has the container's pid
        assert read(own, "memory.max") == str(128 * MIB)
        assert update(shim, {"cpu": {"quota": 70000, "shares": 2048}}) == (0, "")
        assert wait_until(lambda: told().get("cpu.max") == "70000 100000", 10), told()
        assert told()["cpu.weight"] == "174" and told()["memory.max"] == str(128 * MIB) and told()["pids.max"] == "100"
        assert read(host, "cpu.max") == "120000 100000" and read(host, "cpu.weight") == "174"
        assert update(shim, {"cpu": {"quota": -1}, "memory": {"limit": 96 * MIB}}) == (0, "")
        assert wait_until(lambda: told().get("memory.max") == str(96 * MIB), 10), told()
        assert told()["cpu.max"] == "max 100000" and read(host, "cpu.max") == "max 100000"
        assert read(own, "memory.max") == str(96 * MIB)
        for resources, says in (({"cpu": {"period": 5}}, "linux.resources.cpu.period: 5"),
                                ({"memory": {"swap": 5}}, "linux.resources.memory.swap: 5"),
                                ({"rdma": {"mlx5_0": {"hcaHandles": 2}}}, "linux.resources.rdma: refused"),
                                ({"unified": {"cgroup.freeze": "1"}}, "linux.resources.unified: cgroup.freeze")):
            code, message = update(shim, resources)
            assert code == INVALID_ARGUMENT and says in message, (code, message)
        assert wait_until(lambda: told().get("memory.max") == str(96 * MIB), 10), "as before"


@pytest.mark.parametrize("resources, says", [
    ({"cpu": {"period": 5}}, "linux.resources.cpu.period: 5"),
    ({"cpu": {"cpus": "0-x"}}, "linux.resources.cpu.cpus: must be a list"),
    ({"memory": {"limit": 9, "swap": 5}}, "linux.resources.memory.swap: 5"),
    ({"blockIO": {"weight": 5000}}, "linux.resources.blockIO.weight: 5000"),
    ({"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}, "linux.resources.hugepageLimits"),
    ({"rdma": {"mlx5_0": {"hcaHandles": 2}}}, "linux.resources.rdma: refused"),
    ({"unified": {"cgroup.procs": "1"}}, "linux.resources.unified: cgroup.procs"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_what_cannot_be_fails_create(scratch, busybox_root, resources, says):
    spec = default_spec(busybox_root, ["sleep", "1000"])
    spec["linux"].setdefault("resources", {}).update(resources)
    with Shim(scratch / "bundle", spec) as shim:
        code, message, _ = shim.call("Create", shim.create())
        assert code == INVALID_ARGUMENT and says in message, (code, message)


def test_limits_that_only_the_host_could_hold_fail_create(scratch, busybox_root):
    """A disk that is not there, and CPUs that the host does not have: nothing is left of the sandbox."""
    for resources in ({"blockIO": {"throttleReadBpsDevice": [{"major": 200, "minor": 250, "rate": 1000}]}},
                      {"cpu": {"cpus": "8000"}}):
        spec = default_spec(busybox_root, ["sleep", "1000"])
        spec["linux"].setdefault("resources", {}).update(resources)
        with Shim(scratch / next(iter(resources)), spec) as shim:
            code, message, _ = shim.call("Create", shim.create())
            assert code != 0 and "the sandbox's cgroup on the host" in message, (code, message)


def show(unit: str) -> dict:
    done = call(["systemctl", "show", unit, "-p", "LoadState,ActiveState,Slice,Delegate,Description,CPUWeight,ControlGroup"])
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())


def test_systemd_knows_scopes_of_its_driver(scratch, telling):
    spec, told = telling
    spec["linux"].setdefault("resources", {}).update({"cpu": {"shares": 2048}})
    spec["linux"]["cgroupsPath"] = "system.slice:wyverntest:box"
    for turn in ("first", "again"):  # a name is free as soon as its container has gone
        (scratch / "told/now").unlink(missing_ok=True)  # what the first told last is of its update
        with Shim(scratch / turn, spec) as shim:
            start(shim)
            assert told()["cpu.weight"] == "174"
            anchor = show("wyverntest-box.scope")
            assert anchor["ActiveState"] == "active" and anchor["Slice"] == "system.slice" and anchor["Delegate"] == "yes", anchor
            assert anchor["Description"] == f"Wyvern, {shim.name}"
            sandbox = show(f"wyvern-sandbox-{shim.name}.scope")
            assert sandbox["ActiveState"] == "active" and sandbox["CPUWeight"] == "174", sandbox
            directory = CGROUPS / sandbox["ControlGroup"].lstrip("/")
            names = {pathlib.Path("/proc", pid, "comm").read_text().strip() for pid in read(directory, "cgroup.procs").split()}
            assert {"wyvern-vmm", "wyvern-fs"} <= names, names
            assert read(directory, "cpu.weight") == "174"
            call(["systemctl", "daemon-reload"], timeout=60)
            assert read(directory, "cpu.weight") == "174", "systemd has written its own"
            assert update(shim, {"cpu": {"shares": 1024}}) == (0, "")
            assert show(f"wyvern-sandbox-{shim.name}.scope")["CPUWeight"] == "100"
            assert read(directory, "cpu.weight") == "100"
            units = ("wyverntest-box.scope", f"wyvern-sandbox-{shim.name}.scope")
        for unit in units:
            assert wait_until(lambda unit=unit: show(unit)["LoadState"] == "not-found", 10), show(unit)


def test_no_systemd_is_said(scratch, busybox_root, monkeypatch):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    spec = default_spec(busybox_root, ["sleep", "1000"])
    spec["linux"]["cgroupsPath"] = "system.slice:wyverntest:none"
    with Shim(scratch / "bundle", spec) as shim:
        code, message, _ = shim.call("Create", shim.create())
        assert code == UNAVAILABLE and "SystemdCgroup = false" in message, (code, message)
