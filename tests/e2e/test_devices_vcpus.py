"""vCPUs that come and go while the guest runs, asked for from both sides by hand (harness/guest.py)."""

import pathlib
import re

import pytest

from harness.guest import Guest, needs_boot_test

pytestmark = [pytest.mark.wyvern_only, needs_boot_test]

CPU = "/sys/devices/system/cpu"


def threads(guest: Guest) -> dict:
    """vCPU -> thread, of those that run."""
    return {int(cpu): int(thread) for cpu, thread in re.findall(r"(\d+)=(\d+)", guest.tell("vcpus"))}


def online(guest: Guest) -> str:
    return guest.sh(f"cat {CPU}/online")


def test_vcpus_come_and_go(scratch):
    with Guest(scratch, "--max-cpus", 4, cmdline="maxcpus=1") as guest:
        assert list(threads(guest)) == [0] and online(guest) == "0"
        assert guest.sh(f"cat {CPU}/present") == "0-3"
        for _ in range(5):
            for cpu in (1, 2, 3):
                guest.tell(f"start-vcpu {cpu}")
                guest.sh(f"echo 1 >{CPU}/cpu{cpu}/online")
            assert online(guest) == "0-3"
            now = threads(guest)
            assert list(now) == [0, 1, 2, 3]
            for cpu, thread in now.items():
                comm = pathlib.Path(f"/proc/{guest.pid}/task/{thread}/comm").read_text()
                assert comm == f"vcpu{cpu}\n", (cpu, comm)
            assert guest.sh("for i in 1 2 3 4; do (dd if=/dev/zero of=/dev/null bs=1M count=200 2>/dev/null) & done; wait; echo over") == "over"
            for cpu in (3, 1, 2):
                guest.sh(f"echo 0 >{CPU}/cpu{cpu}/online")
                guest.tell(f"stop-vcpu {cpu}")
            assert list(threads(guest)) == [0] and online(guest) == "0"


def test_vcpu_that_the_guest_keeps_runs_on(scratch):
    with Guest(scratch, "--max-cpus", 2, cmdline="maxcpus=1") as guest:
        guest.tell("start-vcpu 1")
        guest.sh(f"echo 1 >{CPU}/cpu1/online")
        for idle_or_busy in ("", "while :; do :; done & "):
            guest.sh(f"{idle_or_busy}true")
            with pytest.raises(AssertionError, match="vCPU 1 still runs"):
                guest.tell("stop-vcpu 1")
        assert list(threads(guest)) == [0, 1]
        guest.sh("kill %1")
        with pytest.raises(AssertionError, match="boot CPU"):
            guest.tell("stop-vcpu 0")
        guest.tell("pause 20")
        assert online(guest) == "0-1"
