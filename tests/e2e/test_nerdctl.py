"""nerdctl with our runtime (scenario 68): its CNI network comes by a createRuntime hook, and goes by a poststop hook.

Most tests look at one container, `web`, in this order. nerdctl is not in Debian: without it (tests/conformance/clients.sh says why) they skip.
"""

import pathlib
import re
import shutil

import pytest

from harness.ctr import RUNTIME, WYVERN, call, unique, wait_until
from harness.images import Images, layer
from harness.nerdctl import PROGRAM, SUBNET, Nerdctl, without_fifos
from harness.traces import tree
from harness.web import serves, start_web, volume  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.leaves_nothing(20), pytest.mark.skipif(not PROGRAM.exists(), reason="no nerdctl in this machine")]

PORT = 18090


@pytest.fixture(scope="module")
def nerdctl(tmp_path_factory):
    with Nerdctl(tmp_path_factory.mktemp("wyvern-e2e-nerdctl")) as it:
        yield it


@pytest.fixture(scope="module")
def web(nerdctl, volume) -> str:
    return start_web(nerdctl, volume, PORT)


@pytest.fixture(autouse=True)
def fifos():
    with without_fifos():
        yield


def test_scenario_68_bridge_port_volume_logs(nerdctl, web):
    address = nerdctl.address(web)
    assert address.startswith(SUBNET + "."), address
    for target in (address, f"{SUBNET}.1:{PORT}"):  # portmap's rules are for what comes from outside lo
        assert serves(target), (target, call(["iptables-save"]).stdout.decode())
    assert nerdctl.nerdctl("logs", web) == "started\n"
    said = nerdctl.nerdctl("exec", web, "sh", "-c", "echo $COLOUR; ip -4 -o addr show eth0; cat /www/index.html; grep nameserver /etc/resolv.conf")
    assert said.startswith("green\n") and f" {address}/24 " in said and "a page\n" in said and "nameserver" in said, said
    assert b"exit code 9" in nerdctl.call("exec", web, "sh", "-c", "exit 9").stderr


def test_scenario_68_two_containers_talk_and_nothing_is_left(nerdctl, web):
    address = nerdctl.address(web)
    done = nerdctl.run("--rm", "busybox", "sh", "-c", f"ping -c 2 -W 5 {address} >&2 && wget -q -O - http://{address}/; ip -4 -o addr show eth0")
    assert done.returncode == 0 and done.stdout.startswith(b"a page\n"), done
    theirs = re.search(rf" ({SUBNET}\.\d+)/", done.stdout.decode())[1]
    # The poststop hook has run: its address is free, and what the firewall let through. (What masked its address stays, from runc, too:
    # nerdctl names no namespace to the bridge plugin.)
    taken = [path.name for path in pathlib.Path("/var/lib/cni/networks").rglob(f"{SUBNET}.*")]
    assert address in taken and theirs not in taken, taken
    assert f"-A CNI-FORWARD -d {theirs}/32" not in call(["iptables-save"]).stdout.decode()


@pytest.mark.thorough
def test_scenario_68_terminal(nerdctl):
    argv = " ".join([str(PROGRAM), *nerdctl.flags, "run", "--pull", "never", "--rm", "-it", "--net", "none", "--runtime", RUNTIME, "busybox"])
    done = call(["script", "-qec", f"stty rows 33 cols 77; {argv} sh -c 'test -t 0 && ip -o link | wc -l && exit 4'", "/dev/null"])
    assert done.returncode == 4 and done.stdout.rstrip().endswith(b"1"), done  # --net none: lo alone


def test_scenario_68_cp_both_ways(nerdctl, web, scratch):
    nerdctl.nerdctl("exec", web, "sh", "-c", "mkdir -p /d && echo inside > /d/f")
    nerdctl.nerdctl("cp", f"{web}:/d/f", scratch / "f")
    assert (scratch / "f").read_text() == "inside\n"
    (scratch / "g").write_text("from outside\n")
    nerdctl.nerdctl("cp", scratch / "g", f"{web}:/d/g")
    assert wait_until(lambda: nerdctl.call("exec", web, "cat", "/d/g").stdout == b"from outside\n", 5)


def test_scenario_68_pause_stop_start_rm(nerdctl, web):
    nerdctl.nerdctl("pause", web)
    assert nerdctl.inspect(web)["State"]["Status"] == "paused"
    nerdctl.nerdctl("unpause", web)
    nerdctl.nerdctl("stop", "-t", "20", web)
    state = nerdctl.inspect(web)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 7), state
    assert wait_until(lambda: nerdctl.nerdctl("logs", web) == "started\nbye\n", 5), nerdctl.nerdctl("logs", web)
    nerdctl.nerdctl("start", web)
    assert serves(f"{SUBNET}.1:{PORT}")
    nerdctl.nerdctl("kill", web)
    assert wait_until(lambda: nerdctl.inspect(web)["State"]["ExitCode"] == 137, 10)
    nerdctl.nerdctl("rm", "-f", web)


VOLUME = "docker.io/library/volume:latest"


