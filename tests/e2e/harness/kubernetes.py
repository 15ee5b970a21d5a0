"""A node of a Kubernetes cluster: kubelet and kube-proxy in this machine, on a containerd of the test's own; the control plane is elsewhere
(tests/conformance/control_plane.py), at the address that the kubeconfig beside the programs names."""

import json
import pathlib
import signal
import subprocess

from harness.cri import Cri
from harness.ctr import call, wait_until

PROGRAMS = next(iter(sorted(pathlib.Path("/opt/wyvern/extra").glob("kubelet-v*"))), pathlib.Path("/opt/wyvern/extra/kubelet"))
KUBECONFIG = pathlib.Path("/opt/wyvern/extra/lab-kubeconfig")
DEPLOY = pathlib.Path("/opt/wyvern/deploy/kubernetes")
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


class Node:
    """In a with statement. Its pods are deleted by the test."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.cri = Cri(directory / "containerd")
        self.logs = {name: directory / f"{name}.log" for name in ("kubelet", "kube-proxy")}
        self.processes: list[subprocess.Popen] = []

    def __enter__(self):
        join_network()
        self.cri.__enter__()
        try:
            self.start()
            assert wait_until(lambda: "True" in self.call("get", "node", NODE, "-o", self.READY).stdout.decode(), 180, 2), self.said()
            assert all(process.poll() is None for process in self.processes), self.said()
            self.kubectl("label", "node", NODE, "io.wyvern/ready=true", "--overwrite")
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

    def wait(self, what: str, condition: str, seconds: int = 180) -> None:
        done = self.call("wait", what, f"--for={condition}", f"--timeout={seconds}s", timeout=seconds + 30)
        assert done.returncode == 0, f"{what} {condition}: {done.stderr!r}\n{self.call('describe', what).stdout.decode()}\n{self.said()}"

    def field(self, what: str, path: str) -> str:
        return self.kubectl("get", what, "-o", f"jsonpath={{{path}}}")
