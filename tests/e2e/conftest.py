"""Fixtures of the end-to-end tests. They run as root in a lab machine: see README.md."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile

import pytest

from harness import traces
from harness.ctr import BUSYBOX, RUNTIME, WYVERN, ctr, run, wait_until
from harness.shim import Shim, default_spec

# Seconds for one test; the lab is an emulated machine, often on a busy host.
LIMIT = int(os.environ.get("WYVERN_TEST_LIMIT", "240"))

CONF_D = pathlib.Path("/etc/wyvern/conf.d")

pytest_plugins = ["harness.left_to_long"]


def pytest_configure(config):
    del config
    if shutil.which("ctr") is None:
        pytest.exit("these tests need containerd: run them in a lab machine (tests/lab/lab run -- pytest …)", 4)


def pytest_collection_modifyitems(items):
    for item in items:
        if RUNTIME != WYVERN and item.get_closest_marker("wyvern_only"):
            item.add_marker(pytest.mark.skip(reason=f"tests what only {WYVERN} has; the runtime is {RUNTIME}"))


def _limited(item):
    """No phase of a test may hang the rest: after its limit it fails where it is."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else LIMIT

    def expire(*_):
        raise TimeoutError(f"the test took longer than {seconds} s")

    signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    yield from _limited(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    yield from _limited(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test carries what the machine said meanwhile."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        # At once, not only in the summary: a run takes minutes.
        crash = getattr(report.longrepr, "reprcrash", None)
        terminal = item.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line(f"\n{item.name} ({call.when}): {crash.message[:3000] if crash else report.longreprtext}")
        for title, argv in (
                ("containerd", ["journalctl", "-u", "containerd", "-n", "40", "--no-pager", "-o", "short-monotonic",
                                "--since", f"@{int(call.start) - 1}"]),
                ("kernel", ["dmesg", "--time-format", "delta", "--level", "emerg,alert,crit,err,warn"])):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            report.sections.append((title, "\n".join(done.stdout.splitlines()[-40:])))
        report.sections.append(("processes", "\n".join(f"{p} {n}" for p, n in traces.processes().items())))


@pytest.fixture(scope="session")
def long(request) -> bool:
    return request.config.getoption("--long")


@pytest.fixture(scope="session", autouse=True)
def warm():
    """The first container makes directories that stay; it is not any test's leak."""
    done = run(BUSYBOX, "true")
    if done.returncode != 0:
        # Each test will report its own failure; this one says why all of them do.
        print(f"the first container failed: {done.returncode}: {done.stderr.decode(errors='replace')}")


@pytest.fixture(autouse=True)
def leaves_nothing(request, warm):
    """Every test: afterwards the host has what it had before."""
    del warm
    if request.node.get_closest_marker("no_leak_check"):
        yield
        return
    before = traces.snapshot()
    yield
    if request.node.get_closest_marker("no_leak_check"):  # what the test has said only now
        return
    marker = request.node.get_closest_marker("leaves_nothing")
    seconds = marker.args[0] if marker else 5
    found = []

    def clean() -> bool:
        found[:] = traces.left(before, traces.snapshot())
        return not found

    if not wait_until(clean, seconds):
        sweep()
        pytest.fail("left on the host:\n  " + "\n  ".join(found))


def sweep() -> None:
    """Removes containers a failed test left, so that the next one starts clean."""
    for name in set(ctr("task", "ls", "-q").stdout.decode().split()):
        ctr("task", "delete", "--force", name, timeout=60)
    for name in set(ctr("container", "ls", "-q").stdout.decode().split()):
        ctr("container", "delete", name, timeout=60)


@pytest.fixture
def scratch(tmp_path_factory) -> pathlib.Path:
    """An empty directory on the disk, removed at the end."""
    path = tmp_path_factory.mktemp("wyvern-e2e", numbered=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def configure():
    """Writes a configuration file that comes after the installed one."""
    paths = []

    def write(text: str):
        CONF_D.mkdir(parents=True, exist_ok=True)
        path = CONF_D / "90-test.yaml"
        path.write_text(text)
        paths.append(path)
        return path

    yield write
    for path in paths:
        path.unlink(missing_ok=True)  # one that was written again


@pytest.fixture(scope="session", autouse=True)
def guest_exec_is_allowed():
    """Many tests look into the guest."""
    CONF_D.mkdir(parents=True, exist_ok=True)
    path = CONF_D / "10-tests.yaml"
    path.write_text("guest: { debug_exec: true }\n")
    yield
    path.unlink()


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory) -> pathlib.Path:
    """The busybox image unpacked: a plain root file system."""
    return unpack("busybox", tmp_path_factory.mktemp("wyvern-e2e-busybox"))


def unpack(image: str, target: pathlib.Path) -> pathlib.Path:
    layout = pathlib.Path("/opt/images", image)
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")  # noqa: E731
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer["digest"])) as tar:
            tar.extractall(target, filter="fully_trusted")
    target.chmod(0o755)  # users other than root enter it too
    return target


@pytest.fixture
def shim_bundle(scratch, busybox_root):
    """A bundle with a running shim, and a function that asks it to create the container: (code, message)."""
    with Shim(scratch / "bundle", default_spec(busybox_root, ["true"])) as shim:
        yield shim.bundle, lambda: shim.call("Create", shim.create())[:2]
