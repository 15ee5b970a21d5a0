"""The disk with the current build: what `lab run` installs in the machine at /opt/wyvern.

  bin/       wyvern, containerd-shim-wyvern-v2           -> /usr/local/bin
  libexec/   wyvern-vmm, wyvern-fs, wyvern-anchor        -> /usr/libexec/wyvern
  share/     guest/{vmlinux,image.erofs,...}             -> /usr/share/wyvern
  etc/       the tree's configs/                         -> /etc/wyvern (copied at boot: tests change it)
  tests/     the tree's tests/
  docs/      the tree's docs/, whose commands a test runs
  deploy/    containerd/, grafana/ and kubernetes/ of the tree
  lab/       what runs in the machine for the host (tests/lab/machine/run)
  extra/     files named with --add
  lib/       what programs of a dynamic build need and Debian 13 does not have
"""

import os
import pathlib
import shutil
import subprocess
import sys

from lablib import cache
from lablib.cache import LabError
from lablib.machine import Arch

TREE = pathlib.Path(__file__).resolve().parents[3]
BINARIES = {
    "wyvern": "bin", "containerd-shim-wyvern-v2": "bin",
    "wyvern-vmm": "libexec", "wyvern-fs": "libexec", "wyvern-anchor": "libexec"}
GUEST_FILES = ("vmlinux", "image.erofs")
DISK_SIZE = 3 << 30  # bytes, sparse
STRIP_ABOVE = 24 << 20  # bytes: debug info of a dev build is not worth the boot time


def default_build() -> pathlib.Path | None:
    for name in ("release", "dev"):
        if (TREE / "build" / name).is_dir():
            return TREE / "build" / name
    return None


def guest_files(arch: Arch, build: pathlib.Path | None, given: pathlib.Path | None) -> dict:
    """Name in /usr/share/wyvern/guest -> file.  From `given` if named; otherwise the image is made for the
    agent of this build and the kernel is the newest that deploy/guest has built."""
    if given:
        return {p.name: p for p in given.iterdir() if p.is_file()}
    base = cache.root().parent / "guest" / arch.name
    files = {"vmlinux": _newest(base.glob("kernel-*/vmlinux")), "image.erofs": _newest(base.glob("image-*.erofs"))}
    agent = find_binary(build, "wyvern-agent") if build else None
    script = TREE / "deploy/guest/build-image.sh"
    if agent and script.exists():
        done = subprocess.run([script, "--arch", arch.name, "--agent", agent], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"deploy/guest/build-image.sh failed:\n{done.stderr.strip()}")
        files["image.erofs"] = pathlib.Path(done.stdout.split()[-1])
    return {name: path for name, path in files.items() if path}


def _newest(paths) -> pathlib.Path | None:
    return max(paths, key=lambda p: p.stat().st_mtime, default=None)


def find_binary(build: pathlib.Path, name: str) -> pathlib.Path | None:
    """The program called name below the build directory; the newest if there are several."""
    found = []
    for directory, subdirectories, files in os.walk(build):
        subdirectories[:] = [d for d in subdirectories if d not in ("CMakeFiles", "_deps")]
        if name in files and os.access(os.path.join(directory, name), os.X_OK):
            found.append(pathlib.Path(directory, name))
    return _newest(found)


def _install(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > STRIP_ABOVE and shutil.which("strip"):
        subprocess.run(["strip", "--strip-debug", "-o", target, source], check=True)
        target.chmod(0o755)
    else:
        shutil.copy(source, target)


def _install_libraries(programs, target: pathlib.Path, present: set) -> None:
    """Shared libraries that programs of a dynamic build need and the lab machine does not have."""
    for program in programs:
        done = subprocess.run(["ldd", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            name, arrow, path = line.partition(" => ")
            path = path.split(" (")[0]
            if arrow and path.startswith("/") and name.strip() not in present:
                shutil.copy(path, target / name.strip())


def make_disk(directory: pathlib.Path, build: pathlib.Path | None, guest: dict, extra: list,
              base: pathlib.Path | None = None) -> pathlib.Path:
    """Makes directory/build.img; says on stderr what is missing in build, if one is given."""
    tree = directory / "stage"
    for name in ("bin", "libexec", "share/guest", "etc", "tests", "extra", "lib"):
        (tree / name).mkdir(parents=True)
    missing = []
    for name, place in BINARIES.items():
        source = find_binary(build, name) if build else None
        if source:
            _install(source, tree / place / name)
        else:
            missing.append(name)
    shutil.copytree(TREE / "tests/lab/machine/run", tree / "lab")
    for path in extra:
        if not path.exists():
            raise LabError(f"--add {path}: no such file or directory")
        if path.is_dir():
            shutil.copytree(path, tree / "extra" / path.name, symlinks=True)
        else:
            shutil.copy(path, tree / "extra" / path.name)
    if base:
        present = {p.name for p in (base / "root/usr/lib").glob("*-linux-gnu/*")}
        programs = [p for place in ("bin", "libexec", "extra") for p in (tree / place).rglob("*")
                    if p.is_file() and os.access(p, os.X_OK)]
        _install_libraries(programs, tree / "lib", present)
    missing += [f"guest/{name}" for name in GUEST_FILES if name not in guest]
    for name, path in guest.items():
        shutil.copy(path, tree / "share/guest" / name)
    if (TREE / "configs").is_dir():
        shutil.copytree(TREE / "configs", tree / "etc", dirs_exist_ok=True)
    for name in ("deploy/containerd", "deploy/grafana", "deploy/kubernetes", "docs"):
        shutil.copytree(TREE / name, tree / name)
    shutil.copytree(TREE / "tests", tree / "tests", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache", "corpora"))
    if missing and build:
        print(f"lab: not installed (not built yet): {', '.join(missing)}", file=sys.stderr)
    size = sum(f.lstat().st_size + 4096 for f in tree.rglob("*"))
    image = directory / "build.img"
    cache.call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0", "-d", tree,
               image, f"{(size + (size >> 3) >> 20) + 16}M")
    shutil.rmtree(tree)
    # Saved machines know the disk by its size: all have the same one.
    if image.stat().st_size > DISK_SIZE:
        raise LabError(f"the build is larger than {DISK_SIZE >> 20} MiB: strip it or leave something out")
    os.truncate(image, DISK_SIZE)
    return image
