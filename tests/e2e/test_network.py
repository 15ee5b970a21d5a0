"""The network of a pod reaches its containers: what is in the namespace that the spec names, or that a client fills later, is in the guest.

The pod's end is one side of a veth pair, as a CNI plugin makes it; the other end and its addresses are in a namespace of the test's own.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import subprocess
import time

import pytest

from harness.containerd import succeed
from harness.ctr import BUSYBOX, RUNTIME, Container, call, ctr, run, unique, wait_until

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]

ALONE = ("ip", "-json")
MIB = 1 << 20


class Pod:
    """Two namespaces, `pod` and `host`, and a veth pair between them; a default route by the host's end."""

    def __init__(self):
        self.pod, self.host = unique("pod"), unique("host")
        self.links = 0

    def __enter__(self):
        for name in (self.pod, self.host):
            succeed("ip", "netns", "add", name)
            self.ip(name, "link", "set", "lo", "up")
        self.add("eth0")
        return self

    def __exit__(self, *_):
        for name in (self.pod, self.host):
            call(["ip", "netns", "delete", name])

    @staticmethod
    def ip(namespace, *words) -> str:
        return succeed("ip", "-n", namespace, *words)

    def add(self, name, mtu=1500) -> int:
        """Another pair, the pod's end called `name`; its number: it is 10.88.N.2, the host's end 10.88.N.1."""
        number = self.links
        self.links += 1
        other = f"h{number}"
        self.ip(self.host, "link", "add", other, "mtu", str(mtu), "type", "veth", "peer", "name", name, "mtu", str(mtu), "netns", self.pod)
        for namespace, link, last in ((self.host, other, 1), (self.pod, name, 2)):
            self.ip(namespace, "addr", "add", f"10.88.{number}.{last}/24", "dev", link)
            self.ip(namespace, "addr", "add", f"fd88:{number}::{last}/64", "dev", link, "nodad")
            self.ip(namespace, "link", "set", link, "up")
        if number == 0:
            self.ip(self.pod, "route", "add", "default", "via", "10.88.0.1")
            self.ip(self.pod, "route", "add", "default", "via", "fd88:0::1")
        return number

    @property
    def flags(self):
        return ["--with-ns", f"network:/run/netns/{self.pod}"]

    def qdiscs(self) -> list:
        return [q["kind"] for q in json.loads(succeed("tc", "-n", self.pod, "-json", "qdisc", "show", "dev", "eth0"))]

    def left(self) -> list:
        """What of ours is in the pod's namespace."""
        links = [link["ifname"] for link in json.loads(succeed(*ALONE, "-n", self.pod, "link"))]
        return [name for name in links if name.startswith("wv")] + [kind for kind in self.qdiscs() if kind in ("ingress", "clsact")]


@pytest.fixture(scope="module", autouse=True)
def named_namespaces():
    """The first makes a mount that stays."""
    succeed("ip", "netns", "add", "wyvern-first")
    succeed("ip", "netns", "delete", "wyvern-first")


@pytest.fixture
def pod():
    with Pod() as one:
        yield one


def addresses(text: str) -> list:
    """Of `ip addr` of busybox, without what differs between any two hosts."""
    return sorted(re.findall(r"^\s+(inet6? \S+|link/ether \S+)|^\d+: (\S+?)[@:].* (mtu \d+)", text, re.M))


def test_containers_have_what_is_in_the_namespace(pod):
    pod.ip(pod.pod, "route", "add", "10.99.0.0/16", "via", "10.88.0.7", "metric", "5")
    pod.ip(pod.pod, "neigh", "add", "10.88.0.7", "lladdr", "02:00:00:00:00:77", "dev", "eth0", "nud", "permanent")
    script = "ip addr show eth0; ip route; ip -6 route | grep default; cat /proc/net/arp"
    theirs = call(["ctr", "run", "--rm", "--runtime", "io.containerd.runc.v2", *pod.flags, BUSYBOX, unique(), "sh", "-c", script])
    ours = run(BUSYBOX, "sh", "-c", script, flags=pod.flags)
    assert theirs.returncode == ours.returncode == 0, ours.stderr.decode()
    theirs, ours = theirs.stdout.decode(), ours.stdout.decode()
    assert len(addresses(theirs)) >= 4, theirs  # name and MTU, MAC, both families
    assert addresses(ours) == addresses(theirs), (ours, theirs)
    for text in (r"^default via 10\.88\.0\.1 dev eth0", r"^10\.99\.0\.0/16 via 10\.88\.0\.7 dev eth0\s+metric 5",
                 r"^default via fd88:", r"^10\.88\.0\.7 .* 02:00:00:00:00:77 "):
        assert re.search(text, theirs, re.M), theirs
        assert re.search(text, ours, re.M), ours
    assert pod.left() == []


