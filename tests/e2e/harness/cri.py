"""A containerd of the test's own with CRI, handlers `wyvern` and `runc` and a bridge, driven as a kubelet would (by tests/tools/cri)."""

import base64
import contextlib
import json
import pathlib
import shutil
import socket
import struct
import subprocess
import urllib.parse

from harness.containerd import Daemon, version
from harness.ctr import call, unique, wait_until
from harness.images import Images

CLIENT = pathlib.Path("/opt/wyvern/extra/wyvern-cri")
BUSYBOX = "docker.io/library/busybox:latest"
PAUSE = "registry.k8s.io/pause:3.8"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
POD, CONTAINER, NODE, TARGET = "POD", "CONTAINER", "NODE", "TARGET"

# Of containerd 1.7, and of 2.x, which has other names for its plugins.
CONFIG_1 = """version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
                    "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{0}/containerd.sock"
[ttrpc]
  address = "{0}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{1}"
  stream_server_address = "127.0.0.1"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{0}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "{2}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""

# The handler wyvern is what `wyvern install` puts at the end of the one and beside the other. By the Sandbox API: `sandbox-api`, and `streams` with its stdio by streams.
CONFIG_2 = """version = 3
root = "{0}/root"
state = "{0}/state"
imports = ["{0}/conf.d/*.toml"]
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.internal.v1.opt"]
[grpc]
  address = "{0}/containerd.sock"
[ttrpc]
  address = "{0}/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{1}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.cri.v1.runtime"]
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{0}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.sandbox-api]
      runtime_type = "io.containerd.wyvern.v2"
      sandboxer = "shim"
      privileged_without_host_devices = true
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.streams]
      runtime_type = "io.containerd.wyvern.v2"
      sandboxer = "shim"
      io_type = "streaming"
