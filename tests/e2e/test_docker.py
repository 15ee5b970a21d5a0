"""docker with our runtime (scenario 67): Debian's dockerd on the machine's containerd, overlay2, the default bridge.

Most tests look at one container, `web`, which lives as long as they do: in this order. dockerd puts its interface into the namespace by a
prestart hook up to version 27; from 28 on (built by tests/conformance/clients.sh, handed in by --add) between Create and Start.
"""

import io
import json
import pathlib
import re
import shutil
import tarfile

import pytest

from harness.ctr import RUNTIME, WYVERN, call, more, unique, wait_until
from harness.docker import Dockerd
from harness.traces import tree
from harness.web import serves, start_web, volume  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.leaves_nothing(20), pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd in this machine")]

PORT = 18080
DOCKER_28 = pathlib.Path("/opt/wyvern/extra/dockerd")
HOST = "172.31.7.1"  # the bridge's
MIB = 1 << 20


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    with Dockerd(tmp_path_factory.mktemp("wyvern-e2e-docker")) as it:
        yield it


@pytest.fixture(scope="module")
def web(docker, volume) -> str:
    return start_web(docker, volume, PORT, "--init", "-w", "/www", "--memory", "128m", "--cpus", "1",
                     "--health-cmd", "wget -q -O - http://127.0.0.1/ | grep page", "--health-start-period", "120s",
                     "--health-start-interval", "1s", "--health-interval", "120s", each_second="echo tick; ")


@pytest.mark.parametrize("argv,code,says", [
    (["busybox", "sh", "-c", "echo out; echo err >&2; exit 3"], 3, "err"),
    (["busybox", "no-such-program"], 127, "no-such-program"),
    more(["busybox", "/etc/passwd"], 126, "ermission denied"),
    more(["--init", "busybox", "sh", "-c", "kill -9 $$"], 137, ""),
], ids=["its_own", "not_found", "not_executable", "a_signals"])
def test_scenario_67_exit_code(docker, argv, code, says):
    done = docker.run("--rm", *argv)
    assert done.returncode == code, (done, docker.said())
    assert says in done.stderr.decode(), done.stderr
    assert (done.stdout == b"out\n") == (code == 3)


def test_scenario_67_what_it_was_given(docker, web, volume):
    assert wait_until(lambda: "started" in docker.docker("logs", web), 20)
    said = docker.docker("exec", web, "sh", "-c",
                         "echo $COLOUR; pwd; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; cat /proc/1/comm; cat /www/index.html; "
                         "hostname; ip -4 -o addr show eth0; touch /www/theirs; ping -c 1 -W 5 172.31.7.1 >/dev/null && echo reached")
    lines = said.splitlines()
    assert lines[:6] == ["green", "/www", str(128 * MIB), "100000 100000", "docker-init", "a page"], said
    assert lines[6] == docker.inspect(web, "{{.Config.Hostname}}")
    assert f" {docker.address(web)}/24 " in lines[7], said
    assert lines[8] == "reached", said
    assert (volume / "theirs").exists()


def test_scenario_67_published_port_and_the_bridge(docker, web):
    for address in (f"127.0.0.1:{PORT}", f"{HOST}:{PORT}", docker.address(web)):  # docker-proxy, iptables, neither
        assert serves(address), (address, call(["iptables-save"]).stdout.decode(), docker.said())


def test_scenario_67_two_containers_talk(docker, web):
    address = docker.address(web)
    done = docker.run("--rm", "busybox", "sh", "-c", f"ping -c 2 -W 5 {address} >&2 && wget -q -O - http://{address}/")
    assert done.returncode == 0 and done.stdout == b"a page\n", (done, docker.said())


def test_scenario_67_healthcheck(docker, web):
    assert wait_until(lambda: docker.inspect(web, "{{.State.Health.Status}}") == "healthy", 40, 1), \
        docker.inspect(web, "{{json .State.Health}}")


def test_scenario_67_exec(docker, web):
    data = bytes(range(256)) * 4096
    done = docker.call("exec", "-i", "-u", "65534:65534", "-e", "A=b", "-w", "/tmp", web, "sh", "-c", "cat; id -u >&2; echo $A >&2; pwd >&2; exit 9",
                       stdin=data)
    assert (done.returncode, done.stdout) == (9, data), done.stderr
    assert done.stderr.decode().split() == ["65534", "b", "/tmp"]
    done = docker.call("exec", web, "no-such-program")
    assert done.returncode in (126, 127), done  # runc's is 126 or 127 by its version
    assert docker.inspect(web, "{{.State.Running}}") == "true"


def test_scenario_67_terminal(docker):
    shutil.which("script") or pytest.skip("no script(1) in this machine")
    argv = f"docker -H unix://{docker.socket} run --rm -it --runtime {RUNTIME} busybox sh -c 'test -t 0 && test -t 1 && stty size && exit 4'"
    done = call(["script", "-qec", f"stty rows 33 cols 77; {argv}", "/dev/null"])
    assert done.returncode == 4 and b"33 77" in done.stdout, done


