"""docker compose (tests/conformance/clients.sh builds it, lab run --add hands it in): a project of two services."""

import json
import pathlib
import urllib.request

import pytest

from harness.ctr import RUNTIME, call, wait_until
from harness.docker import Dockerd

PROGRAM = pathlib.Path("/opt/wyvern/extra/docker-compose")

pytestmark = [pytest.mark.leaves_nothing(30), pytest.mark.limit(400),
              pytest.mark.skipif(not PROGRAM.exists(), reason="no docker-compose in this machine (tests/conformance/clients.sh makes it)")]

# The default bridge and its links: the resolver of a project's own network is one more loopback than a guest has (runtime/network/README.md).
PROJECT = """
services:
  server:
    image: busybox
    runtime: RUNTIME
    network_mode: bridge
    mem_limit: 32m
    ports: ["8082:80"]
    volumes: ["./www:/www:ro"]
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"]
      interval: 2s
      timeout: 20s
      retries: 20
  client:
    image: busybox
    runtime: RUNTIME
    network_mode: bridge
    links: [server]
    depends_on: { server: { condition: service_healthy } }
    command: ["sh", "-c", "wget -q -O - http://server/; exec sleep 1000"]
"""


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    with Dockerd(tmp_path_factory.mktemp("wyvern-e2e-docker")) as it:
        yield it


@pytest.mark.thorough
def test_scenario_67_compose(docker, scratch):
    (scratch / "www").mkdir()
    (scratch / "www/index.html").write_text("of a service\n")
    (scratch / "compose.yaml").write_text(PROJECT.replace("RUNTIME", RUNTIME))

    def compose(*argv, timeout=200) -> str:
        done = call([PROGRAM, "-f", scratch / "compose.yaml", "-p", "wyverntest", *argv], timeout=timeout,
                    env={"DOCKER_HOST": f"unix://{docker.socket}", "HOME": str(scratch), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        assert done.returncode == 0, (argv, done.stdout, done.stderr, docker.said())
        return done.stdout.decode()

    try:
        compose("up", "-d", "--pull", "never")
        services = {each["Service"]: each for each in map(json.loads, compose("ps", "--format", "json").splitlines())}
        assert services["server"]["Health"] == "healthy" and services["client"]["State"] == "running"
        assert wait_until(lambda: "of a service" in compose("logs", "--no-color", "client"), 60, 2)
        assert urllib.request.urlopen("http://127.0.0.1:8082/", timeout=20).read() == b"of a service\n"
        assert compose("exec", "-T", "server", "cat", "/sys/fs/cgroup/memory.max") == f"{32 << 20}\n"
        compose("restart", "-t", "1", "client")
        assert wait_until(lambda: compose("logs", "--no-color", "client").count("of a service") == 2, 60, 2)
    finally:
        compose("down", "-t", "1")
    assert docker.docker("ps", "-aq") == ""
