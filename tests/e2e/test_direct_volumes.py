"""Direct volumes: directories of the host that stand for a block device, which a container's guest gets as a disk and mounts itself.

The words are those of kata-runtime's direct-volume, as a CSI driver gives them.
"""

import base64
import json
import pathlib

import pytest

from harness.ctr import BUSYBOX, Container, call, run, wait_until

pytestmark = pytest.mark.wyvern_only
REGISTRY = pathlib.Path("/run/wyvern/direct-volumes")


def direct(verb, path, *words):
    return call(["wyvern", "direct-volume", verb, "--volume-path", path, *words])


def info(device, filesystem="ext4", **more) -> str:
    return json.dumps({"volume-type": "block", "device": str(device), "fstype": filesystem, **more})


class Disk:
    """A loop device over a file with a file system, and a directory that stands for it; in a with statement."""

    def __init__(self, scratch: pathlib.Path, filesystem: str, mebibytes: int, **more):
        self.image, self.path, self.filesystem, self.more = scratch / "image", scratch / "volume", filesystem, more
        self.path.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(mebibytes << 20)
        made = call([f"mkfs.{filesystem}", "-q", self.image])
        assert made.returncode == 0, made.stderr

    def __enter__(self):
        done = call(["losetup", "-f", "--show", self.image])
        assert done.returncode == 0, done.stderr
        self.device = done.stdout.decode().strip()
        done = direct("add", self.path, "--mount-info", info(self.device, self.filesystem, **self.more))
        assert done.returncode == 0, done.stderr
        return self

    def __exit__(self, *_):
        direct("remove", self.path)
        call(["losetup", "-d", self.device])

    def flags(self, *options):
        return ["--mount", f"type=bind,src={self.path},dst=/v,options={':'.join(['rbind', *options])}"]

    def grow(self, mebibytes: int):
        with open(self.image, "r+b") as file:
            file.truncate(mebibytes << 20)
        assert call(["losetup", "-c", self.device]).returncode == 0

    def usage(self) -> list:
        done = direct("stats", self.path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["usage"]


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_direct_volume_is_a_disk_of_the_guest_and_grows(scratch, filesystem):
    if call(["which", f"mkfs.{filesystem}"]).returncode != 0:
        pytest.skip(f"the machine has no mkfs.{filesystem}")
    size = 64 if filesystem == "ext4" else 320
    with Disk(scratch, filesystem, size, options=["noatime"]) as disk:
        key = base64.urlsafe_b64encode(str(disk.path).encode()).decode()
        assert json.loads((REGISTRY / key / "mountInfo.json").read_text())["device"] == disk.device
        with Container(BUSYBOX, flags=disk.flags("rw")) as container:
            done = container.exec("sh", "-c", "grep ' /v ' /proc/mounts; echo kept > /v/file; dd if=/dev/zero of=/v/full bs=1M count=5; sync")
            assert f" /v {filesystem} rw,noatime".encode() in done.stdout, (done.stdout, done.stderr)
            size_before, files = disk.usage()
            assert size_before["unit"] == 1 and size_before["used"] > 5 << 20 and size_before["total"] <= size << 20
            assert files["unit"] == 2 and files["used"] >= 3
            done = direct("remove", disk.path)
            assert done.returncode != 0 and b"is in use by sandbox" in done.stderr, done.stderr
            second = run(BUSYBOX, "true", flags=disk.flags("rw"))
            assert second.returncode != 0 and b"is in use by" in second.stderr, second.stderr
            done = direct("resize", disk.path, "--size", str(2 * size << 20))
            assert done.returncode != 0 and b"make the device larger first" in done.stderr, done.stderr
            disk.grow(2 * size)
            done = direct("resize", disk.path, "--size", str(2 * size << 20))
            assert done.returncode == 0, done.stderr
            assert disk.usage()[0]["total"] > 1.7 * size_before["total"]
            done = container.exec("sh", "-c", "df -m /v | tail -1 | tr -s ' ' | cut -d' ' -f2; cat /v/file")
            assert int(done.stdout.split()[0]) > 1.4 * size and done.stdout.split()[1] == b"kept", done.stdout
        assert list(disk.path.iterdir()) == []
        done = direct("stats", disk.path)
        assert done.returncode != 0 and b"no living sandbox has it" in done.stderr, done.stderr
        assert call(["mount", disk.device, disk.path]).returncode == 0
        try:
            assert (disk.path / "file").read_text() == "kept\n"
            done = run(BUSYBOX, "true", flags=disk.flags("rw"))
            assert done.returncode != 0 and b"is in use by" in done.stderr, done.stderr
        finally:
            assert call(["umount", disk.path]).returncode == 0
        assert direct("remove", disk.path).returncode == 0
        # It stands for itself again.
        assert run(BUSYBOX, "touch", "/v/plain", flags=disk.flags("rw")).returncode == 0
        assert (disk.path / "plain").exists()


def test_direct_volume_that_is_read_only(scratch):
    with Disk(scratch, "ext4", 16) as disk:
        done = run(BUSYBOX, "sh", "-c", "grep -c ' /v ext4 ro' /proc/mounts; touch /v/x", flags=disk.flags("ro"))
        assert done.stdout == b"1\n" and b"Read-only file system" in done.stderr, (done.stdout, done.stderr)


def test_direct_volumes_that_cannot_be_are_refused(scratch):
    path = scratch / "v"
    path.mkdir()

    def said(*argv) -> bytes:
        done = direct(*argv)
        assert done.returncode != 0, argv
        return done.stderr

    assert b"is no direct volume" in said("remove", path)
    assert b"is no direct volume" in said("stats", path)
    assert b"is no direct volume" in said("resize", path, "--size", "1GiB")
    assert b"is no block device" in said("add", path, "--mount-info", info("/dev/null"))
    assert b"/dev/absent" in said("add", path, "--mount-info", info("/dev/absent"))
    assert b"fstype: must be" in said("add", path, "--mount-info", info("/dev/vda", "nfs"))
    assert b"not JSON" in said("add", path, "--mount-info", "{")
    assert b"absolute" in said("add", "v", "--mount-info", info("/dev/vda"))
    assert not REGISTRY.exists() or list(REGISTRY.iterdir()) == []


def test_direct_volume_whose_device_has_gone_is_an_error(scratch):
    with Disk(scratch, "ext4", 16) as disk:
        node = scratch / "node"
        numbers = pathlib.Path(f"/sys/class/block/{pathlib.Path(disk.device).name}/dev").read_text().strip().split(":")
        assert call(["mknod", node, "b", *numbers]).returncode == 0
        assert direct("remove", disk.path).returncode == 0
        assert direct("add", disk.path, "--mount-info", info(node)).returncode == 0
        node.unlink()
        done = run(BUSYBOX, "true", flags=disk.flags("rw"))
        assert done.returncode != 0 and f"direct volume {disk.path}".encode() in done.stderr, done.stderr
        assert wait_until(lambda: list(disk.path.iterdir()) == [], 5)