def test_packets_go_both_ways_and_nothing_is_left(pod):
    with Container(flags=pod.flags) as container:
        for target in ("10.88.0.1", "fd88:0::1"):
            done = container.exec("ping", "-c", "3", "-W", "5", target)
            assert done.returncode == 0, done.stdout.decode()
        # Of the whole MTU, and of more.
        for words in (["10.88.0.2"], ["fd88:0::2"], ["-s", "1472", "10.88.0.2"], ["-s", "4000", "10.88.0.2"]):
            done = call(["ip", "netns", "exec", pod.host, "busybox", "ping", "-c", "3", "-W", "5", *words])
            assert done.returncode == 0, (words, done.stdout.decode(), done.stderr.decode())
        assert len(pod.left()) == 2
    assert wait_until(lambda: pod.left() == [], 10), pod.left()


# Gives zeros over HTTP to who asks at port 8000; takes what comes to port 8001, and says its digest.
SERVER = """
import hashlib, socket, sys
giving, taking = socket.create_server(("10.88.0.1", 8000)), socket.create_server(("10.88.0.1", 8001))
print("up", flush=True)
with giving.accept()[0] as stream:
    stream.recv(4096)
    stream.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
    for _ in range(int(sys.argv[1]) >> 20):
        stream.sendall(bytes(1 << 20))
digest = hashlib.sha256()
with taking.accept()[0] as stream:
    while piece := stream.recv(1 << 20):
        digest.update(piece)
print(digest.hexdigest(), flush=True)
"""


