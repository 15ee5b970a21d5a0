#!/usr/bin/env python3
"""control_plane.py [--keep DIR] PORT -- CMD…: runs CMD beside a Kubernetes control plane of its own, and ends with CMD's exit code.

etcd, API server, controllers and scheduler (clients.sh etcd kubelet) listen on 127.0.0.1 only, the API server on PORT. CMD finds in its environment
KUBECONFIG for here, WYVERN_LAB_KUBECONFIG for a machine whose 10.0.2.2 is this host's loopback (lab run --forward), WYVERN_KUBERNETES, the
directory of the programs, and KUBELET_PORT, where the API server looks for the kubelet of the node `localhost`.
Exit code 3 and a reason: the programs cannot be had here. The tokens in these files are the administrator's; a pod's may what RBAC gives its account.
In the cluster the API server is the service `kubernetes`, whose one address is the machine's way to this host.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
START_SECONDS = 180
# Of the machine's kubelet.
KUBELET_PORT = 10250
# This host's loopback, as the machine has it.
LAB_HOST = "10.0.2.2"


def programs(name: str) -> pathlib.Path:
    done = subprocess.run([HERE / "clients.sh", name], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr.strip(), file=sys.stderr)
        sys.exit(done.returncode)
    return pathlib.Path(done.stdout.strip())


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind(("127.0.0.1", 0))
        return [it.getsockname()[1] for it in sockets]


def kubeconfig(path: pathlib.Path, server: str, token: str) -> pathlib.Path:
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "wyvern",
        "clusters": [{"name": "wyvern", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "wyvern", "context": {"cluster": "wyvern", "user": "admin"}}]}))
    path.chmod(0o600)
    return path


class ControlPlane:
    """In a with statement; its processes end with it, and with this one."""

    def __init__(self, directory: pathlib.Path, port: int):
        self.directory, self.port = directory, port
        self.token = os.urandom(16).hex()
        self.kubeconfig = kubeconfig(directory / "kubeconfig", f"https://127.0.0.1:{port}", self.token)
        self.lab_kubeconfig = kubeconfig(directory / "lab-kubeconfig", f"https://{LAB_HOST}:{port}", self.token)
        self.kubernetes = programs("kubelet")
        self.etcd = programs("etcd") / "etcd"
        self.processes: list[subprocess.Popen] = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self._end()

    def _run(self, program: pathlib.Path, *flags: str):
        with open(self.directory / f"{program.name}.log", "wb") as log:
            self.processes.append(subprocess.Popen([program, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                   cwd=self.directory))

    def _answers(self, path: str) -> bool:
        context = ssl._create_unverified_context()  # noqa: S323 (its certificate is of its own making)
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def _start(self):
        client, peer, controllers, scheduler = free_ports(4)
        self._run(self.etcd, "--data-dir", "etcd", "--unsafe-no-fsync", "--listen-client-urls", f"http://127.0.0.1:{client}",
                  "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                  "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}")
        (self.directory / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        key = self.directory / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self._run(self.kubernetes / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1",
                  f"--secure-port={self.port}", "--cert-dir=certificates", "--service-cluster-ip-range=10.97.0.0/16",
                  "--authorization-mode=RBAC", "--token-auth-file=tokens.csv", f"--service-account-key-file={key}",
                  f"--service-account-signing-key-file={key}", "--service-account-issuer=https://kubernetes.default.svc",
                  "--kubelet-preferred-address-types=Hostname", "--allow-privileged=true", f"--advertise-address={LAB_HOST}")
        deadline = time.monotonic() + START_SECONDS
        while not self._answers("/readyz"):
            for process in self.processes:
                if process.poll() is not None:
                    raise SystemExit(f"{process.args[0]} ended with {process.returncode}; its log is in {self.directory}")
            if time.monotonic() > deadline:
                raise SystemExit(f"the API server is not ready after {START_SECONDS} s; its log is in {self.directory}")
            time.sleep(0.5)
        self._run(self.kubernetes / "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
                  "--bind-address=127.0.0.1", f"--secure-port={controllers}", f"--service-account-private-key-file={key}",
                  "--root-ca-file=certificates/apiserver.crt")
        self._run(self.kubernetes / "kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1",
                  f"--secure-port={scheduler}")

    def _end(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="logs and etcd's data there, instead of a directory that goes")
    parser.add_argument("port", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        directory = options.keep or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wyvern-kubernetes.")))
        plane = stack.enter_context(ControlPlane(directory.resolve(), options.port))
        env = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "WYVERN_LAB_KUBECONFIG": str(plane.lab_kubeconfig),
               "WYVERN_KUBERNETES": str(plane.kubernetes), "KUBELET_PORT": str(KUBELET_PORT)}
        with subprocess.Popen(options.command, env=env, start_new_session=True) as command:
            try:
                return command.wait()
            finally:
                # What it started, too, where this one is ended.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
