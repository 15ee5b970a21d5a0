"""Our network device behind other people's front-ends, over a tap in a network namespace of the test's own: QEMU 7.2 and 10 with a Linux
guest, and DPDK's driver for vhost-user (testpmd with net_virtio_user)."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import subprocess

import pytest

import emulated

SERVE = emulated.UNIT / "vhost_user/testing/vhost_user_serve"
TAP = "wvnet0"
# The address of vhost_user_serve's device; a front-end may give its guest another one.
MAC = "52:54:00:12:34:57"
PACKED = 34  # VIRTIO 1.4 §6
MQ = 22  # §5.1.4
MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace and a tap need root"),
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun here"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here (Debian package iproute2)")]

NAMESPACE = f"""ip link set lo up && ip tuntap add dev {TAP} mode tap $1 && shift && ip address add 192.0.2.1/24 dev {TAP} && ip link set {TAP} up || exit
exec "$@"
"""


@contextlib.contextmanager
def serving(socket: pathlib.Path, pairs: int = 1):
    """vhost_user_serve in a namespace; gives the words that run a program beside it."""
    command = ["unshare", "--net", "sh", "-c", NAMESPACE, "sh", "multi_queue" if pairs > 1 else "", SERVE, "net", socket, TAP, pairs]
    with emulated.server(command, socket) as served:
        yield ["nsenter", f"--net=/proc/{served.pid}/ns/net"]


# The host's end of the stream: says that it listens, sends a file, takes as much as comes, and says what that was.
PEER = """
import hashlib, socket, sys, threading
socket.setdefaulttimeout(90)
with socket.create_server(("192.0.2.1", 5000)) as listener:
    print("listening", flush=True)
    stream, _ = listener.accept()
    def send():
        stream.sendall(open(sys.argv[1], "rb").read())
        stream.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    came, digest = 0, hashlib.sha256()
    while piece := stream.recv(1 << 20):
        came += len(piece)
        digest.update(piece)
    sender.join()
    print(came, digest.hexdigest(), flush=True)
"""

GUEST = f"""cd /sys/class/net/eth0/device
say features $(cat features)
ip link set lo up
ip address add 192.0.2.2/24 dev eth0
ip link set eth0 up
# The first may be lost to the address being looked up; a frame, then one of six fragments.
ping -c 3 -w 20 192.0.2.1 >/dev/null || say no answer
say pings $(ping -c 4 -s 1400 -w 30 192.0.2.1 | grep -o '[0-9]* packets received') $(ping -c 4 -s 8000 -w 30 192.0.2.1 | grep -o '[0-9]* packets received')
dd if=/dev/urandom of=/up bs=64k count={8 * MIB // 65536} 2>/dev/null
say up $(sha256sum </up)
nc 192.0.2.1 5000 </up >/down
say down $(sha256sum </down)
say lost $(cat statistics/rx_dropped ../net/eth0/statistics/rx_errors ../net/eth0/statistics/tx_errors 2>/dev/null)
poweroff -f
"""


@pytest.mark.parametrize("version,packed", [("7.2", "off"), pytest.param("10", "off", marks=pytest.mark.thorough), ("10", "on")])
def test_qemu(tmp_path, version, packed):
    """Pings of a frame and of fragments, and a stream both ways at once, with the guest's offloads in use."""
    words = emulated.qemu(version)
    # 7.2 without KVM follows a null pointer when a vhost-user network device with MSI-X starts, whatever the back-end.
    vectors = ",vectors=0" if version == "7.2" else ""
    content = os.urandom(8 * MIB)
    (tmp_path / "content").write_bytes(content)
    socket = tmp_path / "net.sock"
    with serving(socket) as inside, \
            subprocess.Popen([*inside, "/usr/bin/python3", "-c", PEER, tmp_path / "content"], stdout=subprocess.PIPE, text=True) as peer:
        try:
            assert peer.stdout.readline() == "listening\n"
            # Without the driver's ROM, whose own boot would be another driver on the same rings: test_testpmd has two in a row.
            with emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, GUEST),
                                ["-chardev", f"socket,id=n,path={socket}", "-netdev", "vhost-user,id=net,chardev=n",
                                 "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=,packed={packed}{vectors}"]) as guest:
                answers = dict(line.partition(" ")[::2] for line in guest.finish())
                received = peer.stdout.readline().split()
        finally:
            peer.kill()
        said = guest.said()
    features = {bit for bit, letter in enumerate(answers["features"]) if letter == "1"}
    assert (PACKED in features) == (packed == "on"), said
    # Checksums and segments: CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF; so a packet is up to 64 KiB in either direction.
    assert {0, 1, 7, 11, 15} <= features, answers
    assert answers["pings"] == "4 packets received 4 packets received", said
    assert received == [str(8 * MIB), answers["up"].split()[0]], said
    assert answers["down"] == f"{hashlib.sha256(content).hexdigest()} -", said


