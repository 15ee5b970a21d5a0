"""A Linux guest moves from one QEMU 10 to another, each with a wyvern-fs of its own over the same directory."""

import hashlib
import os

import pytest

import emulated
from test_our_blk import await_state

# What it has open and where it stands before, it uses after; then it finds what the host made meanwhile.
MOVES = """mount -t virtiofs share /mnt || say mount failed
cd /mnt/d
exec 3</mnt/big 4>>/mnt/log
say $(dd bs=1M count=1 <&3 2>/dev/null | sha256sum)
echo before >&4
say ready
while [ ! -e /mnt/go ]; do sleep 0.2; done
say $(dd bs=1M <&3 2>/dev/null | sha256sum)
echo after >&4
say here $(ls) $(cat file)
mv file moved && say moved $(ls)
umount /mnt 2>/dev/null || say in use
cd / && exec 3<&- 4>&- && umount /mnt && say unmounted
poweroff -f
"""


def serve(share, socket, *options):
    return emulated.server([emulated.RELEASE / "bin/wyvern-fs", "--shared-dir", share, "--socket-path", socket, "--tag", "share", *options],
                           socket)


def devices(socket) -> list:
    return ["-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=share"]


def test_migration_of_a_share(tmp_path):
    words = emulated.qemu("10")
    share = tmp_path / "share"
    (share / "d").mkdir(parents=True)
    (share / "d/file").write_text("content\n")
    big = os.urandom(8 << 20)
    (share / "big").write_bytes(big)
    archive = emulated.initramfs(tmp_path, MOVES)
    here, there, wire = tmp_path / "here.sock", tmp_path / "there.sock", tmp_path / "wire"
    with serve(share, here), serve(share, there) as served, \
            emulated.Guest(words, tmp_path, archive, [*devices(there), "-incoming", f"unix:{wire}"], name="there") as target:
        with emulated.Guest(words, tmp_path, archive, devices(here), name="here") as source:
            source.wait_for("ready")
            source.command("migrate", uri=f"unix:{wire}")
            await_state(source, lambda state: state["status"] == "completed")
            first = source.answers()
        (share / "go").write_text("")
        second = target.finish()
        said = target.said()
        served.wait(timeout=10)
    sums = [f"{hashlib.sha256(part).hexdigest()} -" for part in (big[:1 << 20], big[1 << 20:])]
    assert first == [sums[0], "ready"], said
    assert second == [sums[1], "here file content", "moved moved", "in use", "unmounted"], said
    assert (share / "log").read_text() == "before\nafter\n"
    assert served.returncode == 0, said


# An open file that has lost its name.
LOSES = """mount -t virtiofs share /mnt || say mount failed
exec 3</mnt/lost 4</mnt/kept
rm /mnt/lost
say ready
while [ ! -e /mnt/go ]; do sleep 0.2; done
read line <&3 || say lost
read line <&4
say $line
poweroff -f
"""


@pytest.mark.parametrize("choice", ["abort", "guest-error"])
def test_migration_that_loses_a_file(tmp_path, choice):
    words = emulated.qemu("10")
    share = tmp_path / "share"
    share.mkdir()
    (share / "lost").write_text("still here\n")
    (share / "kept").write_text("kept\n")
    archive = emulated.initramfs(tmp_path, LOSES)
    here, there, wire = tmp_path / "here.sock", tmp_path / "there.sock", tmp_path / "wire"
    with serve(share, here), serve(share, there, "--migration-on-error", choice), \
            emulated.Guest(words, tmp_path, archive, devices(here), name="here") as source, \
            emulated.Guest(words, tmp_path, archive, [*devices(there), "-incoming", f"unix:{wire}"], name="there") as target:
        source.wait_for("ready")
        source.command("migrate", uri=f"unix:{wire}")
        await_state(source, lambda state: state["status"] in ("completed", "failed") or target.process.poll() is not None)
        (share / "go").write_text("")
        if choice == "guest-error":
            assert target.finish() == ["lost", "kept"], target.said()
            assert "the guest has lost 1 inodes and 1 open files" in target.said(), target.said()
        else:
            assert target.process.wait(timeout=60) != 0, target.said()
            assert "the guest would lose 1 inodes and 1 open files" in target.said(), target.said()
