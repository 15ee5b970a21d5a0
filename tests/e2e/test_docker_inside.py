"""docker in a container of ours: dockerd, its containerd and runc of the machine's Debian run in the guest, and in them a container."""

import pathlib
import shutil

import pytest

from harness.ctr import call
from harness.docker import Dockerd, archive

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(30),
              pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd in this machine")]

# What docker's own image of itself does first: no process may stay in the group that others get groups and controllers below.
START = r"""
set -e
mkdir -p /etc /run /var/log
for name in lib lib64 sbin; do [ -e /$name ] || ln -s usr/$name /$name; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir /sys/fs/cgroup/init
while read -r pid; do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs || true; done < /sys/fs/cgroup/cgroup.procs
sed -e 's/ / +/g' -e 's/^/+/' < /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
exec dockerd --storage-driver "$DRIVER" > /var/log/dockerd 2>&1
"""


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    with Dockerd(tmp_path_factory.mktemp("wyvern-e2e-docker")) as it:
        yield it


@pytest.mark.limit(420)
@pytest.mark.parametrize("driver", ["overlay2"])
def test_docker_runs_containers_in_a_container(docker, scratch, configure, driver):
    configure("sandbox: { memory: 640MiB }\n")
    archive("busybox", scratch / "busybox.tar")
    (scratch / "start").write_text(START)
    done = docker.run("-d", "--name", "outer", "--privileged", "-v", "/usr:/usr:ro", "-v", "/etc/alternatives:/etc/alternatives:ro",
                      "-v", f"{scratch}:/given:ro", "--tmpfs", "/var/lib/docker:size=200m,exec,suid,dev", "--tmpfs", "/var/lib/containerd:size=64m,exec,suid,dev",
                      "--tmpfs", "/run", "-e", f"DRIVER={driver}", "busybox", "sh", "/given/start")
    assert done.returncode == 0, (done.stderr, docker.said())

    def inside(*argv, timeout=120) -> str:
        done = docker.call("exec", "outer", "/usr/bin/docker", *argv, timeout=timeout)
        said = docker.call("exec", "outer", "cat", "/var/log/dockerd").stdout.decode()[-3000:] if done.returncode else ""
        assert done.returncode == 0, (argv, done.stdout, done.stderr, said)
        return done.stdout.decode()

    try:
        wait = docker.call("exec", "outer", "sh", "-c", "for i in $(seq 300); do /usr/bin/docker version > /dev/null 2>&1 && exit 0; sleep 0.3; done; cat /var/log/dockerd; exit 1",
                           timeout=200)
        assert wait.returncode == 0, wait.stdout[-4000:]
        assert driver in inside("info", "-f", "{{.Driver}} {{.CgroupVersion}}")
        inside("load", "-i", "/given/busybox.tar")
        # The kernel is our guest's, the bridge and the port docker's own, with its rules of iptables.
        kernel = docker.docker("exec", "outer", "uname", "-r")
        assert inside("run", "--rm", "busybox", "uname", "-r") == kernel and "wyvern" in kernel
        inside("run", "-d", "--name", "web", "-p", "8080:80", "--memory", "32m", "busybox", "sh", "-c",
               "echo a page > /tmp/index.html; exec httpd -f -p 80 -h /tmp")
        assert inside("run", "--rm", "--link", "web", "busybox", "wget", "-q", "-O", "-", "http://web/") == "a page\n"
        assert docker.docker("exec", "outer", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/") == "a page\n"
        assert inside("exec", "web", "cat", "/sys/fs/cgroup/memory.max") == f"{32 << 20}\n"
        inside("rm", "-f", "web")
    finally:
        docker.call("rm", "-f", "outer", timeout=120)
    assert not [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(scratch) in line]
    assert call(["ip", "link", "show", "docker0"]).returncode == 0  # of the machine's own docker: nothing of the inner one
