"""The disk with the current build: what `lab run` installs in the machine at /opt/wyvern.

  bin/       wyvern, containerd-shim-wyvern-v2           -> /usr/local/bin
  libexec/   wyvern-vmm, wyvern-fs, wyvern-anchor        -> /usr/libexec/wyvern
  share/     guest/{vmlinux,image.erofs,...}             -> /usr/share/wyvern
  etc/       the tree's configs/                         -> /etc/wyvern (copied at boot: tests change it)
  tests/     the tree's tests/
  lab/       what runs in the machine for the host (tests/lab/machine/run)
  extra/     files named with --add
"""

import os
import pathlib
import shutil
import subprocess
import sys

from lablib import cache
from lablib.cache import LabError

TREE = pathlib.Path(__file__).resolve().parents[3]
BINARIES = {
    "wyvern": "bin", "containerd-shim-wyvern-v2": "bin",
    "wyvern-vmm": "libexec", "wyvern-fs": "libexec", "wyvern-anchor": "libexec"}
GUEST_FILES = ("vmlinux", "image.erofs")
STRIP_ABOVE = 24 << 20  # bytes: debug info of a dev build is not worth the boot time


def default_build() -> pathlib.Path | None:
    for name in ("release", "dev"):
        if (TREE / "build" / name).is_dir():
            return TREE / "build" / name
    return None


def default_guest() -> pathlib.Path | None:
    """The newest guest artefacts in the cache of deploy/guest."""
    base = cache.root().parent / "guest"
    found = [p for p in base.glob("*") if p.is_dir() and any((p / f).exists() for f in GUEST_FILES)]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def find_binary(build: pathlib.Path, name: str) -> pathlib.Path | None:
    """The program called name below the build directory; the newest if there are several."""
    found = []
    for directory, subdirectories, files in os.walk(build):
        subdirectories[:] = [d for d in subdirectories if d not in ("CMakeFiles", "_deps")]
        if name in files and os.access(os.path.join(directory, name), os.X_OK):
            found.append(pathlib.Path(directory, name))
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def _install(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > STRIP_ABOVE and shutil.which("strip"):
        subprocess.run(["strip", "--strip-debug", "-o", target, source], check=True)
        target.chmod(0o755)
    else:
        shutil.copy(source, target)


def make_disk(directory: pathlib.Path, build: pathlib.Path | None, guest: pathlib.Path | None,
              extra: list) -> pathlib.Path:
    """Makes directory/build.img; says on stderr what is missing in build, if one is given."""
    tree = directory / "stage"
    for name in ("bin", "libexec", "share/guest", "etc", "tests", "extra"):
        (tree / name).mkdir(parents=True)
    missing = []
    for name, place in BINARIES.items():
        source = find_binary(build, name) if build else None
        if source:
            _install(source, tree / place / name)
        else:
            missing.append(name)
    shutil.copytree(TREE / "tests/lab/machine/run", tree / "lab")
    missing += _install_guest(guest, tree / "share/guest")
    if (TREE / "configs").is_dir():
        shutil.copytree(TREE / "configs", tree / "etc", dirs_exist_ok=True)
    shutil.copytree(TREE / "tests", tree / "tests", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache", "corpora"))
    for path in extra:
        if not path.exists():
            raise LabError(f"--add {path}: no such file or directory")
        if path.is_dir():
            shutil.copytree(path, tree / "extra" / path.name, symlinks=True)
        else:
            shutil.copy(path, tree / "extra" / path.name)
    if missing and build:
        print(f"lab: not installed (not built yet): {', '.join(missing)}", file=sys.stderr)
    size = sum(f.lstat().st_size + 4096 for f in tree.rglob("*"))
    image = directory / "build.img"
    cache.call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0", "-d", tree,
               image, f"{(size + (size >> 3) >> 20) + 16}M")
    shutil.rmtree(tree)
    return image


def _install_guest(guest: pathlib.Path | None, target: pathlib.Path) -> list:
    missing = []
    for name in GUEST_FILES:
        if guest and (guest / name).exists():
            shutil.copy(guest / name, target / name)
        else:
            missing.append(f"guest/{name}")
    if guest:
        for path in guest.iterdir():
            if path.is_file() and path.name not in GUEST_FILES:
                shutil.copy(path, target / path.name)
    return missing
