"""A network by passt: `wyvern run --net user`, and containers that ask for the host's network where network.host says passt.

Servers listen on the machine's loopback, with network.host_loopback: no interface of the machine is made or changed.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess

import pytest

from harness.ctr import BUSYBOX, Container, call, run, unique, wait_until
from test_wyvern_cli import LAYOUT, Running, wyvern

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]
CONF_D = pathlib.Path("/etc/wyvern/conf.d")

if not os.access("/usr/bin/passt", os.X_OK) or b"--vhost-user" not in call(["/usr/bin/passt", "--help"]).stdout:
    pytest.skip("no passt with vhost-user in this machine (Debian 13's package passt)", allow_module_level=True)

# Says what it was told, and the other way round, once for each line on its standard input.
SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    stream = server.accept()[0]
    said = b""
    while piece := stream.recv(65536):
        said += piece
    stream.sendall(said[::-1])
    stream.close()
"""


@contextlib.contextmanager
def configured(**keys):
    CONF_D.mkdir(parents=True, exist_ok=True)
    path = CONF_D / "90-user-network.yaml"
    path.write_text("network:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items()))
    try:
        yield
    finally:
        path.unlink()


@pytest.fixture
def server():
    """Its port on the machine's loopback."""
    with subprocess.Popen(["python3", "-c", SERVER], stdout=subprocess.PIPE) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def passts() -> list:
    return [int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/comm")
            if path.read_text().startswith("passt")]


def ask(port: int) -> str:
    return f"printf hello | nc 10.0.2.2 {port}"


def test_run_reaches_the_hosts_loopback_where_it_may(server):
    with configured(host_loopback="true"):
        done = wyvern("run", "--net", "user", LAYOUT, "--", "sh", "-c",
                      f"{ask(server)}; echo; ip -o -4 addr show eth0; ip route; cat /etc/resolv.conf; ip -o link show eth0")
    said = done.stdout.decode()
    assert done.returncode == 0 and said.startswith("olleh\n"), (said, done.stderr.decode())
    assert "inet 10.0.2.15/24 " in said and "default via 10.0.2.2 dev eth0" in said and " mtu 65520 " in said, said
    assert "nameserver 10.0.2.3\n" in said or not pathlib.Path(LAYOUT, "etc/resolv.conf").exists(), said


def test_run_does_not_where_it_may_not(server):
    done = wyvern("run", "--net", "user", LAYOUT, "--", "sh", "-c", f"timeout 10 sh -c '{ask(server)}'; echo ended")
    assert done.stdout == b"ended\n", done


def test_published_port_leads_in():
    flags = ["--net", "user", "--publish", "127.0.0.1:18080:80"]
    with Running("sh", "-c", "echo up; while nc -l -p 80 -e sh -c 'read a; echo you said $a'; do :; done", flags=flags):
        def answer() -> bytes:
            return call(["busybox", "nc", "-w", "5", "127.0.0.1", "18080"], stdin=b"hi\n").stdout

        assert wait_until(lambda: answer() == b"you said hi\n", 30)


def test_passt_is_confined_and_in_the_sandboxes_cgroup():
    before = set(passts())
    with Running(flags=["--net", "user"]) as running:
        [pid] = set(passts()) - before
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert status["Seccomp"] == "2" and int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1", status
        assert status["Uid"].split()[1] != "0", status
        vmm = next(int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
                   if b"wyvern-vmm\0--id\0" + running.name.encode() in path.read_bytes())
        assert pathlib.Path(f"/proc/{pid}/cgroup").read_text() == pathlib.Path(f"/proc/{vmm}/cgroup").read_text()
        states = [json.loads(path.read_text()) for path in pathlib.Path("/run/wyvern").glob("*/state.json")]
        assert [pid] == [each["pid"] for state in states for each in state["processes"] if each["role"] == "passt"]
    assert set(passts()) == before


@pytest.mark.parametrize("victim", ["passt", "wyvern-vmm", "wyvern"])
def test_kill_9_ends_all_of_it(victim):
    """What dies takes the rest with it, and is told: no sandbox stays without its network."""
    with Running(flags=["--net", "user"]) as running:
        [pid] = {"passt": lambda: passts(), "wyvern": lambda: [running.process.pid],
                 "wyvern-vmm": lambda: [int(p.parent.name) for p in pathlib.Path("/proc").glob("[0-9]*/comm") if p.read_text() == "wyvern-vmm\n"]
                 }[victim]()
        os.kill(pid, signal.SIGKILL)
        running.process.wait(60)
        if victim == "passt":
            assert b"passt" in running.process.stderr.read()
        assert wait_until(lambda: not passts(), 20)


def test_host_network_of_containerds_is_passts(server):
    before = call(["ip", "-o", "addr"]).stdout
    with configured(host="passt", host_loopback="true"):
        done = run(BUSYBOX, "sh", "-c", ask(server), flags=["--net-host"])
        assert done.returncode == 0 and done.stdout == b"olleh", (done.stdout, done.stderr.decode())
        with Container(flags=["--net-host"]) as container:
            assert container.exec("sh", "-c", ask(server)).stdout == b"olleh"
            # The pid that containerd has is in the host's namespace, as with any runtime.
            assert os.readlink(f"/proc/{container.pid()}/ns/net") == os.readlink("/proc/1/ns/net")
    assert call(["ip", "-o", "addr"]).stdout == before
    done = run(BUSYBOX, "true", name=unique(), flags=["--net-host"])
    assert done.returncode != 0 and b"set network.host to passt" in done.stderr, done.stderr


def test_passt_that_is_missing_is_said(tmp_path):
    config = tmp_path / "wyvern.yaml"
    config.write_text("paths:\n  passt: /usr/bin/no-passt\n")
    done = wyvern("run", "--net", "user", "--config", config, LAYOUT, "--", "true")
    assert done.returncode != 0 and b"install Debian's package passt" in done.stderr, done.stderr


def test_publish_needs_a_user_network():
    done = wyvern("run", "--publish", "80:80", LAYOUT, "--", "true")
    assert done.returncode != 0 and b"--publish needs --net user" in done.stderr, done.stderr
