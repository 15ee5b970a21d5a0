"""Pods by CRI, as a kubelet makes them: one machine for each, in which containers come and go. runc in the same containerd is the oracle."""

import pathlib
import re
import threading

import pytest

from harness import cri as harness
from harness.cri import NODE, POD, Forward, Pod
from harness.ctr import call, wait_until
from harness.pods import OURS, cri  # noqa: F401 (a fixture)
from harness.traces import processes

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]

ours = pytest.mark.parametrize("handler", OURS)
both = pytest.mark.parametrize("handler", [*OURS, "runc"])


@both
def test_scenario_43_containers_come_and_go_in_a_pod_that_lives(cri, handler):
    with Pod(cri, handler) as pod:
        assert pod.state() == "SANDBOX_READY"
        first = pod.run("sh", "-c", "echo out; echo err >&2; trap 'exit 5' TERM; while sleep 0.1; do :; done")
        assert pod.exec(first, "echo", "by", "exec") == "by exec\n"
        assert wait_until(lambda: sorted(pod.logs(first)) == [("stderr", "err"), ("stdout", "out")], 20), pod.logs(first)
        pod.stop(first, 20)
        assert pod.exited(first) == 5
        pod.delete(first)
        assert pod.state() == "SANDBOX_READY"  # without a container
        again = pod.run(name="c1")
        assert pod.container(again)["state"] == "CONTAINER_RUNNING"
        pod.stop(again, 0)
        assert pod.exited(again) == 137
        third = pod.run("sh", "-c", "exit 7", name="c1")
        assert pod.exited(third) == 7
        assert pod.state() == "SANDBOX_READY"


@ours
def test_scenario_42_ten_containers_each_restarted(cri, handler):
    with Pod(cri, handler) as pod:
        names = [f"c{i}" for i in range(10)]
        running = {name: pod.run("sh", "-c", f"echo {name} > /tmp/name; exec sleep 100000", name=name) for name in names}
        for name in names:
            pod.stop(running[name], 0)
            pod.delete(running[name])
            running[name] = pod.run("sh", "-c", f"echo {name} again > /tmp/name; exec sleep 100000", name=name)
        for name in names:
            assert pod.exec(running[name], "cat", "/tmp/name") == f"{name} again\n"


