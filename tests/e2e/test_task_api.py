"""The task service, called directly: what no client of containerd would do, and what races would."""

import json
import threading
import time

import pytest

from harness.ctr import call, wait_until
from harness.shim import Shim, default_spec

INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION = 3, 5, 6, 7, 9


@pytest.fixture
def shim(scratch, busybox_root):
    with Shim(scratch / "bundle", default_spec(busybox_root, ["sleep", "1000"])) as it:
        yield it


@pytest.mark.wyvern_only
def test_runtime_options_as_the_cri_plugin_sends_them(shim):
    body = "TypeUrl = 'io.containerd.wyvern.v2.options'\n\n[sandbox]\nmemory = '320MiB'\nvcpus = 2\n"
    code, message, _ = shim.call("Create", shim.create({1: "io.containerd.wyvern.v2.options", 3: body}))
    assert code == 0, message
    effective = call(["wyvern", "config", "--effective", shim.name]).stdout.decode()
    assert "vcpus: 2  # runtime options:5" in effective and "memory: 320MiB  # runtime options:4" in effective


@pytest.fixture
def annotated(scratch, busybox_root):
    """Creates a task with these annotations in its spec: (code, message, effective configuration)."""
    def create(annotations):
        spec = default_spec(busybox_root, ["sleep", "1000"])
        spec["annotations"] = annotations
        with Shim(scratch / "bundle", spec) as it:
            code, message, _ = it.call("Create", it.create())
            return code, message, call(["wyvern", "config", "--effective", it.name]).stdout.decode() if code == 0 else ""
    return create


@pytest.mark.wyvern_only
def test_annotations_that_are_allowed(annotated):
    code, message, effective = annotated({"io.wyvern.vcpus": "2", "io.wyvern.memory": "320MiB", "org.example.else": "{"})
    assert code == 0, message
    assert "vcpus: 2  # annotation io.wyvern.vcpus" in effective
    assert "memory: 320MiB  # annotation io.wyvern.memory" in effective


@pytest.mark.wyvern_only
@pytest.mark.parametrize("name, value, says, expected", [
    ("io.wyvern.sandbox.kernel", "/x", "annotations.allow does not list sandbox.kernel", PERMISSION_DENIED),
    ("io.wyvern.vcpu", "2", "unknown key vcpu", INVALID_ARGUMENT),
    ("io.wyvern.vcpus", "many", "'many' is not a whole number", INVALID_ARGUMENT),
], ids=["not allowed", "unknown", "no number"])
def test_annotations_that_fail_create(annotated, name, value, says, expected):
    code, message, _ = annotated({name: value})
    assert code == expected and f"annotation {name}: " in message and says in message, (code, message)


def test_life_of_a_task(shim):
    code, message, reply = shim.call("Create", shim.create())
    assert code == 0, message
    pid = reply[1]
    assert pid > 0
    assert shim.call("State", {1: shim.name})[2][4] == 1  # CREATED
    assert shim.call("Start", {1: shim.name})[0] == 0
    state = shim.call("State", {1: shim.name})[2]
    assert state[4] == 2 and state[3] == pid  # RUNNING
    assert shim.call("Pids", {1: shim.name})[2]
    assert shim.call("Kill", {1: shim.name, 3: 9})[0] == 0
    code, _, reply = shim.call("Wait", {1: shim.name})
    assert code == 0 and reply[1] == 137 and reply[2]
    state = shim.call("State", {1: shim.name})[2]
    assert state[4] == 3 and state[9] == 137  # STOPPED
    code, _, reply = shim.call("Delete", {1: shim.name})
    assert code == 0 and reply[2] == 137
    assert shim.call("State", {1: shim.name})[0] == NOT_FOUND
    assert shim.call("Delete", {1: shim.name})[0] == NOT_FOUND