# In the guest: `channels [N]` sets how many queue pairs are in use, and tells that and how often each transmit queue has notified: what
# Linux counts by queue without netlink.
CHANNELS = r"""
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
static int ask(void *command) {
  struct ifreq request = {.ifr_name = "eth0"};
  static int fd = -1;
  if (fd < 0) fd = socket(AF_INET, SOCK_DGRAM, 0);
  request.ifr_data = command;
  return ioctl(fd, SIOCETHTOOL, &request);
}
int main(int argc, char **argv) {
  struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
  if (ask(&channels)) return 1;
  if (argc > 1) {
    channels.cmd = ETHTOOL_SCHANNELS;
    channels.combined_count = (unsigned)atoi(argv[1]);
    if (ask(&channels)) return 1;
  }
  printf("pairs %u of %u", channels.combined_count, channels.max_combined);
  struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
  if (ask(&driver)) return 1;
  struct ethtool_gstrings *names = calloc(1, sizeof(*names) + driver.n_stats * ETH_GSTRING_LEN);
  struct ethtool_stats *values = calloc(1, sizeof(*values) + driver.n_stats * 8);
  names->cmd = ETHTOOL_GSTRINGS;
  names->string_set = ETH_SS_STATS;
  names->len = values->n_stats = driver.n_stats;
  values->cmd = ETHTOOL_GSTATS;
  if (ask(names) || ask(values)) return 1;
  for (unsigned i = 0; i < driver.n_stats; ++i) {
    const char *name = (const char *)names->data + i * ETH_GSTRING_LEN;
    if (strncmp(name, "tx", 2) == 0 && strstr(name, "_kicks")) printf(" %s=%llu", name, (unsigned long long)values->data[i]);
  }
  printf("\n");
  return 0;
}
"""

# By XPS a CPU sends by the queue of its number; masks are of one CPU each.
GUEST_OF_PAIRS = """ip link set lo up
ip address add 192.0.2.2/24 dev eth0
ip link set eth0 up
say mtu $(cat /sys/class/net/eth0/mtu)
ping -c 3 -w 20 192.0.2.1 >/dev/null || say no answer
pings() {
  for mask in 1 2; do
    say $1 by $mask $(taskset $mask ping -c 4 -w 30 192.0.2.1 | grep -o '[0-9]* packets received')
  done
}
say first $(channels)
pings first
say then $(channels)
say second $(channels 1)
pings second
say third $(channels 2)
pings third
say fourth $(channels)
say ready
sleep 1000
"""

# Waits for a packet of RARP, and tells its addresses and what it asks.
RARP = """
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035))
packets.bind((sys.argv[1], 0x8035))
packets.settimeout(60)
print("listening", flush=True)
packet = packets.recv(2048)
print(len(packet), packet[:6].hex(), packet[6:12].hex(), packet[20:22].hex(), packet[22:28].hex(), flush=True)
"""


def compiled(directory: pathlib.Path, name: str, source: str) -> pathlib.Path:
    compiler = shutil.which("gcc") or pytest.skip("no gcc for the guest's program")
    program = directory / name
    program.with_suffix(".c").write_text(source)
    subprocess.run([compiler, "-static", "-O1", "-o", program, program.with_suffix(".c")], check=True)
    return program


def notified_by(answer: str) -> dict:
    """By number of the transmit queue, what `channels` says of it."""
    return {int(number): int(count) for number, count in re.findall(r" tx(\d+)_kicks=(\d+)", answer)}


@pytest.mark.parametrize("version", [pytest.param("7.2", marks=pytest.mark.thorough), "10"])
def test_qemu_with_two_pairs(tmp_path, version):
    """The guest has one pair, then two, then one in use (QEMU keeps the control queue, and enables rings); the MTU and an announcement
    that QEMU hands to the back-end."""
    words = emulated.qemu(version)
    vectors = 0 if version == "7.2" else 6  # see test_qemu
    socket = tmp_path / "net.sock"
    program = compiled(tmp_path, "channels", CHANNELS)
    with serving(socket, pairs=2) as inside, \
            subprocess.Popen([*inside, "/usr/bin/python3", "-c", RARP, TAP], stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout.readline() == "listening\n"
            with emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, GUEST_OF_PAIRS, [program]),
                                ["-smp", "2", "-chardev", f"socket,id=n,path={socket}", "-netdev", "vhost-user,id=net,chardev=n,queues=2",
                                 "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=,mq=on,vectors={vectors},host_mtu=1400,"
                                            "guest_announce=off"]) as guest:
                guest.wait_for("ready")
                guest.command("announce-self", initial=50, max=550, rounds=2, step=50)
                announced = listener.stdout.readline().split()
                answers, requests = guest.answers(), guest.requests()
        finally:
            listener.kill()
        said = guest.said()
    counts = {answer.split()[0]: answer for answer in answers if " of 2 " in answer}
    assert [counts[turn].split()[2] for turn in ("first", "second", "third", "fourth")] == ["2", "1", "2", "2"], said
    assert [answer for answer in answers if " by " in answer] == [
        f"{turn} by {mask} 4 packets received" for turn in ("first", "second", "third") for mask in (1, 2)], said
    # By the second CPU's queue: what is sent while there are two pairs, and nothing while there is one.
    first, then, third, fourth = (notified_by(counts[turn])[1] for turn in ("first", "then", "third", "fourth"))
    assert then >= first + 4 and third == then and fourth >= third + 4, said
    assert "mtu 1400" in answers and 20 in requests, (answers, requests)
    assert announced == ["60", "f" * 12, MAC.replace(":", ""), "0003", MAC.replace(":", "")] and 19 in requests, (announced, said)
    assert "refused: " not in said and "tx_inactive" not in said, said


