"""ctr task exec, kill, pause, resume, delete, metrics, ps; wyvern exec, in containers and in the guest itself."""

import concurrent.futures
import hashlib
import os
import signal
import subprocess
import time

import pytest

from harness.ctr import BUSYBOX, RUNTIME, WYVERN, Container, Events, call, ctr, feed, more, wait_until
from test_tty import Terminal
from test_wyvern_cli import LAYOUT, Running, wyvern


@pytest.fixture(scope="module")
def container():
    """For all tests of this file that only run commands in it: none may end it."""
    with Container() as it:
        yield it


@pytest.fixture
def own():
    """For a test that ends it."""
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


def test_exec_ends_with_the_container(own):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(own.exec, "sleep", "1000") for _ in range(3)]
        assert wait_until(lambda: own.exec("sh", "-c", "ps | grep -c 'sleep 1000$'").stdout.strip() >= b"3", 60)
        assert own.kill().returncode == 0
        assert [w.result(timeout=60).returncode for w in waiting] == [137] * 3


@pytest.mark.thorough
def test_exec_after_exit_is_an_error(own):
    own.kill()
    assert own.wait_status("STOPPED", 30)
    assert own.exec("true").returncode != 0


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


@pytest.mark.parametrize("number,name", [more(1, "HUP"), more(2, "INT"), more(10, "USR1"), (15, "TERM")])
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


def test_kill_of_a_finished_container_is_an_error(own):
    own.kill()
    assert own.wait_status("STOPPED", 30)
    assert own.kill().returncode != 0


def test_delete_of_a_running_task_is_refused(container):
    assert container.delete_task() is None
    assert container.status() == "RUNNING"


@pytest.mark.thorough
def test_forced_delete_of_a_running_task(own):
    ctr("task", "delete", "--force", own.name)
    assert own.status() == ""


@pytest.mark.thorough
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


def test_kill_while_paused(own):
    assert ctr("task", "pause", own.name).returncode == 0
    own.kill()
    if RUNTIME != WYVERN:
        ctr("task", "resume", own.name)
    assert own.wait_status("STOPPED", 30)
    assert own.delete_task() == 137


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


def exec_argv(container, *command, flags=()):
    return ["wyvern", "exec", *flags, container.name, *(["--", *command] if command else [])]


def guest(container, *command, flags=(), **kwargs) -> subprocess.CompletedProcess:
    return call(exec_argv(container, *command, flags=["--guest", *flags]), **kwargs)


