"""docker in a container of ours: dockerd, its containerd and runc of the machine's Debian run in the guest, and in them a container."""

import pathlib
import shutil

import pytest

from harness.ctr import call, wait_until
from harness.docker import Dockerd, archive

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(30),
              pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd in this machine")]

# What docker's own image of itself does first: no process may stay in the group that others get groups and controllers below.
START = r"""
set -e
PATH=/bin  # busybox's own, until the others have their libraries
for name in lib lib64 sbin; do [ -e /$name ] || ln -s usr/$name /$name; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir /sys/fs/cgroup/init
while read -r pid; do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs || true; done < /sys/fs/cgroup/cgroup.procs
sed -e 's/ / +/g' -e 's/^/+/' < /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
# dockerd waits 15 s for a containerd that it starts itself, which an emulated machine may need longer for.
cat > /run/containerd.toml << 'CONFIG'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
CONFIG
containerd --config /run/containerd.toml &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.3; done
exec dockerd --containerd /run/containerd/containerd.sock
"""


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    with Dockerd(tmp_path_factory.mktemp("wyvern-e2e-docker")) as it:
        yield it


@pytest.fixture
def outer(docker, scratch, configure):
    """Starts a container with what dockerd needs, `places` are its options; gives how to call docker in it."""
    configure("sandbox: { memory: 640MiB }\n")
    archive("busybox", scratch / "busybox.tar")
    (scratch / "start").write_text(START)

    def said() -> str:
        done = docker.call("logs", "outer")
        return "\n".join(line for line in (done.stdout + done.stderr).decode().splitlines() if "plugin" not in line)[-4000:]

    def inside(*argv, timeout=240) -> str:
        done = docker.call("exec", "outer", "/usr/bin/docker", *argv, timeout=timeout)
        assert done.returncode == 0, (argv, done.stdout, done.stderr, said())
        return done.stdout.decode()

    def start(*places):
        done = docker.run("-d", "--name", "outer", "--privileged", "-v", "/usr:/usr:ro", "-v", "/etc/alternatives:/etc/alternatives:ro",
                          "-v", f"{scratch}:/given:ro", "--tmpfs", "/var/lib/containerd:size=64m,exec,suid,dev", "--tmpfs", "/run",
                          *places, "busybox", "/bin/sh", "/given/start")
        assert done.returncode == 0, (done.stderr, docker.said())
        assert wait_until(lambda: "API listen on" in said(), 420, 3), said()
        inside("load", "-i", "/given/busybox.tar")
        return inside

    yield start
    docker.call("rm", "-f", "-v", "outer", timeout=120)
    assert not [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(scratch) in line]
    assert call(["ip", "link", "show", "docker0"]).returncode == 0  # of the machine's own docker: nothing of the inner one


@pytest.mark.thorough
@pytest.mark.limit(800)
def test_docker_runs_containers_in_a_container(docker, outer):
    inside = outer("--tmpfs", "/var/lib/docker:size=200m,exec,suid,dev")
    assert inside("info", "-f", "{{.Driver}} {{.CgroupVersion}}") == "overlay2 2\n"
    # The kernel is our guest's, the bridge and the port docker's own, with its rules of iptables.
    kernel = docker.docker("exec", "outer", "uname", "-r")
    assert inside("run", "--rm", "busybox", "uname", "-r") == kernel and "wyvern" in kernel
    inside("run", "-d", "--name", "web", "-p", "8080:80", "--memory", "32m", "busybox", "sh", "-c",
           "echo a page > /tmp/index.html; exec httpd -f -p 80 -h /tmp")
    assert inside("run", "--rm", "--link", "web", "busybox", "wget", "-q", "-O", "-", "http://web/") == "a page\n"
    assert docker.docker("exec", "outer", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/") == "a page\n"
    assert inside("exec", "web", "cat", "/sys/fs/cgroup/memory.max") == f"{32 << 20}\n"
    inside("rm", "-f", "web")


@pytest.mark.thorough
@pytest.mark.limit(800)
def test_docker_in_a_container_keeps_its_images_in_a_volume(outer):
    # As docker's image of itself has it: a directory of the host's, which the file server gives. It keeps no attributes trusted.*, so docker's overlay2 will
    # not have it, and docker takes vfs by itself.
    inside = outer("-v", "/var/lib/docker")
    assert inside("info", "-f", "{{.Driver}}") == "vfs\n"
    assert inside("run", "--rm", "busybox", "sh", "-c", "echo kept > /kept; rm /etc/passwd; cat /kept; ls /etc/passwd || true") == "kept\n"
