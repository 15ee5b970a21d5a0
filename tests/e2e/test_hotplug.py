"""Devices that come and go while Linux runs, by the upcall channel: wyvern-vmm asked for by its API (wyvern-bench), our guest with its agent.

ninja -C build/release wyvern-bench, then lab run --add build/release/bin/wyvern-bench.
"""

import json
import pathlib

import pytest

from harness.ctr import call

BENCH = pathlib.Path("/opt/wyvern/extra/wyvern-bench")
GUEST = pathlib.Path("/usr/share/wyvern/guest")
LIBEXEC = pathlib.Path("/usr/libexec/wyvern")
CMDLINE = "console=ttyS0 quiet panic=-1 pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro rootwait=10 init=/sbin/wyvern-agent"


def boot(rounds: int):
    done = call([BENCH, "boot", "--vmm", LIBEXEC / "wyvern-vmm", "--kernel", GUEST / "vmlinux", "--image", GUEST / "image.erofs",
                 "--cmdline", CMDLINE, "--agent", "--hotplug", rounds])
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{said[-4000:]}\n{done.stderr.decode(errors='replace')[-4000:]}"
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    counters = next(line for line in lines if "upcall.streams" in line)
    return [line for line in lines if "hotplug" in line], counters


@pytest.mark.wyvern_only
@pytest.mark.skipif(not BENCH.exists(), reason="this machine was started without wyvern-bench (lab run --add)")
def test_devices_come_and_go_by_the_agents_word(request):
    rounds = 100 if request.config.getoption("--long") else 20
    steps, counters = boot(rounds)
    assert len(steps) == 6 * rounds
    nodes = {device: {step["node"] for step in steps if step["device"] == device and step["hotplug"] == "attach"}
             for device in ("hot-disk", "hot-rng", "hot-pmem")}
    # What has gone is gone in the guest, too: each gets the name that the one before it had.
    assert nodes["hot-disk"] == {"vda"}, nodes
    assert nodes["hot-pmem"] == {"pmem1"}, nodes
    assert all(node.startswith("virtio") for node in nodes["hot-rng"]), nodes
    assert counters["upcall.streams"] == 1, counters
    assert counters["upcall.pci_rescan.calls"] == counters["upcall.pci_remove.calls"] == 3 * rounds, counters
    assert not [name for name in counters if ".failures." in name], counters
    assert not any(name.startswith("hot-") for name in counters), "the machine has no counters of devices that have gone"
    for kind in ("attach", "detach"):
        times = sorted(step["ms"] for step in steps if step["hotplug"] == kind)
        print(f"{kind}: median {times[len(times) // 2]:.1f} ms, {times[0]:.1f} to {times[-1]:.1f}")
