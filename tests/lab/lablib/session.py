"""The host's half of running one command in a lab machine.

The frames are described in machine/lab-agent.
"""

import array
import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import tty

from lablib.cache import LabError
from lablib.machine import Boot, Machine
from lablib.stillness import Stillness

EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_LAB = 125      # the lab itself failed
# A machine whose processors wait has its timers still. Now and then the emulator loses the last of them for good (seen with machines of
# one and of two processors, a nested guest running), and whatever runs there waits for ever.
STILL_SECONDS = 60
BOOT_SECONDS = 300  # ten on an idle host


@dataclasses.dataclass
class Request:
    argv: list
    containerd: str = "1.7"
    env: dict = dataclasses.field(default_factory=dict)
    cwd: str = "/root"
    tty: bool = False
    timeout: float = 600.0
    share_out: pathlib.Path | None = None
    console: pathlib.Path | None = None
    verbose: bool = False


class Session:
    def __init__(self, machine: Machine, request: Request, saved: bool = False):
        self.saved = saved
        self.machine = machine
        self.request = request
        self.control = machine.control
        self.stillness = Stillness(machine.process.pid)
        self.begin = time.monotonic()
        self.tar = None

    def note(self, text: str) -> None:
        if self.request.verbose:
            print(f"lab: {time.monotonic() - self.begin:6.2f} s  {text}\r", file=sys.stderr, flush=True)

    def send(self, kind: bytes, payload: bytes) -> None:
        self.control.sendall(kind + struct.pack(">I", len(payload)) + payload)

    def run(self) -> int:
        deadline = self.begin + self.request.timeout
        if self.saved:
            self.wait_loaded(deadline)
        else:
            self.prepare(min(deadline, self.begin + BOOT_SECONDS))
        self.send(b"R", json.dumps({
            "now": time.time(), "entropy": os.urandom(64).hex(),
            "argv": self.request.argv, "env": self.request.env, "cwd": self.request.cwd,
            "tty": self.request.tty, "size": _terminal_size(),
            "share_out": self.request.share_out is not None}).encode())
        self.note("command was sent")
        threading.Thread(target=self._pump_stdin, daemon=True).start()
        while True:
            kind, payload = self._frame(deadline, "the command")
            if kind == b"1":
                _write_all(1, payload)
            elif kind == b"2":
                _write_all(2, payload)
            elif kind == b"N":
                print("lab: " + payload.decode(errors="replace").strip(), file=sys.stderr)
            elif kind == b"F":
                self._receive_out(payload)
            elif kind == b"X":
                self.note("command ended")
                return json.loads(payload)["code"]

    def wait_loaded(self, deadline: float) -> None:
        """The request carries the time of day: it is made when the machine runs."""
        while not self.machine.command("query-status")["running"]:
            if time.monotonic() > deadline:
                raise Hung("loading the saved machine did not end in time")
            time.sleep(0.02)
        self.note("machine continues")

    def prepare(self, deadline: float) -> None:
        """Returns when the machine has booted and what every command expects is up."""
        self.send(b"P", json.dumps({"containerd": self.request.containerd}).encode())
        while (frame := self._frame(deadline, "boot"))[0] != b"H":
            print("lab: " + frame[1].decode(errors="replace").strip(), file=sys.stderr)
        self.note("machine is up")

    def close(self) -> None:
        if self.tar is not None:
            self.tar.stdin.close()
            if self.tar.wait() != 0:
                raise LabError(f"could not unpack the files of /out into {self.request.share_out}")

    def _frame(self, deadline: float, doing: str):
        kind, length = struct.unpack(">cI", self._exactly(5, deadline, doing))
        return kind, self._exactly(length, deadline, doing)

    def _exactly(self, n: int, deadline: float, doing: str) -> bytes:
        data = bytearray()
        while len(data) < n:
            self.control.settimeout(max(0.001, min(deadline - time.monotonic(), STILL_SECONDS / 4)))
            try:
                piece = self._receive(n - len(data))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise Hung(f"{doing} did not end within {time.monotonic() - self.begin:.0f} s") from None
                if self.stillness.seconds() >= STILL_SECONDS:
                    raise LabError(f"the lab machine stands still during {doing}: its emulator has used no processor for "
                                   f"{STILL_SECONDS} s\nconsole:\n{self.machine.console_tail()}") from None
                continue
            if not piece:
                self.machine.process.wait()
                raise LabError(f"the lab machine ended during {doing}: {self.machine.qemu_output()}\n"
                               f"console:\n{self.machine.console_tail()}")
            data += piece
        return bytes(data)

    def _receive(self, n: int) -> bytes:
        try:
            return self.control.recv(min(n, 1 << 20))
        except ConnectionResetError:  # QEMU ended with our request unread
            return b""

    def _pump_stdin(self) -> None:
        try:
            while data := os.read(0, 1 << 16):
                self.machine.stdin.sendall(struct.pack(">I", len(data)) + data)
            self.machine.stdin.sendall(struct.pack(">I", 0))
        except OSError:
            pass  # the machine is gone; run() reports it

    def _receive_out(self, payload: bytes) -> None:
        if self.tar is None:
            self.request.share_out.mkdir(parents=True, exist_ok=True)
            self.tar = subprocess.Popen(
                ["tar", "-C", str(self.request.share_out), "--no-same-owner", "-xf", "-"], stdin=subprocess.PIPE)
        self.tar.stdin.write(payload)


class Hung(LabError):
    """Time is up."""


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def _terminal_size():
    size = array.array("H", [24, 80, 0, 0])
    try:
        fcntl.ioctl(0, termios.TIOCGWINSZ, size)
    except OSError:
        pass
    return [size[0] or 24, size[1] or 80]


def run(boot: Boot, request: Request) -> int:
    """Boots a machine, runs the command, returns its exit code or EXIT_TIMEOUT."""
    saved = None
    with Machine(boot, request.console) as machine:
        machine.spread_processors()
        session = Session(machine, request, boot.saved is not None)
        if request.tty:
            if not os.isatty(0):
                raise LabError("stdin is not a terminal")
            saved = termios.tcgetattr(0)
            tty.setraw(0)
            signal.signal(signal.SIGWINCH, lambda *_: session.send(b"W", json.dumps(_terminal_size()).encode()))
        try:
            code = session.run()
            session.close()
            return code
        except Hung as error:
            print(f"lab: {error}; the machine was stopped. Console's last lines:\n{machine.console_tail()}",
                  file=sys.stderr)
            return EXIT_TIMEOUT
        finally:
            if saved is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
