"""The wyvern command, without containerd."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from conftest import unpack
from harness.ctr import BUSYBOX, Container, call, feed, more, unique, wait_until
from test_tty import Terminal

pytestmark = pytest.mark.wyvern_only
LAYOUT = "/opt/images/busybox"


def wyvern(*argv, **kwargs):
    return call(["wyvern", *argv], **kwargs)


def run_wyvern(*command, image=LAYOUT, flags=(), **kwargs):
    return wyvern("run", *flags, image, "--", *command, **kwargs)


class Running:
    """A container of `wyvern run` that sleeps until it is killed."""

    def __init__(self, *command, flags=()):
        self.name = unique("w")
        self.process = subprocess.Popen(
            ["wyvern", "run", "--name", self.name, *flags, LAYOUT, "--", *(command or ("sh", "-c", "echo up; sleep 1000"))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        assert self.process.stdout.readline() == b"up\n", self.process.stderr.read()
        return self

    def __exit__(self, *_):
        # Its keeper undoes everything (test_kill_9_of_the_command_takes_everything_with_it).
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        places = [pathlib.Path("/var/lib/wyvern/run", self.name), pathlib.Path("/sys/fs/cgroup/wyvern", self.name)]
        assert wait_until(lambda: self.name.encode() not in wyvern("ps").stdout and not any(p.exists() for p in places), 30)


def test_check_says_that_kvm_works():
    done = wyvern("check", "--json")
    assert done.returncode == 0, done.stdout.decode()
    findings = {f["name"]: f for f in json.loads(done.stdout)}
    assert findings["kvm"]["verdict"] == "ok"
    assert " ".join(findings) == "kvm kernel cgroups shmem-thp io_uring memory guest image vmm fs anchor"
    assert all(f["remedy"] for f in findings.values() if f["verdict"] != "ok")


def test_check_for_people():
    done = wyvern("check")
    assert done.returncode == 0 and b"kvm" in done.stdout


def test_version():
    said = wyvern("version").stdout
    assert said.startswith(b"wyvern ") and wyvern("--version").stdout == said


@pytest.mark.parametrize("verb", ["check", "run", "exec", "ps", "inspect", "resize", "logs", "metrics", "top", "events", "timeline", "config", "image", "guest",
                                  "version"])
def test_help(verb):
    done = wyvern(verb, "--help")
    assert done.returncode == 0 and verb.encode() in done.stdout


@pytest.mark.parametrize("kind", ["layout", "archive", "root"])
def test_run(kind, busybox_root):
    image = {"layout": LAYOUT, "archive": LAYOUT + ".tar", "root": busybox_root}[kind]
    done = run_wyvern("uname", "-r", image=image)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip() not in (b"", os.uname().release.encode())


@pytest.mark.parametrize("code", [more(0), 7, more(255)])
def test_exit_code(code):
    assert run_wyvern("sh", "-c", f"exit {code}").returncode == code


@pytest.mark.thorough
def test_missing_program():
    done = run_wyvern("/no/such/program")
    assert done.returncode in (125, 127) and b"/no/such/program" in done.stderr


@pytest.mark.thorough
def test_streams_are_apart():
    done = run_wyvern("sh", "-c", "echo out; echo err >&2")
    assert done.stdout == b"out\n" and b"err\n" in done.stderr


def test_stdin():
    argv = ["wyvern", "run", "-i", LAYOUT, "--", "sh", "-c", "echo ready; sha256sum"]
    data = os.urandom(3 << 20)
    done = feed(argv, data)
    import hashlib
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_cpus_and_memory():
    output = run_wyvern("sh", "-c", "nproc; grep MemTotal /proc/meminfo", flags=["--cpus", "2", "--memory", "512MiB"]).stdout
    count, _, kib, _ = output.split()
    assert count == b"2" and 400 << 10 < int(kib) <= 512 << 10


def test_eight_cpus():
    """The most that a sandbox can have, also on a host with fewer."""
    done = run_wyvern("sh", "-c", "nproc; grep -c ^processor /proc/cpuinfo", flags=["--cpus", "8"], timeout=200)
    assert done.stdout.split() == [b"8", b"8"], done.stderr.decode()


def test_environment_volume_cwd_user(scratch):
    scratch.chmod(0o755)  # the user in the container is not root
    (scratch / "f").write_text("hello")
    done = run_wyvern("sh", "-c", "echo $A; cat /data/f; echo; pwd; id -u",
                      flags=["--env", "A=b c", "--volume", f"{scratch}:/data:ro", "--cwd", "/tmp", "--user", "1234"])
    assert done.stdout.splitlines() == [b"b c", b"hello", b"/tmp", b"1234"], done.stderr


def test_timeline(scratch):
    path = scratch / "timeline.json"
    assert run_wyvern("true", flags=["--timeline", path]).returncode == 0
    points = json.loads(path.read_text())
    assert len(points) >= 4
    assert all(p["end_ns"] >= p["start_ns"] for p in points)


def test_terminal():
    argv = ["wyvern", "run", "-t", LAYOUT, "--", "sh", "-c", "stty size; read a; echo [$a]; exit 4"]
    with Terminal(argv, rows=30, columns=100) as terminal:
        terminal.expect(b"30 100")
        terminal.send(b"hi\n")
        terminal.expect(b"[hi]")
        assert terminal.wait() == 4


def test_ps_exec_logs_config():
    with Running() as it:
        rows = {row["sandbox"]: row for row in json.loads(wyvern("ps", "--json").stdout)}
        assert rows[it.name]["status"].upper() == "RUNNING"
        assert rows[it.name]["kernel"] != os.uname().release
        done = wyvern("exec", it.name, "--", "sh", "-c", "echo inside; exit 5")
        assert (done.returncode, done.stdout) == (5, b"inside\n")
        done = wyvern("exec", "--guest", it.name, "--", "uname", "-r")
        assert done.stdout.decode().strip() == rows[it.name]["kernel"]
        assert wyvern("logs", it.name).returncode == 0
        effective = wyvern("config", "--effective", it.name)
        assert effective.returncode == 0 and b"vcpus" in effective.stdout
    assert it.name not in wyvern("ps").stdout.decode()


def test_ps_and_exec_of_a_container_of_containerd_beside_a_run_of_that_name():
    with Running() as it, Container(BUSYBOX, name=it.name):
        rows = [row["namespace"] for row in json.loads(wyvern("ps", "--json").stdout) if row["container"] == it.name]
        assert rows == ["default", "wyvern-run"]
        done = wyvern("exec", it.name, "--", "true")
        assert done.returncode == 125 and f"default/{it.name}, wyvern-run/{it.name}".encode() in done.stderr
        assert b"sleep 100000" in wyvern("exec", "-n", "default", it.name, "--", "ps").stdout
        assert b"sleep 100000" not in wyvern("exec", "--namespace", "wyvern-run", it.name, "--", "ps").stdout


def test_terminate_reaches_the_container():
    with Running("sh", "-c", "trap 'exit 8' TERM; echo up; while :; do sleep 0.1; done") as it:
        it.process.send_signal(signal.SIGTERM)
        assert it.process.wait(timeout=30) == 8


def test_kill_9_of_the_command_takes_everything_with_it():
    with Running() as it:
        it.process.kill()
        it.process.wait()
        assert wait_until(lambda: it.name not in wyvern("ps").stdout.decode(), 10)


def test_name_is_taken_once():
    with Running() as it:
        done = run_wyvern("true", flags=["--name", it.name])
        assert done.returncode == 125 and it.name in done.stderr.decode()


def test_config_prints_every_key():
    output = wyvern("config").stdout.decode()
    for line in pathlib.Path("/etc/wyvern/wyvern.yaml").read_text().splitlines():
        key = line.strip().partition(":")[0]
        if key and not key.startswith("#"):
            assert key in output, key


def test_effective_config_names_origins():
    output = wyvern("config", "--effective").stdout.decode()
    assert "built-in" in output or "default" in output or "wyvern.yaml" in output


def test_exec_of_nothing_known():
    done = wyvern("exec", "nosuch", "--", "true")
    assert done.returncode == 125 and b"nosuch" in done.stderr


def test_run_without_root(scratch):
    done = call(["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "wyvern", "run", LAYOUT, "--", "true"])
    assert done.returncode == 125 and b"root" in done.stderr


def test_image_prune_takes_what_no_run_uses():
    layers = pathlib.Path("/var/lib/wyvern/images/layers")
    with Running() as it:
        done = wyvern("image", "prune")
        assert done.returncode == 0 and not done.stdout.endswith(b"; 0 in use\n"), (done.stdout, done.stderr)
        assert wyvern("exec", it.name, "--", "ls", "/bin/busybox").returncode == 0
    # The keeper ends a moment after the run's directory is gone.
    assert wait_until(lambda: wyvern("image", "prune").stdout.endswith(b"; 0 in use\n"), 10)
    assert not any(layers.iterdir())
    assert run_wyvern("true").returncode == 0


@pytest.mark.thorough
def test_unpacked_image_is_what_the_layout_says(scratch):
    """The layers that `run` unpacks are the image's: compared with an independent unpacking."""
    want = unpack("busybox", scratch)
    script = "cd / && for f in bin etc; do find $f -type f -exec sha256sum {} + ; done | sort -k2"
    inside = run_wyvern("sh", "-c", script).stdout
    outside = call(["sh", "-c", script.replace("cd /", f"cd {want}")]).stdout
    skip = (b"etc/hosts", b"etc/hostname", b"etc/resolv.conf")
    clean = lambda text: [line for line in text.splitlines() if not line.endswith(skip)]  # noqa: E731
    assert clean(inside) == clean(outside)
