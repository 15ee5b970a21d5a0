"""Cached build results: one directory per name and hash of what made it.

Layout: ${WYVERN_CACHE:-~/.cache/wyvern}/lab/<name>-<hash>/.  An entry appears by rename(2) when it
is complete, so a directory that exists is good.  One lock file per entry keeps concurrent builders
from doing the same work twice.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time


class LabError(Exception):
    """Something the user can act on; shown as one line without a traceback."""


def root() -> pathlib.Path:
    base = os.environ.get("WYVERN_CACHE") or os.path.join(
        os.path.expanduser("~"), ".cache", "wyvern")
    return pathlib.Path(base) / "lab"


def digest(*parts) -> str:
    """Hash of strings and of the files below paths (names, modes and contents)."""
    h = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            files = [part] if part.is_file() else sorted(
                p for p in part.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            for f in files:
                h.update(f"{f.name} {f.stat().st_mode & 0o111:o}\0".encode())
                h.update(f.read_bytes())
        else:
            h.update(str(part).encode() + b"\0")
    return h.hexdigest()[:12]


@contextlib.contextmanager
def step(text: str):
    """Prints one line per step with its time."""
    print(f"lab: {text} ...", file=sys.stderr, flush=True)
    begin = time.monotonic()
    yield
    print(f"lab: {text}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)


def entry(name: str, key: str, build) -> pathlib.Path:
    """Returns the cached directory, calling build(tmpdir) first if it does not exist."""
    path = root() / f"{name}-{key}"
    if path.is_dir():
        return path
    root().mkdir(parents=True, exist_ok=True)
    with open(root() / f".{path.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"lab: waiting for another build of {path.name}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_dir():
            return path
        tmp = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=root()))
        try:
            build(tmp)
            tmp.chmod(0o755)
            tmp.rename(path)
        finally:
            if tmp.exists():
                shutil.rmtree(tmp, ignore_errors=True)
    return path


def entries():
    """(path, bytes on disk) of each complete entry."""
    for path in sorted(root().glob("[a-z]*-*")):
        if path.is_dir():
            yield path, sum(f.lstat().st_blocks * 512 for f in path.rglob("*"))


def prune(keep) -> None:
    """Removes all entries but those in keep, and what broken builds left."""
    for path in sorted(root().glob("*")) + sorted(root().glob(".*")):
        if path.is_dir() and path not in keep:
            print(f"lab: removing {path}", file=sys.stderr)
            shutil.rmtree(path)


def call(*argv, **kwargs) -> None:
    """Runs a build tool; on failure shows the end of what it said."""
    args = [str(a) for a in argv]
    done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **kwargs)
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace").splitlines()[-15:]
        raise LabError(f"{args[0]} failed with {done.returncode}:\n  " + "\n  ".join(tail))
