"""The Debian packages on a machine that has not had Wyvern: apt puts them there, containers run by what they hold, apt takes them away again.

Run by tests/deploy/debian_packages.sh, which builds them.
"""

import http.client
import os
import pathlib
import socket
import subprocess

import pytest

from harness.containerd import succeed
from harness.ctr import BUSYBOX, Container, call, check_output, wait_until
from harness.installation import CONFIGURATION, bare_machine, restart_containerd
from harness.sandbox import Watch

PACKAGES = sorted(pathlib.Path("/opt/wyvern/extra").glob("*.deb"))
METRICS = "wyvern-metrics.service"
SOCKET = "/run/wyvern-metrics/metrics.sock"
# Where packages put files, and where programs of theirs leave some.
PLACES = ["/etc", "/usr", "/lib/systemd", "/opt", "/srv", "/var/lib", "/var/cache", "/run/wyvern", "/run/wyvern-metrics"]
# Of dpkg, apt, containerd and the machine itself.
OTHERS = ("/var/lib/dpkg", "/var/cache/apt", "/var/lib/apt", "/var/lib/containerd", "/var/cache/ldconfig", "/var/cache/debconf", "/opt/wyvern",
          "/etc/wyvern.lab", "/var/lib/systemd", "/var/lib/pam", "/etc/ld.so.cache", "/var/cache/man", "/etc/wyvern/conf.d", "/etc/cni")
pytestmark = [pytest.mark.wyvern_only, pytest.mark.no_leak_check, pytest.mark.limit(400),
              pytest.mark.skipif(len(PACKAGES) != 2, reason="the machine has no packages (tests/deploy/debian_packages.sh)")]


def files() -> set[str]:
    found = set()
    for place in PLACES:
        for directory, subdirectories, names in os.walk(place):
            subdirectories[:] = [name for name in subdirectories if not os.path.join(directory, name).startswith(OTHERS) and name != "__pycache__"]
            found |= {os.path.join(directory, name) for name in [*subdirectories, *names]}
    return {path for path in found if not path.startswith(OTHERS)}


def apt(*argv) -> str:
    done = call(["apt-get", "-y", "-o", "Dpkg::Use-Pty=0", *argv], timeout=200)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


def state(unit: str) -> str:
    return call(["systemctl", "is-active", unit]).stdout.decode().strip()


def served() -> str:
    """What the unit's socket says."""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(SOCKET)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


@pytest.fixture(scope="module")
def before():
    """The files of the machine without Wyvern, where apt then installs it."""
    # The lab's dpkg leaves documentation out.
    excludes = [str(path) for path in pathlib.Path("/etc/dpkg/dpkg.cfg.d").iterdir() if "path-exclude" in path.read_text()]
    with bare_machine(away=[CONFIGURATION, "/var/lib/wyvern", "/run/wyvern", *excludes]):
        found = files()
        alone = call(["dpkg", "--install", *(package for package in PACKAGES if package.name.startswith("wyvern_"))])
        assert alone.returncode != 0 and b"depends on wyvern-guest (= " in alone.stderr
        succeed("dpkg", "--purge", "wyvern")
        assert files() == found
        apt("install", "--no-install-recommends", *PACKAGES)
        restart_containerd()
        yield found
        call(["dpkg", "--purge", "wyvern", "wyvern-guest"])


def test_what_is_installed_is_whole(before):
    assert succeed("dpkg", "--verify", "wyvern", "wyvern-guest") == ""
    assert "install ok installed" in succeed("dpkg-query", "-W", "-f", "${Status}", "wyvern")
    # Nothing of the host's is needed: each program starts without a library.
    listed = succeed("dpkg", "--listfiles", "wyvern").split()
    programs = [path for path in listed if path.startswith(("/usr/bin/", "/usr/libexec/wyvern/"))]
    assert len(programs) == 5
    for path in programs:
        assert "statically linked" in succeed("ldd", path), path
    assert state(METRICS) == "inactive" and b"disabled" in call(["systemctl", "is-enabled", METRICS]).stdout
    assert files() - before


def test_containers_run_by_what_the_packages_hold(before, tmp_path):
    assert "KVM" in succeed("wyvern", "check")
    assert check_output(BUSYBOX, "echo", "by containerd") == "by containerd\n"
    succeed("ctr", "images", "export", tmp_path / "busybox.tar", "docker.io/library/busybox:latest")
    assert succeed("wyvern", "run", tmp_path / "busybox.tar", "--", "echo", "alone") == "alone\n"
    watch = Watch()
    with Container(BUSYBOX, "sleep", "1000") as container:
        assert os.readlink(f"/proc/{watch.pid('wyvern-vmm')}/exe") == "/usr/libexec/wyvern/wyvern-vmm"
        assert container.exec("echo", "up").stdout == b"up\n"


def test_the_unit_serves_the_figures_until_the_end(before):
    """Also over an upgrade, under which sandboxes live on."""
    succeed("systemctl", "enable", "--now", METRICS)
    assert wait_until(lambda: os.path.exists(SOCKET), 30), call(["journalctl", "-u", METRICS]).stdout
    with Container(BUSYBOX, "sleep", "1000") as container:
        assert wait_until(lambda: "wyvern_node_sandboxes 1" in served(), 30), served()
        started = succeed("systemctl", "show", "-p", "MainPID", METRICS)
        apt("install", "--reinstall", "--no-install-recommends", *PACKAGES)
        assert wait_until(lambda: state(METRICS) == "active" and succeed("systemctl", "show", "-p", "MainPID", METRICS) != started, 30)
        assert wait_until(lambda: "wyvern_node_sandboxes 1" in served(), 30), served()
        assert container.exec("echo", "alive").stdout == b"alive\n"


def test_a_boot_removes_what_runs_left(before):
    """As systemd does it then, and not in between."""
    left = pathlib.Path("/var/lib/wyvern/run/left/upper/file")
    left.parent.mkdir(parents=True)
    left.write_text("of a host without power\n")
    (left.parents[3] / "guests").mkdir(exist_ok=True)
    succeed("systemd-tmpfiles", "--create", "--remove", "wyvern.conf")
    assert left.exists()
    succeed("systemd-tmpfiles", "--create", "--remove", "--boot", "wyvern.conf")
    assert list(left.parents[2].iterdir()) == [] and (left.parents[3] / "guests").exists()


def test_a_removal_ends_the_unit_and_leaves_the_configuration(before):
    pathlib.Path(CONFIGURATION, "wyvern.yaml").open("a").write("# of this machine\n")
    apt("remove", "wyvern", "wyvern-guest")
    assert state(METRICS) == "inactive" and not os.path.exists(SOCKET)
    for name in ("wyvern", "containerd-shim-wyvern-v2"):
        assert not os.path.exists(f"/usr/bin/{name}")
    assert subprocess.run(["pgrep", "-x", "wyvern|wyvern-vmm|wyvern-fs"], check=False).returncode == 1
    assert pathlib.Path(CONFIGURATION, "wyvern.yaml").read_text().endswith("# of this machine\n")


def test_a_purge_leaves_nothing(before):
    apt("purge", "wyvern", "wyvern-guest")
    assert files() - before == set() and before - files() == set()
