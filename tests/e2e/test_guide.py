"""docs/guide.md: every command in it, in its order."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from harness.docker import Dockerd
from harness.nerdctl import PROGRAM, Nerdctl, without_fifos

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs/guide.md"
pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20), pytest.mark.limit(500)]


def blocks(kind: str) -> list[tuple[int, str]]:
    """Of the fenced blocks of that kind: the line each begins at, and its commands."""
    text = GUIDE.read_text()
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in re.finditer(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)]


def follow(kind: str, directory: pathlib.Path, **environment: str) -> str:
    """What the commands of that kind print, in a shell that ends at the first that fails."""
    script = "".join(f"echo ':: guide.md:{line}'\n{commands}" for line, commands in blocks(kind))
    said = directory / "said"
    with open(said, "wb") as output:
        done = subprocess.Popen(["bash", "-eu", "-c", script], cwd=directory, env={**os.environ, **environment},
                                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            done.wait(450)
        except subprocess.TimeoutExpired:
            done.kill()
    assert done.wait() == 0, said.read_text(errors="replace")[-3000:]
    return said.read_text(errors="replace")


def test_blocks_are_of_kinds_that_are_run():
    kinds = set(re.findall(r"^```(.+)$", GUIDE.read_text(), re.M))
    assert kinds == {"sh", "sh docker", "sh nerdctl", "json", "yaml"}
    assert len(blocks("sh")) > 10


def test_the_guide_works_as_it_stands(tmp_path):
    said = follow("sh", tmp_path)
    assert "hello" in said and "from the host\nvalue" in said


@pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd in this machine")
def test_its_commands_of_docker(tmp_path):
    with Dockerd(tmp_path) as docker:
        said = follow("sh docker", tmp_path, DOCKER_HOST=f"unix://{docker.socket}")
    assert said.count("hello from docker") == 2


@pytest.mark.skipif(not PROGRAM.exists(), reason="no nerdctl in this machine")
def test_its_commands_of_nerdctl(tmp_path):
    with without_fifos(), Nerdctl(tmp_path) as nerdctl:
        flags = dict(zip(nerdctl.flags[::2], nerdctl.flags[1::2], strict=True))
        config = tmp_path / "nerdctl.toml"
        config.write_text("".join(f"{flag.removeprefix('--').replace('-', '_')} = '{value}'\n" for flag, value in flags.items()))
        said = follow("sh nerdctl", tmp_path, NERDCTL_TOML=str(config), PATH=f"{PROGRAM.parent}:{os.environ['PATH']}")
    assert "hello from nerdctl" in said
