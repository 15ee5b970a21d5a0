"""Real programs in the debian image: python, file churn, stress-ng, fio, and a large tree."""

import re
import select
import subprocess

import pytest

from conftest import unpack
from harness.ctr import DEBIAN, RUNTIME, WYVERN, Container, call, check_output, ctr, more, run, wait_until
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

# 16 at once, with names relative to open directories: what tar, git and rm do.
TREE = r"""
import os, sys
base, count = sys.argv[1], int(sys.argv[2])
def at_once(work):
    workers = []
    for w in range(16):
        workers.append(os.fork())
        if workers[-1] == 0:
            for top in range(w, 64, 16): work(top)
            os._exit(0)
    if any(os.waitpid(w, 0)[1] for w in workers): sys.exit("a worker failed")
def leaves(top):
    for sub in range(8):
        path = "%s/%02x/%02x" % (base, top, sub)
        yield path, range(top + 64 * sub, count, 512)
def make(top):
    for path, numbers in leaves(top):
        os.makedirs(path)
        leaf = os.open(path, os.O_DIRECTORY)
        for i in numbers:
            file = os.open(str(i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=leaf)
            os.write(file, b"%d" % i)
            os.close(file)
        os.close(leaf)
def check(top):
    for path, numbers in leaves(top):
        leaf = os.open(path, os.O_DIRECTORY)
        names = os.listdir(leaf)
        if sorted(map(int, names)) != list(numbers): os._exit(1)
        for name in names[::10]:
            file = os.open(name, os.O_RDONLY, dir_fd=leaf)
            if os.read(file, 100) != name.encode(): os._exit(2)
            os.close(file)
        os.close(leaf)
def remove(top):
    for path, _ in leaves(top):
        leaf = os.open(path, os.O_DIRECTORY)
        for name in os.listdir(leaf): os.unlink(name, dir_fd=leaf)
        os.close(leaf)
        os.rmdir(path)
    os.rmdir(os.path.dirname(path))
os.makedirs(base)
at_once(make)
at_once(check)
print("tree ok", count, flush=True)
at_once(remove)
os.rmdir(base)
"""

# Opens every file of the root, whose names stay known for as long as the guest likes: the server then wants a descriptor of each.
READ_ALL = """echo up; find /many -type f -exec cat {} + | awk '{ sum += $1 } END { printf "%d %.0f\\n", NR, sum }'
cat /many/00/0 /many/99/99; read line"""
RESIDENT = 8192  # kResidentInodes in sandbox-vmm/bin/fs/serve.cc


def volume(scratch):
    return ["--mount", f"type=bind,src={scratch},dst=/data,options=rbind:rw"]


def test_python():
    assert check_output(DEBIAN, "python3", "-c", "print(sum(range(1000)))") == "499500\n"


@pytest.mark.parametrize("where", [more("root"), "volume"])
@pytest.mark.limit(600)
def test_file_churn(scratch, where, long):
    base = "/data/churn" if where == "volume" else "/var/churn"
    output = check_output(DEBIAN, "python3", "-c", FILES, base, str(20000 if long else 500), "1",
                          flags=volume(scratch), timeout=600)
    assert output.startswith("churn ok")


@pytest.mark.slow
@pytest.mark.limit(900)
@pytest.mark.parametrize("stressor", [more(["--vm", "1", "--vm-bytes", "64M"]), ["--hdd", "1", "--hdd-bytes", "16M"],
                                      more(["--pipe", "2"]), more(["--rename", "1"]), more(["--fork", "1"])],
                         ids=["memory", "files", "pipes", "rename", "fork"])
def test_stress_ng(stressor, long):
    done = run(DEBIAN, "stress-ng", *stressor, "--verify", "-t", "60" if long else "5", "--temp-path", "/tmp",
               flags=["--env", "LANG=C"], timeout=800)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert re.search(r"passed: [1-9]|successful run completed", text), text


@pytest.mark.slow
@pytest.mark.limit(900)
@pytest.mark.parametrize("where", [more("root"), "volume"])
def test_fio_verify(scratch, where, long):
    directory = "/data" if where == "volume" else "/var/tmp"
    done = run(DEBIAN, "fio", "--name=v", f"--directory={directory}", f"--size={'256m' if long else '8m'}",
               "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--verify=crc32c", "--do_verify=1",
               "--verify_fatal=1", "--end_fsync=1", flags=volume(scratch), timeout=800)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"err= 0" in done.stdout


@pytest.mark.slow
@pytest.mark.limit(1800)
@pytest.mark.parametrize("where", ["root", more("volume")])
def test_large_tree(scratch, where, long):
    base = "/data/tree" if where == "volume" else "/var/tree"
    count = 50000 if long else 500  # what a file costs in the lab: tests/lab/README.md
    assert check_output(DEBIAN, "python3", "-c", TREE, base, str(count), flags=volume(scratch),
                        timeout=1700) == f"tree ok {count}\n"
    assert not (scratch / "tree").exists()


@pytest.mark.thorough  # inode_bound_test has it without a guest
@pytest.mark.wyvern_only
@pytest.mark.limit(1800)
def test_file_server_stays_within_its_bound(scratch):
    """A tree of more files than it keeps descriptors of: made on the host, since only their use by the guest matters."""
    count = 200000
    root = unpack("busybox", scratch / "root")
    for d in range(100):
        (root / f"many/{d:02}").mkdir(parents=True)
    for i in range(count):
        (root / f"many/{i % 100:02}" / str(i)).write_text(f"{i}\n")
    watch = Watch()
    held = []
    with subprocess.Popen(["wyvern", "run", root, "--", "sh", "-c", READ_ALL],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout.readline() == b"up\n"
        server = watch.pid(PARTS["fs"])
        while not select.select([process.stdout], [], [], 1)[0]:
            held.append(fds(server))
        assert process.stdout.readline().decode() == f"{count} {count * (count - 1) // 2}\n"
        assert process.stdout.readline() == b"0\n"  # the first one is found again
        assert process.stdout.readline() == b"99\n"
        held.append(fds(server))
        process.stdin.close()
        process.wait(timeout=60)
    # It has come to its bound and stayed there; beside inodes it holds sockets, memory, and what requests under way need.
    assert RESIDENT * 0.95 < held[-1] and max(held) < RESIDENT + 1024, (held[-1], max(held))


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
    output = check_output(DEBIAN, "cat", "/proc/filesystems")
    for name in ("overlay", "ext4", "tmpfs", "fuse", "squashfs", "cgroup2", "bpf"):
        assert re.search(rf"\b{name}$", output, re.M), name


MAPPED = r"""
import mmap, time
with open("/data/file", "r+b") as file:  # closed before the pages are written: a close writes back
    pages = mmap.mmap(file.fileno(), 8192)
pages[0:6] = b"paused"
open("/data/ready", "w").close()
while not open("/data/go").read(): time.sleep(0.1)
pages[4096:4102] = b"exited"
"""


def test_what_was_written_by_mmap_is_on_the_host_after_pause_and_exit(scratch):
    (scratch / "file").write_bytes(bytes(8192))
    (scratch / "go").write_bytes(b"")
    with Container(DEBIAN, "python3", "-c", MAPPED, flags=volume(scratch)) as container:
        assert wait_until((scratch / "ready").exists, 60)
        assert ctr("task", "pause", container.name).returncode == 0
        assert (scratch / "file").read_bytes()[:6] == b"paused"
        assert ctr("task", "resume", container.name).returncode == 0
        (scratch / "go").write_bytes(b"1")
        assert container.wait_status("STOPPED", 60)
        assert (scratch / "file").read_bytes()[4096:4102] == b"exited"
