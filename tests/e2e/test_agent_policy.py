"""guest.allow: what a sandbox's guest refuses whoever asks, and what nobody can deny."""

import re

import pytest

from harness.ctr import BUSYBOX, Container, call, ctr, run, wait_until

pytestmark = pytest.mark.wyvern_only


def refused(done, name: str) -> bool:
    return done.returncode != 0 and f"guest.allow did not list {name}".encode() in done.stderr


def test_what_is_not_listed_is_refused_and_counted(configure):
    configure("guest: { allow: [signal], debug_exec: true }\n")
    assert refused(run(BUSYBOX, "true", stdin=b""), "stdin")  # ctr has input for what it waits for
    with Container(BUSYBOX, "sh", "-c", "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.1; done") as container:
        configure("")  # a sandbox keeps what it was started with
        assert refused(container.exec("true"), "exec")
        assert refused(call(["wyvern", "exec", "--guest", container.name, "--", "true"]), "guest_exec")
        assert refused(ctr("task", "pause", container.name), "pause")
        assert container.status() == "RUNNING"
        assert ctr("task", "metrics", container.name).returncode == 0
        metrics = call(["wyvern", "metrics", container.name]).stdout.decode()
        assert re.search(r"^wyvern_guest_refused_calls_total\{.*\} 3$", metrics, re.M), metrics[-2000:]
        assert container.kill("SIGTERM").returncode == 0
        assert container.wait_status("STOPPED", 20)
        assert container.delete_task() == 5


def test_a_container_always_ends(configure):
    configure("guest: { allow: [] }\n")
    with Container(BUSYBOX, "sleep", "1000") as container:
        assert refused(container.kill("SIGTERM"), "signal")
        assert container.kill("SIGKILL").returncode == 0
        assert wait_until(lambda: container.status() == "STOPPED", 20)
        assert container.delete_task() == 137
