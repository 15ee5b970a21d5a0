"""Kernels of distributions as guests: `wyvern guest import`, `list`, `remove`, and sandboxes on them."""

import json
import os
import pathlib
import re
import shutil

import pytest

from harness.ctr import BUSYBOX, call, run
from test_wyvern_cli import Running

pytestmark = [pytest.mark.wyvern_only, pytest.mark.limit(600)]
LAYOUT = "/opt/images/busybox"
KERNELS = pathlib.Path("/opt/kernels")
STORE = pathlib.Path("/var/lib/wyvern/guests")
CONF_D = pathlib.Path("/etc/wyvern/conf.d")
XEN_PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")  # sizes of name and address, type 18


def wyvern(*argv, **kwargs):
    return call(["wyvern", *argv], timeout=300, **kwargs)


def guest_import(kernel, modules, *flags):
    return wyvern("guest", "import", "--kernel", kernel, "--modules", modules, *flags)


def run_in(guest, *command, flags=()):
    return wyvern("run", "--guest", guest, *flags, LAYOUT, "--", *command)


def release_of(directory: pathlib.Path) -> str:
    """What the modules were built for, read without our code."""
    module = next((directory / "modules/kernel").rglob("erofs.ko*"))
    return call(["modinfo", "-F", "vermagic", module]).stdout.split()[0].decode()


def assert_clear(done, *words):
    """One message that names each word, and nothing stored."""
    text = done.stderr.decode()
    assert done.returncode == 125, (done.returncode, text)
    assert len([line for line in text.splitlines() if line.strip()]) == 1, text
    for word in words:
        assert str(word) in text, (word, text)
    assert not done.stdout
    assert not (STORE / ".new").exists()


class Imported:
    def __init__(self, name):
        self.name = name
        self.directory = KERNELS / name
        self.release = release_of(self.directory)
        self.done = guest_import(self.directory / "vmlinuz", self.directory / "modules", "--name", name)


@pytest.fixture(scope="module", params=["debian-12", "debian-13"])
def imported(request):
    guest = Imported(request.param)
    yield guest
    wyvern("guest", "remove", guest.name)


@pytest.fixture
def nothing_imported():
    before = set(STORE.iterdir()) if STORE.exists() else set()
    yield
    assert (set(STORE.iterdir()) if STORE.exists() else set()) - before <= {STORE / ".lock"}


def test_import_prints_the_configuration(imported):
    assert imported.done.returncode == 0, imported.done.stderr.decode()
    assert f'name: "{imported.name}"' in imported.done.stdout.decode()
    assert imported.release in imported.done.stderr.decode()
    assert (STORE / imported.name / "vmlinux").read_bytes()[:4] == b"\x7fELF"


def test_container_runs_on_its_kernel(imported):
    done = run_in(imported.name, "uname", "-r")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == imported.release


@pytest.mark.thorough
def test_container_has_what_it_needs(imported, scratch):
    """Streams, exit code, volume, CPUs, files in the root: the drivers that came as modules work."""
    script = "cat > /data/in; nproc; dd if=/dev/urandom of=/f bs=64k count=64 2>/dev/null; wc -c < /f; mount -t tmpfs none /mnt; exit 7"
    done = wyvern("run", "--guest", imported.name, "-i", "--cpus", "2", "-v", f"{scratch}:/data", LAYOUT, "--",
                  "sh", "-c", script, stdin=b"hello")
    assert done.returncode == 7, done.stderr.decode()
    assert done.stdout.split() == [b"2", str(64 << 16).encode()]
    assert (scratch / "in").read_text() == "hello"


@pytest.mark.thorough
def test_root_is_mounted_dax_and_the_initramfs_is_gone(imported):
    """The host's page cache holds the only copy of the root, under these kernels too."""
    with Running("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done",
                 flags=["--guest", imported.name]) as it:
        mounts = wyvern("exec", "--guest", it.name, "--", "cat", "/proc/mounts")
        assert mounts.returncode == 0, mounts.stderr.decode()
        root = [line.split() for line in mounts.stdout.decode().splitlines() if line.split()[1:3] == ["/", "erofs"]]
        assert len(root) == 1 and root[0][0] == "/dev/pmem0", mounts.stdout.decode()
        assert "dax=always" in root[0][3].split(",") and "ro" in root[0][3].split(",")
        assert wyvern("exec", "--guest", it.name, "--", "ls", "/modules").returncode != 0
        exec_done = wyvern("exec", it.name, "--", "sh", "-c", "echo inside; exit 5")
        assert (exec_done.returncode, exec_done.stdout) == (5, b"inside\n")


