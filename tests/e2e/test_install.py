"""wyvern install and uninstall on a whole system: containerd restarted, sandboxes that live through an upgrade."""

import json
import os
import subprocess

import pytest

from harness.containerd import succeed, version
from harness.ctr import BUSYBOX, Container, call, check_output, wait_until
from harness.installation import CONTAINERD_CONFIG, VERSIONS, bare_machine, lay_out, restart_containerd

pytestmark = pytest.mark.wyvern_only


@pytest.fixture
def payload(tmp_path):
    """As deploy/install.sh lays it out; the lab's own programs are away meanwhile."""
    stage = lay_out(tmp_path / "stage")
    with bare_machine():
        yield stage
        call([stage / "bin/wyvern", "uninstall"])


def install(stage) -> str:
    return succeed(stage / "bin/wyvern", "install")


@pytest.mark.limit(420)
@pytest.mark.skipif(not os.path.exists("/usr/bin/containerd"), reason="a containerd elsewhere than in /usr/bin")
def test_an_installation_from_beginning_to_end(payload):
    before = CONTAINERD_CONFIG.read_text()
    said = install(payload)
    assert f"containerd {version()}" in said and "handler wyvern added" in said, said
    assert "missing" not in said, said
    restart_containerd()
    handlers = succeed("containerd", "config", "dump")
    assert "runtimes.wyvern]" in handlers and "runtimes.runc]" in handlers
    assert "up" in check_output(BUSYBOX, "echo", "up")
    environment = json.loads(succeed("wyvern", "env", "--json"))
    first = environment["wyvern"]["installed"]
    assert environment["programs"]["vmm"] == {"path": f"/usr/lib/wyvern/{first}/libexec/wyvern-vmm", "present": True}
    assert environment["host"]["kvm"]["state"] == "works"

    with Container(BUSYBOX, "sleep", "1000") as old:
        # Another version, under a sandbox that lives.
        with open(payload / "bin/wyvern", "ab") as program:
            program.write(b"\0")
        said = install(payload)
        assert f"version {first} kept" in said, said
        second = json.loads(succeed("wyvern", "env", "--json"))["wyvern"]["installed"]
        assert second != first and os.readlink(VERSIONS / "current") == second
        assert check_output(BUSYBOX, "echo", "new") == "new\n"
        # The old one goes on: an exec of it, its containerd restarted, its end with the new programs.
        assert old.exec("echo", "alive").stdout == b"alive\n"
        said = install(payload)
        assert f"version {first} kept for" in said, said
        refused = call(["wyvern", "uninstall"])
        assert refused.returncode == 125 and b"end these sandboxes" in refused.stderr
    assert wait_until(lambda: f"version {first} removed" in install(payload), 30)
    assert [path.name for path in VERSIONS.iterdir() if not path.is_symlink()] == [second]

    said = succeed("wyvern", "uninstall")
    assert "our handler taken out" in said, said
    assert CONTAINERD_CONFIG.read_text() == before
    assert not VERSIONS.exists() and not os.path.lexists("/usr/bin/wyvern")


def test_what_is_in_the_way_is_named_and_nothing_done():
    before = CONTAINERD_CONFIG.read_text()
    done = subprocess.run(["wyvern", "install", "--from", "/usr"], capture_output=True, text=True, check=False)
    assert done.returncode == 125 and "has no" in done.stderr, done.stderr
    assert CONTAINERD_CONFIG.read_text() == before
