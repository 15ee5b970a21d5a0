"""Roots, volumes and devices that are block devices or image files on the host become disks of the guest: containerd's snapshotters blockfile and
devmapper, mounts[] of ext4 and erofs, `ctr run --device`. Each is gone when Delete returns, and nobody on the host has it then."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import shutil

import pytest

from harness import containerd, ttrpc
from harness.containerd import holders, is_free, loop_device, succeed
from harness.ctr import BUSYBOX, DEBIAN, call, check_output, more, run, unique, wait_until
from harness.sandbox import Watch
from harness.shim import Shim, default_spec

pytestmark = pytest.mark.wyvern_only

MIB = 1 << 20
ROOT = "awk '$2 == \"/\" { print $1, $3 }' /proc/mounts"
DISK = re.compile(r"/dev/vd[a-z]+ ext4")


def own_containerd(kind: str, directory: pathlib.Path):
    if kind == "blockfile":
        if containerd.version() == "1.6":
            pytest.skip("the snapshotter blockfile came with containerd 1.7")
        return containerd.blockfile(directory)
    if not containerd.thin_pools_work():
        pytest.skip("no device-mapper with thin provisioning here")
    return containerd.devmapper(directory)


# One each by default: devmapper with 1.6, which has no blockfile.
@pytest.fixture(scope="module", params=["blockfile", "devmapper" if containerd.version() == "1.6" else more("devmapper")])
def snapshots(request, tmp_path_factory):
    """A containerd whose snapshots are block devices."""
    directory = tmp_path_factory.mktemp("wyvern-e2e-containerd")
    with own_containerd(request.param, directory) as daemon:
        yield daemon
    shutil.rmtree(directory)


def source_of(daemon, key: str) -> str:
    """The device or image of a snapshot."""
    line = succeed("ctr", "--address", daemon.socket, "snapshots", "--snapshotter", daemon.snapshotter, "mounts", "/x", key)
    return next(word for word in line.split() if word.startswith(("/dev/mapper/", str(daemon.directory))))


def test_root_is_a_disk_and_keeps_what_was_written(snapshots, scratch):
    name = unique()
    done = snapshots.run("sh", "-c", f"{ROOT}; echo kept >/kept; sync", name=name)
    try:
        assert done.returncode == 0, done.stderr.decode()
        assert DISK.fullmatch(done.stdout.decode().strip()), done.stdout
        snapshots.ctr("task", "delete", name)
        assert holders(source_of(snapshots, name)) == []
        with snapshots.mounted(name, scratch / "snapshot") as point:
            assert (point / "kept").read_text() == "kept\n"
    finally:
        snapshots.remove(name)


def test_two_containers_exec_and_a_root_that_may_not_be_written(snapshots):
    names = [unique(), unique()]
    try:
        for name, flags in zip(names, ([], ["--read-only"])):
            done = snapshots.run("sleep", "100000", name=name, flags=["-d", "--null-io", *flags])
            assert done.returncode == 0, done.stderr.decode()
        for name, writes in zip(names, (True, False)):
            done = snapshots.ctr("task", "exec", "--exec-id", unique("e"), name, "sh", "-c", f"{ROOT}; echo x >/x && echo written")
            assert DISK.match(done.stdout.decode()), (done.stdout, done.stderr)
            assert (b"written" in done.stdout) == writes, done.stdout
        sources = [source_of(snapshots, name) for name in names]
        # The host mounts nothing of it: not at the bundle, nor anywhere else.
        mounts = pathlib.Path("/proc/self/mountinfo").read_text()
        assert not any(str(source) in mounts for source in sources)
        assert all(any("wyvern-vmm" in holder for holder in holders(source)) for source in sources)
    finally:
        for name in names:
            snapshots.remove(name)


@pytest.mark.parametrize("victim", ["wyvern-vmm", more("containerd-shim-wyvern-v2")])
def test_kill_9_frees_the_disk(snapshots, victim):
    watch, name = Watch(), unique()
    done = snapshots.run("sleep", "100000", name=name, flags=["-d", "--null-io"])
    try:
        assert done.returncode == 0, done.stderr.decode()
        source = source_of(snapshots, name)
        os.kill(watch.pid(victim), 9)
        assert wait_until(lambda: holders(source) == [], 20), holders(source)
    finally:
        snapshots.remove(name)


def test_delete_of_a_running_container_frees_the_disk(snapshots):
    name = unique()
    done = snapshots.run("sh", "-c", "while :; do echo x >>/busy; done", name=name, flags=["-d", "--null-io"])
    try:
        assert done.returncode == 0, done.stderr.decode()
        source = source_of(snapshots, name)
        assert snapshots.ctr("task", "delete", "--force", name).returncode == 0
        assert holders(source) == []
    finally:
        snapshots.remove(name)


@pytest.mark.thorough
def test_many_containers_leave_no_disk(snapshots, long):
    for _ in range(20 if long else 5):
        name = unique()
        done = snapshots.run("sh", "-c", "echo $RANDOM >/x", name=name)
        assert done.returncode == 0, done.stderr.decode()
        snapshots.ctr("task", "delete", name)
        assert holders(source_of(snapshots, name)) == []
        snapshots.remove(name)


# --- Roots that a test makes itself -------------------------------------------------------------------------------------------------


def image_of(root: pathlib.Path, image: pathlib.Path, size: str = "24M") -> pathlib.Path:
    for name in ("dev", "proc", "run", "sys"):  # mount points that nobody can make in a disk that is read-only
        (root / name).mkdir(exist_ok=True)
    succeed("mke2fs", "-q", "-t", "ext4", "-d", root, image, size)
    return image


def task(scratch, mounts, args, options=None):
    """A task with these mounts, run to its end: (code and message of Create, exit code, what it printed)."""
    output = scratch / f"output-{unique()}"
    output.touch()
    with Shim(scratch / unique("bundle"), default_spec("rootfs", args)) as shim:
        request = shim.create(options) | {3: [ttrpc.encode({1: kind, 2: str(source), 4: list(words)}) for kind, source, *words in mounts],
                                          6: f"file://{output}"}
        created = shim.call("Create", request)[:2]
        if created[0] != 0:
            return created, None, ""
        assert shim.call("Start", {1: shim.name})[0] == 0
        _, _, reply = shim.call("Wait", {1: shim.name})
        assert shim.call("Delete", {1: shim.name})[0] == 0
        assert all(holders(source) == [] for _, source, *_ in mounts)
        return created, reply.get(1, 0), output.read_text()


def test_snapshot_with_a_journal_that_wants_replay_is_read(scratch, busybox_root):
    """A copy of a disk that was in use: read-only, so nobody can replay it."""
    image, copy, point = image_of(busybox_root, scratch / "root.ext4"), scratch / "copy.ext4", scratch / "mounted"
    point.mkdir()
    succeed("mount", "-o", "loop", image, point)
    try:
        (point / "new").write_text("x" * 100000)
        os.sync()
        shutil.copy(image, copy)
    finally:
        succeed("umount", point)
    assert "needs_recovery" in succeed("dumpe2fs", "-h", copy)
    created, code, text = task(scratch, [("ext4", copy, "loop", "ro")], ["sh", "-c", f"{ROOT}; touch /x || echo refused"])
    assert created[0] == 0 and code == 0, created
    assert DISK.match(text) and "refused" in text


def test_image_that_the_host_has_mounted_stays_the_hosts(scratch, busybox_root):
    image, point = image_of(busybox_root, scratch / "root.ext4"), scratch / "mounted"
    point.mkdir()
    succeed("mount", "-o", "loop", image, point)
    try:
        spec_mount = f"type=ext4,src={image},dst=/data,options=rw"
        done = run(BUSYBOX, "true", flags=["--mount", spec_mount])
        assert done.returncode != 0 and b"is in use by /dev/loop" in done.stderr, done.stderr
    finally:
        succeed("umount", point)
    assert "clean" in succeed("dumpe2fs", "-h", image)


def test_configuration_has_the_host_mount_it(scratch, busybox_root):
    config = scratch / "share.yaml"
    config.write_text("storage:\n  block: share\n")
    image = image_of(busybox_root, scratch / "root.ext4")
    created, code, text = task(scratch, [("ext4", image, "loop")], ["sh", "-c", ROOT], options={2: str(config)})
    assert created[0] == 0 and code == 0, created
    assert "virtiofs" in text or "fuse" in text, text


def test_file_system_that_no_kernel_mounts_is_one_clear_error(scratch):
    image = scratch / "garbage"
    image.write_bytes(os.urandom(4 * MIB))
    created, _, _ = task(scratch, [("ext4", image, "loop")], ["true"])
    assert created[0] != 0 and "storage.block" in created[1] and "ext4" in created[1], created
    assert holders(image) == []


# --- Volumes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_device", [False, True])
def test_volume_of_ext4(scratch, as_device):
    image = scratch / "volume.ext4"
    succeed("mke2fs", "-q", "-t", "ext4", image, "16M")

    def use(source):
        out = check_output(BUSYBOX, "sh", "-c", "echo new >/data/new; grep ' /data ' /proc/mounts",
                           flags=["--mount", f"type=ext4,src={source},dst=/data,options=rw:nodev:noatime:commit=30"])
        assert re.match(r"/dev/vd\w+ /data ext4 \S*nodev", out) and "noatime" in out and "commit=30" in out, out
        assert holders(source) == []

    if as_device:
        with loop_device(image) as device:
            use(device)
            assert is_free(device)
    else:
        use(image)
        assert str(image) not in succeed("losetup", "-l", "-n", "-O", "BACK-FILE")
    assert call(["debugfs", "-R", "cat /new", image]).stdout == b"new\n"


def test_volume_of_erofs_is_read(scratch):
    tree, image = scratch / "tree", scratch / "volume.erofs"
    tree.mkdir()
    (tree / "file").write_text("text\n")
    succeed("mkfs.erofs", "--quiet", image, tree)
    flags = ["--mount", f"type=erofs,src={image},dst=/data,options=ro:loop"]
    assert check_output(BUSYBOX, "sh", "-c", "cat /data/file; touch /data/x || echo refused", flags=flags) == "text\nrefused\n"
    assert holders(image) == []


def test_volume_has_one_writer(scratch):
    image = scratch / "volume.ext4"
    succeed("mke2fs", "-q", "-t", "ext4", image, "16M")
    flags = ["--mount", f"type=ext4,src={image},dst=/data,options=rw"]
    name = unique()
    assert call(["ctr", "run", "-d", "--null-io", "--runtime", "io.containerd.wyvern.v2", *flags, BUSYBOX, name, "sleep", "100000"]).returncode == 0
    try:
        done = run(BUSYBOX, "true", flags=flags)
        assert done.returncode != 0 and b"is in use by another guest" in done.stderr, done.stderr
    finally:
        call(["ctr", "task", "kill", "-s", "SIGKILL", name])
        call(["ctr", "task", "delete", "--force", name])
        call(["ctr", "container", "delete", name])
    assert holders(image) == []


# --- Devices ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(scratch):
    """A block device of random bytes, and these."""
    contents = random.randbytes(4 * MIB)
    (scratch / "raw").write_bytes(contents)
    with loop_device(scratch / "raw") as device:
        yield device, contents


def test_scenario_56_device_is_read_and_written(scratch, raw):
    device, contents = raw
    script = f"sha256sum <{device}; echo written | dd of={device} bs=1M seek=1 conv=notrunc,fsync 2>/dev/null; stat -c '%t:%T' {device}"
    out = check_output(BUSYBOX, "sh", "-c", script, flags=["--device", device])
    assert hashlib.sha256(contents).hexdigest() in out, out
    info = os.stat(device)
    assert f"{os.major(info.st_rdev):x}:{os.minor(info.st_rdev):x}" not in out, "the number is the host's"
    assert is_free(device)
    assert (scratch / "raw").read_bytes()[MIB:MIB + 8] == b"written\n"


def test_device_that_may_only_be_read(scratch, busybox_root, raw):
    """The rule says r: the guest's disk is read-only, which no program in the guest can change."""
    device, contents = raw
    info = os.stat(device)
    numbers = {"type": "b", "major": os.major(info.st_rdev), "minor": os.minor(info.st_rdev)}
    spec = default_spec(busybox_root, ["sh", "-c", "sha256sum </dev/xvda; cat /sys/block/vd*/ro"])
    spec["linux"].setdefault("devices", []).append({"path": "/dev/xvda", "fileMode": 0o666, **numbers})
    spec["linux"]["resources"].setdefault("devices", []).append({"allow": True, "access": "r", **numbers})
    output = scratch / "output"
    output.touch()
    with Shim(scratch / "bundle", spec) as shim:
        code, message = shim.call("Create", shim.create() | {6: f"file://{output}"})[:2]
        assert code == 0, message
        assert shim.call("Start", {1: shim.name})[0] == 0
        shim.call("Wait", {1: shim.name})
        assert shim.call("Delete", {1: shim.name})[0] == 0
        assert is_free(device)
    text = output.read_text()
    assert hashlib.sha256(contents).hexdigest() in text and "1" in text.splitlines()[1:], text


