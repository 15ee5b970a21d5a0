"""Part bridge: TCP from a container to another over a bridge of the host, as docker's and CNI's containers talk; runc's in the same namespaces."""

import contextlib
import json
import pathlib
import subprocess
import sys
import time

import operations
from figures import keep

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e"))
from harness.containerd import succeed  # noqa: E402
from harness.ctr import DEBIAN, WYVERN, call, unique  # noqa: E402

RUNTIMES = {"ours": WYVERN, "peer": "io.containerd.runc.v2"}
BRIDGE = "wvbench0"
# The host's ends of the namespaces' interfaces; iproute2's word.
JOIN = ["ip link set wvbench2 master wvbench0", "ip link set wvbench3 master wvbench0"]
SUBNET = "10.87.0"
PORT = 5000
STREAM_MIB = 64
ROUND_TRIPS = 500
# Takes one connection after another: a stream, which it counts, or bytes that it gives back.
SERVER = f"""
import socket
server = socket.create_server(("", {PORT}))
while True:
    stream = server.accept()[0]
    if stream.recv(1) == b"s":
        taken = 0
        while piece := stream.recv(1 << 18):
            taken += len(piece)
        stream.sendall(taken.to_bytes(8, "big"))
    else:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while piece := stream.recv(1):
            stream.sendall(piece)
    stream.close()
"""
# Timed until the server says that it has all.
CLIENT = f"""
import json, socket, sys, time
def connect(kind):
    stream = socket.create_connection(("{SUBNET}.2", {PORT}), 60)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(kind)
    return stream
stream, data = connect(b"s"), bytes(1 << 18)
begin = time.monotonic()
for _ in range({STREAM_MIB} * 4):
    stream.sendall(data)
stream.shutdown(socket.SHUT_WR)
taken = int.from_bytes(stream.recv(8), "big")
rate = taken / (time.monotonic() - begin)
assert taken == {STREAM_MIB} << 20, taken
stream = connect(b"r")
stream.sendall(b"x"); stream.recv(1)
begin = time.monotonic()
for _ in range({ROUND_TRIPS}):
    stream.sendall(b"x"); stream.recv(1)
print(json.dumps(dict(bytes_per_s=rate, round_trip_us=(time.monotonic() - begin) / {ROUND_TRIPS} * 1e6)))
"""


@contextlib.contextmanager
def _namespaces():
    """Two, each on the bridge by a pair of interfaces: .2 and .3."""
    names = [unique("bench"), unique("bench")]
    with contextlib.ExitStack() as stack:
        succeed("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(call, ["ip", "link", "delete", BRIDGE])
        succeed("ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        succeed("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(names, 2):
            succeed("ip", "netns", "add", name)
            stack.callback(call, ["ip", "netns", "delete", name])
            port = f"wvbench{number}"
            succeed("ip", "link", "add", port, "up", "type", "veth", "peer", "name", "eth0", "netns", name)
            succeed("ip", "-n", name, "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                succeed("ip", "-n", name, "link", "set", link, "up")
        for line in JOIN:
            succeed(*line.split())
        yield names


def _once(runtime: str, namespaces: list) -> dict:
    def argv(namespace, program, *flags):
        return ["ctr", "run", "--rm", "--runtime", runtime, "--with-ns", f"network:/run/netns/{namespace}", *flags, DEBIAN, unique("bench"),
                "python3", "-c", program]

    server = argv(namespaces[0], SERVER)
    with subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            # Somebody listens: told from the bridge, which is not measured.
            deadline = time.monotonic() + 60
            while call(["python3", "-c", f"import socket; socket.create_connection(('{SUBNET}.2', {PORT}), 1).sendall(b'r')"]).returncode != 0:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no server with {runtime}")
            done = call(argv(namespaces[1], CLIENT), timeout=900)
            if done.returncode != 0:
                raise RuntimeError(f"client with {runtime}: {done.stderr.decode()}")
            return json.loads(done.stdout)
        finally:
            name = server[server.index("python3") - 1]
            call(["ctr", "task", "kill", "-s", "SIGKILL", name])
            process.wait(60)


def bridge():
    with _namespaces() as namespaces:
        found = {side: [] for side in RUNTIMES}
        for _ in range(operations.rounds + 1):
            for side, runtime in RUNTIMES.items():
                found[side].append(_once(runtime, namespaces))
    # The first of each is not counted.
    for figure in ("bytes_per_s", "round_trip_us"):
        keep(f"bridge-{figure}", **{side: [run[figure] for run in runs[1:]] for side, runs in found.items()})
