"""virtio-net under Linux's driver: a tap in a network namespace of its own, the guest at the other end (harness/guest.py). By our device,
and with the rings given to the host's kernel (vhost-net)."""

import os
import pathlib
import re
import socket
import threading

import pytest

from harness.ctr import call, more, wait_until
from harness.guest import MIB, Guest, needs_boot_test, network_of

pytestmark = [pytest.mark.wyvern_only, needs_boot_test]

HOST, THEM = "10.99.0.1", "10.99.0.2"
SIZE = 4 * MIB
# VIRTIO §5.1.3, and what the rings have.
CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, CTRL_VQ, CTRL_RX, MQ, PACKED = 0, 1, 7, 11, 15, 17, 18, 22, 34
GUEST_USO4, GUEST_USO6, HOST_USO = 54, 55, 56
VHOST = ("--vhost-net",)
needs_vhost = pytest.mark.skipif(not pathlib.Path("/dev/vhost-net").exists(), reason="no /dev/vhost-net here")
vhost = pytest.param(VHOST, marks=needs_vhost)
vhost_shared = pytest.param((*VHOST, "--shared"), marks=[needs_vhost, pytest.mark.thorough])
either = pytest.mark.parametrize("flags", [(), pytest.param(VHOST, marks=[needs_vhost, pytest.mark.thorough])],
                                 ids=["packed", "vhost-net"])


