"""ctr, and containers started with it, for the runtime under test."""

import contextlib
import json
import os
import re
import subprocess
import threading
import time
import uuid

import pytest

WYVERN = "io.containerd.wyvern.v2"
RUNTIME = os.environ.get("WYVERN_TEST_RUNTIME", WYVERN)
BUSYBOX = "docker.io/library/busybox:latest"
DEBIAN = "docker.io/library/debian:latest"
# Times in the lab are those of an emulated machine on a shared host: generous, but every wait has one.
TIMEOUT = float(os.environ.get("WYVERN_TEST_TIMEOUT", "90"))


def more(*values):
    """Parameters of a test that only --long takes (left_to_long.py)."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def unique(prefix: str = "t") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def call(argv, stdin=None, timeout=TIMEOUT, **kwargs) -> subprocess.CompletedProcess:
    """Runs argv; stdin is bytes, a file, or None for none."""
    options = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
    return subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=timeout, check=False, **options, **kwargs)


def ctr(*argv, **kwargs) -> subprocess.CompletedProcess:
    return call(["ctr", *argv], **kwargs)


def run_argv(image, *command, name=None, flags=()):
    return ["ctr", "run", "--runtime", RUNTIME, *flags, image, name or unique(), *command]


def run(image, *command, name=None, flags=(), **kwargs) -> subprocess.CompletedProcess:
    """ctr run --rm; the result has stdout and stderr as bytes."""
    return call(run_argv(image, *command, name=name, flags=["--rm", *flags]), **kwargs)


def check_output(image, *command, **kwargs) -> str:
    """What the command printed; fails with both outputs if it did not exit with 0."""
    done = run(image, *command, **kwargs)
    assert done.returncode == 0, f"exit code {done.returncode}\nstdout: {done.stdout!r}\nstderr: {done.stderr!r}"
    return done.stdout.decode()


def shell(script: str, image=BUSYBOX, **kwargs) -> str:
    return check_output(image, "sh", "-c", script, **kwargs)


def feed(argv, data: bytes, timeout=TIMEOUT) -> subprocess.CompletedProcess:
    """Runs argv, whose command prints one line "ready" first; only then gives it data as stdin and closes it.

    (ctr forgets an end of file that comes before its task exists.)
    """
    with subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            first = process.stdout.readline()
            assert first == b"ready\n", (first, process.stderr.read() if first == b"" else b"")
            stdout, stderr = process.communicate(data)
        finally:
            timer.cancel()
    return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)


class Container:
    """A container started with `ctr run -d`; removed at the end of a with statement."""

    def __init__(self, image=BUSYBOX, *command, flags=(), log=None, name=None):
        self.name = name or unique()
        output = ["--log-uri", f"file://{log}"] if log else ["--null-io"]
        done = call(run_argv(image, *(command or ("sleep", "100000")), name=self.name,
                             flags=["-d", *output, *flags]))
        assert done.returncode == 0, f"ctr run -d: {done.returncode}: {done.stderr.decode()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def exec_argv(self, *command, flags=()):
        return ["ctr", "task", "exec", "--exec-id", unique("e"), *flags, self.name, *command]

    def exec(self, *command, flags=(), **kwargs) -> subprocess.CompletedProcess:
        return call(self.exec_argv(*command, flags=flags), **kwargs)

    def status(self) -> str:
        """RUNNING, PAUSED, STOPPED, UNKNOWN, or empty if there is no task."""
        for line in ctr("task", "ls").stdout.decode().splitlines()[1:]:
            fields = line.split()
            if fields[0] == self.name:
                return fields[2]
        return ""

    def pid(self) -> int:
        for line in ctr("task", "ls").stdout.decode().splitlines()[1:]:
            fields = line.split()
            if fields[0] == self.name:
                return int(fields[1])
        return 0

    def wait_status(self, status: str, seconds: float) -> bool:
        return wait_until(lambda: self.status() == status, seconds)

    def kill(self, signal="SIGKILL", *flags):
        return ctr("task", "kill", "-s", signal, *flags, self.name)

    def delete_task(self) -> int | None:
        """Deletes the stopped task; returns the exit code of its process, or None if ctr refused."""
        done = ctr("task", "delete", self.name)
        # ctr exits with 0 and says the code in a warning.
        said = re.search(rb"non-zero exit code (\d+)", done.stderr)
        if said:
            return int(said[1])
        return 0 if done.returncode == 0 else None

    def spec(self) -> dict:
        return json.loads(ctr("container", "info", self.name).stdout)["Spec"]

    def remove(self):
        """Whatever state it is in; does not fail."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.status() == "PAUSED":
                ctr("task", "resume", self.name, timeout=30)
            self.kill("SIGKILL", "--all")
            ctr("task", "delete", "--force", self.name, timeout=30)
        ctr("container", "delete", self.name, timeout=30)


class Events:
    """Collects `ctr events` while a with statement runs."""

    def __init__(self):
        self.events = []  # (topic, dict)
        self.mu = threading.Lock()

    def __enter__(self):
        self.process = subprocess.Popen(["ctr", "events"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        time.sleep(1.0)  # the subscription has no acknowledgement
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.thread.join()

    def _read(self):
        for line in self.process.stdout:
            start = line.find(b"{")
            topic = next((word for word in line.split() if word.startswith(b"/")), b"").decode()
            if start > 0:
                with self.mu:
                    self.events.append((topic, json.loads(line[start:])))

    def of(self, name: str, topic: str | None = None):
        """Events of one container, in order: (topic, dict)."""
        with self.mu:
            return [(t, e) for t, e in self.events
                    if name in (e.get("container_id"), e.get("id")) and topic in (None, t)]


def wait_until(condition, seconds: float, interval: float = 0.2) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        if condition():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
