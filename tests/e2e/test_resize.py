"""vCPUs and memory of a sandbox that follow: `wyvern resize`, limits, and Update of the task service; `wyvern inspect`."""

import json
import os
import pathlib
import re

import pytest

from harness import ttrpc
from harness.ctr import Container, call, more, shell, wait_until
from harness.sandbox import PARTS, Watch, fds, memory
from harness.shim import Shim, default_spec

pytestmark = pytest.mark.wyvern_only

MIB = 1 << 20
CONF_D = pathlib.Path("/etc/wyvern/conf.d")
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = 3, 5, 9


@pytest.fixture(autouse=True)
def room_to_grow():
    """More than the lab machine may have: what is not touched costs nothing, and vCPUs share processors."""
    CONF_D.mkdir(parents=True, exist_ok=True)
    path = CONF_D / "90-resize.yaml"
    path.write_text("sandbox:\n  max_vcpus: 4\n  max_memory: 3GiB\ntimeouts:\n  resize: 60s\n")
    yield path
    path.unlink()


def inspect(name: str) -> dict:
    done = call(["wyvern", "inspect", name])
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def size(name: str) -> tuple:
    """(vCPUs that run, MiB)"""
    said = inspect(name)
    return len(said["vcpus"]["running"]), said["memory"]["bytes"] // MIB