def test_streams_both_ways_arrive_whole(pod):
    size = 64 * MIB
    wanted = hashlib.sha256(bytes(size)).hexdigest()
    with Container(flags=pod.flags) as container, \
            subprocess.Popen(["ip", "netns", "exec", pod.host, "python3", "-c", SERVER, str(size)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == b"up\n"
            took = container.exec("sh", "-c", "wget -q -O - http://10.88.0.1:8000/ | sha256sum")
            assert took.stdout.decode().split()[:1] == [wanted], took
            gave = container.exec("sh", "-c", f"head -c {size} /dev/zero | nc 10.88.0.1 8001")
            assert gave.returncode == 0, gave
            assert server.stdout.readline().decode().strip() == wanted
        finally:
            server.kill()


@pytest.mark.parametrize("annotations", [
    {"io.wyvern.network.rx_rate": "8M", "io.wyvern.network.tx_rate": "16M"},
    {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M"}], ids=["ours", "kubernetes"])
def test_rates_hold_both_ways(pod, annotations):
    size = 4 * MIB
    flags = [*pod.flags, *(word for item in annotations.items() for word in ("--annotation", "=".join(item)))]
    with Container(flags=flags) as container, \
            subprocess.Popen(["ip", "netns", "exec", pod.host, "python3", "-c", SERVER, str(size)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == b"up\n"
            seconds = []
            for command in ("wget -q -O /dev/null http://10.88.0.1:8000/", f"head -c {size} /dev/zero | nc 10.88.0.1 8001"):
                start = time.monotonic()
                assert container.exec("sh", "-c", command).returncode == 0
                seconds.append(time.monotonic() - start)
            server.stdout.readline()  # its digest: all has arrived
        finally:
            server.kill()
    # 4.19 and 2.10 s, less a tenth of a second that may come at once. How near to the limit TCP comes is the emulated machine's matter, where each
    # turn of a few packets takes milliseconds: NetDeviceTest.LimitsAreReachedBothWays.
    assert 4.0 < seconds[0] < 60 and 1.9 < seconds[1] < 60, seconds


def test_interface_that_comes_later_by_the_pid(pod):
    """As docker from 28 on and `ctr run --cni` do it: /proc/<pid>/ns/net is the way into a namespace that the runtime made."""
    name = unique()
    assert ctr("container", "create", "--runtime", RUNTIME, BUSYBOX, name, "sleep", "100000").returncode == 0
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: (ctr("task", "kill", "-s", "SIGKILL", name), ctr("task", "delete", "--force", name),
                                ctr("container", "delete", name)))
        assert ctr("task", "start", "--detach", "--null-io", name).returncode == 0
        pid = next(int(line.split()[1]) for line in ctr("task", "ls").stdout.decode().splitlines() if line.startswith(name))
        pod.ip(pod.host, "link", "add", "late", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        inside = ["nsenter", "-t", str(pid), "-n", "ip"]
        succeed(*inside, "addr", "add", "10.77.0.2/24", "dev", "eth0")
        succeed(*inside, "link", "set", "eth0", "up")
        pod.ip(pod.host, "addr", "add", "10.77.0.1/24", "dev", "late")
        pod.ip(pod.host, "link", "set", "late", "up")

        def answers():
            return ctr("task", "exec", "--exec-id", unique("e"), name, "ping", "-c", "1", "-W", "2", "10.77.0.1").returncode == 0

        assert wait_until(answers, 30)


@contextlib.contextmanager
def cni_network(name: str, subnet: str):
    """A bridge where `ctr run --cni` looks for one."""
    plugins, networks = pathlib.Path("/opt/cni/bin"), pathlib.Path("/etc/cni/net.d")
    networks.mkdir(parents=True, exist_ok=True)
    made = not plugins.exists()
    if made:
        plugins.parent.mkdir(parents=True, exist_ok=True)
        plugins.symlink_to("/usr/lib/cni")
    path = networks / f"00-{name}.conflist"
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [
        {"type": "bridge", "bridge": name, "isGateway": True, "mtu": 1450,
         "ipam": {"type": "host-local", "subnet": f"{subnet}.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}]}))
    try:
        yield pathlib.Path("/var/lib/cni/networks", name)
    finally:
        path.unlink()
        if made:
            plugins.unlink()
        call(["ip", "link", "delete", name])


@pytest.mark.skipif(not pathlib.Path("/usr/lib/cni/bridge").exists(), reason="no CNI plugins in this machine")
def test_scenario_51_interface_between_create_and_start():
    """`ctr run --cni`; docker does it this way from 28 on."""
    with cni_network("wve2e", "10.74.9") as leases:
        done = run(BUSYBOX, "sh", "-c", "ip addr show eth0; ip route; ping -c 2 -W 5 10.74.9.1", flags=["--cni"])
        said = done.stdout.decode()
        assert done.returncode == 0 and " 0% packet loss" in said, (said, done.stderr.decode())
        assert " mtu 1450 " in said and "inet 10.74.9." in said and "default via 10.74.9.1" in said, said
        assert list(leases.glob("10.74.9.*")) == []  # ctr has undone it


def test_interfaces_come_and_go_while_it_runs(pod):
    with Container(flags=pod.flags) as container:
        number = pod.add("net1", mtu=1400)
        assert wait_until(lambda: container.exec("ping", "-c", "1", "-W", "2", f"10.88.{number}.1").returncode == 0, 30)
        assert b"mtu 1400" in container.exec("ip", "link", "show", "net1").stdout
        pod.ip(pod.pod, "addr", "add", "10.88.0.9/24", "dev", "eth0")
        assert wait_until(lambda: b"10.88.0.9/24" in container.exec("ip", "addr", "show", "eth0").stdout, 30)
        pod.ip(pod.pod, "link", "delete", "net1")
        assert wait_until(lambda: container.exec("ip", "link", "show", "net1").returncode != 0, 30)
        assert container.exec("ping", "-c", "1", "-W", "5", "10.88.0.1").returncode == 0


@pytest.mark.parametrize("victim", ["wyvern-vmm", "containerd-shim-wyvern-v2"])
def test_kill_9_leaves_nothing_in_the_namespace(pod, victim):
    with Container(flags=pod.flags) as container:
        assert len(pod.left()) == 2
        pids = [path.parent.name for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
                if victim in path.read_bytes().split(b"\0")[0].decode(errors="replace")]
        call(["kill", "-9", *pids])
    assert wait_until(lambda: pod.left() == [], 20), pod.left()


def test_loopback_alone_without_a_network():
    done = run(BUSYBOX, "sh", "-c", "ip -o link; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up")
    assert done.returncode == 0 and done.stdout.decode().splitlines()[-1] == "up"
    assert len(re.findall(r"^\d+:", done.stdout.decode(), re.M)) == 1, done.stdout


def test_host_network_is_refused_and_the_hosts_is_as_before():
    before = succeed("ip", "-o", "addr"), succeed("tc", "qdisc", "show")
    done = run(BUSYBOX, "true", flags=["--net-host"])
    assert done.returncode != 0 and b"host's network" in done.stderr, done.stderr
    assert (succeed("ip", "-o", "addr"), succeed("tc", "qdisc", "show")) == before