def test_device_in_use_on_the_host_is_refused(scratch):
    image, point = scratch / "image", scratch / "mounted"
    point.mkdir()
    succeed("mke2fs", "-q", "-t", "ext4", image, "8M")
    with loop_device(image) as device:
        succeed("mount", device, point)
        try:
            done = run(BUSYBOX, "true", flags=["--device", device])
            assert done.returncode != 0 and b"is in use by the host" in done.stderr, done.stderr
        finally:
            succeed("umount", point)


@pytest.mark.thorough
@pytest.mark.limit(900)
def test_more_devices_than_slots_of_the_bus(scratch):
    """Bus 0 has 31; the others come behind root ports."""
    count = 40
    with contextlib.ExitStack() as stack:
        devices = []
        for i in range(count):
            image = scratch / f"raw-{i}"
            image.write_bytes(f"disk {i}\n".encode().ljust(4096, b"\0"))
            devices.append(stack.enter_context(loop_device(image)))
        script = "; ".join(f"head -n 1 {device}" for device in devices)
        out = check_output(BUSYBOX, "sh", "-c", script, flags=[flag for device in devices for flag in ("--device", device)], timeout=600)
        assert out.split("\n")[:count] == [f"disk {i}" for i in range(count)]
        assert all(is_free(device) for device in devices)


