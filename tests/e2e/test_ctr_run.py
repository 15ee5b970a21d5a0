"""ctr run: exit codes, standard streams, and what the spec asks of the container."""

import hashlib
import os
import json
import signal
import subprocess
import threading

import pytest

from harness.ctr import BUSYBOX, DEBIAN, RUNTIME, WYVERN, call, check_output, ctr, feed, more, run, run_argv, shell, unique

MIB = 1 << 20


@pytest.mark.wyvern_only
def test_kernel_is_the_guests():
    host = os.uname().release
    guest = check_output(BUSYBOX, "uname", "-r").strip()
    assert guest and guest != host


@pytest.mark.parametrize("code", [more(0), more(1), 7, more(126), more(127), 255])
def test_exit_code(code):
    assert run(BUSYBOX, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [more(signal.SIGINT), signal.SIGKILL, more(signal.SIGSEGV), more(signal.SIGTERM)])
def test_death_by_signal_is_128_plus_number(number):
    # As pid 1 a process is immune to its own signals: a child dies, and the shell reports it.
    done = run(BUSYBOX, "sh", "-c", f"sh -c 'kill -{int(number)} $$'; exit $?")
    assert done.returncode == 128 + number


@pytest.mark.thorough
def test_init_killed_from_outside_is_137():
    name = unique()
    with subprocess.Popen(run_argv(BUSYBOX, "sh", "-c", "echo up; sleep 1000", name=name, flags=["--rm"]),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        assert ctr("task", "kill", "-s", "SIGKILL", name).returncode == 0
        assert process.wait(timeout=60) == 137


def test_missing_program_is_a_clear_error():
    done = run(BUSYBOX, "/no/such/program")
    assert done.returncode != 0
    assert b"/no/such/program" in done.stderr
    assert b"no such file" in done.stderr or b"not found" in done.stderr


@pytest.mark.thorough
def test_not_executable_is_a_clear_error():
    done = run(BUSYBOX, "/etc/passwd")
    assert done.returncode != 0
    assert b"permission denied" in done.stderr.lower()


@pytest.mark.thorough
def test_same_name_works_after_a_failed_start():
    name = unique()
    assert run(BUSYBOX, "/no/such/program", name=name).returncode != 0
    assert check_output(BUSYBOX, "echo", "again", name=name) == "again\n"


def test_stdout_and_stderr_are_apart():
    done = run(BUSYBOX, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_last_line_without_newline():
    assert run(BUSYBOX, "printf", "one\\ntwo").stdout == b"one\ntwo"


@pytest.mark.thorough
def test_long_line():
    assert run(BUSYBOX, "sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x").stdout == b"x" * 200000


def fed(script: str, data: bytes) -> subprocess.CompletedProcess:
    return feed(run_argv(BUSYBOX, "sh", "-c", "echo ready; " + script, flags=["--rm"]), data)


def test_stdin_small_and_end_of_file():
    assert fed("cat", b"hello\n").stdout == b"hello\n"


@pytest.mark.thorough
def test_stdin_empty():
    assert fed("wc -c", b"").stdout.strip() == b"0"


def test_stdin_not_read_does_not_hang():
    assert fed("true", b"x" * MIB).returncode == 0


class Pattern:
    """Deterministic bytes that do not compress into one repeated block, made piece by piece."""

    def __init__(self, size: int):
        self.size = size
        block = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(32768))
        self.pieces = [block] * (size // MIB)

    def digest(self) -> str:
        h = hashlib.sha256()
        for piece in self.pieces:
            h.update(piece)
        return h.hexdigest()


@pytest.mark.slow
@pytest.mark.limit(900)
def test_stdin_of_many_mib(long):
    pattern = Pattern((100 if long else 32) * MIB)
    with subprocess.Popen(run_argv(BUSYBOX, "sha256sum", flags=["--rm"]), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        def feed():
            for piece in pattern.pieces:
                process.stdin.write(piece)
            process.stdin.close()

        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        output = process.stdout.read().decode()
        assert process.wait(timeout=600) == 0
    assert output.split()[0] == pattern.digest()


@pytest.mark.slow
@pytest.mark.limit(900)
def test_stdout_of_many_mib(long):
    """Every byte is compared: hashing would take longer than the way from the guest."""
    text = b"the quick brown fox jumps over the lazy dog\n"
    lines = 16 * MIB // len(text) + 1
    times = 64 if long else 4
    script = (f"yes '{text.decode().strip()}' | head -n {lines} >/dev/shm/block;"
              f"for i in $(seq {times}); do cat /dev/shm/block; done; printf end")
    whole = text * (2 * MIB // len(text))
    count, size = 0, len(text) * lines * times
    with subprocess.Popen(run_argv(BUSYBOX, "sh", "-c", script, flags=["--rm"]), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE) as process:
        while count < size and (piece := process.stdout.read(min(MIB, size - count))):
            at = count % len(text)
            assert piece == whole[at:at + len(piece)], f"wrong within {len(piece)} bytes from {count} on"
            count += len(piece)
        assert process.stdout.read() == b"end"
        assert process.wait(timeout=60) == 0
    assert count == size >= (1024 if long else 64) * MIB


def test_environment():
    output = shell('echo "$A|$B"', flags=["--env", "A=1", "--env", "B=two words=x"])
    assert output == "1|two words=x\n"


def test_working_directory():
    assert check_output(BUSYBOX, "pwd", flags=["--cwd", "/tmp"]) == "/tmp\n"


@pytest.mark.thorough
def test_hostname():
    name = unique()
    spec_has = shell("hostname", name=name)
    assert spec_has.strip()


def test_readonly_root():
    done = run(BUSYBOX, "sh", "-c", "echo x > /file", flags=["--read-only"])
    assert done.returncode != 0
    assert b"Read-only file system" in done.stderr


@pytest.mark.thorough
def test_root_is_writable_and_not_the_images():
    assert shell("echo x > /etc/new && cat /etc/new") == "x\n"
    assert run(BUSYBOX, "cat", "/etc/new").returncode != 0


def test_bind_mount_is_the_hosts(scratch):
    (scratch / "in").write_text("from the host")
    output = shell("cat /data/in; echo from inside > /data/out",
                   flags=["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:rw"])
    assert output == "from the host"
    assert (scratch / "out").read_text() == "from inside\n"


@pytest.mark.thorough
def test_bind_mount_of_one_file(scratch):
    (scratch / "file").write_text("content")
    flags = ["--mount", f"type=bind,src={scratch}/file,dst=/etc/one,options=rbind:ro"]
    assert shell("cat /etc/one", flags=flags) == "content"


def test_readonly_bind_mount(scratch):
    flags = ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:ro"]
    done = run(BUSYBOX, "sh", "-c", "echo x > /data/x", flags=flags)
    assert done.returncode != 0
    assert b"Read-only file system" in done.stderr
    assert os.listdir(scratch) == []


@pytest.mark.thorough
def test_missing_bind_source_is_an_error(scratch):
    flags = ["--mount", f"type=bind,src={scratch}/none,dst=/data,options=rbind:ro"]
    done = run(BUSYBOX, "true", flags=flags)
    assert done.returncode != 0 and b"none" in done.stderr


def test_capabilities_of_the_default_spec():
    status = dict(line.split(":", 1) for line in shell("grep Cap /proc/self/status").splitlines())
    # ctr's default: 14 capabilities, none inherited by name of a file.
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0xa80425fb


def test_scenario_63_capability_added_and_dropped():
    output = shell("grep CapEff /proc/self/status",
                   flags=["--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_CHOWN"])
    effective = int(output.split()[1], 16)
    assert effective & (1 << 21) and not effective & 1


def test_no_new_privileges():
    assert "NoNewPrivs:\t1" in shell("grep NoNewPrivs /proc/self/status")


def test_seccomp_default_profile():
    """Two calls that need no capability: personality with a value that the profile does not list, and unshare."""
    script = "for call in 'setarch -R' 'unshare -U'; do LC_ALL=C $call true 2>&1 && echo allowed; done; true"
    assert shell(script, image=DEBIAN).splitlines() == ["allowed", "allowed"]
    refused = shell(script, image=DEBIAN, flags=["--seccomp"]).splitlines()
    assert len(refused) == 2 and all("Operation not permitted" in line for line in refused), refused


@pytest.mark.thorough
def test_devices_of_the_container():
    output = shell("cat /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; ls -d /dev/pts /dev/shm")
    assert output.split() == ["00", "00", "00", "00", "8", "/dev/pts", "/dev/shm"]


@pytest.mark.thorough
def test_own_process_and_mount_view():
    assert shell("echo $$").strip() == "1"
    assert shell("ls /proc | grep -c '^[0-9]'").strip() in ("3", "4", "5")


def test_loopback_works():
    script = "ip link show lo | grep -q UP || exit 9; (echo pong | nc -l -p 5000 &) ; sleep 1; nc 127.0.0.1 5000 </dev/null"
    done = run(BUSYBOX, "sh", "-c", script)
    if RUNTIME != WYVERN and done.returncode == 9:
        pytest.skip("this runtime leaves lo down without a network plugin")
    assert done.stdout == b"pong\n", done


@pytest.fixture
def spec_file(busybox_root, scratch):
    """Writes a spec for ctr run --config: ctr's default, changed by a function."""
    def make(change):
        spec = json.loads(ctr("oci", "spec").stdout)
        spec["root"] = {"path": str(busybox_root)}
        spec["process"]["env"] = ["PATH=/bin:/usr/bin"]
        change(spec)
        path = scratch / "config.json"
        path.write_text(json.dumps(spec))
        return path
    return make


def run_spec(path, **kwargs):
    return call(["ctr", "run", "--rm", "--runtime", RUNTIME, "--config", path, unique()], **kwargs)


def test_scenario_62_user_and_groups(spec_file):
    def change(spec):
        spec["process"]["user"] = {"uid": 1234, "gid": 100, "additionalGids": [5, 7], "umask": 0o027}
        spec["process"]["args"] = ["sh", "-c", "id -u; id -g; id -G; umask"]
    assert run_spec(spec_file(change)).stdout.split() == [b"1234", b"100", b"100", b"5", b"7", b"0027"]


def test_rlimits(spec_file):
    def change(spec):
        spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
                                      {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
        spec["process"]["args"] = ["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c"]
    assert run_spec(spec_file(change)).stdout.split() == [b"123", b"456", b"0"]


def test_sysctl_hostname_masked_and_readonly_paths(spec_file):
    def change(spec):
        spec["hostname"] = "myname"
        spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "80"}
        spec["linux"]["maskedPaths"] = ["/proc/keys"]
        spec["linux"]["readonlyPaths"] = ["/proc/sys"]
        spec["process"]["args"] = [
            "sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/keys | wc -c; "
                        "echo 1 > /proc/sys/vm/overcommit_memory"]
    done = run_spec(spec_file(change))
    assert done.stdout.split() == [b"myname", b"80", b"0"]
    assert b"Read-only file system" in done.stderr


@pytest.mark.wyvern_only
def test_limits_are_the_machines_size_and_the_cgroups():
    """The default machine is smaller than both; and what the container may use is what its cgroup says."""
    script = ("nproc; grep MemTotal /proc/meminfo; cd /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup); "
              "cat memory.max cpu.max")
    output = shell(script, flags=["--memory-limit", str(512 * MIB), "--cpus", "2",
                                  "--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"])
    count, _, kib, _, limit, quota, period = output.split()
    assert int(count) == min(2, os.cpu_count())
    # The guest's kernel and agent have some beside the limit (kGuestOverhead in runtime/sandbox/sizing.cc).
    assert 512 << 10 <= int(kib) <= 608 << 10
    assert (limit, quota, period) == (str(512 * MIB), "200000", "100000")


@pytest.mark.wyvern_only
def test_annotation_sizes_the_machine():
    output = shell("grep MemTotal /proc/meminfo", flags=["--annotation", "io.wyvern.memory=512MiB"])
    assert 400 << 10 < int(output.split()[1]) <= 512 << 10


@pytest.mark.thorough
def test_tmpfs_with_options(spec_file):
    def change(spec):
        spec["mounts"].append({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
                               "options": ["size=1m", "mode=0750", "noexec"]})
        spec["process"]["args"] = ["sh", "-c", "grep /scratch /proc/mounts; stat -c %a /scratch"]
    output = run_spec(spec_file(change)).stdout.decode()
    assert "size=1024k" in output and "noexec" in output and output.split()[-1] == "750"


@pytest.mark.thorough
def test_large_environment_and_arguments(spec_file):
    def change(spec):
        spec["process"]["env"].append("BIG=" + "x" * 100000)
        spec["process"]["args"] = ["sh", "-c", "echo ${#BIG} ${#1}", "sh", "y" * 100000]
    assert run_spec(spec_file(change)).stdout.split() == [b"100000", b"100000"]


@pytest.mark.wyvern_only
def test_console_ports_are_refused_to_privileged_containers_too():
    """One of them may be the agent's. They take a number when they come: those that are nobody's yet would be ENXIO. Another one opens."""
    script = """
mknod /zero c 1 5 && head -c 3 /zero | wc -c
for major in 234 254 384 511; do
  grep -q "^ *$major " /proc/devices || { mknod /port$major c $major 1; cat /port$major; }
done
"""
    done = run(BUSYBOX, "sh", "-c", script, flags=["--privileged"])
    assert done.stdout.split() == [b"3"], done
    assert b"Operation not permitted" in done.stderr, done
    assert b"No such device" not in done.stderr, done


@pytest.mark.wyvern_only
@pytest.mark.parametrize("flags", [[], more(["--seccomp"]), ["--privileged"]], ids=["default", "seccomp", "privileged"])
def test_vsock_is_refused(flags):
    script = """
import socket, errno
ok = True
for what in ("socket", "bind", "connect 1", "connect 2", "connect own"):
    try:
        s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        s.settimeout(5)
        if what == "bind": s.bind((socket.VMADDR_CID_ANY, 1024)); s.listen()
        if what == "connect 1": s.connect((1, 1024))
        if what == "connect 2": s.connect((2, 1024))
        if what == "connect own": s.connect((s.getsockname()[0], 1024))
        print(what, "was allowed"); ok = False
    except OSError as e:
        print(what, e)
        if e.errno not in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT): ok = False
print("refused" if ok else "NOT REFUSED")
"""
    output = check_output(DEBIAN, "python3", "-c", script, flags=flags)
    assert output.splitlines()[-1] == "refused", output
