"""Entropy for rngtest, console ports with fifos at the host's end, and drivers that leave and come back (harness/guest.py)."""

import os
import pathlib
import re
import threading

import pytest

from harness.ctr import call, more, wait_until
from harness.guest import MIB, Guest, needs_boot_test, settles

pytestmark = [pytest.mark.wyvern_only, needs_boot_test]

BLOCK = 2500  # bytes, of FIPS 140-2's tests
BLOCKS = 200
FIFO = 64 << 10  # bytes that one holds


@pytest.mark.parametrize("flags", [(), more(("--split",))], ids=["packed", "split"])
def test_rngtest_finds_no_fault_with_what_the_guest_reads(scratch, flags):
    target = scratch / "random"
    target.write_bytes(bytes(MIB))
    size = BLOCK * BLOCKS + 4  # rngtest wants a word to compare the first block with
    with Guest(scratch, *flags, disks=[target]) as guest:
        assert guest.sh("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
        guest.sh(f"head -c {size} /dev/hwrng >/dev/vdb && sync")
        assert guest.counters()["rng"]["bytes"] >= size
    done = call(["rngtest", "-c", str(BLOCKS)], stdin=target.read_bytes()[:size])
    told = dict(re.findall(rb"^rngtest: (.+): (\d+)\s*$", done.stderr, re.M))
    # Of true random blocks 1 in 1250 fails: of 200 blocks more than three do in one run of 40 000.
    assert int(told[b"FIPS 140-2 successes"]) >= BLOCKS - 3, done.stderr
    assert int(told[b"FIPS 140-2 successes"]) + int(told[b"FIPS 140-2 failures"]) == BLOCKS, done.stderr
    assert told[b"FIPS 140-2(2001-10-10) Continuous run"] == b"0", done.stderr


class Port:
    """The host's end of a port: a fifo for each direction, open from the start and read by nobody yet."""

    def __init__(self, scratch: pathlib.Path, name: str):
        self.name, self.to_guest, self.from_guest = name, scratch / f"{name}.in", scratch / f"{name}.out"
        os.mkfifo(self.to_guest)
        os.mkfifo(self.from_guest)
        self.reader = os.open(self.from_guest, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self.reader, True)

    @property
    def flags(self) -> list:
        return ["--port", f"{self.name}:{self.to_guest}:{self.from_guest}"]

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := os.read(self.reader, size - len(data))):
            data += piece
        return data

    def close(self) -> None:
        os.close(self.reader)


def ports(guest: Guest) -> dict:
    """Name -> device, of the ports for programs. There is no udev to name them."""
    listed = guest.sh("for p in /sys/class/virtio-ports/*; do echo $(cat $p/name) ${p##*/}; done")
    return dict(line.split() for line in listed.split("\n") if line.startswith("org."))


def test_ports_carry_bytes_and_one_that_waits_stops_nobody(scratch):
    sent, answered = os.urandom(MIB), os.urandom(MIB)
    source, target = scratch / "source", scratch / "target"
    source.write_bytes(sent)
    source.chmod(0o400)
    target.write_bytes(bytes(MIB))
    data, stuck = Port(scratch, "org.wyvern.data"), Port(scratch, "org.wyvern.stuck")
    with Guest(scratch, *data.flags, *stuck.flags, disks=[source, target]) as guest:
        device = {name: f"/dev/{port}" for name, port in ports(guest).items()}
        assert set(device) == {data.name, stuck.name}
        # More than the fifo and the ring hold: its writer has to wait.
        guest.sh(f"(dd if=/dev/vdb of={device[stuck.name]} bs=1k; echo done >/tmp/stuck) 2>/dev/null & true")
        settles(lambda: guest.counters()["console"]["bytes_from_guest"], lambda now: now == FIFO)

        for _ in range(2):  # a port is opened again and again
            guest.sh(f"cat /dev/vdb >{device[data.name]} & true")
            assert data.read(MIB) == sent
            guest.sh("wait $!")
        writer = threading.Thread(target=data.to_guest.write_bytes, args=[answered])
        writer.start()
        guest.sh(f"head -c {MIB} {device[data.name]} >/dev/vdc && sync")
        writer.join()
        assert target.read_bytes() == answered

        guest.sh("ls /tmp/stuck", code=1)
        assert guest.counters()["console"]["bytes_from_guest"] == 2 * MIB + FIFO
        assert stuck.read(MIB) == sent
        assert wait_until(lambda: guest.sh("ls /tmp/stuck", code=None) == "/tmp/stuck", 10)

        guest.sh("sleep 1000 </dev/hvc0 & true")  # the size is that of an open terminal
        guest.tell("window 132 43")
        settles(lambda: guest.sh("stty size -F /dev/hvc0"), lambda now: now == "43 132")
        counters = guest.counters()["console"]
        assert counters["bytes_from_guest"] == 3 * MIB and counters["bytes_to_guest"] == MIB, counters
    data.close()
    stuck.close()


def test_drivers_leave_and_come_back(scratch):
    """Each device is reset, and begins anew with what it was asked before."""
    contents = os.urandom(MIB)
    target = scratch / "target"
    target.write_bytes(contents)
    port = Port(scratch, "org.wyvern.again")
    with Guest(scratch, *port.flags, "--balloon", "--tap", "tap0", disks=[target], prefix=["unshare", "-n"]) as guest:
        listed = guest.sh("cd /sys/bus/virtio/devices; for d in *; do echo $d $(basename $(readlink $d/driver)) $(ls $d/block); done 2>/dev/null")
        # The shell reads from vda, and its program is on the pmem device.
        bound = [line.split()[:2] for line in listed.split("\n") if "vda" not in line and "virtio_pmem" not in line]
        drivers = sorted(driver.removeprefix("virtio_") for _, driver in bound)
        assert drivers == ["balloon", "blk", "console", "net", "rng"], listed
        guest.tell("balloon 32")
        for _ in range(3):
            for device, driver in bound:
                guest.sh(f"cd /sys/bus/virtio/drivers/{driver} && echo {device} >unbind && echo {device} >bind; cd /")
            settles(lambda: guest.counters()["balloon"]["actual_bytes"], lambda now: now == 32 * MIB)
        assert guest.sh("head -c 100 /dev/hwrng | wc -c") == "100"
        guest.sh(f"cat /dev/vdb >/dev/{ports(guest)[port.name]} & true")
        assert port.read(MIB) == contents
        host = "ip addr add 10.99.0.1/24 dev tap0 && ip link set tap0 up"
        assert call(["nsenter", "-t", guest.pid, "-n", "sh", "-c", host]).returncode == 0
        guest.sh("ifconfig eth0 10.99.0.2 netmask 255.255.255.0 up")
        assert "0% packet loss" in guest.sh("ping -c 2 -W 5 10.99.0.1")
    port.close()
