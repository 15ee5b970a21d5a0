"""Starts a shim the way containerd 1.7 does, and calls its task service."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess

from harness import ttrpc
from harness.ctr import RUNTIME, ctr, unique

SOCKET = "/run/containerd/containerd.sock"
SERVICE = "containerd.task.v2.Task"
BUNDLES = pathlib.Path("/run/containerd/io.containerd.runtime.v2.task/default")


def default_spec(root: pathlib.Path, args: list) -> dict:
    spec = json.loads(ctr("oci", "spec").stdout)
    spec["root"] = {"path": str(root)}
    spec["process"]["args"] = args
    spec["process"]["env"] = ["PATH=/bin:/usr/bin"]
    spec["linux"]["cgroupsPath"] = f"/default/{unique('cg')}"
    return spec


def binary() -> str:
    """containerd-shim-<name>-<version> of the runtime under test."""
    return "containerd-shim-" + "-".join(RUNTIME.split(".")[-2:])


def wait_for(name: str, timeout: float):
    """Waits for a container of containerd, but asks its shim, not containerd: (code, message, exit status)."""
    address = (BUNDLES / name / "address").read_text().strip().removeprefix("unix://")
    with contextlib.closing(ttrpc.Client(address, timeout)) as client:
        code, message, reply = client.call(SERVICE, "Wait", {1: name})
    return code, message, reply.get(1, 0)


class Shim:
    """A shim process for one bundle; a with statement ends it through `delete`."""

    def __init__(self, bundle: pathlib.Path, spec):
        self.name = unique()
        self.bundle = bundle
        (bundle / "rootfs").mkdir(parents=True)
        if spec is not None:
            (bundle / "config.json").write_text(json.dumps(spec))
        self.clients = []
        # containerd keeps the log open for reading and writing and copies it to its own stderr.
        os.mkfifo(bundle / "log")
        self.log = os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _argv(self, *more):
        return [binary(), "-namespace", "default", "-address", SOCKET, "-publish-binary", shutil.which("containerd"),
                "-id", self.name, *more]

    def _call(self, *more):
        env = dict(os.environ, TTRPC_ADDRESS=SOCKET + ".ttrpc", GRPC_ADDRESS=SOCKET, NAMESPACE="default",
                   MAX_SHIM_VERSION="2", GOMAXPROCS="2")
        return subprocess.run(self._argv(*more), cwd=self.bundle, env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False)

    def __enter__(self):
        done = self._call("start")
        assert done.returncode == 0, done.stderr
        self.address = done.stdout.decode().strip().removeprefix("unix://")
        self.client = self.connect()
        return self

    def __exit__(self, *_):
        try:
            for method, fields in (("Kill", {1: self.name, 3: 9, 4: 1}), ("Wait", {1: self.name}),
                                   ("Delete", {1: self.name}), ("Shutdown", {1: self.name, 2: 1})):
                if self.call(method, fields)[0] and method == "Kill":
                    continue
        except (EOFError, OSError):
            pass
        for client in self.clients:
            client.close()
        self._call("-bundle", str(self.bundle), "delete")
        os.close(self.log)

    def connect(self) -> ttrpc.Client:
        client = ttrpc.Client(self.address)
        self.clients.append(client)
        return client

    def call(self, method: str, fields: dict, client=None):
        return (client or self.client).call(SERVICE, method, fields)

    def create(self, options=None) -> dict:
        """CreateTaskRequest without stdio; the root file system is the spec's. `options`: the fields of runtimeoptions.v1.Options."""
        request = {1: self.name, 2: str(self.bundle)}
        if options is not None:
            request[10] = ttrpc.encode({1: "runtimeoptions.v1.Options", 2: ttrpc.encode(options)})
        return request
