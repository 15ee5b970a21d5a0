"""The container's root as containerd hands it over: mounts in CreateTaskRequest, put at <bundle>/rootfs by the shim. And volumes."""

import contextlib
import hashlib
import os

import pytest

from harness import ttrpc
from harness.ctr import BUSYBOX, call, run, wait_until
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


def has_loop_device(image) -> bool:
    return str(image) in call(["losetup", "-l", "-n", "-O", "BACK-FILE"]).stdout.decode()


def test_loop_device(scratch, busybox_root):
    """What containerd's blockfile snapshotter hands over."""
    image = scratch / "root.ext4"
    assert call(["mke2fs", "-q", "-t", "ext4", "-d", busybox_root, image, "24M"]).returncode == 0
    with ran(scratch, [mount("ext4", image, "loop")], ["sh", "-c", "echo kept > /kept; echo ran"]) as (code, text):
        assert (code, text) == (0, "ran\n")
    assert not has_loop_device(image)
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


def test_scenario_54_mount_below_a_volume(scratch):
    """rbind: it is in the container, as a device of its own; afterwards the host can unmount it, and nobody else has it."""
    volume, image = scratch / "volume", scratch / "sub.ext4"
    point = volume / "sub"
    point.mkdir(parents=True)
    (volume / "above").write_text("above\n")
    assert call(["mke2fs", "-q", "-t", "ext4", image, "16M"]).returncode == 0
    assert call(["mount", "-o", "loop", image, point]).returncode == 0
    try:
        (point / "below").write_text("below\n")
        # stat(2) does not mount what is mounted on first use; cat does.
        script = "cat /data/above /data/sub/below && echo new >/data/sub/new && stat -c %d /data /data/sub"
        done = run(BUSYBOX, "sh", "-c", script, flags=["--mount", f"type=bind,src={volume},dst=/data,options=rbind:rw"])
        new = (point / "new").read_text() if (point / "new").exists() else None
    finally:
        unmounted = call(["umount", point])
    assert done.returncode == 0, done.stderr
    *contents, outer, inner = done.stdout.decode().split()
    assert contents == ["above", "below"] and outer != inner
    assert new == "new\n"
    assert unmounted.returncode == 0, unmounted.stderr
    assert not (point / "new").exists()
    # umount takes ours; the loop device goes with the last one, in whatever namespace that is.
    assert wait_until(lambda: not has_loop_device(image), 5)


@pytest.mark.wyvern_only
def test_four_request_queues(scratch):
    """share.queues: each of four processors has a queue of its own to the file server, and uses it beside the others."""
    config = scratch / "queues.yaml"
    config.write_text("share:\n  queues: 4\n")
    data = scratch / "data"
    data.mkdir()
    contents = [os.urandom(256 << 10) for _ in range(4)]
    for i, text in enumerate(contents):
        (data / f"in{i}").write_bytes(text)
    script = """
        for i in 0 1 2 3; do
            taskset $((1 << i)) sh -c "sha256sum </data/in$i >/sum$i; dd if=/data/in$i of=/data/out$i bs=16k conv=fsync 2>/dev/null" &
        done
        wait
        cat /sum0 /sum1 /sum2 /sum3
        awk '/requests/ { print "queue", ($2 + $3 + $4 + $5 > 0 ? "used" : "idle") }' /proc/interrupts"""
    done = call(["wyvern", "run", "--config", config, "--cpus", "4", "-v", f"{data}:/data", "/opt/images/busybox", "--",
                 "sh", "-c", script], timeout=200)
    assert done.returncode == 0, done.stderr
    sums = [f"{hashlib.sha256(text).hexdigest()}  -" for text in contents]
    assert done.stdout.decode().splitlines() == sums + ["queue used"] * 4, done.stderr
    assert [(data / f"out{i}").read_bytes() for i in range(4)] == contents
