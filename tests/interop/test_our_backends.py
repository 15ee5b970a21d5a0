"""Devices of ours behind other people's front-ends: QEMU 7.2 and 10 with a Linux guest that uses them.

vhost_user_serve (sandbox-vmm/vhost_user/testing) is the back-end's process.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import time

import pytest

import emulated

SERVE = emulated.UNIT / "vhost_user/testing/vhost_user_serve"
MIB = 1 << 20

BLK = """say size $(cat /sys/block/vda/size) $(cat /sys/block/vda/serial)
say sum $(sha256sum </dev/vda)
dd if=/dev/zero of=/dev/vda bs=64k count=16 seek=16 conv=notrunc,fsync 2>/dev/null && say written
say sum $(sha256sum </dev/vda)
poweroff -f
"""


def blk(socket, version: str, reconnects: bool = False) -> list:
    # A back-end cannot say how large its rings may be. 7.2 gives rings of queue-size, and its own 128 are too few for the 254 segments
    # of our configuration. 10 gives 1024 whatever it says, and in-flight memory for queue-size.
    size = 256 if version == "7.2" else 1024
    again = "" if not reconnects else ",reconnect=1" if version == "7.2" else ",reconnect-ms=200"
    return ["-chardev", f"socket,id=d,path={socket}{again}", "-device", f"vhost-user-blk-pci,chardev=d,num-queues=1,queue-size={size}"]


@pytest.mark.parametrize("version", emulated.QEMUS)
def test_blk(tmp_path, version):
    words = emulated.qemu(version)
    content = bytearray(os.urandom(4 * MIB))
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    socket = tmp_path / "blk.sock"
    with emulated.server([SERVE, "blk", socket, disk], socket), \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, BLK), blk(socket, version)) as guest:
        answers = guest.finish()
    before = hashlib.sha256(content).hexdigest()
    content[MIB:2 * MIB] = bytes(MIB)
    assert answers == ["size 8192 wyvern-interop", f"sum {before} -", "written", f"sum {hashlib.sha256(content).hexdigest()} -"], \
        guest.said()
    assert disk.read_bytes() == bytes(content)


RECONNECT = """say ready
n=0
while [ $n -lt 12 ]; do
  echo 3 >/proc/sys/vm/drop_caches
  say sum $(sha256sum </dev/vda)
  n=$((n + 1))
done
poweroff -f
"""


@pytest.mark.parametrize("version", emulated.QEMUS)
def test_blk_goes_on_with_a_new_back_end(tmp_path, version):
    """The back-end is killed while the guest reads; its successor finds by the in-flight memory what was never answered."""
    words = emulated.qemu(version)
    content = os.urandom(8 * MIB)
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    socket = tmp_path / "blk.sock"
    command = [SERVE, "blk", socket, disk]
    with emulated.server(command, socket) as first, \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, RECONNECT), blk(socket, version, reconnects=True)) as guest:
        guest.wait_for("ready")
        guest.wait_for(f"sum {hashlib.sha256(content).hexdigest()} -")
        first.send_signal(signal.SIGKILL)
        first.wait()
        socket.unlink()
        time.sleep(0.3)
        with emulated.server(command, socket):
            answers = guest.finish()
    assert answers == ["ready"] + [f"sum {hashlib.sha256(content).hexdigest()} -"] * 12, guest.said()


RNG = """say from $(cat /sys/class/misc/hw_random/rng_current)
say bytes $(dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock 2>/dev/null | wc -c)
poweroff -f
"""


@pytest.mark.parametrize("version", emulated.QEMUS)
def test_rng(tmp_path, version):
    words = emulated.qemu(version)
    socket = tmp_path / "rng.sock"
    with emulated.server([SERVE, "rng", socket], socket), \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, RNG),
                           ["-chardev", f"socket,id=r,path={socket}", "-device", "vhost-user-rng-pci,chardev=r"]) as guest:
        answers = guest.finish()
    assert answers == ["from virtio_rng.0", "bytes 65536"], guest.said()


# The guest's end of a stream: what comes, in capitals.
ECHO = r"""
#include <ctype.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>
int main(void) {
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_port = 5000, .svm_cid = VMADDR_CID_ANY};
  int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(listener, 4) != 0) return 1;
  for (;;) {
    char line[256];
    int stream = accept(listener, 0, 0);
    ssize_t got = read(stream, line, sizeof(line));
    for (ssize_t i = 0; i < got; ++i) line[i] = (char)toupper(line[i]);
    if (got > 0 && write(stream, line, (size_t)got) == got) {
      char end;
      while (read(stream, &end, 1) > 0) {
      }
      return 0;
    }
    close(stream);
  }
}
"""


@pytest.mark.parametrize("version", emulated.QEMUS)
def test_vsock(tmp_path, version):
    compiler = shutil.which("gcc") or pytest.skip("no gcc for the guest's end")
    words = emulated.qemu(version)
    program = tmp_path / "vsock_echo"
    program.with_suffix(".c").write_text(ECHO)
    subprocess.run([compiler, "-static", "-O1", "-o", program, program.with_suffix(".c")], check=True)
    socket = tmp_path / "vsock.sock"
    script = "say ready\nvsock_echo && say answered\npoweroff -f\n"
    with emulated.server([SERVE, "vsock", socket, "77", "5000"], socket) as served, \
            emulated.Guest(words, tmp_path, emulated.initramfs(tmp_path, script, [program]),
                           ["-chardev", f"socket,id=v,path={socket}", "-device", "vhost-user-vsock-pci,chardev=v"]) as guest:
        assert served.stdout.readline() == "PING FROM THE HOST\n", guest.said()
        answers = guest.finish()
    assert answers == ["ready", "answered"], guest.said()