def test_second_import_is_a_cache_hit(imported):
    kernel = STORE / imported.name / "vmlinux"
    before = kernel.stat()
    done = guest_import(imported.directory / "vmlinuz", imported.directory / "modules", "--name", imported.name)
    assert done.returncode == 0, done.stderr.decode()
    assert b"already there" in done.stderr
    assert done.stdout == imported.done.stdout
    assert (kernel.stat().st_ino, kernel.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_list_shows_it(imported):
    guests = {guest["name"]: guest for guest in json.loads(wyvern("guest", "list", "--json").stdout)}
    assert guests[imported.name]["release"] == imported.release
    assert "erofs" in guests[imported.name]["modules"]
    assert imported.name in wyvern("guest", "list").stdout.decode()


@pytest.mark.thorough
def test_containerd_uses_the_guest_of_the_configuration(imported):
    CONF_D.mkdir(parents=True, exist_ok=True)
    path = CONF_D / "91-guest.yaml"
    path.write_bytes(imported.done.stdout)
    try:
        done = run(BUSYBOX, "uname", "-r", timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().strip() == imported.release
        listed = json.loads(wyvern("guest", "list", "--json").stdout)
        assert [guest["name"] for guest in listed if guest["selected"]] == [imported.name]
    finally:
        path.unlink()


@pytest.mark.thorough
def test_unpacked_kernel_is_taken_as_it_is(imported):
    kernel = STORE / imported.name / "vmlinux"
    done = guest_import(kernel, imported.directory / "modules", "--name", "unpacked")
    try:
        assert done.returncode == 0, done.stderr.decode()
        assert (STORE / "unpacked/vmlinux").read_bytes() == kernel.read_bytes()
    finally:
        wyvern("guest", "remove", "unpacked")


def test_kernel_without_pvh_entry(imported, scratch, nothing_imported):
    image, count = XEN_PVH_NOTE.subn(lambda note: note[0].replace(b"\x12", b"\x11"),
                                     (STORE / imported.name / "vmlinux").read_bytes())
    assert count == 1
    (scratch / "vmlinux").write_bytes(image)
    assert_clear(guest_import(scratch / "vmlinux", imported.directory / "modules", "--name", "bad"), "vmlinux", "CONFIG_PVH=y")


def test_modules_of_another_kernel(nothing_imported):
    assert_clear(guest_import(KERNELS / "debian-12/vmlinuz", KERNELS / "debian-13/modules"),
                 release_of(KERNELS / "debian-12"), release_of(KERNELS / "debian-13"), "--modules")


@pytest.mark.parametrize("modules", ["/no/such/directory", "/usr", "/etc/passwd"])
def test_directory_without_modules(modules, nothing_imported):
    assert_clear(guest_import(KERNELS / "debian-12/vmlinuz", modules), modules, "/lib/modules/")


@pytest.mark.thorough
def test_missing_driver_is_named(scratch, nothing_imported):
    modules = scratch / "modules"
    shutil.copytree(KERNELS / "debian-12/modules", modules, symlinks=True)
    driver = next(modules.rglob("virtio_pmem.ko*"))
    driver.rename(scratch / driver.name)
    assert_clear(guest_import(KERNELS / "debian-12/vmlinuz", modules), "virtio_pmem")
    driver.symlink_to(scratch / driver.name)  # nothing outside of the directory is read
    assert_clear(guest_import(KERNELS / "debian-12/vmlinuz", modules), "virtio_pmem")
    driver.unlink()
    driver.write_bytes(os.urandom(1000))
    assert_clear(guest_import(KERNELS / "debian-12/vmlinuz", modules), "virtio_pmem")


@pytest.mark.parametrize("what", ["missing", "directory", "empty", "text", "cut in the header", "cut in the payload", "damaged payload"])
def test_kernel_that_is_none(what, scratch, nothing_imported):
    path = scratch / "vmlinuz"
    whole = bytearray((KERNELS / "debian-13/vmlinuz").read_bytes())
    if what == "directory":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "text":
        path.write_text("this is not a kernel" * 1000)
    elif what == "cut in the header":
        path.write_bytes(whole[:0x240])
    elif what == "cut in the payload":
        path.write_bytes(whole[:len(whole) // 2])
    elif what == "damaged payload":
        middle = len(whole) // 2
        whole[middle:middle + 4096] = os.urandom(4096)
        path.write_bytes(whole)
    assert_clear(guest_import(path, KERNELS / "debian-13/modules"), path)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "a b"])
def test_bad_name(name, nothing_imported):
    kernel, modules = KERNELS / "debian-13/vmlinuz", KERNELS / "debian-13/modules"
    assert_clear(guest_import(kernel, modules, "--name=" + name), "--name")
    assert_clear(wyvern("run", "--guest=" + name, LAYOUT, "--", "true"), "--guest")


def test_unknown_guest():
    assert_clear(run_in("nosuch", "true"), "nosuch", "wyvern guest import")
    assert_clear(wyvern("guest", "remove", "nosuch"), "nosuch")


@pytest.mark.parametrize("argv", [["guest"], ["guest", "import"], ["guest", "frobnicate"]], ids=str)
def test_wrong_usage(argv):
    assert wyvern(*argv).returncode == 2


def test_full_disk(scratch, nothing_imported):
    """Nothing half-made stays where a guest would be looked for."""
    script = f"mkdir -p {STORE}; mount -t tmpfs -o size=8m none {STORE}; trap 'ls -A {STORE} >&2' EXIT; " \
             f"wyvern guest import --kernel {KERNELS}/debian-13/vmlinuz --modules {KERNELS}/debian-13/modules"
    done = call(["unshare", "-m", "sh", "-c", script], timeout=300)
    text = done.stderr.decode()
    assert done.returncode == 125 and "No space left" in text, text
    assert text.splitlines()[-1] == ".lock", text
