"""The container's root as containerd hands it over: mounts in CreateTaskRequest, put at <bundle>/rootfs by the shim."""

import contextlib
import os

import pytest

from harness import ttrpc
from harness.ctr import call
from harness.shim import Shim, default_spec


def mount(kind, source, *options) -> bytes:
    """containerd.types.Mount: type, source, target, options."""
    return ttrpc.encode({1: kind, 2: str(source), 4: list(options)})


@contextlib.contextmanager
def ran(scratch, mounts, args, readonly=False, root="rootfs"):
    """A task with these mounts, run to its end: (exit code, what it printed)."""
    spec = default_spec(root, args)
    spec["root"]["readonly"] = readonly
    output = scratch / "output"
    output.touch()
    with Shim(scratch / "bundle", spec) as shim:
        code, message, _ = shim.call("Create", {1: shim.name, 2: str(shim.bundle), 3: mounts, 6: f"file://{output}"})
        assert code == 0, message
        assert shim.call("Start", {1: shim.name})[0] == 0
        code, _, reply = shim.call("Wait", {1: shim.name})
        assert code == 0
        assert shim.call("Delete", {1: shim.name})[0] == 0
        assert not os.path.ismount(shim.bundle / "rootfs")
        yield reply.get(1, 0), output.read_text()


@pytest.mark.parametrize("layers", [2, 120])
def test_overlay_of_many_layers(scratch, busybox_root, layers):
    """Each layer brings a file, and hides that of the layer below."""
    lower = [busybox_root]
    for i in range(layers - 1):
        layer = scratch / "snapshots" / str(i) / "fs"
        layer.mkdir(parents=True)
        (layer / f"file-{i}").write_text(f"{i}\n")
        (layer / "top").write_text(f"{i}\n")
        lower.insert(0, layer)
    (scratch / "upper").mkdir()
    (scratch / "work").mkdir()
    options = [f"workdir={scratch}/work", f"upperdir={scratch}/upper", "lowerdir=" + ":".join(map(str, lower))]
    script = "ls -d /file-* | wc -l; cat /top; echo new > /new; rm /top"
    with ran(scratch, [mount("overlay", "overlay", *options)], ["sh", "-c", script]) as (code, text):
        assert (code, text) == (0, f"{layers - 1}\n{layers - 2}\n")
    assert (scratch / "upper/new").read_text() == "new\n"
    assert not os.path.exists(scratch / "upper/top") or os.stat(scratch / "upper/top").st_rdev == 0  # a whiteout


@pytest.mark.thorough
def test_read_only_bind(scratch, busybox_root):
    for name in ("dev", "proc", "run", "sys"):  # mount points that nobody can make there
        (busybox_root / name).mkdir(exist_ok=True)
    with ran(scratch, [mount("bind", busybox_root, "rbind", "ro")],
             ["sh", "-c", "cat /bin/busybox | wc -c; touch /new && echo written"], readonly=True) as (code, text):
        assert code != 0 and int(text) > 100000
    assert not (busybox_root / "new").exists()


def test_loop_device(scratch, busybox_root):
    """What containerd's blockfile snapshotter hands over."""
    image = scratch / "root.ext4"
    assert call(["mke2fs", "-q", "-t", "ext4", "-d", busybox_root, image, "24M"]).returncode == 0
    with ran(scratch, [mount("ext4", image, "loop")], ["sh", "-c", "echo kept > /kept; echo ran"]) as (code, text):
        assert (code, text) == (0, "ran\n")
    assert str(image) not in call(["losetup", "-l", "-n", "-O", "BACK-FILE"]).stdout.decode()
    found = call(["debugfs", "-R", "cat /kept", image])
    assert found.stdout == b"kept\n", found.stderr


def test_root_outside_the_bundle(scratch, busybox_root):
    with ran(scratch, [], ["echo", "ran"], root=str(busybox_root)) as (code, text):
        assert (code, text) == (0, "ran\n")


def test_mount_that_fails_leaves_nothing(scratch, busybox_root):
    spec = default_spec("rootfs", ["true"])
    with Shim(scratch / "bundle", spec) as shim:
        mounts = [mount("bind", busybox_root, "rbind"), mount("bind", scratch / "missing", "rbind")]
        code, message, _ = shim.call("Create", {1: shim.name, 2: str(shim.bundle), 3: mounts})
        assert code != 0 and "missing" in message
        assert not os.path.ismount(shim.bundle / "rootfs")
