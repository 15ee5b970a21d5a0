"""Unix sockets of the host in containers: those that sockets.allow lists and an annotation names, and no others."""

import contextlib
import pathlib
import socket
import threading

import pytest

from harness.ctr import DEBIAN, Container, run

pytestmark = pytest.mark.wyvern_only
CONF_D = pathlib.Path("/etc/wyvern/conf.d")
# Of Debian's image, since busybox has no client of unix sockets: says $size times x, then its end, and prints the length and the first of what comes.
CLIENT = """
use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un("/run/host.sock")) or die "connect: $!\n";
my $size = shift; my $at = 0; while ($at < $size) { $at += syswrite($s, "x" x 65536, $size - $at < 65536 ? $size - $at : 65536) or die "write: $!\n"; }
shutdown($s, 1); my $all = 0; my $first = ""; while (my $n = sysread($s, my $piece, 65536)) { $first ||= substr($piece, 0, 3); $all += $n; }
print "$all $first\n";
"""


@contextlib.contextmanager
def allowed(*paths):
    CONF_D.mkdir(parents=True, exist_ok=True)
    path = CONF_D / "90-sockets.yaml"
    path.write_text("sockets:\n  allow: [" + ", ".join(f'"{each}"' for each in paths) + "]\n")
    try:
        yield
    finally:
        path.unlink()


class Server:
    """Answers each connection with what it said in capital letters, once that has ended."""

    def __init__(self, path: pathlib.Path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        path.chmod(0o666)
        self.socket.listen(50)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=[self.socket.accept()[0]], daemon=True).start()

    @staticmethod
    def _answer(stream):
        with stream:
            said = b""
            while piece := stream.recv(1 << 16):
                said += piece
            stream.sendall(said.upper())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def server(scratch):
    path = scratch / "host.sock"
    with Server(path):
        yield path


def flags(path, *named):
    words = ["--mount", f"type=bind,src={path},dst=/run/host.sock,options=bind:rw"]
    return [*words, "--annotation", "io.wyvern.sockets.proxy=" + ",".join(map(str, named))] if named else words


def test_socket_that_is_allowed_and_named_answers_both_ways(server):
    size = 1 << 20
    with allowed(server), Container(DEBIAN, "sleep", "100000", flags=flags(server, server)) as container:
        done = container.exec("perl", "-e", CLIENT, str(size))
        assert done.stdout == f"{size} XXX\n".encode(), (done.stdout, done.stderr.decode())
        # Ten at a time.
        script = f"for i in 1 2 3 4 5 6 7 8 9 10; do perl -e '{CLIENT.replace(chr(39), '')}' 1000 & done; wait"
        done = container.exec("sh", "-c", script)
        assert done.stdout.decode().splitlines() == ["1000 XXX"] * 10, (done.stdout, done.stderr.decode())


def test_socket_that_nobody_names_answers_nobody(server):
    with allowed(server):
        done = run(DEBIAN, "perl", "-e", CLIENT, "3", flags=flags(server))
    assert done.returncode != 0 and b"connect:" in done.stderr, done


def test_socket_that_is_not_allowed_is_refused(server):
    done = run(DEBIAN, "true", flags=flags(server, server))
    assert done.returncode != 0 and b"sockets.allow does not list" in done.stderr, done.stderr


def test_what_is_no_socket_is_refused(scratch):
    path = scratch / "file"
    path.write_text("x")
    with allowed(path):
        done = run(DEBIAN, "true", flags=flags(path, path))
    assert done.returncode != 0 and b"is no unix socket" in done.stderr, done.stderr
