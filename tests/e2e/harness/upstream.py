"""containerd's own test programs (tests/conformance/clients.sh builds them), run with one runtime: what each of their tests came to."""

import contextlib
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time

from harness import cri
from harness.ctr import RUNTIME, call, wait_until
from harness.images import Images, layer
from harness.traces import processes

CLIENT = pathlib.Path("/opt/wyvern/extra/client.test")
CRI = pathlib.Path("/opt/wyvern/extra/integration.test")
PORT = 5000  # of the registry that clients.sh has put in their lists of images
PAUSE = "pause:3.8"
HANDLERS = {"runc": "io.containerd.runc.v2", "wyvern": RUNTIME}
NOBODY = 65534
# Users of the busybox image that everybody has.
PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = b"root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\ntty:x:5:\nwheel:x:10:root\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"
BRIDGE = "wvoracle0"
# Empty directories of runc's first container in a namespace: of CRI, and of the client's tests.
RUNC_LEAVES = [pathlib.Path(directory, namespace) for namespace in ("k8s.io", "testing")
               for directory in ("/sys/fs/cgroup", "/run/containerd/runc")]
# As containerd's script/test/utils.sh has it; the suite looks for this socket.
NRI = """[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "/var/run/nri-test.sock"
  plugin_path = "/no/pre-launched/nri/plugins"
"""
ENDED = re.compile(r"--- (PASS|FAIL|SKIP): (\w+) \(([\d.]+)s\)")
BEGUN = re.compile(r"=== (?:RUN|CONT) +(\w+)$")
# Seconds: one test of another's may wait several minutes for what never comes.
TEST_LIMIT = 200


class Ended:
    """What a test came to: pass, fail, skip or hang; and its seconds."""

    def __init__(self, result: str, seconds: float):
        self.result, self.seconds = result, seconds


def images() -> Images:
    """What the suites ask for, by the tags of both versions."""
    made = Images()
    users = layer(("etc/passwd", PASSWD, 0), ("etc/group", GROUP, 0))
    for name in ("busybox:1.36", "alpine:3.14.0"):
        made.derive(name, "busybox", users)
    for name in (PAUSE, "pause:3.10"):
        cri.add_pause(made, name)
    for tag in ("2.1", "2.2"):
        made.derive(f"volume-copy-up:{tag}", "busybox", layer(("test_dir", None, 0), ("test_dir/test_file", b"test_content\n", 0)),
                    Volumes={"/test_dir": {}})
    made.derive("volume-ownership:2.1", "busybox", layer(("test_dir", None, NOBODY)), Volumes={"/test_dir": {}})
    # stress-ng has the options of stress.
    made.derive("resource-consumer:1.10", "debian", layer(("usr/local/bin/stress", b'#!/bin/sh\nexec stress-ng "$@"\n', 0, 0o755)),
                Cmd=["sleep", "100000"])
    return made