"""
HANDLER = pathlib.Path("/opt/wyvern/deploy/containerd/wyvern-v2.toml")
DROP_IN = pathlib.Path("/opt/wyvern/deploy/containerd/wyvern-v3.toml")


def config_1(directory: pathlib.Path, default="runc", pause=PAUSE) -> str:
    """As `wyvern install` leaves it. `default`: the handler of pods that name none."""
    return CONFIG_1.format(directory, pause, default) + HANDLER.read_text().replace("version = 2\n", "")


def generation() -> int:
    """1: of containerd 1.7, 2: of 2.x, which has the Sandbox API."""
    return int(version().split(".")[0])


def network(directory: pathlib.Path) -> dict:
    return {"cniVersion": "0.4.0", "name": "wyvern-e2e", "plugins": [
        {"type": "bridge", "bridge": "wve2e0", "isGateway": True, "ipMasq": False,
         "ipam": {"type": "host-local", "dataDir": f"{directory}/ipam", "ranges": [[{"subnet": "10.89.0.0/16"}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}}]}


def write_network(directory: pathlib.Path, wanted=network) -> pathlib.Path:
    """The directory of its configuration, which it makes."""
    (directory / "cni").mkdir()
    (directory / "cni/10-bridge.conflist").write_text(json.dumps(wanted(directory)))
    return directory / "cni"


def why_not() -> str:
    """Empty: it can run here."""
    if not CLIENT.exists():
        return "the machine has no wyvern-cri (lab run --add build/release/bin/wyvern-cri)"
    if not pathlib.Path("/usr/lib/cni/bridge").exists():
        return "no CNI plugins in the machine"
    if version() == "1.6":
        return "the configurations are those of containerd 1.7 and 2.x"
    return ""


def add_pause(images: Images, name: str) -> None:
    """What stands for a pod of runc: a shell that waits, and so reaps. (Of a pod of ours it is never run.)"""
    images.derive(name, "busybox", Entrypoint=["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 100000 & wait $!; done"], Cmd=None)


class CriError(Exception):
    """An answer that is an error: "<number of gRPC> <text>"."""


class Cri:
    """In a with statement. `pods`: makes their network's configuration; `programs`: a directory before those of PATH, with containerd or shims."""

    def __init__(self, directory: pathlib.Path, pods=network, programs=None):
        self.directory = directory
        self.daemon = Daemon(directory / "config.toml", directory / "log", programs)
        self.socket = directory / "containerd.sock"
        write_network(directory, pods)
        (directory / "conf.d").mkdir()
        if generation() > 1:
            config = CONFIG_2.format(directory, PAUSE)
            shutil.copy(DROP_IN, directory / "conf.d")
        else:
            config = config_1(directory)
        (directory / "config.toml").write_text(config)

    def __enter__(self):
        self.daemon.start()
        try:
            assert wait_until(lambda: self.answers("Version"), 60), self.said()
            images = Images()
            add_pause(images, PAUSE)
            images.archive(self.directory / "pause.tar")
            for archive in ("/opt/images/busybox.tar", self.directory / "pause.tar"):
                done = self.ctr("images", "import", archive, timeout=200)
                assert done.returncode == 0, done.stderr.decode()
            # CRI hears of images by events.
            for name in (BUSYBOX, PAUSE):
                assert wait_until(lambda: self.call("ImageStatus", image={"image": name})["image"], 30), self.said()  # noqa: B023
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def change(self, programs) -> None:
        """Another containerd takes the place of this one; what it runs goes on."""
        self.daemon.stop()
        self.daemon.programs = programs
        self.daemon.start()
        assert wait_until(lambda: self.answers("Version") and self.answers("ListPodSandbox"), 60), self.said()

    def end(self):
        with contextlib.suppress(CriError, subprocess.TimeoutExpired):
            for item in self.call("ListPodSandbox").get("items", []):
                self.remove_pod(item["id"])
        self.daemon.stop()
        call(["ip", "link", "delete", "wve2e0"])

    def said(self) -> str:
        return self.daemon.said()

    def ctr(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        return call(["ctr", "--address", self.socket, "-n", "k8s.io", *argv], **kwargs)

    def call(self, method: str, seconds=120, **request) -> dict:
        done = call([CLIENT, self.socket, method, seconds], stdin=json.dumps(request).encode(), timeout=seconds + 10)
        if done.returncode != 0:
            raise CriError(f"{method}: {done.stderr.decode()}")
        return json.loads(done.stdout)

    def answers(self, method: str) -> bool:
        try:
            self.call(method, seconds=5)
            return True
        except CriError:
            return False

    def remove_pod(self, pod: str) -> None:
        """As `crictl rmp -f`."""
        self.call("StopPodSandbox", pod_sandbox_id=pod)
        self.call("RemovePodSandbox", pod_sandbox_id=pod)


class Pod:
    """A pod sandbox; in a with statement. `users`: a user namespace whose ids are from there on the host's; its volumes are id-mapped (by 2.x)."""

    def __init__(self, cri: Cri, handler: str, pid=CONTAINER, ipc=POD, users=0, **fields):
        self.cri, self.handler = cri, handler
        self.namespaces = {"network": POD, "pid": pid, "ipc": ipc}
        self.mappings = {}
        if users:
            ids = [{"host_id": users, "container_id": 0, "length": 65536}]
            self.namespaces["userns_options"] = {"mode": POD, "uids": ids, "gids": ids}
            self.mappings = {"uidMappings": ids, "gidMappings": ids} if generation() > 1 else {}
        self.name = unique("pod")
        self.directory = cri.directory / self.name
        self.directory.mkdir()
        self.cgroup = CGROUPS / "kubepods" / self.name
        self.config = {
            "metadata": {"name": self.name, "namespace": "default", "uid": self.name, "attempt": 1},
            "hostname": "web-0", "log_directory": str(self.directory),
            "dns_config": {"servers": ["10.96.0.10"], "searches": ["default.svc.cluster.local"], "options": ["ndots:5"]},
            "linux": {"cgroup_parent": f"/kubepods/{self.name}",
                      "security_context": {"namespace_options": self.namespaces}}, **fields}
        self.made = 0

    def __enter__(self):
        self.cgroup.mkdir(parents=True, exist_ok=True)  # a kubelet's work
        try:
            self.id = self.cri.call("RunPodSandbox", config=self.config, runtime_handler=self.handler)["pod_sandbox_id"]
        except CriError as error:
            self.without_cgroup()
            raise AssertionError(f"{error}\n{self.cri.said()}") from None
        return self

    def __exit__(self, *_):
        self.remove()
        wait_until(self.without_cgroup, 10)

    def remove(self) -> None:
        self.cri.remove_pod(self.id)

    def without_cgroup(self) -> bool:
        for directory in (self.cgroup, self.cgroup.parent):
            with contextlib.suppress(OSError):
                directory.rmdir()
        return not self.cgroup.exists()

    def status(self) -> dict:
        return self.cri.call("PodSandboxStatus", pod_sandbox_id=self.id, verbose=True)

    def state(self) -> str:
        return self.status()["status"]["state"]

    def ip(self) -> str:
        return self.status()["status"]["network"]["ip"]

    def pid(self) -> int:
        return json.loads(self.status()["info"]["info"])["pid"]

    def create(self, *command, name=None, mounts=(), target=None, **fields) -> str:
        self.made += 1
        name = name or f"c{self.made}"
        options = self.namespaces | ({"pid": TARGET, "target_id": target} if target else {})
        config = {"metadata": {"name": name, "attempt": self.made}, "image": {"image": BUSYBOX}, "command": list(command),
                  "log_path": f"{name}.{self.made}.log",
                  "mounts": [{"container_path": inside, "host_path": str(outside)} | self.mappings for outside, inside in mounts],
                  "linux": {"security_context": {"namespace_options": options}}, **fields}
        return self.cri.call("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)["container_id"]

    def run(self, *command, **kwargs) -> str:
        container = self.create(*(command or ("sleep", "100000")), **kwargs)
        self.cri.call("StartContainer", container_id=container)
        return container

    def stop(self, container: str, seconds: int) -> None:
        self.cri.call("StopContainer", container_id=container, timeout=seconds)

    def delete(self, container: str) -> None:
        self.cri.call("RemoveContainer", container_id=container)

    def exec_sync(self, container: str, *command, seconds=60):
        """(exit code, output, errors)"""
        done = self.cri.call("ExecSync", container_id=container, cmd=list(command), timeout=seconds)
        return done["exit_code"], base64.b64decode(done["stdout"]).decode(), base64.b64decode(done["stderr"]).decode()

    def exec(self, container: str, *command) -> str:
        code, out, err = self.exec_sync(container, *command)
        assert code == 0, (command, code, out, err)
        return out

    def shell(self, container: str, script: str) -> str:
        return self.exec(container, "sh", "-c", script)

    def container(self, container: str) -> dict:
        return self.cri.call("ContainerStatus", container_id=container)["status"]

    def exited(self, container: str, seconds=60) -> int:
        assert wait_until(lambda: self.container(container)["state"] == "CONTAINER_EXITED", seconds, 0.5), self.container(container)
        return self.container(container)["exit_code"]

    def logs(self, container: str) -> list:
        """[(stream, line)]"""
        lines = pathlib.Path(self.container(container)["log_path"]).read_text().splitlines()
        return [(line.split(" ", 3)[1], line.split(" ", 3)[3]) for line in lines]

    def figures(self, container: str) -> dict:
        return self.cri.call("ContainerStats", container_id=container)["stats"]


class Channels:
    """A WebSocket of containerd's streaming server, as a kubelet's are; in a with statement. A message's first byte is its channel."""

    def __init__(self, url: str, channels: list):
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=60)
        self.socket.sendall((f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                             "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n").encode())
        self.file = self.socket.makefile("rb")
        status = self.file.readline()
        assert b" 101 " in status, status
        while self.file.readline().strip():
            pass
        self.heard = {channel: b"" for channel in channels}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def receive(self) -> bool:
        header = self.file.read(2)
        if len(header) < 2 or header[0] & 0x0F == 8:  # the end, or a message that says so
            return False
        length = header[1] & 0x7F
        if length >= 126:
            length = int.from_bytes(self.file.read(2 if length == 126 else 8), "big")
        message = self.file.read(length)
        if header[0] & 0x0F == 2 and message:
            self.heard[message[0]] += message[1:]
        return True

    def send(self, data: bytes, channel=0) -> None:
        message = bytes([channel]) + data
        length = bytes([0x80 | len(message)]) if len(message) < 126 else bytes([0x80 | 126]) + len(message).to_bytes(2, "big")
        self.socket.sendall(b"\x82" + length + bytes(4) + message)  # masked with zeros

    def until(self, text: bytes, channel=0) -> bytes:
        """What was heard, once `text` is in it."""
        while text not in self.heard[channel]:
            assert self.receive(), self.heard
        return self.heard[channel]

    def to_the_end(self) -> list:
        """What was heard of each channel."""
        with contextlib.suppress(OSError):
            while self.receive():
                pass
        return list(self.heard.values())


class Forward(Channels):
    """One connection to a port of a pod, as a kubelet's port-forward makes it. The first of each channel is the port."""

    DATA, ERROR = 0, 1

    def __init__(self, pod: Pod, port: int):
        super().__init__(pod.cri.call("PortForward", pod_sandbox_id=pod.id, port=[port])["url"], [self.DATA, self.ERROR])
        while not all(len(text) >= 2 for text in self.heard.values()):
            assert self.receive()
        for channel, text in self.heard.items():
            assert struct.unpack("<H", text[:2])[0] == port
            self.heard[channel] = text[2:]


class Terminal(Channels):
    """A terminal in a container: of a command, as `kubectl exec -it`; without one that of the container itself, as `kubectl attach -it`."""

    STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)

    def __init__(self, pod: Pod, container: str, *command):
        wanted = {"container_id": container, "tty": True, "stdin": True, "stdout": True}
        url = (pod.cri.call("Exec", cmd=list(command), **wanted) if command else pod.cri.call("Attach", **wanted))["url"]
        super().__init__(url, list(range(5)))

    def type(self, text: str, expected: str) -> str:
        self.send(text.encode(), self.STDIN)
        return self.until(expected.encode(), self.STDOUT).decode()

    def resize(self, columns: int, rows: int) -> None:
        self.send(json.dumps({"Width": columns, "Height": rows}).encode(), self.RESIZE)