# --- Beside the share ---------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.limit(1800)
def test_fio_on_a_disk_and_on_the_share(scratch, capsys):
    """Figures of one run, for the bench's table; nothing is asserted of their ratio."""
    root, image = scratch / "root", scratch / "root.ext4"
    root.mkdir()
    succeed("ctr", "images", "mount", DEBIAN, root)
    try:
        succeed("mke2fs", "-q", "-t", "ext4", "-d", root, image, "1536M", timeout=600)
    finally:
        succeed("ctr", "images", "unmount", "--rm", root)
    fio = ["fio", "--name=root", "--filename=/fio", "--size=64m", "--rw=randrw", "--bs=4k", "--ioengine=psync", "--runtime=20", "--time_based",
           "--fdatasync=32", "--output-format=json"]
    figures = {}
    for kind, config in (("disk", "storage:\n  block: auto\n"), ("share", "storage:\n  block: share\n")):
        file = scratch / f"{kind}.yaml"
        file.write_text(config)
        created, code, text = task(scratch, [("ext4", image, "loop")], fio, options={2: str(file)})
        assert created[0] == 0 and code == 0, (created, text)
        job = json.loads(text[text.index("{"):])["jobs"][0]
        figures[kind] = {side: round(job[side]["iops"]) for side in ("read", "write")}
    with capsys.disabled():
        print(f"\nfio randrw 4k, IOPS: {figures}")
