"""A containerd of the test's own, beside the machine's: with block devices for snapshots, which the machine's has off."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

from harness.ctr import RUNTIME, call, unique, wait_until

BUSYBOX_TAR = "/opt/images/busybox.tar"
SECTOR = 512
MIB = 1 << 20


def succeed(*argv, timeout=120) -> str:
    done = call(argv, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: {done.returncode}: {done.stderr.decode()}"
    return done.stdout.decode()


def version() -> str:
    """Of the containerd that is first in PATH: "1.7"."""
    return ".".join(succeed("containerd", "--version").split()[2].lstrip("v").split(".")[:2])


class Daemon:
    """The program, with `config`; its words go behind what is in `log`. `programs`: a directory before those of PATH."""

    def __init__(self, config: pathlib.Path, log: pathlib.Path, programs=None):
        self.config, self.log, self.programs = config, log, programs
        self.process = None

    def start(self) -> None:
        path = os.environ["PATH"] if self.programs is None else f"{self.programs}:{os.environ['PATH']}"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(["containerd", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, env=os.environ | {"PATH": path})

    def stop(self) -> None:
        """What it runs goes on."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self, about: str | None = None) -> str:
        """The last of its warnings, and of all that it said about this."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if "level=info" not in line or (about and about in line))[-4000:]


class Containerd:
    """In a with statement. `plugins`: TOML of its plugins. `snapshotter`: what run() uses."""

    def __init__(self, directory: pathlib.Path, snapshotter: str, plugins: str):
        self.directory, self.snapshotter = directory, snapshotter
        self.socket = directory / "containerd.sock"
        config = directory / "config.toml"
        self.daemon = Daemon(config, directory / "log")
        config.write_text(f"""version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.socket}.ttrpc"
{plugins}
""")

    def __enter__(self):
        self.daemon.start()
        try:
            assert wait_until(lambda: self.ctr("version").returncode == 0, 60), self.said()
            listed = self.ctr("plugins", "ls").stdout.decode()
            states = [line.split()[-1] for line in listed.splitlines() if f" {self.snapshotter} " in line]
            assert states == ["ok"], f"{listed}\n{self.said()}"
            done = self.ctr("images", "import", "--snapshotter", self.snapshotter, BUSYBOX_TAR, timeout=200)
            assert done.returncode == 0, f"{done.stderr.decode()}\n{self.said()}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self._end()

    def _end(self):
        for name in set(self.ctr("task", "ls", "-q").stdout.decode().split()):
            self.ctr("task", "delete", "--force", name)
        for name in set(self.ctr("container", "ls", "-q").stdout.decode().split()):
            self.ctr("container", "delete", name)
        # Images first, so that their snapshots go, too.
        for name in set(self.ctr("images", "ls", "-q").stdout.decode().split()):
            self.ctr("images", "rm", "--sync", name)
        self.daemon.stop()

    def said(self) -> str:
        return self.daemon.said(self.snapshotter)

    def ctr(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        return call(["ctr", "--address", self.socket, *argv], **kwargs)

    def run(self, *command, name=None, flags=(), image="docker.io/library/busybox:latest", **kwargs):
        """ctr run, without --rm."""
        return self.ctr("run", "--runtime", RUNTIME, "--snapshotter", self.snapshotter, *flags, image, name or unique(), *command,
                        **kwargs)

    def remove(self, name: str) -> None:
        self.ctr("task", "kill", "-s", "SIGKILL", "--all", name)
        self.ctr("task", "delete", "--force", name)
        self.ctr("container", "delete", name)

    @contextlib.contextmanager
    def mounted(self, key: str, point: pathlib.Path):
        """A snapshot that no container has any more, as the host sees it."""
        point.mkdir()
        line = succeed("ctr", "--address", self.socket, "snapshots", "--snapshotter", self.snapshotter, "mounts", point, key)
        succeed("sh", "-c", line.rstrip().removesuffix(" -o"))  # what ctr says of no options
        try:
            yield point
        finally:
            succeed("umount", point)
            point.rmdir()


@contextlib.contextmanager
def blockfile(directory: pathlib.Path, megabytes: int = 32):
    """containerd with the snapshotter blockfile (since 1.7)."""
    scratch = directory / "scratch.ext4"
    succeed("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", scratch, f"{megabytes}M")
    with Containerd(directory, "blockfile", f"""
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = "{scratch}"
  fs_type = "ext4"
""") as containerd:
        yield containerd


@contextlib.contextmanager
def loop_device(image: pathlib.Path):
    device = succeed("losetup", "--find", "--show", image).strip()
    try:
        yield pathlib.Path(device)
    finally:
        succeed("losetup", "-d", device)


@contextlib.contextmanager
def devmapper(directory: pathlib.Path, megabytes: int = 64):
    """containerd with the snapshotter devmapper, on a thin pool of files."""
    pool = unique("wyvern-e2e")
    if not pathlib.Path("/run/udev/control").exists():
        os.environ["DM_DISABLE_UDEV"] = "1"  # dmsetup, containerd's too, makes the nodes itself
    with contextlib.ExitStack() as stack:
        devices = []
        for name, size in (("meta", 32), ("data", 1024)):
            with open(directory / name, "wb") as f:
                f.truncate(size * MIB)
            devices.append(stack.enter_context(loop_device(directory / name)))
        succeed("dmsetup", "create", pool, "--table",
                f"0 {1024 * MIB // SECTOR} thin-pool {devices[0]} {devices[1]} 128 1024 1 skip_block_zeroing")
        stack.callback(succeed, "dmsetup", "remove", "--retry", pool)
        stack.callback(remove_thins, pool)
        yield stack.enter_context(Containerd(directory, "devmapper", f"""
[plugins."io.containerd.snapshotter.v1.devmapper"]
  root_path = "{directory}/devmapper"
  pool_name = "{pool}"
  base_image_size = "{megabytes}MB"
"""))


def remove_thins(pool: str) -> None:
    for line in succeed("dmsetup", "ls").splitlines():
        name = line.split()[0]
        if name.startswith(f"{pool}-snap-"):
            succeed("dmsetup", "remove", "--retry", name)


def thin_pools_work() -> bool:
    """The kernel has device-mapper with thin provisioning, and the tool is there."""
    if shutil.which("dmsetup") is None:
        return False
    call(["modprobe", "dm_thin_pool"])
    done = call(["dmsetup", "targets"])
    return done.returncode == 0 and b"thin-pool" in done.stdout


def holders(path) -> list:
    """Processes that have the file or device open."""
    wanted = os.stat(path)
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for fd in (entry / "fd").iterdir():
                with contextlib.suppress(OSError):
                    info = fd.stat()
                    if (info.st_dev, info.st_ino) == (wanted.st_dev, wanted.st_ino) or (wanted.st_rdev and info.st_rdev == wanted.st_rdev):
                        found.append(f"{entry.name} {(entry / 'comm').read_text().strip()}")
                        break
    return found


def is_free(device) -> bool:
    """Nobody has the block device: it can be claimed."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
        return True
    except OSError:
        return False
