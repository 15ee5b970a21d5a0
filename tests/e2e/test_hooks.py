"""OCI hooks of all six kinds (scenario 64): five on the host, one in the guest; what they are told, where they run, what happens when they fail."""

import json
import os
import pathlib

import pytest

from harness.ctr import BUSYBOX, Container, call, run, unique
from harness.shim import Shim, default_spec

GUEST = pathlib.Path("/usr/share/wyvern/guest")

pytestmark = pytest.mark.wyvern_only


@pytest.fixture
def bundle(scratch, busybox_root):
    """A function (hooks, args) -> a shim for a container with a root of its own, scratch/root."""
    assert call(["cp", "-a", busybox_root, scratch / "root"]).returncode == 0

    def make(hooks, args) -> Shim:
        spec = default_spec(scratch / "root", args)
        spec["hooks"] = hooks
        spec["annotations"] = {"a": "b"}
        return Shim(scratch / unique("bundle"), spec)

    return make


def shell(script: str, **more) -> dict:
    return {"path": "/bin/sh", "args": ["named", "-c", script], "env": ["PATH=/usr/bin:/bin", "WHO=me"], **more}


def test_scenario_64_hooks_of_all_six_kinds(scratch, bundle):
    def hook(kind):
        return [shell(f"cat > {scratch}/{kind}; echo {kind} $WHO $0 $(pwd) $(readlink /proc/self/ns/net) >> {scratch}/log"
                      + (f"; echo by a hook > {scratch}/root/made" if kind == "createContainer" else ""))]

    kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    hooks = {kind: hook(kind) for kind in kinds}
    hooks["startContainer"] = [{**shell(""), "args": ["sh", "-c", "cat > /started; echo $WHO > /who"]}]  # its busybox goes by its name
    told = lambda kind: json.loads((scratch / kind).read_text())  # noqa: E731
    with bundle(hooks, ["sh", "-c", "exec 2>&1; cat /made /who"]) as shim:
        code, message, reply = shim.call("Create", {**shim.create(), 6: f"file://{scratch}/out"})
        assert code == 0, message
        pid = reply[1]
        theirs, mine = os.readlink(f"/proc/{pid}/ns/net"), os.readlink("/proc/self/ns/net")
        common = {"id": shim.name, "bundle": str(shim.bundle), "annotations": {"a": "b"}}
        for kind in kinds[:3]:
            state = told(kind)
            assert state.pop("ociVersion") and state == {**common, "status": "creating", "pid": pid}, (kind, state)
        assert not (scratch / "poststart").exists() and not (scratch / "root/started").exists()
        assert shim.call("Start", {1: shim.name})[0] == 0
        assert told("poststart")["status"] == "running" and told("poststart")["pid"] == pid
        code, message, reply = shim.call("Wait", {1: shim.name})
        said = (scratch / "out").read_text()
        assert (code, reply.get(1, 0), said) == (0, 0, "by a hook\nme\n"), (message, sorted(os.listdir(scratch / "root")))
        started = json.loads((scratch / "root/started").read_text())
        assert started["id"] == shim.name, started  # the guest's: its pid is the guest's, too
        assert shim.call("Delete", {1: shim.name})[0] == 0
        state = told("poststop")
        assert state.pop("ociVersion") and state == {**common, "status": "stopped"}, state
        lines = (scratch / "log").read_text().splitlines()
        assert lines == [f"{kind} me named {shim.bundle} {theirs if kind == 'createContainer' else mine}" for kind in kinds]
    assert theirs != mine


def test_scenario_64_a_create_hook_that_fails_or_hangs(scratch, bundle):
    undone = scratch / "undone"
    poststop = [shell("exit 1"), shell(f"echo undone >> {undone}")]
    with bundle({"createRuntime": [shell("echo no way >&2; exit 5")], "poststop": poststop}, ["true"]) as shim:
        code, message, _ = shim.call("Create", shim.create())
        assert code != 0 and "createRuntime hook /bin/sh ended with 5: no way" in message, message
        assert undone.read_text() == "undone\n"
        spec = json.loads((shim.bundle / "config.json").read_text())
        spec["hooks"]["createRuntime"] = [shell("sleep 100", timeout=1)]
        (shim.bundle / "config.json").write_text(json.dumps(spec))
        code, message, _ = shim.call("Create", shim.create())
        assert code == 4 and "did not end within 1000 ms" in message, (code, message)  # DEADLINE_EXCEEDED
        assert undone.read_text() == "undone\n" * 2


def test_scenario_64_a_poststart_hook_that_fails_ends_the_container(scratch, bundle):
    with bundle({"poststart": [shell("echo no way >&2; exit 5")], "poststop": [shell(f"cat > {scratch}/undone")]}, ["sleep", "1000"]) as shim:
        assert shim.call("Create", shim.create())[0] == 0
        code, message, _ = shim.call("Start", {1: shim.name})
        assert code != 0 and "no way" in message, message
        assert shim.call("Wait", {1: shim.name})[2].get(1, 0) == 137
        assert shim.call("Delete", {1: shim.name})[0] == 0
        assert (scratch / "undone").exists()


def test_hooks_of_the_guest_are_those_of_every_container(scratch, configure):
    """guest.hooks: programs of the guest's image, run in the guest."""
    root, image = scratch / "guest", scratch / "image.erofs"
    done = call(["fsck.erofs", f"--extract={root}", GUEST / "image.erofs"])
    assert done.returncode == 0, done.stderr
    for kind in ("prestart", "poststart", "poststop"):
        directory = root / "usr/share/oci/hooks" / kind
        directory.mkdir(parents=True)
        (directory / "10-say").write_text(f"#!/bin/sh\necho hook {kind} $(cat) >/dev/kmsg\n")
        (directory / "10-say").chmod(0o755)
    done = call(["mkfs.erofs", "--quiet", "-x-1", "-Enoinline_data", "--all-root", image, root])
    assert done.returncode == 0, done.stderr
    os.truncate(image, -(-image.stat().st_size >> 21) << 21)  # whole pages of 2 MiB, as the VMM wants it
    configure(f"sandbox: {{ image: {image} }}\nguest: {{ hooks: /usr/share/oci/hooks }}\n")
    with Container() as container:
        kernel = call(["wyvern", "exec", "--guest", container.name, "dmesg"]).stdout.decode()
        said = [line.split("] hook ", 1)[1] for line in kernel.splitlines() if "] hook " in line]
        assert [line.split()[0] for line in said] == ["prestart", "poststart"], kernel
        state = json.loads(said[0].split(" ", 1)[1])
        assert state["id"] == container.name and state["status"] in ("creating", "created"), state
    configure(f"sandbox: {{ image: {image} }}\nguest: {{ hooks: /none }}\n")
    done = run(BUSYBOX, "true")
    assert done.returncode != 0 and b"guest.hooks: " in done.stderr and b"no directory /none" in done.stderr, done.stderr