# Frames of all sizes to a station that sends each back with its addresses exchanged: every one comes, with every byte.
FRAMES = """
import random, select, socket, sys, time
station = bytes.fromhex(sys.argv[2].replace(":", ""))
own = bytes.fromhex("025400000001")
experiment = 0x88b5  # of no protocol that the host would answer
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(experiment))
packets.bind((sys.argv[1], experiment))
random.seed(1)

def frame(number):
    size = 60 + number * 37 % 1455
    return station + own + experiment.to_bytes(2, "big") + number.to_bytes(4, "big") + random.Random(number).randbytes(size - 18)

def take(seconds, wanted):
    while select.select([packets], [], [], seconds)[0]:
        got, origin = packets.recvfrom(2048)
        if origin[2] != socket.PACKET_OUTGOING and got[:6] == own:
            number = int.from_bytes(got[14:18], "big")
            assert got == own + station + frame(number)[12:], f"frame {number} of {len(got)} bytes is another"
            wanted.discard(number)
            return True
    return False

for attempt in range(300):  # until the station is there
    packets.send(frame(0))
    if take(0.1, set()):
        break
else:
    sys.exit("nothing comes back")
while take(0.3, set()):
    pass
wanted = set()
for number in range(1, 2001):
    wanted.add(number)
    packets.send(frame(number))
    while len(wanted) >= 32 and take(5, wanted):
        pass
    assert len(wanted) < 32, f"frames {sorted(wanted)} do not come back"
while wanted and take(5, wanted):
    pass
print(f"missing {sorted(wanted)}")
"""


@pytest.mark.parametrize("packed,in_order,pairs", [(0, 0, 1), pytest.param(0, 1, 1, marks=pytest.mark.thorough),
                                                   pytest.param(1, 0, 1, marks=pytest.mark.thorough), (1, 1, 1), (0, 0, 2),
                                                   pytest.param(1, 0, 2, marks=pytest.mark.thorough)])
def test_testpmd(tmp_path, packed, in_order, pairs):
    """DPDK's driver twice in a row. Each of its options takes another of its paths; IN_ORDER it asks for, and does not get. Its control
    queue is its own, too."""
    program = shutil.which("dpdk-testpmd") or pytest.skip("no dpdk-testpmd here (Debian package dpdk-dev)")
    socket = tmp_path / "net.sock"
    with serving(socket, pairs) as inside:
        for turn in ("first", "second"):
            log = tmp_path / f"testpmd-{turn}.txt"
            command = [program, "--no-huge", "--no-shconf", "--no-pci", "-m", "256", "-l", "0,1", "--log-level=pmd.net.virtio.init:debug",
                       "--vdev", f"net_virtio_user0,path={socket},queues={pairs},cq={pairs - 1},packed_vq={packed},in_order={in_order},mac={MAC}",
                       "--", f"--rxq={pairs}", f"--txq={pairs}", "--forward-mode=macswap", "--port-topology=loop", "--auto-start", "--total-num-mbufs=2048", "--stats-period=60"]
            with open(log, "wb") as out, \
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT) as driver:
                try:
                    done = subprocess.run([*inside, "/usr/bin/python3", "-c", FRAMES, TAP, MAC], capture_output=True, text=True, timeout=120,
                                          check=False)
                finally:
                    driver.terminate()
                    driver.wait(timeout=20)
            said = done.stdout + done.stderr + log.read_text()[-6000:] + emulated.log_of(socket).read_text()
            assert done.stdout == "missing []\n", said
            agreed = [line.rsplit("= ", 1)[1] for line in log.read_text().splitlines() if "features after negotiate" in line]
            assert agreed and all((int(bits, 16) >> PACKED & 1) == packed for bits in agreed), said
            assert all(int(bits, 16) >> 35 & 1 == 0 for bits in agreed), said
            assert all(int(bits, 16) >> MQ & 1 == pairs - 1 for bits in agreed), said
        assert "tx_inactive" not in emulated.log_of(socket).read_text(), said
