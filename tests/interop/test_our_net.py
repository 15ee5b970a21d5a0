"""Our network device behind other people's front-ends, over a tap in a network namespace of the test's own: QEMU 7.2 and 10 with a Linux
guest, and DPDK's driver for vhost-user (testpmd with net_virtio_user)."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess

import pytest

import emulated

SERVE = emulated.UNIT / "vhost_user/testing/vhost_user_serve"
TAP = "wvnet0"
# The address of vhost_user_serve's device; a front-end may give its guest another one.
MAC = "52:54:00:12:34:57"
PACKED = 34  # VIRTIO 1.4 §6
MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace and a tap need root"),
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun here"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here (Debian package iproute2)")]

NAMESPACE = f"""ip link set lo up && ip tuntap add dev {TAP} mode tap && ip address add 192.0.2.1/24 dev {TAP} && ip link set {TAP} up || exit
exec "$@"
"""


@contextlib.contextmanager
def serving(socket: pathlib.Path):
    """vhost_user_serve in a namespace; gives the words that run a program beside it."""
    command = ["unshare", "--net", "sh", "-c", NAMESPACE, "sh", SERVE, "net", socket, TAP]
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


@pytest.mark.parametrize("packed,in_order", [(0, 0), pytest.param(0, 1, marks=pytest.mark.thorough),
                                             pytest.param(1, 0, marks=pytest.mark.thorough), (1, 1)])
def test_testpmd(tmp_path, packed, in_order):
    """DPDK's driver twice in a row. Each of its options takes another of its paths; IN_ORDER it asks for, and does not get."""
    program = shutil.which("dpdk-testpmd") or pytest.skip("no dpdk-testpmd here (Debian package dpdk-dev)")
    socket = tmp_path / "net.sock"
    with serving(socket) as inside:
        for turn in ("first", "second"):
            log = tmp_path / f"testpmd-{turn}.txt"
            command = [program, "--no-huge", "--no-shconf", "--no-pci", "-m", "256", "-l", "0,1", "--log-level=pmd.net.virtio.init:debug",
                       "--vdev", f"net_virtio_user0,path={socket},queues=1,packed_vq={packed},in_order={in_order},mac={MAC}",
                       "--", "--forward-mode=macswap", "--port-topology=loop", "--auto-start", "--total-num-mbufs=2048", "--stats-period=60"]
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
