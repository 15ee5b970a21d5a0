"""A container that serves a page out of a volume: what the tests of docker and of nerdctl look at."""

import pathlib
import urllib.error
import urllib.request

import pytest

from harness.ctr import unique, wait_until

PAGE = "a page\n"


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> pathlib.Path:
    """The directory that is served."""
    path = tmp_path_factory.mktemp("wyvern-e2e-www")
    (path / "index.html").write_text(PAGE)
    return path


def start_web(client, volume: pathlib.Path, port: int, *flags, each_second="") -> str:
    """Its name; `client`: a Dockerd or a Nerdctl; port: of the host; each_second: a command of its shell. SIGTERM ends it with 7."""
    name = unique("web")
    server = f"trap 'echo bye; exit 7' TERM; httpd -p 80 -h /www; echo started; while :; do {each_second}sleep 1; done"
    done = client.run("-d", "--name", name, "-p", f"{port}:80", "-v", f"{volume}:/www", "-e", "COLOUR=green", *flags, "busybox", "sh", "-c", server)
    assert done.returncode == 0, done.stderr.decode()
    return name


def page(address: str) -> str:
    """What is served there; empty: nothing."""
    try:
        with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


def serves(address: str) -> bool:
    return wait_until(lambda: page(address) == PAGE, 20, 0.5)