def resize(name: str, *flags) -> str:
    done = call(["wyvern", "resize", *flags, name], timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def refused(name: str, *flags) -> str:
    done = call(["wyvern", "resize", *flags, name], timeout=240)
    assert done.returncode == 125, (done.returncode, done.stdout, done.stderr)
    return done.stderr.decode()


def guest(name: str, script: str) -> str:
    done = call(["wyvern", "exec", "--guest", name, "--", "sh", "-c", script])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def online(name: str) -> str:
    return guest(name, "cat /sys/devices/system/cpu/online")


def total(name: str) -> int:
    """Of the guest's memory, in MiB."""
    return int(re.search(r"\d+", guest(name, "grep MemTotal /proc/meminfo"))[0]) >> 10


def host_limit(pid: int) -> int:
    """memory.max of the cgroup that this process is in, in MiB."""
    group = pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip().rsplit(":", 1)[1]
    return int(pathlib.Path(f"/sys/fs/cgroup{group}/memory.max").read_text()) // MIB


@pytest.mark.limit(1800)
def test_one_to_four_to_one_vcpus_and_256_mib_to_2_gib_and_back(long):
    watch = Watch()
    with Container() as container:
        name, vmm = container.name, watch.pid(PARTS["vmm"])
        before = total(name)
        assert size(name) == (1, 256) and online(name) == "0"
        limit = host_limit(vmm)
        kept = None
        for _ in range(50 if long else 5):
            assert resize(name, "--cpus", "4", "--memory", "2GiB") == "4 vCPUs, 2048 MiB of memory\n"
            assert online(name) == "0-3"
            assert total(name) - before == 2048 - 256
            assert host_limit(vmm) - limit == (2048 - 256) * 65 // 64  # and what the host needs to map it
            threads = [each["thread"] for each in inspect(name)["vcpus"]["running"]]
            assert len(set(threads)) == 4 and {str(t) for t in threads} <= set(os.listdir(f"/proc/{vmm}/task"))
            for thread in threads:
                os.sched_setaffinity(thread, {0})  # this is what they are told for
            assert resize(name, "--cpus", "1", "--memory", "256MiB") == "1 vCPU, 256 MiB of memory\n"
            assert online(name) == "0" and total(name) == before and host_limit(vmm) == limit
            now = fds(vmm), memory(vmm)["Anonymous"]
            kept = kept or now
            assert now[0] == kept[0], "descriptors of the VMM"
            assert now[1] - kept[1] < 4096, "kB of the VMM"
        assert container.exec("true").returncode == 0


def update(shim: Shim, resources: dict) -> tuple:
    return shim.call("Update", {1: shim.name, 2: ttrpc.encode({1: RESOURCES, 2: json.dumps(resources)})})[:2]


@pytest.fixture
def limited(scratch, busybox_root):
    """A container of 1 CPU and 128 MiB, which runs."""
    spec = default_spec(busybox_root, ["sleep", "1000"])
    spec["linux"]["resources"] = {"cpu": {"quota": 100000, "period": 100000}, "memory": {"limit": 128 * MIB}}
    with Shim(scratch / "bundle", spec) as shim:
        code, message, _ = shim.call("Create", shim.create())
        assert code == 0, message
        assert shim.call("Start", {1: shim.name})[0] == 0
        yield shim


def controls(name: str) -> list:
    return guest(name, f"cd /sys/fs/cgroup/wyvern/{name} && cat cpu.max memory.max").splitlines()


@pytest.mark.limit(600)
def test_scenario_58_update_grows_and_shrinks(limited):
    name = limited.name
    assert size(name) == (1, 256) and controls(name) == ["100000 100000", str(128 * MIB)]
    for _ in range(3):
        assert update(limited, {"cpu": {"quota": 250000, "period": 100000}, "memory": {"limit": 1024 * MIB}}) == (0, "")
        # Before Update answers: 1024 MiB, and 96 for the guest itself.
        assert size(name) == (3, 1120) and online(name) == "0-2"
        assert controls(name) == ["250000 100000", str(1024 * MIB)]
        assert update(limited, {"cpu": {"quota": 100000, "period": 100000}, "memory": {"limit": 128 * MIB}}) == (0, "")
        assert controls(name) == ["100000 100000", str(128 * MIB)]
        assert wait_until(lambda: size(name) == (1, 256), 60), size(name)
    # What is not given stays.
    assert update(limited, {"memory": {"limit": 64 * MIB}}) == (0, "")
    assert controls(name) == ["100000 100000", str(64 * MIB)]


@pytest.mark.parametrize("resources, says", [
    ({"cpu": {"quota": 500}}, "linux.resources.cpu.quota"),
    more({"cpu": {"quota": "many"}}, "linux.resources.cpu.quota"),
    more({"memory": {"limit": 64 * MIB, "swap": 4096}}, "linux.resources.memory.swap"),
    ({"unified": {"cgroup.kill": "1"}}, "linux.resources.unified"),
], ids=["quota too small", "quota is no number", "swap below memory", "not a limit"])
def test_update_that_is_wrong_changes_nothing(limited, resources, says):
    code, message = update(limited, resources)
    assert code == INVALID_ARGUMENT and says in message, (code, message)
    assert size(limited.name) == (1, 256) and controls(limited.name) == ["100000 100000", str(128 * MIB)]


def test_update_of_what_has_ended(limited):
    assert limited.call("Kill", {1: limited.name, 3: 9})[0] == 0
    assert limited.call("Wait", {1: limited.name})[0] == 0
    assert update(limited, {"memory": {"limit": 1024 * MIB}})[0] == FAILED_PRECONDITION
    assert limited.call("Update", {1: "nobody", 2: ttrpc.encode({1: RESOURCES, 2: "{}"})})[0] == NOT_FOUND


def test_limits_at_the_start_size_the_machine():
    assert shell("nproc", flags=["--cpus", "2.5", "--memory-limit", str(512 * MIB)]).strip() == "3"


def test_resize_that_cannot_be(limited):
    name = limited.name
    assert "5 vCPUs: must be 1 to 4 (sandbox.max_vcpus)" in refused(name, "--cpus", "5")
    assert "must be 256 MiB, which the sandbox booted with, to 3072 MiB" in refused(name, "--memory", "64MiB")
    assert "sandbox.max_memory" in refused(name, "--memory", "4GiB")
    assert "give --cpus, --memory, or both" in refused(name)
    assert "--memory: '2G'" in refused(name, "--memory", "2G")
    assert "no living sandbox" in refused("nobody", "--cpus", "2")
    assert size(name) == (1, 256)
    # Not less than what the container's limits promise it.
    assert update(limited, {"cpu": {"quota": 200000, "period": 100000}}) == (0, "")
    assert "need 2 vCPUs" in refused(name, "--cpus", "1")
    assert size(name) == (2, 256)


@pytest.mark.limit(600)
def test_memory_in_use_does_not_go_and_the_old_size_stays(room_to_grow):
    room_to_grow.write_text(room_to_grow.read_text().replace("60s", "25s"))
    with Container() as container:
        name = container.name
        resize(name, "--memory", "768MiB")
        guest(name, "mkdir -p /run/fill && mount -t tmpfs -o size=500m none /run/fill && "
                    "dd if=/dev/zero of=/run/fill/it bs=1M count=450 2>/dev/null")
        said = refused(name, "--memory", "256MiB")
        assert "256 MiB of memory: the guest uses " in said, said
        assert size(name)[1] == 768 and total(name) > 700
        guest(name, "umount /run/fill")
        assert "256 MiB" in resize(name, "--memory", "256MiB")
        assert container.exec("true").returncode == 0
