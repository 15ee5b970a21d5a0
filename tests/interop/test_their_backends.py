"""Our front-end with other people's back-ends: qemu-storage-daemon, passt, DPDK's testpmd. (virtiofsd: test_vhost_user.py.)

vhost_user_peers_test (sandbox-vmm/vhost_user/testing) is the front-end with its driver. passt and a second qemu-storage-daemon are Debian
13's, in the emulator's root of tests/lab; the others this machine's (deploy/packages.sh interop).
"""

import os
import shutil
import subprocess

import pytest

import emulated

PEERS = emulated.UNIT / "vhost_user/testing/vhost_user_peers_test"


def run(test: str, **environment) -> None:
    done = subprocess.run([PEERS, f"--gtest_filter={test}"], capture_output=True, text=True, timeout=60, check=False,
                          env=dict(os.environ, **{name: str(value) for name, value in environment.items()}))
    assert done.returncode == 0 and "[  PASSED  ] 1 test" in done.stdout and "SKIPPED" not in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("version", emulated.QEMUS)
def test_qemu_storage_daemon(tmp_path, version):
    if version == "10":
        words = emulated.of_debian_13("qemu-storage-daemon")
    else:
        words = [shutil.which("qemu-storage-daemon") or pytest.skip("no qemu-storage-daemon here (Debian package qemu-utils)")]
    disk = tmp_path / "disk"
    disk.write_bytes(b"d" * (4 << 20))
    socket = tmp_path / "blk.sock"
    command = [*words, "--blockdev", f"driver=file,node-name=disk,filename={disk}", "--export",
               f"type=vhost-user-blk,id=x,node-name=disk,addr.type=unix,addr.path={socket},writable=on,num-queues=4"]
    with emulated.server(command, socket):
        run("BlkPeerTest.*", WYVERN_TEST_VHOST_BLK=socket)
    assert disk.read_bytes() == b"d" * ((4 << 20) - 512) + b"w" * 512


def test_passt(tmp_path):
    socket = tmp_path / "net.sock"
    command = [*emulated.of_debian_13("passt"), "--foreground", "--vhost-user", "--socket", socket, "--runas", "0", "--address", "192.0.2.9",
               "--netmask", "24", "--gateway", "192.0.2.1"]
    with emulated.server(command, socket):
        run("NetPeerTest.PasstAnswersForTheGateway", WYVERN_TEST_VHOST_PASST=socket)


def test_testpmd(tmp_path):
    program = shutil.which("dpdk-testpmd") or pytest.skip("no dpdk-testpmd here (Debian package dpdk-dev)")
    socket = tmp_path / "net.sock"
    command = [program, "--no-huge", "--no-shconf", "--no-pci", "-m", "256", "-l", "0,1", "--vdev", f"net_vhost0,iface={socket},queues=2",
               "--", "--rxq=2", "--txq=2", "--forward-mode=macswap", "--port-topology=loop", "--auto-start", "--total-num-mbufs=2048", "--stats-period=60"]
    with emulated.server(command, socket, stdin=subprocess.DEVNULL):
        run("NetPeerTest.TestpmdSendsFramesBack", WYVERN_TEST_VHOST_TESTPMD=socket)