@pytest.fixture(scope="module")
def volume_image(tmp_path_factory):
    """Of busybox, with a VOLUME that has files of several owners."""
    images = Images()
    images.derive(VOLUME, "busybox", layer(("data", None, 1000), ("data/a", b"first\n", 33), ("data/d", None, 5), ("data/d/b", b"second\n", 1000, 0o600)),
                  Volumes={"/data": {}})
    archive = tmp_path_factory.mktemp("wyvern-e2e-volume") / "volume.tar"
    images.archive(archive)
    done = call(["ctr", "images", "import", archive], timeout=200)
    assert done.returncode == 0, done.stderr
    yield VOLUME
    call(["ctr", "images", "rm", VOLUME])


@pytest.mark.wyvern_only
def test_scenario_55_volume_of_an_image_has_its_files_and_owners_as_with_runc(nerdctl, volume_image):
    """An anonymous volume: what the image has there, and what the container does to it, inside and on the host."""
    script = ("stat -c '%n %u:%g %a' /data /data/* /data/d/*; cat /data/a /data/d/b; echo more >> /data/a; chown 7:8 /data/d/b; "
              "touch /data/new; grep -c ' /data ' /proc/mounts")
    seen = {}
    for runtime in "io.containerd.runc.v2", WYVERN:
        name = unique("volume")
        done = nerdctl.call("run", "--pull", "never", "--runtime", runtime, "--net", "none", "--name", name, volume_image, "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        source = next(pathlib.Path(m["Source"]) for m in nerdctl.inspect(name)["Mounts"] if m["Destination"] == "/data")
        seen[runtime] = done.stdout.decode(), tree(source)
        nerdctl.nerdctl("rm", "-v", name)
    assert seen[WYVERN] == seen["io.containerd.runc.v2"]
    assert "/data/a 33:33 644" in seen[WYVERN][0] and ("d/b", 7, 8, 0o100600, "second\n") in seen[WYVERN][1], seen


@pytest.mark.wyvern_only
def test_scenario_68_networks_that_are_refused(nerdctl):
    done = nerdctl.run("--rm", "--net", "host", "busybox", "true")
    assert done.returncode != 0 and b"the host's network was asked for" in done.stderr, done


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_scenario_68_network_of_another_container_is_refused(nerdctl):
    name = nerdctl.nerdctl("run", "-d", "--pull", "never", "--runtime", RUNTIME, "busybox", "sleep", "1000").strip()
    done = nerdctl.run("--rm", "--net", f"container:{name}", "busybox", "true")
    assert done.returncode != 0 and b"--network container" in done.stderr, done
    nerdctl.nerdctl("rm", "-f", name)


@pytest.mark.thorough
@pytest.mark.limit(400)
def test_scenario_68_compose(nerdctl, scratch):
    (scratch / "compose.yaml").write_text("""
services:
  server:
    image: busybox
    runtime: RUNTIME
    command: ["sh", "-c", "mkdir -p /www; echo of a service > /www/index.html; exec httpd -f -p 80 -h /www"]
  client:
    image: busybox
    runtime: RUNTIME
    depends_on: [server]
    command: ["sh", "-c", "until wget -q -O - http://server/; do sleep 1; done; exec sleep 1000"]
""".replace("RUNTIME", RUNTIME))
    compose = ["compose", "-f", scratch / "compose.yaml", "-p", "wyverntest"]
    try:
        done = nerdctl.call(*compose, "up", "-d", "--pull", "never", timeout=200)
        assert done.returncode == 0, done
        assert wait_until(lambda: "of a service" in nerdctl.nerdctl(*compose, "logs", "--no-color", "client"), 60, 2)
    finally:
        nerdctl.call(*compose, "kill", timeout=60)
        done = nerdctl.call(*compose, "down", timeout=120)
    assert done.returncode == 0, done


def throughput(nerdctl: Nerdctl, megabytes: int) -> float:
    """MB/s from one container to another over the bridge."""
    server = nerdctl.nerdctl("run", "-d", "--pull", "never", "--runtime", nerdctl.runtime, "busybox", "sh", "-c", "nc -l -p 5000 > /dev/null").strip()
    try:
        address = nerdctl.address(server)
        done = nerdctl.run("--rm", "busybox", "sh", "-c",
                           f"sleep 1; a=$(cut -d' ' -f1 /proc/uptime); dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null | nc {address} 5000; "
                           "echo $a $(cut -d' ' -f1 /proc/uptime)")
        assert done.returncode == 0, done
        begin, end = map(float, done.stdout.split())
        return megabytes / (end - begin)
    finally:
        nerdctl.call("rm", "-f", server)


@pytest.mark.wyvern_only
def test_scenario_68_throughput_over_the_bridge_beside_runc(nerdctl, long, capsys):
    megabytes = 256 if long else 32
    ours = throughput(nerdctl, megabytes)
    theirs = throughput(Nerdctl(nerdctl.directory, "io.containerd.runc.v2"), megabytes)
    with capsys.disabled():
        print(f"\nover the bridge: {WYVERN} {ours:.1f} MB/s, runc {theirs:.1f} MB/s ({megabytes} MB, one processor for all)")
    assert ours > 0.5
