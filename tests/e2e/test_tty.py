"""ctr run -t and ctr task exec -t on a real terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

import pytest

from harness.ctr import BUSYBOX, Container, run_argv


class Terminal:
    """A command on the far side of a pseudo terminal that is its controlling terminal."""

    def __init__(self, argv, rows=24, columns=80):
        self.terminal, side = pty.openpty()
        self.output = b""
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            argv, stdin=side, stdout=side, stderr=side,
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)))
        os.close(side)

    def resize(self, rows, columns):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize_until_told(self, rows, columns):
        """For ctr: it sends the terminal's size, and only then listens for changes: one in between is lost. So another change follows
        until the size has come back."""
        text = b"%d %d" % (rows, columns)
        for _ in range(30):
            self.resize(rows, columns + 1)
            self.resize(rows, columns)
            end = time.monotonic() + 2
            while text not in self.output and time.monotonic() < end:
                self._read(0.1)
            if text in self.output:
                break
        self.expect(text, 1)

    def send(self, data: bytes):
        os.write(self.terminal, data)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.terminal], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self.terminal, 65536)
        except OSError:
            piece = b""
        self.output += piece
        return bool(piece)

    def expect(self, text: bytes, seconds=60) -> bytes:
        """Reads until text has come; returns and forgets all up to it."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            left = deadline - time.monotonic()
            assert left > 0 and (self._read(left) or text in self.output), f"{text!r} is not in {self.output!r}"
        end = self.output.index(text) + len(text)
        head, self.output = self.output[:end], self.output[end:]
        return head

    def wait(self, seconds=60) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.wait(timeout=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.terminal)


def run_tty(*command, **kwargs) -> Terminal:
    return Terminal(run_argv(BUSYBOX, *command, flags=["--rm", "-t"]), **kwargs)


def test_is_a_terminal():
    with run_tty("sh", "-c", "tty && [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo yes") as terminal:
        terminal.expect(b"/dev/")
        terminal.expect(b"yes")
        assert terminal.wait() == 0


@pytest.mark.thorough
def test_exit_code():
    with run_tty("sh", "-c", "exit 7") as terminal:
        assert terminal.wait() == 7


def test_initial_size():
    # ctr sets the size after the start; the command waits for it.
    script = "i=0; while [ $i -lt 100 ]; do stty size; sleep 0.1; i=$((i+1)); done"
    with run_tty("sh", "-c", script, rows=33, columns=111) as terminal:
        terminal.expect(b"33 111")
        terminal.send(b"\x03")
        terminal.wait()


def test_resize():
    script = """trap 's=$(stty size); echo "$s"; [ "$s" = "50 90" ] && exit 4' WINCH; echo up; while :; do sleep 0.1; done"""
    with run_tty("sh", "-c", script) as terminal:
        terminal.expect(b"up")
        terminal.resize_until_told(40, 132)
        terminal.resize_until_told(50, 90)
        assert terminal.wait() == 4


def test_ctrl_c():
    with run_tty("sh", "-c", "trap 'echo interrupted; exit 3' INT; echo up; while :; do sleep 0.1; done") as terminal:
        terminal.expect(b"up")
        terminal.send(b"\x03")
        terminal.expect(b"interrupted")
        assert terminal.wait() == 3


@pytest.mark.thorough
def test_line_editing_and_echo():
    with run_tty("sh", "-c", "echo up; read a; echo [$a]") as terminal:
        terminal.expect(b"up")
        terminal.send(b"abx\x7fc\n")
        terminal.expect(b"[abc]")
        assert terminal.wait() == 0


@pytest.mark.thorough
def test_ctrl_d_is_end_of_file():
    with run_tty("sh", "-c", "echo up; cat; echo done") as terminal:
        terminal.expect(b"up")
        terminal.send(b"line\n\x04")
        terminal.expect(b"done")
        assert terminal.wait() == 0


def test_output_is_complete():
    count = 20000
    with run_tty("sh", "-c", f"seq {count}; echo end") as terminal:
        text = terminal.expect(b"\r\nend", 180).replace(b"\r\n", b"\n")
        assert terminal.wait() == 0
    assert text.split() == [str(i).encode() for i in range(1, count + 1)] + [b"end"]


def test_exec_with_a_terminal():
    with Container() as container:
        # ctr sends the first size after the start, maybe after "up".
        script = """trap 's=$(stty size); echo "$s"; [ "$s" = "20 70" ] && exit 5' WINCH; echo up; while :; do sleep 0.1; done"""
        argv = container.exec_argv("sh", "-c", script, flags=["-t"])
        with Terminal(argv) as terminal:
            terminal.expect(b"up")
            terminal.resize_until_told(20, 70)
            assert terminal.wait() == 5


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_terminals_do_not_accumulate():
    before = len(os.listdir("/dev/pts"))
    for _ in range(3):
        with run_tty("true") as terminal:
            assert terminal.wait() == 0
    assert len(os.listdir("/dev/pts")) == before