def seen(pod: Pod, scratch: pathlib.Path) -> dict:
    """What a container of the pod sees of the files and names that a kubelet gives it, and what it shares with another."""
    scratch.mkdir()
    hosts, log = scratch / "hosts", scratch / "log"
    hosts.write_text("127.0.0.1 localhost\n10.89.9.9 web-0\n")
    log.write_text("")
    one = pod.run(mounts=[(hosts, "/etc/hosts"), (log, "/dev/termination-log")])
    other = pod.run()
    pod.shell(one, "echo the end > /dev/termination-log; echo shared > /dev/shm/file")
    return {
        "hostname": pod.shell(one, "hostname; cat /etc/hostname"),
        "hosts": pod.exec(one, "cat", "/etc/hosts"),
        "resolv.conf": pod.exec(one, "cat", "/etc/resolv.conf"),
        "termination log": log.read_text(),
        "shm": pod.exec(other, "cat", "/dev/shm/file"),
        "shm size": pod.shell(one, "df -k /dev/shm | awk 'NR == 2 { print $2 }'"),
        "processes": pod.shell(one, "cat /proc/1/comm"),
        "sysctls": pod.shell(one, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"),
        "same uts": pod.exec(one, "readlink", "/proc/self/ns/uts") == pod.exec(other, "readlink", "/proc/self/ns/uts"),
        "same ipc": pod.exec(one, "readlink", "/proc/self/ns/ipc") == pod.exec(other, "readlink", "/proc/self/ns/ipc"),
        "same net": pod.exec(one, "readlink", "/proc/self/ns/net") == pod.exec(other, "readlink", "/proc/self/ns/net"),
        "same pid": pod.exec(one, "readlink", "/proc/self/ns/pid") == pod.exec(other, "readlink", "/proc/self/ns/pid"),
    }


@ours
def test_scenario_48_names_and_files_are_those_of_runc(cri, scratch, handler):
    found = []
    for one in (handler, "runc"):
        with Pod(cri, one) as pod:
            found.append(seen(pod, scratch / one))
    ours, theirs = found
    assert ours == theirs
    assert ours["hostname"].split() == ["web-0", "web-0"]
    assert "nameserver 10.96.0.10" in ours["resolv.conf"] and "ndots:5" in ours["resolv.conf"]
    assert ours["termination log"] == "the end\n"
    assert ours["shm"] == "shared\n" and ours["shm size"] == "65536\n"
    assert ours["same uts"] and ours["same ipc"] and ours["same net"] and not ours["same pid"]


@both
def test_scenario_45_processes_are_shared_where_asked_for(cri, handler):
    with Pod(cri, handler, pid=POD) as pod:
        one = pod.run("sleep", "100000")
        other = pod.run("sh", "-c", "(sleep 0.1 &) ; exec sleep 99999")
        commands = pod.shell(other, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert "sleep 100000" in commands, commands
        assert pod.exec(one, "cat", "/proc/1/comm") != "sleep\n"  # neither of them
        assert " Z " not in pod.shell(one, "sleep 0.5; cat /proc/[0-9]*/stat")
        pod.stop(other, 0)
        assert pod.exited(other) == 137
        assert "99999" not in pod.shell(one, "cat /proc/[0-9]*/cmdline")
        assert pod.container(one)["state"] == "CONTAINER_RUNNING"


@both
def test_debug_container_joins_the_processes_of_its_target(cri, handler):
    with Pod(cri, handler) as pod:
        target = pod.run("sleep", "77777")
        debug = pod.run(target=target)
        assert "77777" in pod.exec(debug, "cat", "/proc/1/cmdline")


@ours
def test_scenario_49_a_pod_of_runc_and_one_of_ours_reach_each_other(cri, handler):
    with Pod(cri, handler) as ours, Pod(cri, "runc") as theirs:
        assert re.match(r"10\.89\.", ours.ip()) and ours.ip() != theirs.ip()
        a, b = ours.run(), theirs.run()
        assert f" {ours.ip()}/16 " in ours.shell(a, "ip addr show eth0").replace("inet ", " ").replace("/16 ", "/16 ")
        assert "0% packet loss" in ours.shell(a, f"ping -c 3 -w 20 {theirs.ip()}")
        assert "0% packet loss" in theirs.shell(b, f"ping -c 3 -w 20 {ours.ip()}")


@both
def test_probe_that_takes_too_long_ends_alone(cri, handler):
    with Pod(cri, handler) as pod:
        one = pod.run()
        with pytest.raises(harness.CriError, match="^ExecSync: 4 "):  # DEADLINE_EXCEEDED
            pod.exec_sync(one, "sleep", "7654321", seconds=2)
        assert wait_until(lambda: "7654321" not in pod.shell(one, "cat /proc/[0-9]*/cmdline"), 20, 1)
        assert pod.exec_sync(one, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
        # Several at once.
        outputs = []
        threads = [threading.Thread(target=lambda i=i: outputs.append(pod.exec(one, "echo", str(i)))) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outputs) == [f"{i}\n" for i in range(6)]


@both
def test_figures_of_containers_and_pods(cri, handler):
    with Pod(cri, handler) as pod:
        one = pod.run("sh", "-c", "head -c 4000000 /dev/zero > /dev/shm/x; exec sleep 100000")
        assert wait_until(lambda: int(pod.figures(one)["memory"]["working_set_bytes"]["value"]) > 4000000, 20, 1), pod.figures(one)
        assert int(pod.figures(one)["cpu"]["usage_core_nano_seconds"]["value"]) > 0
        stats = cri.call("PodSandboxStats", pod_sandbox_id=pod.id)["stats"]
        assert stats["attributes"]["id"] == pod.id
        assert stats["linux"]["network"]["default_interface"]["name"] == "eth0"
        assert [entry["attributes"]["id"] for entry in stats["linux"]["containers"]] == [one]


@ours
def test_scenario_44_end_of_the_anchor_is_the_end_of_the_pod(cri, handler):
    with Pod(cri, handler) as pod:
        one = pod.run()
        call(["kill", "-9", pod.pid()])
        assert wait_until(lambda: pod.state() == "SANDBOX_NOTREADY", 30)
        assert pod.exited(one) == 137


@both
def test_removed_by_force_while_containers_run(cri, handler):
    before = processes()
    with Pod(cri, handler) as pod:
        pod.run()
        pod.run("sh", "-c", "trap '' TERM; sleep 100000")
        pod.remove()
    assert wait_until(lambda: processes().keys() <= before.keys(), 20)


def test_exec_in_what_stands_for_the_pod_is_refused(cri):
    with Pod(cri, "wyvern") as pod:
        done = cri.ctr("task", "exec", "--exec-id", "x", pod.id, "true")
        assert done.returncode != 0 and b"stands for its pod" in done.stderr, done.stderr


@ours
def test_scenario_47_namespaces_of_the_host_mean_the_pods(cri, handler):
    with Pod(cri, handler, pid=NODE, ipc=NODE) as pod:
        one = pod.run("sleep", "77777")
        other = pod.run()
        commands = pod.shell(other, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert "sleep 77777" in commands and "containerd" not in commands
        assert pod.exec(one, "readlink", "/proc/self/ns/ipc") == pod.exec(other, "readlink", "/proc/self/ns/ipc")


@both
def test_scenario_50_port_forward_reaches_what_listens_on_localhost_only(cri, handler):
    with Pod(cri, handler) as pod:
        pod.run("sh", "-c", "mkdir /tmp/www; head -c 300000 /dev/zero | tr '\\0' 'x' > /tmp/www/file; exec httpd -f -p 127.0.0.1:8080 -h /tmp/www")
        for _ in range(3):  # until it listens, and once more
            with Forward(pod, 8080) as forward:
                forward.send(b"GET /file HTTP/1.0\r\n\r\n")
                data, _ = forward.to_the_end()
        assert data.startswith(b"HTTP/1.") and data.endswith(b"x" * 300000), (len(data), data[:200])
        with Forward(pod, 8081) as forward:
            data, error = forward.to_the_end()
            assert data == b"" and (handler != "runc" or b"8081" in error), (data, error)
