"""ctr task exec, kill, pause, resume, delete, metrics, ps."""

import concurrent.futures
import time

import pytest

from harness.ctr import BUSYBOX, RUNTIME, WYVERN, Container, Events, call, ctr, feed, wait_until


@pytest.fixture
def container():
    with Container() as it:
        yield it


def test_exec_prints_and_exits(container):
    done = container.exec("sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    assert container.status() == "RUNNING"


def test_exec_death_by_signal(container):
    assert container.exec("sh", "-c", "kill -TERM $$").returncode == 143


def test_exec_stdin(container):
    done = feed(container.exec_argv("sh", "-c", "echo ready; wc -c"), b"x" * 100000)
    assert (done.returncode, done.stdout.split()) == (0, [b"100000"])


def test_exec_in_directory_as_user(container):
    done = container.exec("sh", "-c", "pwd; id -u; id -g", flags=["--cwd", "/tmp", "--user", "1234:100"])
    assert done.stdout.split() == [b"/tmp", b"1234", b"100"], done.stderr


def test_exec_sees_the_containers_files_and_processes(container):
    assert container.exec("sh", "-c", "echo x > /shared").returncode == 0
    assert container.exec("cat", "/shared").stdout == b"x\n"
    assert b"sleep" in container.exec("ps").stdout


def test_exec_of_a_missing_program(container):
    done = container.exec("/no/such/program")
    assert done.returncode != 0 and b"no such file" in done.stderr.lower()
    assert container.exec("true").returncode == 0


@pytest.mark.limit(600)
def test_exec_20_at_once(container):
    def one(i):
        return container.exec("sh", "-c", f"echo {i}; sleep 1; exit {i}", timeout=300)

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(one, range(20)))
    assert [(r.returncode, r.stdout) for r in results] == [(i, f"{i}\n".encode()) for i in range(20)]


def test_exec_ends_with_the_container(container):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(container.exec, "sleep", "1000") for _ in range(3)]
        assert wait_until(lambda: container.exec("sh", "-c", "ps | grep -c 'sleep 1000$'").stdout.strip() >= b"3", 60)
        assert container.kill().returncode == 0
        assert [w.result(timeout=60).returncode for w in waiting] == [137] * 3


def test_exec_after_exit_is_an_error(container):
    container.kill()
    assert container.wait_status("STOPPED", 30)
    assert container.exec("true").returncode != 0


def test_events_are_in_order():
    with Events() as events:
        with Container() as container:
            assert container.exec("true").returncode == 0
            container.kill()
            assert container.wait_status("STOPPED", 30)
            assert container.delete_task() == 137
        assert wait_until(lambda: events.of(container.name, "/tasks/delete"), 10)
        topics = [t for t, _ in events.of(container.name) if t.startswith("/tasks/")]
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit",
                      "/tasks/exit", "/tasks/delete"], topics


@pytest.mark.parametrize("number,name", [(1, "HUP"), (2, "INT"), (10, "USR1"), (15, "TERM")])
def test_kill_reaches_a_handler(scratch, number, name):
    log = scratch / "log"
    script = f"trap 'echo got {name}; exit {number}' {name}; echo up; while :; do sleep 0.1; done"
    with Container(BUSYBOX, "sh", "-c", script, log=log) as container:
        assert wait_until(lambda: log.exists() and "up" in log.read_text(), 30)
        assert container.kill(f"SIG{name}").returncode == 0
        assert container.wait_status("STOPPED", 30)
        assert container.delete_task() == number
    assert log.read_text() == f"up\ngot {name}\n"


def test_kill_without_handler_spares_pid_1(container):
    """As on any Linux: the first process of a pid namespace ignores what it does not handle."""
    assert container.kill("SIGTERM").returncode == 0
    time.sleep(1)
    assert container.status() == "RUNNING"


def test_kill_of_one_exec(container):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        argv = ["ctr", "task", "exec", "--exec-id", "victim", container.name, "sleep", "1000"]
        waiting = pool.submit(call, argv)
        assert wait_until(lambda: b"sleep 1000" in container.exec("ps").stdout, 60)
        assert ctr("task", "kill", "-s", "SIGKILL", "--exec-id", "victim", container.name).returncode == 0
        assert waiting.result(timeout=60).returncode == 137
    assert container.status() == "RUNNING"


def test_kill_of_a_finished_container_is_an_error(container):
    container.kill()
    assert container.wait_status("STOPPED", 30)
    assert container.kill().returncode != 0


def test_delete_of_a_running_task_is_refused(container):
    assert container.delete_task() is None
    assert container.status() == "RUNNING"


def test_forced_delete_of_a_running_task(container):
    ctr("task", "delete", "--force", container.name)
    assert container.status() == ""


def test_created_but_never_started():
    """ctr has no verb that only creates, so: a start that fails must be undone (see test_ctr_run)."""
    with Container() as container:
        assert container.pid() > 0


def test_pause_and_resume(scratch):
    log = scratch / "log"
    with Container(BUSYBOX, "sh", "-c", "while :; do echo x; sleep 0.1; done", log=log) as container:
        assert wait_until(lambda: log.exists() and log.stat().st_size > 4, 30)
        assert ctr("task", "pause", container.name).returncode == 0
        assert container.status() == "PAUSED"
        time.sleep(1)
        size = log.stat().st_size
        time.sleep(2)
        assert log.stat().st_size == size
        assert ctr("task", "resume", container.name).returncode == 0
        assert container.status() == "RUNNING"
        assert wait_until(lambda: log.stat().st_size > size, 30)


def test_kill_while_paused(container):
    assert ctr("task", "pause", container.name).returncode == 0
    container.kill()
    if RUNTIME != WYVERN:
        ctr("task", "resume", container.name)
    assert container.wait_status("STOPPED", 30)
    assert container.delete_task() == 137


def test_metrics(container):
    def metrics():
        lines = ctr("task", "metrics", container.name).stdout.decode().splitlines()
        return {fields[0]: fields[1] for fields in (line.split() for line in lines) if len(fields) == 2}

    first = metrics()
    container.exec("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    second = metrics()
    assert int(second["cpu.usage_usec"]) > int(first["cpu.usage_usec"])
    assert int(second["memory.usage_in_bytes"] if "memory.usage_in_bytes" in second else second["memory.usage"]) > 0
    assert int(second["pids.current"]) >= 1


def test_pid_is_a_host_process_in_the_containers_network(container):
    pid = container.pid()
    done = call(["readlink", f"/proc/{pid}/ns/net", "/proc/1/ns/net"])
    inside, outside = done.stdout.split()
    assert inside != outside


def test_ps_lists_something(container):
    lines = ctr("task", "ps", container.name).stdout.decode().splitlines()
    assert str(container.pid()) in [line.split()[0] for line in lines[1:]]


@pytest.mark.wyvern_only
def test_root_of_the_pid_is_not_the_hosts(container):
    """nerdctl cp goes through /proc/<pid>/root."""
    assert not call(["ls", f"/proc/{container.pid()}/root/opt/wyvern"]).stdout
