"""The Sandbox API of containerd 2.x (`sandboxer = "shim"`): what test_pods.py does not show. Pods without a container of their own."""

import pathlib

import pytest

from harness import cri as harness
from harness.cri import Pod, Terminal
from harness.ctr import call, wait_until
from harness.pods import settled_cri
from harness.traces import processes

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]


@pytest.fixture(scope="module")
def cri(tmp_path_factory):
    why = harness.why_not() or ("" if harness.generation() > 1 else "this containerd has no Sandbox API")
    if why:
        pytest.skip(why)
    with settled_cri(tmp_path_factory.mktemp("wyvern-e2e-cri")) as one:
        yield one


def bundle_of(cri, pod) -> pathlib.Path:
    return next((cri.directory / "state").glob(f"io.containerd.sandbox.controller.v1.shim/*/{pod.id}"))


def process_of(pod, name: str) -> int:
    """Of those that came since the pod's test began."""
    found = [pid for pid, text in processes().items() if name in text]
    assert len(found) == 1, processes()
    return int(found[0])


def ends(pod) -> bool:
    """It is known as ended. While containerd cleans up after a shim that has died it answers with errors."""
    try:
        return pod.state() == "SANDBOX_NOTREADY"
    except harness.CriError:
        return False


def test_scenario_32_containerd_restarts_under_a_sandbox_that_lives(cri):
    with Pod(cri, "sandbox-api") as pod:
        assert (bundle_of(cri, pod) / "config.json").exists()  # ours
        one = pod.run("sh", "-c", "trap 'exit 6' TERM; while sleep 0.1; do :; done")
        cri.daemon.kill()
        cri.daemon.start()
        assert wait_until(lambda: cri.answers("Version"), 60), cri.said()
        assert pod.state() == "SANDBOX_READY"
        assert pod.exec(one, "echo", "still") == "still\n"
        other = pod.run()
        assert pod.exec(other, "readlink", "/proc/self/ns/ipc") == pod.exec(one, "readlink", "/proc/self/ns/ipc")
        pod.stop(one, 20)
        assert pod.exited(one) == 6


@pytest.mark.parametrize("handler", ["wyvern", "sandbox-api"])
def test_scenario_29_death_of_the_machine_is_the_sandboxes_end(cri, handler):
    with Pod(cri, handler) as pod:
        one = pod.run()
        call(["kill", "-9", process_of(pod, "wyvern-vmm")])
        assert wait_until(lambda: ends(pod), 30)
        assert pod.exited(one) == 137
        for _ in range(2):
            cri.call("StopPodSandbox", pod_sandbox_id=pod.id)


def test_scenario_28_death_of_the_shim_is_the_sandboxes_end(cri):
    with Pod(cri, "sandbox-api") as pod:
        one = pod.run()
        call(["kill", "-9", process_of(pod, "containerd-shim-wyvern-v2")])
        assert wait_until(lambda: ends(pod), 30)
        assert pod.exited(one) in (137, 255)  # CRI's, whose Wait ended with its connection; the event says 137
        assert wait_until(lambda: not [text for text in processes().values() if "wyvern-vmm" in text], 20)


def test_pod_without_containers_is_stopped_twice_and_removed(cri):
    with Pod(cri, "sandbox-api") as pod:
        assert pod.state() == "SANDBOX_READY"
        for _ in range(2):
            cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
        assert pod.state() == "SANDBOX_NOTREADY"
        with pytest.raises(harness.CriError):
            pod.run()


def test_annotation_that_is_not_allowed_fails_the_pod_by_its_name(cri):
    pod = Pod(cri, "sandbox-api")
    pod.config["annotations"] = {"io.wyvern.sandbox.kernel": "/etc/passwd"}
    with pytest.raises(AssertionError, match="io.wyvern.sandbox.kernel"), pod:
        pass


def test_stdio_by_streams(cri):
    """io_type = "streaming"."""
    with Pod(cri, "streams") as pod:
        one = pod.run("sh", "-c", "echo out; echo err >&2; seq 100000; trap 'exit 5' TERM; while sleep 0.1; do :; done")
        assert wait_until(lambda: len(pod.logs(one)) == 100002, 60, 1), len(pod.logs(one))
        lines = pod.logs(one)
        assert ("stderr", "err") in lines
        out = [line for stream, line in lines if stream == "stdout"]
        assert out == ["out"] + [str(i) for i in range(1, 100001)]
        assert pod.exec_sync(one, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
        assert len(pod.exec(one, "seq", "20000").splitlines()) == 20000
        pod.stop(one, 20)
        assert pod.exited(one) == 5


by_each_way = pytest.mark.parametrize("handler", ["sandbox-api", "streams"])


@by_each_way
def test_terminal_of_an_exec(cri, handler):
    with Pod(cri, handler) as pod, Terminal(pod, pod.run(), "sh") as terminal:
        terminal.type("echo $((40 + 2)) is it\n", "42 is it")
        terminal.resize(91, 33)
        tries = iter(range(1000))

        def size() -> str:
            again = next(tries)
            return terminal.type(f"stty size; echo so it is$((0)){again}.\n", f"so it is0{again}.")

        assert wait_until(lambda: "33 91" in size(), 30, 1), terminal.heard
        terminal.send(b"exit 3\n", terminal.STDIN)
        terminal.to_the_end()
        assert b'"ExitCode"' in terminal.heard[terminal.ERROR] and b'"3"' in terminal.heard[terminal.ERROR], terminal.heard


@by_each_way
def test_client_attaches_to_a_containers_terminal_and_another_after_it(cri, handler):
    with Pod(cri, handler) as pod:
        one = pod.run("sh", tty=True, stdin=True)
        with Terminal(pod, one) as terminal:
            terminal.type("x=40; echo $((x + 2)) is it\n", "42 is it")
        with Terminal(pod, one) as terminal:
            terminal.type("echo $((x + 3)) is it\n", "43 is it")
            terminal.send(b"exit 4\n", terminal.STDIN)
        assert pod.exited(one) == 4