def configure(guest: Guest) -> None:
    script = f"""echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
                 ip addr add {HOST}/24 dev tap0 && ip link set tap0 up && ip link set lo up"""
    done = call(["nsenter", "-t", guest.pid, "-n", "sh", "-c", script])
    assert done.returncode == 0, done.stderr
    guest.sh("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    guest.sh(f"ifconfig lo 127.0.0.1 up; ifconfig eth0 {THEM} netmask 255.255.255.0 up")


class Peer:
    """One connection from the guest, served on the host's side: `expected` bytes of it are collected, then it gets `answer`."""

    def __init__(self, guest: Guest, port: int, expected: int, answer: bytes = b""):
        self.received, self.expected, self.answer, self.error = bytearray(), expected, answer, None
        with network_of(guest.pid):
            self.listener = socket.create_server((HOST, port))
        self.listener.settimeout(60)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        try:
            with self.listener, self.listener.accept()[0] as connection:
                connection.settimeout(60)
                while len(self.received) < self.expected and (piece := connection.recv(1 << 16)):
                    self.received += piece
                connection.sendall(self.answer)
        except OSError as error:
            self.error = error

    def join(self):
        self.thread.join(90)
        assert not self.thread.is_alive() and not self.error, self.error


def interface(text: str, name: str) -> dict:
    """A line of /proc/net/dev."""
    values = [int(v) for v in re.search(rf"^ *{name}: *(.*)$", text, re.M)[1].split()]
    names = ["bytes", "packets", "errors", "dropped"]
    return {f"rx_{n}": v for n, v in zip(names, values)} | {f"tx_{n}": v for n, v in zip(names, values[8:])}


def tap(guest: Guest) -> dict:
    return interface(pathlib.Path(f"/proc/{guest.pid}/net/dev").read_text(), "tap0")


def average(way: str, old: dict, new: dict) -> float:
    """Bytes of a packet between two looks at the tap's counters; `way`: as the guest sees it."""
    way = {"rx": "tx", "tx": "rx"}[way]
    return (new[f"{way}_bytes"] - old[f"{way}_bytes"]) / (new[f"{way}_packets"] - old[f"{way}_packets"])


def checksum_errors(snmp: str) -> list:
    tables = re.findall(r"^(\w+): (.*)\n\1: (.*)$", snmp, re.M)
    return [(table, name, value) for table, names, values in tables for name, value in zip(names.split(), values.split())
            if name in ("InErrs", "InCsumErrors", "InHdrErrors") and value != "0"]


def threads(pid: int) -> dict:
    """Name of a thread -> numbers of the filters that its threads have."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        status = dict(re.findall(r"^(\w+):\s*(.*)$", (task / "status").read_text(), re.M))
        found.setdefault(status["Name"], []).append(int(status["Seccomp_filters"]))
    return found


def echo(guest: Guest, scratch: pathlib.Path, contents: bytes, port: int) -> None:
    """The contents of /dev/vdb to the host, and others back to /dev/vdc."""
    back = os.urandom(len(contents))
    peer = Peer(guest, port, len(contents), back)
    guest.sh(f"nc {HOST} {port} </dev/vdb >/dev/vdc && sync", seconds=90)
    peer.join()
    assert peer.received == contents
    assert (scratch / "target").read_bytes() == back


def disks(scratch: pathlib.Path, size: int) -> tuple:
    """/dev/vdb, which can be read, and /dev/vdc; what is on the first."""
    contents = os.urandom(size)
    source, target = scratch / "source", scratch / "target"
    source.write_bytes(contents)
    source.chmod(0o400)
    target.write_bytes(bytes(size))
    return [source, target], contents


def carrier(guest: Guest) -> str:
    return guest.sh("cat /sys/class/net/eth0/carrier")


def host_carrier(guest: Guest) -> bool:
    done = call(["nsenter", "-t", guest.pid, "-n", "ip", "-o", "link", "show", "tap0"])
    assert done.returncode == 0, done.stderr
    return b"NO-CARRIER" not in done.stdout


@pytest.mark.parametrize("flags", [(), more(("--split",)), more(("--shared",)), vhost, vhost_shared],
                         ids=["packed", "split", "packed-shared", "vhost-net", "vhost-net-shared"])
def test_streams_arrive_whole_both_ways(scratch, flags):
    files, sent = disks(scratch, SIZE)
    answered, target = os.urandom(SIZE), files[1]
    in_kernel = "--vhost-net" in flags
    with Guest(scratch, *flags, "--tap", "tap0", "--pairs", "2", disks=files, cpus=2, prefix=["unshare", "-n"]) as guest:
        wanted = {CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, CTRL_VQ, MQ, GUEST_USO4, GUEST_USO6, HOST_USO}
        wanted |= set() if in_kernel else {CTRL_RX}  # which does not filter
        wanted |= set() if in_kernel or "--split" in flags else {PACKED}  # nor has it packed rings
        assert guest.features("/sys/class/net/eth0") & (wanted | {CTRL_RX, PACKED}) == wanted
        # The worker has its filter over that of all threads; each pair of rings is a thread of the kernel's.
        names = threads(guest.pid)
        assert names["net"] == [2], names
        assert len(names.get(f"vhost-{guest.pid}", [])) == (2 if in_kernel else 0), names
        assert guest.sh("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu").split() == ["02:00:00:00:00:01", "1500"]
        assert guest.sh("ls /sys/class/net/eth0/queues").split() == ["rx-0", "rx-1", "tx-0", "tx-1"]
        configure(guest)
        assert wait_until(lambda: guest.sh("cat /sys/class/net/eth0/carrier") == "1", 10)
        for size in (56, 1472, 8000):  # the second fills a frame, the third takes six
            assert "2 packets transmitted, 2 packets received, 0% packet loss" in guest.sh(f"ping -c 2 -W 5 -s {size} {HOST}")

        before = tap(guest)
        peer = Peer(guest, 5001, SIZE)
        guest.sh(f"nc {HOST} 5001 </dev/vdb")
        peer.join()
        assert peer.received == sent
        middle = tap(guest)
        peer = Peer(guest, 5002, 0, answered)
        guest.sh(f"nc {HOST} 5002 >/dev/vdc && sync")
        peer.join()
        assert target.read_bytes() == answered
        after = tap(guest)
        # Segments are made by whoever is behind the device, not by the sender: a packet is longer than the MTU.
        assert average("tx", before, middle) > 3000 and average("rx", middle, after) > 3000, (before, middle, after)

        # At once, from both processors, so by both pairs of queues.
        peers = [Peer(guest, 5003 + i, SIZE, answered) for i in range(2)]
        both = [f"busybox taskset {1 << i} nc {HOST} {5003 + i} </dev/vdb >/tmp/got{i} & p{i}=$!" for i in range(2)]
        guest.sh("; ".join(both) + "; wait $p0 && wait $p1")
        for i, peer in enumerate(peers):
            peer.join()
            assert peer.received == sent
            guest.sh(f"cmp /tmp/got{i} /dev/vdc")

        def agree() -> bool:
            inside, host, ours = interface(guest.sh("cat /proc/net/dev"), "eth0"), tap(guest), guest.counters()["net"]
            shown[:] = inside, host, ours
            return (inside["tx_packets"] == ours.get("tx_packets", host["rx_packets"]) == host["rx_packets"]
                    and inside["rx_packets"] == ours.get("rx_packets", host["tx_packets"]) == host["tx_packets"])

        shown = []
        assert wait_until(agree, 10), shown
        inside, host, _ = shown
        lost = {name: value for side in (inside, host) for name, value in side.items() if re.search("errors|dropped", name) and value}
        assert not lost, shown
        assert not checksum_errors(guest.sh("cat /proc/net/snmp"))
        assert not checksum_errors(pathlib.Path(f"/proc/{guest.pid}/net/snmp").read_text())


@either
def test_streams_survive_pauses_plugged_memory_and_a_link_that_goes(scratch, flags):
    """While both pairs carry a stream: the machine stands still, all rings stop and start (memory is plugged), the cable is pulled."""
    size = 2 * SIZE
    files, sent = disks(scratch, size)
    answered = os.urandom(size)
    with Guest(scratch, *flags, "--tap", "tap0", "--pairs", "2", "--hotplug", "64", disks=files, cpus=2, prefix=["unshare", "-n"],
               cmdline="memory_hotplug.online_policy=auto-movable") as guest:
        configure(guest)
        assert wait_until(lambda: carrier(guest) == "1", 10)
        peers = [Peer(guest, 5003 + i, size, answered) for i in range(2)]
        both = [f"busybox taskset {1 << i} nc {HOST} {5003 + i} </dev/vdb >/tmp/got{i} & p{i}=$!" for i in range(2)]
        guest.sh("; ".join(both))

        def progress() -> int:
            return sum(len(peer.received) for peer in peers)

        def done() -> bool:
            return progress() == 2 * size

        interrupted = 0
        for i in range(4):
            before = progress()
            # It moves: also after a link that was down for some retransmissions.
            assert wait_until(lambda: progress() > before or done(), 60), before
            interrupted += not done()
            guest.tell("pause 20")
            guest.tell(f"plug {(32, 0)[i % 2]}")
            guest.tell("link 0")
            assert carrier(guest) == "0"
            assert wait_until(lambda: not host_carrier(guest), 10)
            guest.tell("link 1")
            assert wait_until(lambda: carrier(guest) == "1" and host_carrier(guest), 10)
        assert interrupted >= 2, "the streams were too short"
        guest.sh("wait $p0 && wait $p1", seconds=120)
        for i, peer in enumerate(peers):
            peer.join()
            assert peer.received == sent
            guest.sh(f"cat /tmp/got{i} >/dev/vdc && sync")
            assert files[1].read_bytes() == answered
        assert not checksum_errors(guest.sh("cat /proc/net/snmp"))


@either
def test_driver_leaves_and_comes_back(scratch, flags):
    files, contents = disks(scratch, MIB)
    with Guest(scratch, *flags, "--tap", "tap0", "--pairs", "2", disks=files, cpus=2, prefix=["unshare", "-n"]) as guest:
        device = guest.sh("basename $(readlink -f /sys/class/net/eth0/device)")
        for i in range(3):
            configure(guest) if i == 0 else guest.sh(f"ifconfig eth0 {THEM} netmask 255.255.255.0 up")
            assert wait_until(lambda: carrier(guest) == "1", 10)
            echo(guest, scratch, contents, 5001 + i)
            guest.sh(f"cd /sys/bus/virtio/drivers/virtio_net && echo {device} >unbind; cd /; ! test -e /sys/class/net/eth0")
            guest.tell("link 0")  # also while nobody drives it
            guest.tell("link 1")
            guest.sh(f"cd /sys/bus/virtio/drivers/virtio_net && echo {device} >bind; cd /")
