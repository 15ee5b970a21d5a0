"""The balloon and memory that is plugged, as /proc/meminfo in the guest and the memory that the host pays show them (harness/guest.py)."""

import re

import pytest

from harness.ctr import more
from harness.guest import MIB, Guest, needs_boot_test, settles

pytestmark = [pytest.mark.wyvern_only, needs_boot_test]

# What else moves meanwhile, in the guest and in the program on the host.
SLACK = 12 * MIB
FILL = "dd if=/dev/zero of=/tmp/fill bs=1M count={} 2>/dev/null"


def fill(guest: Guest, mib: int) -> None:
    """The guest touches that much of its memory, and frees it."""
    guest.sh(FILL.format(mib) + " && rm /tmp/fill")


def exactly(guest: Guest) -> None:
    """Since 6.7 Linux keeps up to an eighth of its memory with the processor that freed it, calls it not free, and reports none of it."""
    guest.sh("echo 1024 >/proc/sys/vm/percpu_pagelist_high_fraction")


def balloon(guest: Guest) -> dict:
    return guest.counters()["balloon"]


@pytest.mark.parametrize("flags", [("--shared",), more(("--split",))], ids=["shared-packed", "private-split"])
def test_balloon_takes_memory_and_gives_it_back(scratch, flags):
    # Without reports of free pages, so that it is the balloon that gives memory to the host.
    with Guest(scratch, *flags, "--balloon", "--no-reporting") as guest:
        exactly(guest)
        start = guest.meminfo()
        fill(guest, start["MemAvailable"] // MIB - 20)  # nearly all of it is the guest's now
        before, full = guest.meminfo(), guest.resident()
        assert full > before["MemTotal"] - 64 * MIB

        guest.tell("balloon 128")
        settles(lambda: balloon(guest)["actual_bytes"], lambda now: now == 128 * MIB)
        inside, left = guest.meminfo(), guest.resident()
        assert abs(before["MemAvailable"] - inside["MemAvailable"] - 128 * MIB) < SLACK, (before, inside)
        assert full - left > 128 * MIB - 20 * MIB - SLACK, (full, left)
        counters = balloon(guest)
        assert counters["inflated_pages"] >= counters["freed_pages"] >= 128 * 256 and counters["reported_pages"] == 0, counters

        said = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", guest.tell("stats"))}
        assert said["total"] == inside["MemTotal"], said
        assert abs(said["free"] - inside["MemFree"]) < SLACK and abs(said["available"] - inside["MemAvailable"]) < SLACK, (said, inside)
        assert said["oom_kills"] == 0, said

        guest.tell("balloon 0")
        settles(lambda: balloon(guest)["actual_bytes"], lambda now: now == 0)
        after = guest.meminfo()
        assert abs(after["MemAvailable"] - before["MemAvailable"]) < SLACK, (before, after)
        assert guest.resident() < left + SLACK  # nobody has touched it yet
        fill(guest, 100)


def test_balloon_deflates_before_the_guest_kills(scratch):
    with Guest(scratch, "--balloon") as guest:
        guest.tell("balloon 128")
        settles(lambda: balloon(guest)["actual_bytes"], lambda now: now == 128 * MIB)
        more_than_left = guest.meminfo()["MemAvailable"] // MIB + 40
        guest.sh(f"dd if=/dev/zero of=/dev/null bs={more_than_left}M count=1", seconds=120)
        assert balloon(guest)["actual_bytes"] < (128 - 24) * MIB
        # And that no program was killed for it: Guest.power_off reads the kernel's messages.


@pytest.mark.parametrize("flags", [("--shared",), more(())], ids=["shared", "private"])
def test_free_pages_go_back_by_themselves(scratch, flags):
    with Guest(scratch, *flags, "--balloon") as guest:
        exactly(guest)
        before = guest.resident()
        guest.sh(FILL.format(64))
        full = guest.resident()
        assert full - before > 48 * MIB, (before, full)  # some of it was the guest's already
        told = balloon(guest)["reported_pages"]
        guest.sh("rm /tmp/fill")
        settles(guest.resident, lambda now: now - before < SLACK, 30)  # Linux reports after two seconds, what is 2 MiB in a row
        assert balloon(guest)["reported_pages"] - told > 56 * 256
        fill(guest, 64)

        # Hints of free pages, which a migration asks for: nothing is taken away by them.
        guest.tell("hint 1")
        settles(lambda: balloon(guest)["hinted_pages"], lambda now: now > 64 * 256)
        guest.tell("hint 0")
        available = guest.meminfo()["MemTotal"] - 96 * MIB
        settles(lambda: guest.meminfo()["MemAvailable"], lambda now: now > available)
        fill(guest, 64)


@pytest.mark.parametrize("flags", [(), more(("--split", "--shared"))], ids=["packed", "split-shared"])
def test_memory_comes_and_goes(scratch, flags):
    with Guest(scratch, *flags, "--hotplug", 256, cmdline="memory_hotplug.online_policy=auto-movable") as guest:
        total = lambda: guest.meminfo()["MemTotal"]  # noqa: E731
        plugged = lambda: guest.counters()["mem"]["plugged_bytes"]  # noqa: E731
        before, cost = guest.meminfo(), guest.resident()
        guest.tell("plug 128")
        settles(plugged, lambda now: now == 128 * MIB)
        settles(total, lambda now: now - before["MemTotal"] == 128 * MIB)
        # More than there was, so the new memory is used, and the host pays for it only now.
        assert guest.resident() - cost < 16 * MIB
        guest.sh(f"dd if=/dev/zero of=/dev/null bs={before['MemAvailable'] // MIB + 64}M count=1")
        full = guest.resident()
        assert full - before["MemTotal"] > 48 * MIB, (full, before)

        guest.tell("plug 256")
        settles(total, lambda now: now - before["MemTotal"] == 256 * MIB)
        guest.tell("plug 96")
        settles(total, lambda now: now - before["MemTotal"] == 96 * MIB, 40)
        guest.tell("plug 0")
        settles(plugged, lambda now: now == 0, 40)
        settles(total, lambda now: now == before["MemTotal"])
        assert full - guest.resident() > 48 * MIB, full
        fill(guest, 100)