def test_scenario_67_cp_both_ways(docker, web, volume, scratch):
    docker.docker("exec", web, "sh", "-c", "mkdir -p /d && echo inside > /d/f")
    with tarfile.open(fileobj=io.BytesIO(docker.call("cp", f"{web}:/d/f", "-").stdout)) as tar:
        assert tar.extractfile("f").read() == b"inside\n"
    for target in ("/d/g", "/www/g"):  # in its root, in a volume
        (scratch / "g").write_text(f"for {target}\n")
        docker.docker("cp", scratch / "g", f"{web}:{target}")
        assert wait_until(lambda: docker.call("exec", web, "cat", target).stdout.decode() == f"for {target}\n", 5), target
    assert (volume / "g").read_text() == "for /www/g\n"


def test_scenario_67_commit_and_diff(docker, web):
    docker.docker("exec", web, "sh", "-c", "echo kept > /kept")
    assert re.search(r"^A /kept$", docker.docker("diff", web), re.M)
    image = unique("image")
    docker.docker("commit", web, image)
    made = docker.docker("create", "--runtime", RUNTIME, image).strip()
    with tarfile.open(fileobj=io.BytesIO(docker.call("cp", f"{made}:/kept", "-").stdout)) as tar:
        assert tar.extractfile("kept").read() == b"kept\n"
    docker.docker("rm", made)
    docker.docker("rmi", image)
    assert docker.inspect(web, "{{.State.Status}}") == "running"  # it was paused meanwhile


def test_scenario_67_pause(docker, web):
    docker.docker("pause", web)
    assert docker.inspect(web, "{{.State.Status}}") == "paused"
    before = docker.docker("logs", web).count("tick")
    assert docker.call("exec", web, "true").returncode != 0
    assert docker.docker("logs", web).count("tick") <= before + 1
    docker.docker("unpause", web)
    assert serves(docker.address(web))


