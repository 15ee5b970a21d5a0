"""nerdctl (tests/conformance/clients.sh), handed into the machine by --add, on the machine's containerd and Debian's CNI plugins."""

import contextlib
import json
import pathlib
import shutil
import subprocess

from harness.ctr import RUNTIME, call

PROGRAM = pathlib.Path("/opt/wyvern/extra/nerdctl")
SUBNET = "10.74.8"  # of its bridge


@contextlib.contextmanager
def without_fifos():
    """nerdctl leaves the directories of its own FIFOs, whatever the runtime is: they go at the end."""
    directory = pathlib.Path("/run/containerd/fifo")
    before = set(directory.glob("*"))
    yield
    for left in set(directory.glob("*")) - before:
        shutil.rmtree(left)


class Nerdctl:
    """In a with statement. `directory`: its data and its networks."""

    def __init__(self, directory: pathlib.Path, runtime: str = RUNTIME):
        self.directory, self.runtime = directory, runtime
        networks = directory / "net.d"
        networks.mkdir(exist_ok=True)
        self.flags = ["--data-root", str(directory / "data"), "--cni-path", "/usr/lib/cni", "--cni-netconfpath", str(networks),
                      "--bridge-ip", f"{SUBNET}.1/24"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        names = self.call("ps", "-aq").stdout.decode().split()
        if names:
            self.call("rm", "-f", *names, timeout=180)
        call(["ip", "link", "delete", "nerdctl0"])

    def call(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        return call([PROGRAM, *self.flags, *argv], **kwargs)

    def nerdctl(self, *argv, **kwargs) -> str:
        """What it printed; fails if it did not end with 0."""
        done = self.call(*argv, **kwargs)
        assert done.returncode == 0, f"nerdctl {' '.join(map(str, argv))}: {done.returncode}: {done.stdout!r} {done.stderr!r}"
        return done.stdout.decode()

    def run(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        return self.call("run", "--pull", "never", "--runtime", self.runtime, *argv, **kwargs)

    def inspect(self, name: str) -> dict:
        return json.loads(self.nerdctl("inspect", name))[0]

    def address(self, name: str) -> str:
        return self.inspect(name)["NetworkSettings"]["IPAddress"]