def test_wait_before_start(shim):
    assert shim.call("Create", shim.create())[0] == 0
    answers = []
    threads = []
    for _ in range(3):
        client = shim.connect()
        thread = threading.Thread(target=lambda c=client: answers.append(shim.call("Wait", {1: shim.name}, c)))
        thread.start()
        threads.append(thread)
    time.sleep(0.5)
    assert not answers
    shim.call("Start", {1: shim.name})
    shim.call("Kill", {1: shim.name, 3: 9})
    for thread in threads:
        thread.join(60)
    assert [a[2].get(1) for a in answers] == [137] * 3


@pytest.mark.thorough
def test_kill_of_a_created_task(shim):
    assert shim.call("Create", shim.create())[0] == 0
    assert shim.call("Kill", {1: shim.name, 3: 9})[0] == 0
    code, _, reply = shim.call("Wait", {1: shim.name})
    assert code == 0 and reply[1] == 137
    assert shim.call("Delete", {1: shim.name})[0] == 0


@pytest.mark.thorough
def test_delete_of_a_created_task(shim):
    assert shim.call("Create", shim.create())[0] == 0
    assert shim.call("Kill", {1: shim.name, 3: 9, 4: 1})[0] == 0
    assert wait_until(lambda: shim.call("Delete", {1: shim.name})[0] == 0, 20)


def test_unknown_ids(shim):
    assert shim.call("Create", shim.create())[0] == 0
    for method, fields in (("State", {1: shim.name, 2: "none"}), ("Start", {1: shim.name, 2: "none"}),
                           ("Kill", {1: shim.name, 2: "none", 3: 9}), ("Delete", {1: shim.name, 2: "none"}),
                           ("Wait", {1: shim.name, 2: "none"})):
        assert shim.call(method, fields)[0] == NOT_FOUND, method


def test_second_create_is_refused(shim):
    assert shim.call("Create", shim.create())[0] == 0
    assert shim.call("Create", shim.create())[0] != 0
    assert shim.call("State", {1: shim.name})[0] == 0


def test_exec_ids(shim):
    spec = json.dumps({"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                       "env": ["PATH=/bin"]}).encode()
    from harness import ttrpc
    process = ttrpc.encode({1: "types.containerd.io/opencontainers/runtime-spec/1/Process", 2: spec})
    assert shim.call("Create", shim.create())[0] == 0
    assert shim.call("Start", {1: shim.name})[0] == 0
    assert shim.call("Exec", {1: shim.name, 2: "e", 7: process})[0] == 0
    assert shim.call("Exec", {1: shim.name, 2: "e", 7: process})[0] == ALREADY_EXISTS
    assert shim.call("Start", {1: shim.name, 2: "e"})[0] == 0
    assert shim.call("Kill", {1: shim.name, 2: "e", 3: 15})[0] == 0
    assert shim.call("Wait", {1: shim.name, 2: "e"})[2][1] == 143
    assert shim.call("Delete", {1: shim.name, 2: "e"})[2][2] == 143
    assert shim.call("State", {1: shim.name})[2][4] == 2


@pytest.mark.thorough
def test_close_io_without_stdin_is_harmless(shim):
    assert shim.call("Create", shim.create())[0] == 0
    assert shim.call("CloseIO", {1: shim.name, 3: 1})[0] == 0
    assert shim.call("ResizePty", {1: shim.name, 3: 80, 4: 24})[0] == 0


@pytest.mark.thorough
def test_connect(shim):
    assert shim.call("Create", shim.create())[0] == 0
    code, _, reply = shim.call("Connect", {1: shim.name})
    assert code == 0 and reply[1] > 0 and reply[2] > 0


def test_unknown_method(shim):
    assert shim.call("Frobnicate", {})[0] == 12


def test_shutdown_is_ignored_while_a_container_lives(shim):
    assert shim.call("Create", shim.create())[0] == 0
    assert shim.call("Shutdown", {1: shim.name})[0] == 0
    assert shim.call("State", {1: shim.name})[0] == 0
