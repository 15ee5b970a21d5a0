"""A pod network of two families with ports of the host, by the CNI plugins bridge and portmap, as a kubelet asks for them; runc beside it."""

import re
import socket
import time

import pytest

from harness import cri as harness
from harness.containerd import succeed
from harness.cri import Pod
from harness.ctr import call, wait_until
from harness.pods import settled_cri

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]
BRIDGE = "wvdual0"
GATEWAYS = {4: "10.91.0.1", 6: "fd91::1"}
TCP, UDP = "TCP", "UDP"
# The machine's, in a container of busybox, whose nc knows no UDP.
PYTHON = ["/usr/lib64/ld-linux-x86-64.so.2", "--library-path", "/usr/lib/x86_64-linux-gnu", "/usr/bin/python3", "-c"]
ECHO = """
import socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 9090))
while True:
    datagrams.sendto(*datagrams.recvfrom(100))
"""
both = pytest.mark.parametrize("handler", ["wyvern", "runc"])


def network(directory) -> dict:
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": {
        "type": "host-local", "dataDir": f"{directory}/ipam", "ranges": [[{"subnet": "10.91.0.0/16"}], [{"subnet": "fd91::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}
    return {"cniVersion": "1.0.0", "name": "wyvern-dual", "plugins": [bridge, {
        "type": "portmap", "capabilities": {"portMappings": True}, "backend": "iptables"}]}


def port_rules() -> list[str]:
    """Of the plugin, one for each port and family."""
    saved = succeed("iptables-save", "-t", "nat") + succeed("ip6tables-save", "-t", "nat")
    return re.findall(r"^-A CNI-DN-.*DNAT.*$", saved, re.M)


@pytest.fixture(scope="module")
def cri(tmp_path_factory):
    why = harness.why_not()
    if why:
        pytest.skip(why)
    call(["modprobe", "-a", "br_netfilter", "iptable_nat", "ip6table_nat"])
    with settled_cri(tmp_path_factory.mktemp("wyvern-e2e-dual"), network) as one:
        yield one
    call(["ip", "link", "delete", BRIDGE])


def addresses(pod: Pod) -> dict[int, str]:
    """What CRI says of them: IP version -> address."""
    network = pod.status()["status"]["network"]
    found = [network["ip"], *(more["ip"] for more in network["additional_ips"])]
    return {6 if ":" in address else 4: address for address in found}


def url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def fetch(address: str, port: int) -> bytes:
    """From here, by HTTP; nothing: nobody answers."""
    try:
        with socket.create_connection((address, port), timeout=10) as stream:
            stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := stream.recv(4096):
                answer += piece
    except OSError:
        return b""
    return answer.partition(b"\r\n\r\n")[2]


def serve(pod: Pod) -> str:
    """A container whose port 8080 says the pod's name, by both families."""
    container = pod.run("sh", "-c", f"mkdir /www; echo {pod.name} > /www/index.html; exec httpd -f -p '[::]:8080' -h /www")
    assert wait_until(lambda: pod.exec_sync(container, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")[1] == f"{pod.name}\n", 60)
    return container


def test_pods_have_both_families(cri):
    """Their addresses, as the container and CRI tell them, and ways to each other, a pod of runc among them."""
    with Pod(cri, "wyvern") as one, Pod(cri, "wyvern") as other, Pod(cri, "runc") as theirs:
        serving = {pod: serve(pod) for pod in (one, other, theirs)}
        for pod, container in serving.items():
            said = pod.exec(container, "ip", "addr", "show", "eth0")
            has = addresses(pod)
            assert set(has) == {4, 6}
            assert f"inet {has[4]}/16 " in said and f"inet6 {has[6]}/64 scope global" in said, said
            assert wait_until(lambda: "tentative" not in pod.exec(container, "ip", "addr", "show", "eth0"), 20)  # noqa: B023
            assert f"default via {GATEWAYS[6]} " in pod.exec(container, "ip", "-6", "route")
        for source, target in ((one, other), (other, one), (one, theirs), (theirs, one)):
            for version, address in addresses(target).items():
                said = source.exec(serving[source], "wget", "-q", "-T", "20", "-O", "-", url(address, 8080))
                assert said == f"{target.name}\n", (version, source.handler, target.handler)
        for address in addresses(one).values():
            assert fetch(address, 8080) == f"{one.name}\n".encode(), address


@both
def test_ports_of_the_host_lead_into_the_pod(cri, handler):
    mappings = [{"protocol": TCP, "container_port": 8080, "host_port": 18080},
                {"protocol": UDP, "container_port": 9090, "host_port": 19090},
                {"protocol": TCP, "container_port": 8080, "host_port": 18081, "host_ip": GATEWAYS[4]}]
    assert port_rules() == []
    with Pod(cri, handler, port_mappings=mappings) as pod, Pod(cri, "wyvern") as neighbour:
        serve(pod)
        echo = pod.run(*PYTHON, ECHO, mounts=[("/usr", "/usr")])
        answer = f"{pod.name}\n".encode()
        for address in ("127.0.0.1", *GATEWAYS.values()):
            assert wait_until(lambda: fetch(address, 18080) == answer, 20), (address, port_rules())  # noqa: B023
        # That of one address is of no other.
        assert fetch(GATEWAYS[4], 18081) == answer
        assert fetch("127.0.0.1", 18081) == b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(2)
            datagrams.connect((GATEWAYS[4], 19090))

            def echoed() -> bool:
                try:
                    datagrams.send(b"by UDP")
                    return datagrams.recv(100) == b"by UDP"
                except OSError:
                    time.sleep(0.2)
                    return False

            assert wait_until(echoed, 60), pod.container(echo)
        # Another pod goes by the host's port, too.
        asks = neighbour.run()
        for address in GATEWAYS.values():
            assert neighbour.exec(asks, "wget", "-q", "-T", "20", "-O", "-", url(address, 18080)) == f"{pod.name}\n"
        assert len(port_rules()) >= 5
    assert port_rules() == []
    assert fetch(GATEWAYS[4], 18080) == b""


def test_a_port_that_another_pod_has_left_is_the_next_ones(cri):
    for _ in range(2):
        with Pod(cri, "wyvern", port_mappings=[{"protocol": TCP, "container_port": 8080, "host_port": 18080}]) as pod:
            serve(pod)
            assert wait_until(lambda: fetch("127.0.0.1", 18080) == f"{pod.name}\n".encode(), 20)  # noqa: B023
