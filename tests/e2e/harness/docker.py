"""dockerd of the test's own, on the machine's containerd, and its client."""

import hashlib
import io
import json
import pathlib
import signal
import subprocess
import tarfile

from harness.ctr import RUNTIME, call, wait_until

BRIDGE = "docker0"


def archive(image: str, target: pathlib.Path) -> pathlib.Path:
    """What `docker load` takes: the image of /opt/images with docker's manifest beside OCI's, which its own store does not read."""
    layout = pathlib.Path("/opt/images", image)
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")  # noqa: E731
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    name = lambda digest: "blobs/" + digest.replace(":", "/")  # noqa: E731
    text = json.dumps([{"Config": name(manifest["config"]["digest"]), "RepoTags": [f"{image}:latest"],
                        "Layers": [name(layer["digest"]) for layer in manifest["layers"]]}]).encode()
    with tarfile.open(target, "w") as tar:
        for part in [manifest["config"], *manifest["layers"]]:
            tar.add(blob(part["digest"]), name(part["digest"]))
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return target


class Dockerd:
    """In a with statement. `containerd_store`: images are containerd's, without docker's own graph drivers. `program`: instead of the machine's own,
    with its docker-proxy beside it."""

    def __init__(self, directory: pathlib.Path, containerd_store=False, program: pathlib.Path | None = None):
        # Sockets and FIFOs have paths of 108 bytes at most, containers names of 64.
        self.directory = directory
        self.run_directory = pathlib.Path("/run", "wvd-" + hashlib.sha256(str(directory).encode()).hexdigest()[:8])
        self.socket = self.run_directory / "docker.sock"
        self.log_path = directory / "log"
        config = directory / "daemon.json"
        config.write_text(json.dumps({
            "data-root": str(directory / "data"), "exec-root": str(self.run_directory / "exec"), "live-restore": True,
            "pidfile": str(self.run_directory / "pid"), "hosts": [f"unix://{self.socket}"],
            "containerd": "/run/containerd/containerd.sock", "features": {"containerd-snapshotter": containerd_store},
            "storage-driver": "overlayfs" if containerd_store else "overlay2", "bip": "172.31.7.1/24"}
            | ({"userland-proxy-path": str(program.with_name("docker-proxy"))} if program else {})))
        self.argv = [str(program or "dockerd"), "--config-file", str(config)]
        self.store = "overlayfs" if containerd_store else "overlay2"

    def __enter__(self):
        self.run_directory.mkdir()
        self.start()
        tar = archive("busybox", self.directory / "busybox.tar")
        self.docker("load", "-i", tar)
        tar.unlink()
        return self

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        if not wait_until(lambda: self.call("version").returncode == 0, 90, 0.5):
            raise AssertionError(f"dockerd does not answer: {self.said()}")

    def stop(self):
        """The containers go on: live-restore."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *_):
        names = self.call("ps", "-aq").stdout.decode().split()
        if names:
            self.call("rm", "-f", *names, timeout=180)
        self.stop()
        call(["ip", "link", "delete", BRIDGE])
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            if line.split()[4].startswith(str(self.run_directory)):
                call(["umount", line.split()[4]])
        call(["rm", "-rf", self.run_directory])

    def said(self) -> str:
        return self.log_path.read_text(errors="replace")[-3000:]

    def call(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        return call(["docker", "-H", f"unix://{self.socket}", *argv], **kwargs)

    def docker(self, *argv, **kwargs) -> str:
        """What it printed; fails if it did not end with 0."""
        done = self.call(*argv, **kwargs)
        assert done.returncode == 0, f"docker {' '.join(map(str, argv))}: {done.returncode}: {done.stdout!r} {done.stderr!r}"
        return done.stdout.decode()

    def run(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        return self.call("run", "--runtime", RUNTIME, *argv, **kwargs)

    def inspect(self, name: str, template: str) -> str:
        return self.docker("inspect", "-f", template, name).strip()

    def address(self, name: str) -> str:
        return self.inspect(name, "{{.NetworkSettings.IPAddress}}")

