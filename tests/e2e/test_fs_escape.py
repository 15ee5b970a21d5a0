"""Nothing outside a volume is reached from inside of a guest: wyvern-escape (tests/e2e/escape) attacks it in a container while the host
renames directories within the share and out of it.

Outside are two canary trees: one beside the share on the host, and one that the same file server has as another volume, read-only, which
no path of the attacker leads to. The suite lab adds the program to its machines: lab run --add build/release/bin/wyvern-escape.
"""

import contextlib
import ctypes
import hashlib
import os
import pathlib
import re
import stat
import threading
import time

import pytest

from harness.ctr import Container
from harness.sandbox import PARTS, Watch

ESCAPE = pathlib.Path("/opt/wyvern/extra/wyvern-escape")
TOKEN = "canary-of-the-host"

pytestmark = [
    pytest.mark.wyvern_only,
    pytest.mark.skipif(not ESCAPE.exists(), reason="this machine was started without wyvern-escape (lab run --add)")]


def make_canary(path: pathlib.Path) -> None:
    """The names that the attacker looks for, open to everybody: what keeps it away must be that it is outside."""
    for directory in (path, path / "e"):
        directory.mkdir()
        directory.chmod(0o777)
    for name in ("f", "e/f", f"{TOKEN}-1", f"e/{TOKEN}-2"):
        (path / name).write_text(f"{TOKEN} {name}\n")
        (path / name).chmod(0o666)


def everything(path: pathlib.Path) -> list:
    """Each name below: inode, kind, owner, links, size, change and modification times, attributes, content or target."""
    found = []
    for directory, names, files in os.walk(path):
        for name in sorted([".", *names, *files]):
            at = os.path.join(directory, name)
            it = os.lstat(at)
            content = os.readlink(at) if stat.S_ISLNK(it.st_mode) else \
                hashlib.sha256(pathlib.Path(at).read_bytes()).hexdigest() if stat.S_ISREG(it.st_mode) else ""
            found.append((at, it.st_ino, it.st_mode, it.st_uid, it.st_gid, it.st_nlink, it.st_size, it.st_mtime_ns, it.st_ctime_ns,
                          os.listxattr(at, follow_symlinks=False), content))
    return sorted(found)


def inodes(*trees: pathlib.Path) -> str:
    return ",".join(str(inode) for inode in sorted({entry[1] for tree in trees for entry in everything(tree)}))


