"""Real programs in the debian image: python, file churn, stress-ng, fio, and a large tree."""

import re

import pytest

from harness.ctr import DEBIAN, RUNTIME, WYVERN, call, check_output, run
from harness.sandbox import PARTS, Watch, fds

FILES = r"""
import hashlib, os, random, sys
base, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
model = {}
os.makedirs(base, exist_ok=True)
for step in range(count):
    action = rng.choice("wwwwarldtm")
    name = "f%d" % rng.randrange(200)
    path = os.path.join(base, name)
    if action == "w":
        data = rng.randbytes(rng.randrange(1, 20000))
        with open(path, "wb") as f: f.write(data)
        model[name] = data
    elif name not in model:
        continue
    elif action == "a":
        data = rng.randbytes(rng.randrange(1, 3000))
        with open(path, "ab") as f: f.write(data)
        model[name] += data
    elif action == "r":
        other = "f%d" % rng.randrange(200)
        os.rename(path, os.path.join(base, other))
        data = model.pop(name); model[other] = data
    elif action == "l":
        if os.stat(path).st_size != len(model[name]): sys.exit("size of " + name)
    elif action == "d":
        os.unlink(path); del model[name]
    elif action == "t":
        size = rng.randrange(0, 30000)
        os.truncate(path, size)
        model[name] = (model[name] + b"\0" * size)[:size]
    elif action == "m":
        at = rng.randrange(0, len(model[name]) + 1)
        data = rng.randbytes(100)
        fd = os.open(path, os.O_RDWR); os.pwrite(fd, data, at); os.close(fd)
        model[name] = model[name][:at] + data + model[name][at + 100:]
if sorted(os.listdir(base)) != sorted(model): sys.exit("directory differs")
for name, data in model.items():
    with open(os.path.join(base, name), "rb") as f:
        if f.read() != data: sys.exit("contents of " + name)
print("churn ok", len(model))
"""

TREE = r"""
import os, sys
base, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    d = "%s/%02x/%02x" % (base, i % 64, i // 64 % 64)
    if i < 4096: os.makedirs(d, exist_ok=True)
    with open("%s/%d" % (d, i), "w") as f: f.write(str(i))
seen = 0
for d, _, files in os.walk(base):
    for name in files:
        if i % 10 == 0 or seen % 10 == 0:
            with open(os.path.join(d, name)) as f:
                if f.read() != name: sys.exit("contents of " + name)
        seen += 1
if seen != count: sys.exit("found %d of %d" % (seen, count))
print("tree ok", seen, flush=True)
if len(sys.argv) > 3:
    sys.stdin.read()
import shutil
shutil.rmtree(base)
if os.path.exists(base): sys.exit("the tree is still there")
"""


def volume(scratch):
    return ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:rw"]


def test_python():
    assert check_output(DEBIAN, "python3", "-c", "print(sum(range(1000)))") == "499500\n"


@pytest.mark.parametrize("where", ["root", "volume"])
@pytest.mark.limit(600)
def test_file_churn(scratch, where, long):
    base = "/data/churn" if where == "volume" else "/var/churn"
    output = check_output(DEBIAN, "python3", "-c", FILES, base, str(20000 if long else 3000), "1",
                          flags=volume(scratch), timeout=600)
    assert output.startswith("churn ok")


@pytest.mark.slow
@pytest.mark.limit(900)
@pytest.mark.parametrize("stressor", [["--vm", "1", "--vm-bytes", "64M"], ["--hdd", "1", "--hdd-bytes", "16M"],
                                      ["--pipe", "2"], ["--rename", "1"], ["--fork", "1"]],
                         ids=["memory", "files", "pipes", "rename", "fork"])
def test_stress_ng(stressor, long):
    done = run(DEBIAN, "stress-ng", *stressor, "--verify", "-t", "60" if long else "10", "--temp-path", "/tmp",
               flags=["--env", "LANG=C"], timeout=800)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert re.search(r"passed: [1-9]|successful run completed", text), text


@pytest.mark.slow
@pytest.mark.limit(900)
@pytest.mark.parametrize("where", ["root", "volume"])
def test_fio_verify(scratch, where, long):
    directory = "/data" if where == "volume" else "/var/tmp"
    done = run(DEBIAN, "fio", "--name=v", f"--directory={directory}", f"--size={'256m' if long else '16m'}",
               "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--verify=crc32c", "--do_verify=1",
               "--verify_fatal=1", "--end_fsync=1", flags=volume(scratch), timeout=800)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"err= 0" in done.stdout


@pytest.mark.slow
@pytest.mark.limit(1800)
@pytest.mark.parametrize("where", ["root", "volume"])
def test_large_tree(scratch, where, long):
    count = 200000 if long else 50000
    base = "/data/tree" if where == "volume" else "/var/tree"
    assert check_output(DEBIAN, "python3", "-c", TREE, base, str(count), flags=volume(scratch),
                        timeout=1700).startswith(f"tree ok {count}")


@pytest.mark.wyvern_only
@pytest.mark.limit(1800)
def test_file_server_stays_within_its_bound(scratch, long):
    """A tree far larger than the file server's limit of open files."""
    import subprocess

    from harness.ctr import run_argv
    watch = Watch()
    count = 50000 if long else 10000
    with subprocess.Popen(run_argv(DEBIAN, "python3", "-c", TREE, "/data/tree", str(count), "wait",
                                   flags=["--rm", *volume(scratch)]),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == f"tree ok {count}\n".encode()
        server = watch.pid(PARTS["fs"])
        limit = int(next(line for line in open(f"/proc/{server}/limits") if "open files" in line).split()[3])
        assert fds(server) < limit
        process.stdin.close()
        assert process.wait(timeout=600) == 0
    assert not (scratch / "tree").exists()


def test_what_the_host_changes_is_seen_in_a_volume(scratch):
    """Names appear, vanish and are replaced while the container runs."""
    from harness.ctr import Container, wait_until
    with Container(DEBIAN, flags=volume(scratch)) as container:
        (scratch / "one").write_text("1")
        assert container.exec("cat", "/data/one").stdout == b"1"
        (scratch / "new").write_text("2")
        (scratch / "new").rename(scratch / "one")
        assert container.exec("cat", "/data/one").stdout == b"2"
        (scratch / "one").unlink()
        assert container.exec("cat", "/data/one").returncode != 0
        assert container.exec("sh", "-c", "ln -s target /data/link; mkfifo /data/fifo; chmod 640 /data/link 2>/dev/null;"
                                          "touch /data/f; chown 12:34 /data/f; chmod 2750 /data/f").returncode == 0
        done = call(["stat", "-c", "%F %a %u %g", scratch / "f"])
        assert done.stdout == b"regular empty file 2750 12 34\n"
        assert (scratch / "link").is_symlink() and (scratch / "fifo").is_fifo()
        assert wait_until(lambda: container.status() == "RUNNING", 1)


@pytest.mark.skipif(RUNTIME != WYVERN, reason="shows what a VM adds; runc shares the host's kernel")
def test_what_the_guest_offers():
    """Things that people run inside need the guest kernel to have them."""
    script = "cat /proc/filesystems; ls -d /sys/fs/cgroup/cgroup.controllers"
    output = check_output(DEBIAN, "sh", "-c", script)
    for name in ("overlay", "ext4", "tmpfs", "fuse", "squashfs"):
        assert re.search(rf"\b{name}$", output, re.M), name
