"""What the processes of a living sandbox could do, read from /proc: thread → filter, capabilities, users, namespaces, roots."""

import os
import pathlib

import pytest

from harness.ctr import Container
from harness.sandbox import PARTS, Watch

pytestmark = pytest.mark.wyvern_only


@pytest.fixture(scope="module")
def sandbox():
    watch = Watch()
    with Container():
        yield {part: watch.pid(name) for part, name in PARTS.items()}


def status(pid, task=None) -> dict:
    path = pathlib.Path(f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status")
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)


def threads(pid) -> dict:
    """Name of each thread → numbers of its seccomp filters."""
    table = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        it = status(pid, task)
        assert it["Seccomp"] == "2" and it["NoNewPrivs"] == "1", it
        table.setdefault(it["Name"], set()).add(int(it["Seccomp_filters"]))
    return table


@pytest.mark.no_leak_check
def test_threads_of_the_vmm_and_their_filters(sandbox):
    """All threads have the process's filter; those that work for the guest have one more on top."""
    table = threads(sandbox["vmm"])
    whole = str(table)
    for name in ("vcpu0", "vhost-user", "vsock", "rng", "balloon", "root", "mem"):
        assert table.pop(name, None) == {2}, (name, whole)
    table.pop("kvm-nx-lpage-re", None)  # KVM's own, made as a child of the vCPU's
    # What remains is main and gRPC's.
    assert set.union(*table.values()) == {1}, whole


@pytest.mark.no_leak_check
def test_threads_of_the_file_server_and_their_filters(sandbox):
    table = threads(sandbox["fs"])
    assert all(min(counts) >= 1 for counts in table.values()), table


@pytest.mark.no_leak_check
def test_vmm_has_no_privilege(sandbox):
    it = status(sandbox["vmm"])
    assert {it[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}, it
    assert "0" not in it["Uid"].split() and "0" not in it["Gid"].split() and it["Groups"].split() == []
    assert (it["NoNewPrivs"], it["CoreDumping"]) == ("1", "0")


@pytest.mark.no_leak_check
def test_file_server_has_capabilities_of_files_only(sandbox):
    it = status(sandbox["fs"])
    effective = int(it["CapEff"], 16)
    assert it["CapEff"] == it["CapPrm"] == it["CapBnd"] and it["CapAmb"] == "0" * 16
    for forbidden in (12, 13, 16, 17, 19, 21, 39):  # net_admin net_raw sys_module sys_rawio sys_ptrace sys_admin bpf
        assert not effective >> forbidden & 1, it["CapEff"]


@pytest.mark.no_leak_check
@pytest.mark.parametrize("part", ["vmm", "fs"])
def test_namespaces_are_their_own(sandbox, part):
    for kind in ("mnt", "net", "ipc", "uts") if part == "vmm" else ("mnt", "net", "ipc"):
        assert os.readlink(f"/proc/{sandbox[part]}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    interfaces = pathlib.Path(f"/proc/{sandbox[part]}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] in (["lo"], []), interfaces


@pytest.mark.no_leak_check
def test_root_of_the_vmm_is_empty(sandbox):
    assert os.listdir(f"/proc/{sandbox['vmm']}/root") == []
    assert len(pathlib.Path(f"/proc/{sandbox['vmm']}/mountinfo").read_text().splitlines()) == 1


@pytest.mark.no_leak_check
def test_vmm_holds_no_file_that_it_could_open_others_through(sandbox):
    """Its descriptors: no directory, nothing of /proc or /sys, of /dev only kvm; and containerd's log as standard error."""
    base = f"/proc/{sandbox['vmm']}/fd"
    kinds = sorted(os.readlink(f"{base}/{fd}") for fd in os.listdir(base))
    assert not [fd for fd in os.listdir(base) if os.path.isdir(f"{base}/{fd}")], kinds
    assert not [k for k in kinds if k.startswith(("/proc", "/sys", "/etc", "/run", "/var")) and not k.endswith("/log")], kinds
    assert {k for k in kinds if k.startswith("/dev/")} <= {"/dev/kvm", "/dev/null"}, kinds