class HostSwapper:
    """Renames on the host: directories with links that lead outside, directories within the share, and some out of it and back."""

    def __init__(self, share: pathlib.Path, away: pathlib.Path, ways: list):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.end = threading.Event()
        self.done = 0
        self.thread = threading.Thread(target=self.run)
        self.share, self.away = share, away
        for name in ("h", "h/e", "k", "k/e"):
            (share / name).mkdir()
        for name in ("h/f", "h/e/f", "k/f", "k/e/f"):
            (share / name).write_text("inside")
        self.links = [f"w{number}" for number, _ in enumerate(ways)]
        for link, way in zip(self.links, ways):
            (share / link).symlink_to(way)

    def exchange(self, a: str, b: str) -> None:
        at, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        self.done += self.libc.renameat2(at, os.fsencode(self.share / a), at, os.fsencode(self.share / b), flag) == 0

    def run(self) -> None:
        while not self.end.is_set():
            for a, b in [("h", "k"), ("d", "k"), *((name, link) for link in self.links for name in ("d", "h", "x"))]:
                self.exchange(a, b)
                time.sleep(0.002)
                self.exchange(a, b)
                time.sleep(0.002)
            for name in ("h", "d"):
                with contextlib.suppress(OSError):
                    os.rename(self.share / name, self.away / name)
                    time.sleep(0.002)
                    os.rename(self.away / name, self.share / name)
                    self.done += 2
            # Where the attacker made something at the name meanwhile, the directory comes back under another.
            for left in list(self.away.iterdir()):
                with contextlib.suppress(OSError):
                    os.rename(left, self.share / f"back{self.done}")
            if not (self.share / "h").is_dir():
                with contextlib.suppress(OSError):
                    (self.share / "h/e").mkdir(parents=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()


def volume(source: pathlib.Path, target: str, mode: str) -> list:
    return ["--mount", f"type=bind,src={source},dst={target},options=rbind:{mode}"]


def counts(said: str) -> dict:
    return {name: int(value) for name, value in re.findall(r"\b([a-z]+)=(\d+)", said)}


@pytest.mark.limit(1500)
def test_nothing_outside_a_volume_is_reached(scratch, long):
    seconds = 600 if long else 8
    for name in ("share", "away", "canary", "other"):
        (scratch / name).mkdir()
        (scratch / name).chmod(0o777)
    for tree in ("canary", "other"):
        (scratch / tree).rmdir()
        make_canary(scratch / tree)
    share, canaries = scratch / "share", (scratch / "canary", scratch / "other")
    # To the first by its path on the host and from the share; to the second by where the file server has its exports.
    ways = [scratch / "canary", "../canary", *(f"../c{c}-v{v}" for c in (0, 1) for v in (0, 1, 2, 3)), "/c0-v1", "/c1-v1"]
    swapper = HostSwapper(share, scratch / "away", ways)
    before = [everything(tree) for tree in canaries]
    beside = sorted(os.listdir(scratch))
    watch = Watch()
    flags = ["--privileged", *volume(share, "/data", "rw"), *volume(scratch / "other", "/other", "ro"), *volume(ESCAPE.parent, "/extra", "ro")]
    with Container(flags=flags) as container:
        server = watch.pid(PARTS["fs"])
        # The second canary is where the file server can reach it: or the ways to it would prove nothing.
        assert TOKEN.encode() in container.exec("cat", "/other/f").stdout
        with swapper:
            done = container.exec("/extra/wyvern-escape", "/data", seconds, TOKEN, inodes(*canaries), *ways, timeout=seconds + 300)
        said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        print(said, f"renames of the host: {swapper.done}")
        assert watch.pid(PARTS["fs"]) == server, "the file server is another"
        # The share works, both ways.
        assert container.exec("sh", "-c", "echo after >/data/after && cat /data/after").stdout == b"after\n"
        assert (share / "after").read_text() == "after\n"
        (share / "after").write_text("from the host\n")
        assert container.exec("cat", "/data/after").stdout == b"from the host\n"
    assert done.returncode == 0 and "ESCAPE" not in said, said
    assert [everything(tree) for tree in canaries] == before, said
    assert sorted(os.listdir(scratch)) == beside and not os.listdir(scratch / "away"), said
    # It was an attack: each kind of step was taken, again and again.
    counted = counts(said)
    assert all(counted[name] >= seconds for name in ("exchanges", "opened", "refused", "read", "listed", "written", "changed")), said
    assert counted["forgotten"] >= 10 and swapper.done >= 10 * seconds, said


def test_the_attacker_finds_what_is_in_reach(scratch):
    """The same program where links do lead out: the volume is what is around the attacked directory. So it can find something."""
    (scratch / "share").mkdir()
    (scratch / "share").chmod(0o777)
    make_canary(scratch / "canary")
    before = everything(scratch / "canary")
    flags = ["--privileged", *volume(scratch, "/data", "rw"), *volume(ESCAPE.parent, "/extra", "ro")]
    with Container(flags=flags) as container:
        done = container.exec("/extra/wyvern-escape", "/data/share", "5", TOKEN, inodes(scratch / "canary"), "../canary", timeout=120)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 1 and counts(said)["escapes"] > 0, said
    for kind in ("content", "inode", "name"):
        assert re.search(f"^ESCAPE .*: .*{kind}", said, re.MULTILINE), said
    assert everything(scratch / "canary") != before, said