def test_scenario_67_top_stats_update(docker, web):
    top = docker.docker("top", web).splitlines()
    assert len(top) >= 2, top
    if RUNTIME == WYVERN:  # the processes are in the guest: who stands for them, once for each exec that runs, too
        assert all("wyvern-ancho" in line for line in top[1:]), top
    used = docker.docker("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}} {{.NetIO}}", web).split()
    assert used[0].endswith("MiB") and used[2] == "128MiB" and int(used[3]) >= 2 and used[4] != "0B", used
    docker.docker("update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.8", web)
    limits = docker.docker("exec", web, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max")
    assert limits.split() == [str(96 * MIB), "80000", "100000"]


def test_scenario_67_live_restore(docker, web):
    """dockerd goes and comes back: the container goes on, nothing of what it says is lost."""
    address = docker.address(web)
    before = docker.docker("logs", web).count("tick")
    docker.stop()
    assert serves(address)
    docker.start()
    assert docker.inspect(web, "{{.State.Status}}") == "running"
    assert docker.docker("exec", web, "echo", "hello") == "hello\n"
    assert serves(f"127.0.0.1:{PORT}")
    assert wait_until(lambda: docker.docker("logs", web).count("tick") >= before + 3, 20)


def test_scenario_67_restart_and_stop(docker, web):
    docker.docker("restart", "-t", "20", web)
    assert serves(f"127.0.0.1:{PORT}"), docker.said()
    assert docker.docker("logs", web).count("bye") == 1
    docker.docker("stop", "-t", "20", web)
    assert docker.inspect(web, "{{.State.Status}} {{.State.ExitCode}}") == "exited 7"
    assert docker.docker("logs", web).count("bye") == 2
    docker.docker("rm", web)


def test_scenario_67_restart_policy(docker):
    name = unique()
    docker.docker("run", "-d", "--name", name, "--runtime", RUNTIME, "--restart", "on-failure:1", "busybox", "sh", "-c", "echo again; exit 3")
    assert wait_until(lambda: docker.inspect(name, "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}") == "1 exited 3", 60, 1), \
        docker.inspect(name, "{{json .State}}")
    assert docker.docker("logs", name) == "again\nagain\n"
    docker.docker("rm", name)


def test_scenario_67_kill_and_no_network(docker):
    name = docker.docker("run", "-d", "--runtime", RUNTIME, "--network", "none", "busybox", "sleep", "1000").strip()
    assert re.findall(r"^\d+: (\w+)", docker.docker("exec", name, "ip", "-o", "link"), re.M) == ["lo"]
    docker.docker("kill", name)
    assert docker.docker("wait", name) == "137\n"
    docker.docker("rm", name)


@pytest.mark.wyvern_only
def test_scenario_67_networks_that_are_refused(docker):
    done = docker.run("--rm", "--network", "host", "busybox", "true")
    assert done.returncode != 0 and b"the host's network was asked for" in done.stderr, done
    name = docker.docker("run", "-d", "--runtime", RUNTIME, "busybox", "sleep", "1000").strip()
    done = docker.run("--rm", "--network", f"container:{name}", "busybox", "true")
    assert done.returncode != 0 and b"another guest" in done.stderr and b"--network container" in done.stderr, done
    assert docker.docker("exec", name, "ping", "-c", "1", "-W", "5", HOST)  # its network is as it was
    docker.docker("rm", "-f", name)
    call(["umount", docker.run_directory / "exec/netns/default"])  # docker's, of the host's network


@pytest.mark.thorough
@pytest.mark.skipif(not DOCKER_28.exists(), reason="no dockerd 28 in this machine (tests/conformance/clients.sh makes it)")
def test_scenario_67_docker_28(tmp_path_factory, volume):
    with Dockerd(tmp_path_factory.mktemp("wyvern-e2e-docker"), program=DOCKER_28) as docker:
        assert docker.docker("version", "-f", "{{.Server.APIVersion}}") == "1.51\n"
        name = docker.docker("run", "-d", "--runtime", RUNTIME, "--init", "-p", f"{PORT + 2}:80", "-v", f"{volume}:/www:ro", "--memory", "64m",
                             "busybox", "httpd", "-f", "-p", "80", "-h", "/www").strip()
        assert serves(f"127.0.0.1:{PORT + 2}") and serves(docker.address(name))
        assert f" {docker.address(name)}/24 " in docker.docker("exec", name, "ip", "-o", "-4", "addr", "show", "eth0")
        assert docker.docker("exec", name, "cat", "/sys/fs/cgroup/memory.max") == f"{64 * MIB}\n"
        done = docker.run("--rm", "--link", f"{name}:web", "busybox", "wget", "-q", "-O", "-", "http://web/")
        assert done.returncode == 0 and done.stdout == b"a page\n", (done, docker.said())
        docker.docker("restart", "-t", "1", name)
        assert serves(f"127.0.0.1:{PORT + 2}")
        docker.docker("network", "create", "--subnet", "172.31.8.0/24", "own")
        docker.docker("network", "connect", "own", name)  # while it runs
        assert wait_until(lambda: "172.31.8." in docker.docker("exec", name, "ip", "-o", "-4", "addr"), 20, 1)
        docker.docker("network", "disconnect", "own", name)
        docker.docker("rm", "-f", name)
        docker.docker("network", "rm", "own")


@pytest.mark.thorough
def test_scenario_67_containerds_image_store(tmp_path_factory):
    with Dockerd(tmp_path_factory.mktemp("wyvern-e2e-docker"), containerd_store=True) as docker:
        name = docker.docker("run", "-d", "--runtime", RUNTIME, "-p", f"{PORT + 1}:80", "busybox", "sh", "-c",
                             "mkdir /www; echo a page > /www/index.html; httpd -f -p 80 -h /www").strip()
        assert serves(f"127.0.0.1:{PORT + 1}")
        with tarfile.open(fileobj=io.BytesIO(docker.call("cp", f"{name}:/www/index.html", "-").stdout)) as tar:
            assert tar.extractfile("index.html").read() == b"a page\n"
        docker.docker("commit", name, "made")
        docker.docker("rm", "-f", name)
        done = docker.run("--rm", "made", "cat", "/www/index.html")
        assert (done.returncode, done.stdout) == (0, b"a page\n"), done


@pytest.mark.wyvern_only
def test_scenario_55_volume_of_an_image_has_its_files_and_owners_as_with_runc(docker):
    """An anonymous volume: dockerd copies what the image has there, and mounts it."""
    made = unique("made")
    docker.docker("run", "--runtime", "runc", "--name", made, "busybox", "sh", "-c",
                  "mkdir -p /data/d; echo first > /data/a; echo second > /data/d/b; chown 1000:1000 /data; chown 33:33 /data/a; chown 5 /data/d")
    docker.docker("commit", "--change", "VOLUME /data", made, "volume:latest")
    script = ("stat -c '%n %u:%g %a' /data /data/* /data/d/*; cat /data/a /data/d/b; echo more >> /data/a; chown 7:8 /data/d/b; "
              "touch /data/new; grep -c ' /data ' /proc/mounts")
    seen = {}
    for runtime in "runc", WYVERN:
        name = unique("volume")
        done = docker.call("run", "--runtime", runtime, "--network", "none", "--name", name, "volume:latest", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        (mount,) = json.loads(docker.inspect(name, "{{json .Mounts}}"))
        seen[runtime] = done.stdout.decode(), tree(pathlib.Path(mount["Source"]))
        docker.docker("rm", "-v", name)
        assert not pathlib.Path(mount["Source"]).exists()
    docker.docker("rm", made)
    assert seen[WYVERN] == seen["runc"]
    assert "/data 1000:1000 755" in seen[WYVERN][0] and ("d/b", 7, 8, 0o100644, "second\n") in seen[WYVERN][1], seen