class Run:
    """One suite with one runtime. `argv`: the program and its flags. Every test's result in `results`, its words in `log`."""

    def __init__(self, argv: list, environment: dict, log: pathlib.Path):
        self.argv, self.environment, self.log = [str(a) for a in argv], os.environ | environment, log
        self.results = {}

    def tests(self) -> list:
        done = call([*self.argv, "-test.short", "-test.list", "."], env=self.environment)
        return [line for line in done.stdout.decode().splitlines() if line.startswith("Test")]

    def run(self, names: list, deadline: float) -> None:
        """A program that ends early, or is ended because one test hangs, is started again for those that are left."""
        left = [name for name in names if name != "TestMain"]
        while left and time.monotonic() < deadline:
            running = self._once(left, deadline)
            if running:
                self.results.setdefault(running, Ended("hang", TEST_LIMIT))
            rest = [name for name in left if name not in self.results]
            if rest == left:  # it does not even begin
                break
            left = rest

    def _once(self, names: list, deadline: float) -> str:
        """Gives the test that was running when the program ended or was ended, empty if it came to its end."""
        running, since = "", time.monotonic()
        with open(self.log, "ab") as log, selectors.DefaultSelector() as selector, subprocess.Popen(
                [*self.argv, "-test.v", "-test.parallel", "1", "-test.timeout", "0", "-test.run", f"^({'|'.join(names)})$"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True) as program:
            os.set_blocking(program.stdout.fileno(), False)
            selector.register(program.stdout, selectors.EVENT_READ)
            rest = b""
            while True:
                now = time.monotonic()
                if now > deadline or now - since > TEST_LIMIT:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(program.pid, signal.SIGKILL)
                    return running
                if not selector.select(1):
                    if program.poll() is not None:
                        break
                    continue
                data = os.read(program.stdout.fileno(), 1 << 16)
                if not data:
                    break
                log.write(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    running, since = self._read(line.decode(errors="replace"), running, since)
        return running

    def _read(self, line: str, running: str, since: float) -> tuple:
        begun, ended = BEGUN.match(line), ENDED.match(line)
        if begun:
            return begun[1], time.monotonic()
        if ended:
            self.results[ended[2]] = Ended(ended[1].lower(), float(ended[3]))
            print(*ended.groups(), flush=True)  # seen with pytest -s
            return "", time.monotonic()
        return running, since


class CriDaemon:
    """A containerd with CRI whose default runtime is the one under test, started again when a test ends it. In a with statement."""

    NAME = "ctrd-oracle"  # the suite ends it by this name, and must not hit the machine's own

    def __init__(self, directory: pathlib.Path, handler: str, pause: str):
        self.directory = directory
        self.program = directory / self.NAME
        shutil.copy(shutil.which("containerd"), self.program)
        network = cri.network(directory) | {"name": "wyvern-oracle"}
        bridge = network["plugins"][0] | {"bridge": BRIDGE}
        # The suite looks for addresses where the plug-in keeps them by default, and for pods with two families.
        bridge["ipam"] = {"type": "host-local", "ranges": [[{"subnet": "10.90.0.0/16"}], [{"subnet": "fd00:90::/64"}]],
                          "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
        (directory / "cni").mkdir()
        (directory / "cni/10-bridge.conflist").write_text(json.dumps(network | {"plugins": [bridge]}))
        text = cri.config_1(directory, handler, pause).replace("  stream_server_address", '  drain_exec_sync_io_timeout = "10s"\n  stream_server_address')
        (directory / "config.toml").write_text(text + NRI)
        self.stopping = threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()
        assert wait_until(lambda: call(["ctr", "--address", self.directory / "containerd.sock", "version"]).returncode == 0, 60)
        return self

    def _keep(self):
        with open(self.directory / "log", "ab") as log:
            while not self.stopping.is_set():
                with subprocess.Popen([self.program, "--log-level", "debug", "--config", self.directory / "config.toml"],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT) as process:
                    self.process = process
                    process.wait()
                self.stopping.wait(3)  # the suite looks once a second whether it is gone

    def __exit__(self, *_):
        self.stopping.set()
        self.process.terminate()
        self.thread.join(30)
        call(["ip", "link", "delete", BRIDGE])
        remove_what_runc_leaves()


def remove_what_runc_leaves() -> None:
    for directory in RUNC_LEAVES:
        with contextlib.suppress(OSError):  # not there, or somebody's
            directory.rmdir()


@contextlib.contextmanager
def client_suite(directory: pathlib.Path, handler: str):
    """integration/client: it starts the containerd that is first in PATH itself."""
    temporary = directory / "tmp"
    temporary.mkdir()
    with images().registry(PORT):
        yield Run([CLIENT, "-test.root", "-no-criu"], {"TEST_RUNTIME": HANDLERS[handler], "TMPDIR": str(temporary)}, directory / "log")
    remove_what_runc_leaves()


@contextlib.contextmanager
def cri_suite(directory: pathlib.Path, handler: str):
    """integration, the tests of CRI."""
    daemon = directory / "containerd"
    daemon.mkdir()
    with images().registry(PORT) as registry, CriDaemon(daemon, handler, f"{registry}/{PAUSE}"):
        yield Run([CRI, f"-cri-endpoint=unix://{daemon}/containerd.sock", f"-cri-root={daemon}/root/io.containerd.grpc.v1.cri",
                   f"-runtime-handler={handler}", f"-containerd-bin={CriDaemon.NAME}"], {}, directory / "log")


SUITES = {"client": (CLIENT, client_suite), "cri": (CRI, cri_suite)}


def sweep(before: dict) -> None:
    """Ends what a test that hung or failed left: shims, and with them their machines."""
    for pid in processes().keys() - before.keys():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
