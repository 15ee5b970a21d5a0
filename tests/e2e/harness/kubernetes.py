"""A node of a Kubernetes cluster: kubelet and kube-proxy in this machine, on a containerd of the test's own; the control plane is elsewhere
(tests/conformance/control_plane.py), at the address that the kubeconfig beside the programs names."""

import json
import pathlib
import signal
import subprocess

from harness.cri import PAUSE, add_pause, write_network
from harness.ctr import call, wait_until
from harness.images import Images
from harness.installation import CONFIGURATION, bare_machine, restart_containerd

PROGRAMS = next(iter(sorted(pathlib.Path("/opt/wyvern/extra").glob("kubelet-v*"))), pathlib.Path("/opt/wyvern/extra/kubelet"))
KUBECONFIG = pathlib.Path("/opt/wyvern/extra/lab-kubeconfig")
DEPLOY = pathlib.Path("/opt/wyvern/deploy/kubernetes")
# Of a node's containerd 1.7; handlers are the built-in ones.
NODE_CONFIG = """version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
                    "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{0}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{1}"
"""
# The API server reaches the kubelet at this name (lab run --forward).
NODE = "localhost"


def why_not() -> str:
    """Empty: it can run here."""
    for path in (PROGRAMS / "kubelet", KUBECONFIG):
        if not path.exists():
            return f"the machine has no {path.name} (tests/e2e/README.md says how this test is run)"
    return ""


def join_network() -> None:
    """The machine's card of QEMU's user network, which nothing else here uses."""
    call(["modprobe", "-a", "virtio_net", "br_netfilter"])
    assert wait_until(lambda: pathlib.Path("/sys/class/net/eth0").exists(), 20), "no network card: lab run --forward"
    for argv in (["link", "set", "eth0", "up"], ["addr", "replace", "10.0.2.15/24", "dev", "eth0"], ["route", "replace", "default", "via", "10.0.2.2"]):
        done = call(["ip", *argv])
        assert done.returncode == 0, done.stderr


def end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class OwnContainerd:
    """The machine's own containerd as nodes have it, with CRI and a bridge, and no word of Wyvern. `archives`: images that it has."""

    socket = pathlib.Path("/run/containerd/containerd.sock")

    def __init__(self, directory: pathlib.Path, *archives: pathlib.Path):
        self.archives = [directory / "pause.tar", "/opt/images/busybox.tar", *archives]
        images = Images()
        add_pause(images, PAUSE)
        images.archive(self.archives[0])
        self.config = NODE_CONFIG.format(PAUSE, write_network(directory))
        self.machine = bare_machine(self.config, [CONFIGURATION])

    def __enter__(self):
        self.machine.__enter__()
        restart_containerd()
        for archive in self.archives:
            done = call(["ctr", "-n", "k8s.io", "images", "import", archive], timeout=300)
            assert done.returncode == 0, done.stderr.decode()
        return self

    def __exit__(self, *_):
        self.machine.__exit__(None, None, None)

    def said(self) -> str:
        return call(["journalctl", "-u", "containerd", "-n", "40", "--no-pager", "-o", "cat"]).stdout.decode()


class Node:
    """In a with statement. Its pods are deleted by the test. `cri`: its containerd."""

    def __init__(self, directory: pathlib.Path, cri):
        self.directory, self.cri = directory, cri
        self.logs = {name: directory / f"{name}.log" for name in ("kubelet", "kube-proxy")}
        self.processes: list[subprocess.Popen] = []

    def __enter__(self):
        join_network()
        self.cri.__enter__()
        try:
            self.start()
            assert wait_until(lambda: "True" in self.call("get", "node", NODE, "-o", self.READY).stdout.decode(), 180, 2), self.said()
            assert all(process.poll() is None for process in self.processes), self.said()
        except BaseException:
            self.__exit__()
            raise
        return self

    READY = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"

    def __exit__(self, *_):
        for process in reversed(self.processes):
            end(process)
        call([PROGRAMS / "kube-proxy", "--cleanup"], timeout=60)
        self.cri.__exit__()

    def start(self):
        config = self.directory / "kubelet.json"
        config.write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.cri.socket}", "address": "0.0.0.0", "port": 10250, "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs", "failSwapOn": False, "enforceNodeAllocatable": [], "registerNode": True,
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100, "syncFrequency": "5s", "nodeStatusUpdateFrequency": "5s", "clusterDomain": "cluster.local",
            "podLogsDir": str(self.directory / "pod-logs"), "volumePluginDir": str(self.directory / "plugins"), "maxPods": 40}))
        proxy = self.directory / "kube-proxy.json"
        proxy.write_text(json.dumps({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
            "hostnameOverride": NODE, "clientConnection": {"kubeconfig": str(KUBECONFIG)}, "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249", "iptables": {"masqueradeAll": True}, "conntrack": {"maxPerCore": 0, "min": 0}}))
        self.run("kubelet", "--config", config, "--kubeconfig", KUBECONFIG, "--hostname-override", NODE, "--node-ip", "10.0.2.15",
                 "--root-dir", self.directory / "kubelet", "--cert-dir", self.directory / "pki", "-v", "2")
        # kube-proxy ends where nobody has registered its node within half a minute.
        assert wait_until(lambda: self.call("get", "node", NODE).returncode == 0, 400, 2), self.said()
        self.run("kube-proxy", "--config", proxy)

    def run(self, name: str, *flags):
        with open(self.logs[name], "ab") as log:
            self.processes.append(subprocess.Popen([PROGRAMS / name, *map(str, flags)], stdin=subprocess.DEVNULL, stdout=log,
                                                   stderr=subprocess.STDOUT))

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self.logs.values() if path.exists()) + self.cri.said()

    def call(self, *argv, **kwargs) -> subprocess.CompletedProcess:
        kwargs.setdefault("timeout", 240)
        return call([PROGRAMS / "kubectl", "--kubeconfig", KUBECONFIG, *map(str, argv)], **kwargs)

    def kubectl(self, *argv, **kwargs) -> str:
        """What it printed; fails if it did not end with 0."""
        done = self.call(*argv, **kwargs)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, argv))}: {done.stdout!r} {done.stderr!r}\n{self.said()}"
        return done.stdout.decode()

    def apply(self, *documents: dict) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(document) for document in documents).encode())

    def wait(self, what: str, condition: str, seconds: int = 180, *flags: str) -> None:
        done = self.call("wait", what, *flags, f"--for={condition}", f"--timeout={seconds}s", timeout=seconds + 30)
        assert done.returncode == 0, f"{what} {condition}: {done.stderr!r}\n{self.call('describe', what).stdout.decode()}\n{self.said()}"

    def field(self, what: str, path: str) -> str:
        return self.kubectl("get", what, "-o", f"jsonpath={{{path}}}")