class Waiting:
    """A `wyvern exec` that has printed "up"."""

    def __init__(self, argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        assert self.process.stdout.readline() == b"up\n", self.process.stderr.read()
        return self.process

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.mark.wyvern_only
def test_guest_exec_is_outside_of_every_container(container):
    assert guest(container, "cat", "/proc/1/comm").stdout == b"wyvern-agent\n"
    assert b"sleep 100000" in guest(container, "ps").stdout
    # What it makes is not the container's, and the other way round.
    assert guest(container, "touch", "/tmp/of-the-guest").returncode == 0
    assert container.exec("ls", "/tmp/of-the-guest").returncode != 0


@pytest.mark.wyvern_only
def test_agent_is_small(container):
    """Resident at most 4 MiB; its program is the host's memory (DAX)."""
    assert container.exec("true").returncode == 0
    status = guest(container, "cat", "/proc/1/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["VmRSS"].removesuffix(" kB")) <= 4096, status


@pytest.mark.wyvern_only
def test_guest_exec_streams_and_exit_codes(container):
    done = guest(container, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert guest(container, "sh", "-c", "kill -TERM $$").returncode == 143
    assert container.status() == "RUNNING"


@pytest.mark.wyvern_only
def test_guest_exec_in_directory_as_user(container):
    done = guest(container, "sh", "-c", "pwd; id -u; id -g; echo $A",
                 flags=["--cwd", "/tmp", "--user", "1234:100", "--env", "A=b c"])
    assert done.stdout.splitlines() == [b"/tmp", b"1234", b"100", b"b c"], done.stderr


@pytest.mark.wyvern_only
def test_wyvern_exec_as_a_user_of_the_container(container):
    script = "echo web:x:33:44::/:/bin/sh >> /etc/passwd; echo log:x:55:daemon,web >> /etc/group"
    assert container.exec("sh", "-c", script).returncode == 0
    done = call(exec_argv(container, "sh", "-c", "id -u; id -g; id -G", flags=["-u", "web"]))
    assert done.stdout.splitlines() == [b"33", b"44", b"44 55"], done.stderr
    done = call(exec_argv(container, "sh", "-c", "id -u; id -G", flags=["-u", "web:users"]))
    assert done.stdout.splitlines() == [b"33", b"100"], done.stderr
    done = call(exec_argv(container, "true", flags=["-u", "nobody-here"]))
    assert done.returncode == 125 and b"nobody-here" in done.stderr


@pytest.mark.wyvern_only
def test_guest_exec_without_a_command_reads_a_script(container):
    done = guest(container, stdin=b"cat /proc/1/comm\nexit 5\n")
    assert (done.returncode, done.stdout) == (5, b"wyvern-agent\n"), done.stderr


@pytest.mark.wyvern_only
def test_guest_exec_of_a_missing_program(container):
    done = guest(container, "no-such-program")
    assert done.returncode == 125 and b'"no-such-program" not found in the guest' in done.stderr
    done = guest(container, "true", flags=["--cwd", "/no/such/directory"])
    assert done.returncode == 125 and b"/no/such/directory" in done.stderr
    assert guest(container, "true").returncode == 0


@pytest.mark.wyvern_only
def test_guest_exec_on_a_terminal(container):
    with Terminal(exec_argv(container, flags=["--guest"]), rows=30, columns=100) as terminal:
        terminal.send(b"stty size; tty; echo con''trolled >/dev/tty\n")
        terminal.expect(b"30 100")
        terminal.expect(b"/dev/pts/")
        terminal.expect(b"controlled")
        terminal.resize(40, 132)
        terminal.send(b"until stty size | grep 40.132; do sleep 0.1; done\n")
        terminal.expect(b"40 132")
        terminal.send(b"sleep 4321\n")
        assert wait_until(lambda: b"sleep 4321" in guest(container, "ps").stdout, 30)
        terminal.send(b"\x03")
        assert wait_until(lambda: b"sleep 4321" not in guest(container, "ps").stdout, 30)
        terminal.send(b"exit 7\n")
        assert terminal.wait() == 7


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_guest_exec_ends_with_the_sandbox():
    with Container() as container:
        with Waiting(exec_argv(container, "sh", "-c", "echo up; sleep 1000", flags=["--guest"])) as process:
            container.remove()
            assert process.wait(timeout=30) not in (0, None)


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_guest_exec_is_refused_unless_allowed(scratch):
    config = scratch / "off.yaml"
    config.write_text("guest:\n  debug_exec: false\n")
    with Running("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done", flags=["--config", config]) as it:
        done = guest(it, "true")
        assert done.returncode == 125 and b"guest.debug_exec" in done.stderr and b"off.yaml:2" in done.stderr
        assert call(exec_argv(it, "true")).returncode == 0


@pytest.mark.wyvern_only
@pytest.mark.parametrize("flags", [[], ["--guest"]], ids=["container", "guest"])
def test_wyvern_exec_forwards_signals(container, flags):
    script = "trap 'echo got; exit 9' TERM; trap 'echo usr; exit 8' USR1; echo up; while :; do sleep 0.1; done"
    for number, code, said in ((signal.SIGTERM, 9, b"got\n"), (signal.SIGUSR1, 8, b"usr\n")):
        with Waiting(exec_argv(container, "sh", "-c", script, flags=flags)) as process:
            process.send_signal(number)
            assert process.wait(timeout=30) == code
            assert process.stdout.read() == said
    with Waiting(exec_argv(container, "sh", "-c", "echo up; exec sleep 1000", flags=flags)) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


@pytest.mark.wyvern_only
@pytest.mark.parametrize("flags", [["-t"], ["-t", "--guest"]], ids=["container", "guest"])
def test_wyvern_exec_forwards_the_terminals_size(container, flags):
    script = "stty size; trap 'stty size; exit 5' WINCH; echo up; while :; do sleep 0.1; done"
    with Terminal(exec_argv(container, "sh", "-c", script, flags=flags), rows=33, columns=111) as terminal:
        assert b"33 111" in terminal.expect(b"up")
        terminal.resize(20, 70)
        terminal.expect(b"20 70")
        assert terminal.wait() == 5


@pytest.mark.wyvern_only
@pytest.mark.parametrize("flags", [[], ["--guest"]], ids=["container", "guest"])
def test_wyvern_exec_whose_client_is_gone_hangs_up(container, flags):
    with Terminal(exec_argv(container, "sh", "-c", "echo up; exec sleep 4321", flags=["-t", *flags])) as terminal:
        terminal.expect(b"up")
        terminal.process.kill()
        terminal.process.wait()
    assert wait_until(lambda: b"sleep 4321" not in guest(container, "ps").stdout, 30)


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_wyvern_exec_passes_much_input_unchanged(container):
    data = os.urandom(16 << 20)
    done = call(exec_argv(container, "sh", "-c", "sleep 1; sha256sum", flags=["-i"]), stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest(), done.stderr
    # Without -i there is none.
    assert call(exec_argv(container, "wc", "-c"), stdin=b"x" * 1000).stdout.strip() == b"0"


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_wyvern_exec_waits_for_a_slow_reader(container):
    argv = " ".join(exec_argv(container, "head", "-c", str(64 << 20), "/dev/zero"))
    done = call(["bash", "-o", "pipefail", "-c", f"{argv} | (sleep 3; wc -c)"])
    assert (done.returncode, done.stdout.strip()) == (0, str(64 << 20).encode()), done.stderr


@pytest.mark.wyvern_only
def test_wyvern_exec_ends_when_nobody_reads(container):
    argv = " ".join(exec_argv(container, "yes"))
    done = call(["bash", "-c", f"{argv} | head -n 1; echo ${{PIPESTATUS[0]}}"], timeout=60)
    assert done.stdout.split() == [b"y", b"141"], done.stderr


@pytest.mark.thorough
@pytest.mark.wyvern_only
def test_repeated_options_of_wyvern_run_take_one_value_each(scratch):
    done = wyvern("run", "-e", "A=1", "-e", "B=2", "-v", f"{scratch}:/data", LAYOUT, "--", "sh", "-c", "echo $A $B; ls -d /data")
    assert (done.returncode, done.stdout) == (0, b"1 2\n/data\n"), done.stderr


@pytest.mark.wyvern_only
@pytest.mark.parametrize("verb", ["check", "run", "ps", "exec", "logs", "timeline", "config", "image", "guest", "version"])
def test_wrong_usage_is_one_line_and_exit_code_2(verb):
    done = wyvern(verb, "--no-such-option")
    assert done.returncode == 2 and not done.stdout
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and "--no-such-option" in lines[0] and f"wyvern {verb} --help" in lines[0], lines
    assert b"Example" in wyvern(verb, "--help").stdout


@pytest.mark.wyvern_only
def test_wrong_usage_of_the_command_itself():
    for argv, said in (([], b"command is required"), (["nosuch"], b"unknown command"), (["exec", "web"], b"command is required"),
                       (["exec"], b"id is required"), (["exec", "web", "ls", "-l"], b'after "--"')):
        done = wyvern(*argv)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
