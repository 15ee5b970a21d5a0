"""Parts net and vsock: streams and round trips between guest and host.

Our network device is in wyvern-boot-test's machine, as wyvern-vmm's API attaches none yet; device and filters are wyvern-vmm's.
"""

import contextlib
import fcntl
import os
import pathlib
import socket
import socketserver
import struct
import subprocess
import sys
import threading

import guests
from counters import expected
from figures import say
from guests import ours, peer, qemu
from operations import Side, compare

BOOT_TEST = guests.EXTRA / "wyvern-boot-test"
VHOST_NET = pathlib.Path("/dev/vhost-net")
# guest/streams.cc has the same addresses, wyvern-boot-test the same MAC.
HOST, THEM, PORT = "10.99.0.1", "10.99.0.2", 1000
MAC = "02:00:00:00:00:01"
TAP = "tap0"
NETWORK_OPERATIONS = {"net-ping": (500, 2500), "net-send": (16, 144), "net-receive": (16, 144)}
VSOCK_OPERATIONS = {"ping": (500, 2500), "pull": (16, 144), "push": (16, 144)}


@contextlib.contextmanager
def _namespace():
    """A network namespace of this thread and of what it starts, with a tap that outlives its users."""
    with open("/proc/self/ns/net", "rb") as own:
        os.unshare(os.CLONE_NEWNET)
        try:
            pathlib.Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
            for words in ("link set lo up", f"tuntap add dev {TAP} mode tap", f"addr add {HOST}/24 dev {TAP}", f"link set {TAP} up",
                          f"neigh replace {THEM} lladdr {MAC} dev {TAP} nud permanent"):
                subprocess.run(["ip", *words.split()], check=True)
            yield
        finally:
            os.setns(own.fileno(), os.CLONE_NEWNET)


def _check_tap():
    """That what goes into a tap is seen, in a packet of less than a page and in a large one."""
    request = struct.pack("=16sH22x", TAP.encode(), 0x1002)  # IFF_TAP | IFF_NO_PI
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, 0x400454ca, request)  # TUNSETIFF
        with expected(200 + 20000):
            for size in (200, 20000):
                os.write(tap, bytes(12) + b"\x88\xb5" + bytes(size - 14))  # a protocol that nobody has
    finally:
        os.close(tap)


class Orders(socketserver.BaseRequestHandler):
    """A guest's connection: it says what is to be done with how many bytes (guest/streams.cc)."""

    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(1 << 16)
        order = self.request.recv(16, socket.MSG_WAITALL)
        if len(order) < 16:
            return
        kind, left = struct.unpack("=c7xQ", order)
        while left > 0:
            part = memoryview(buffer)[:1 if kind == b"e" else min(left, len(buffer))]
            done = len(part) if kind == b"g" else self.request.recv_into(part)
            if done == 0:
                return
            if kind != b"t":
                self.request.sendall(part[:done])
            left -= done
        if kind == b"t":
            self.request.sendall(b"\0")
        self.request.recv(1)  # its end


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A guest that was ended leaves its connection behind; anything else is said."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def net():
    initrd = guests.initrd()

    def line(operation, count):
        return f"{guests.INITRD} bench={operation}:{count}"

    def own(operation, *flags):
        machine = [BOOT_TEST, "--kernel", guests.GUEST / "vmlinux", "--initrd", initrd, "--memory", guests.MEMORY_MIB, "--seconds", 600,
                   "--tap", TAP, "--pairs", 1, *flags, "--cmdline"]
        return Side(argv=lambda count, _: peer([*machine, line(operation, count)], "--done"), left_out=True)

    def other(operation, vhost):
        # Offloads and merged buffers are its defaults, one pair of queues too.
        devices = ["-netdev", f"tap,id=net,ifname={TAP},script=no,downscript=no,vhost={vhost}",
                   "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile="]
        return Side(argv=lambda count, _: peer(qemu(line(operation, count), *devices, initrd=initrd), "--done"))

    vhost = VHOST_NET.exists()
    if not vhost:
        say(f"no rows of vhost-net: there is no {VHOST_NET}")
    with _namespace(), Server((HOST, PORT), Orders) as server:
        _check_tap()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            for name, (low, high) in NETWORK_OPERATIONS.items():
                sides = {"ours": own(name), "peer": other(name, "off")}
                if vhost:
                    sides |= {"ours on vhost": own(name, "--vhost-net"), "peer on vhost": other(name, "on")}
                compare(name, sides, low, high)
        finally:
            server.shutdown()


def vsock():
    cmdline, initrd = f"{guests.INITRD} bench=vsock:1", guests.initrd()
    for kind, (low, high) in VSOCK_OPERATIONS.items():
        def own(count, _, kind=kind):
            return ours("--initrd", initrd, "--cmdline", cmdline, "--stream", f"{kind}:{count}")

        def other(count, _, kind=kind):
            return peer(qemu(cmdline, initrd=initrd), "--stream", f"{kind}:{count}")
        compare(f"vsock-{kind}", {"ours": Side(argv=own), "peer": Side(argv=other)}, low, high,
                took=lambda run, kind=kind: run.streams[kind]["ns"])
