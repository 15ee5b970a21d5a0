"""Volumes as kubelet prepares them on a host, bind-mounted into containers: in the guest's memory where they are small files or a tmpfs, a share
elsewhere. And what else can be the source of a bind mount.

Scenarios 46, 52 to 55 of the acceptance list, without a kubelet: these tests write what it writes, at paths of the same shape.
"""

import contextlib
import itertools
import os
import pathlib
import time

import pytest

from harness.ctr import BUSYBOX, DEBIAN, Container, call, run, run_argv, unique, wait_until

pytestmark = pytest.mark.wyvern_only


def bind(source, target, *options):
    return ["--mount", f"type=bind,src={source},dst={target},options={':'.join(['rbind', *options])}"]


@pytest.fixture
def pod(scratch):
    """The directory of a pod; what is mounted below is unmounted at the end."""
    path = scratch / "pods" / "6f1d"
    path.mkdir(parents=True)
    yield path
    points = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if point.startswith(f"{path}/"):
            assert call(["umount", point]).returncode == 0, point


def volume(pod, plugin, name) -> pathlib.Path:
    path = pod / "volumes" / f"kubernetes.io~{plugin}" / name
    path.mkdir(parents=True)
    return path


def mount(*argv):
    done = call(["mount", *argv])
    assert done.returncode == 0, done.stderr


class Kubelet:
    """Writes a volume's files as kubelet's AtomicWriter does."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.numbers = itertools.count(1)
        self.version = None

    def write(self, files: dict, mode=0o644) -> None:
        version = self.path / f"..2026_11_23_10_00_00.{next(self.numbers)}"
        version.mkdir()
        for name, text in files.items():
            file = version / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(mode)
        (self.path / "..data_tmp").symlink_to(version.name)
        os.rename(self.path / "..data_tmp", self.path / "..data")
        for name in files:
            top = pathlib.Path(name).parts[0]
            with contextlib.suppress(FileExistsError):
                (self.path / top).symlink_to(f"..data/{top}")
        if self.version:
            call(["rm", "-r", self.version])
        self.version = version


def says(container, script: str) -> str:
    done = container.exec("sh", "-c", script)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout.decode()


def test_scenario_46_memory_empty_dir_has_its_size_and_is_the_guests(pod):
    cache = volume(pod, "empty-dir", "cache")
    mount("-t", "tmpfs", "-o", "size=3m,mode=0777", "tmpfs", cache)
    script = ("grep ' /cache tmpfs ' /proc/mounts | cut -d' ' -f3; df -k /cache | tail -1 | tr -s ' ' | cut -d' ' -f2;"
              "stat -c %a /cache; echo x > /cache/f; dd if=/dev/zero of=/cache/full bs=1M count=4 2>&1 | grep -c 'No space'")
    done = run(BUSYBOX, "sh", "-c", script, flags=bind(cache, "/cache", "rw"))
    assert done.stdout.decode().split("\n") == ["tmpfs", "3072", "777", "1", ""], (done.stdout, done.stderr)
    assert list(cache.iterdir()) == []


def test_scenario_46_huge_pages_that_the_guest_has_not_are_refused_with_the_reason(pod):
    pages = volume(pod, "empty-dir", "pages")
    mount("-t", "hugetlbfs", "-o", "pagesize=2M", "none", pages)
    done = run(BUSYBOX, "true", flags=bind(pages, "/pages", "rw"))
    assert done.returncode != 0
    assert b"hugepagesz=2048K hugepages=NUMBER" in done.stderr, done.stderr


def test_scenario_46_huge_pages_that_the_guest_has(pod, configure):
    pages = volume(pod, "empty-dir", "pages")
    mount("-t", "hugetlbfs", "-o", "pagesize=2M", "none", pages)
    configure("sandbox:\n  kernel_cmdline: hugepagesz=2M hugepages=8\n")
    done = run(BUSYBOX, "sh", "-c", "grep ' /pages ' /proc/mounts", flags=bind(pages, "/pages", "rw"))
    assert b"hugetlbfs" in done.stdout and b"pagesize=2M" in done.stdout, (done.stdout, done.stderr)


def test_disk_empty_dir_is_a_share(pod):
    scratch = volume(pod, "empty-dir", "scratch")
    assert run(BUSYBOX, "sh", "-c", "echo x > /scratch/f", flags=bind(scratch, "/scratch", "rw")).returncode == 0
    assert (scratch / "f").read_text() == "x\n"


# A line for each event of a directory, from inotify(7) itself: "<mask> <name>".
WATCH = r"""
$| = 1;
my $fd = syscall(294, 0);  # inotify_init1
my $path = "/etc/config";
syscall(254, $fd, $path, 0x3c0) >= 0 or die $!;  # inotify_add_watch: moved from and to, made, deleted
print "ready\n";
open(my $events, "<&=", $fd) or die $!;
while (sysread($events, my $data, 65536)) {
  while (length $data) {
    my (undef, $mask, undef, $length) = unpack("iIII", $data);
    printf("0x%x %s\n", $mask, unpack("Z*", substr($data, 16, $length)));
    $data = substr($data, 16 + $length);
  }
}
"""


def test_scenario_52_config_map_is_swapped_and_watchers_see_it(pod, scratch):
    kubelet = Kubelet(volume(pod, "configmap", "config"))
    kubelet.write({"key": "one\n", "d/sub": "1\n"}, 0o640)
    log = scratch / "log"
    with Container(DEBIAN, "perl", "-e", WATCH, flags=bind(kubelet.path, "/etc/config", "rprivate", "ro"), log=log) as container:
        assert says(container, "cat /etc/config/key /etc/config/d/sub; stat -Lc %a /etc/config/key") == "one\n1\n640\n"
        assert says(container, "grep ' /etc/config ' /proc/mounts | cut -d' ' -f3") == "tmpfs\n"
        assert wait_until(lambda: log.read_text() == "ready\n", 30)
        start = time.monotonic()
        kubelet.write({"key": "two\n", "more": "2\n"})
        assert wait_until(lambda: "0x80 ..data\n" in log.read_text(), 20), log.read_text()
        print(f"told after {time.monotonic() - start:.1f} s")
        assert says(container, "cat /etc/config/key; ls /etc/config") == "two\nkey\nmore\n"
        done = container.exec("sh", "-c", "echo x > /etc/config/key")
        assert b"Read-only file system" in done.stderr


def test_scenario_52_secret_in_a_tmpfs_and_what_root_does_to_it(pod):
    """Root in the container mounts it writable, and fills it with traps: the next version is whole, and the host's is as it was."""
    path = volume(pod, "secret", "token")
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
    kubelet = Kubelet(path)
    kubelet.write({"token": "one\n"}, 0o400)
    with Container(BUSYBOX, flags=["--privileged", *bind(path, "/s", "rprivate", "ro")]) as container:
        says(container, "mount -o remount,rw,bind /s; cd /s; rm -r ..data token; mkdir -p ..data/x token/y; ln -s / ..2026_11_23_10_00_00.2;"
             "ln -s /etc more; echo junk > junk")
        assert (path / "token").read_text() == "one\n"
        kubelet.write({"token": "two\n"})
        assert wait_until(lambda: container.exec("cat", "/s/token").stdout == b"two\n", 20)
        assert says(container, "ls /s") == "token\n"
    assert sorted(p.name for p in path.iterdir()) == ["..2026_11_23_10_00_00.2", "..data", "token"]


def test_scenario_52_larger_ones_and_sub_paths_are_shares(pod):
    kubelet = Kubelet(volume(pod, "projected", "large"))
    kubelet.write({"key": "x" * ((1 << 20) + 1)})
    key = pod / "volume-subpaths" / "large" / "main" / "0"
    key.parent.mkdir(parents=True)
    key.touch()
    mount("--bind", kubelet.path / "key", key)
    flags = [*bind(kubelet.path, "/large", "ro"), *bind(key, "/key", "ro")]
    done = run(BUSYBOX, "sh", "-c", "wc -c < /large/key; wc -c < /key; grep -c -E ' /(large|key) virtiofs ' /proc/mounts", flags=flags)
    assert done.stdout.split() == [b"1048577", b"1048577", b"2"], (done.stdout, done.stderr)


def test_scenario_52_optional_and_empty(pod):
    kubelet = Kubelet(volume(pod, "configmap", "optional"))
    kubelet.write({})
    with Container(BUSYBOX, flags=bind(kubelet.path, "/o", "ro")) as container:
        assert says(container, "ls /o") == ""
        kubelet.write({"key": "there\n"})
        assert wait_until(lambda: container.exec("cat", "/o/key").stdout == b"there\n", 20)


def test_scenario_53_host_path_of_files_directories_symlinks_and_fifos(scratch):
    (scratch / "dir").mkdir()
    (scratch / "dir/in").write_text("in\n")
    (scratch / "file").write_text("file\n")
    (scratch / "to-dir").symlink_to("dir")
    (scratch / "to-file").symlink_to(scratch / "file")
    os.mkfifo(scratch / "dir/fifo")
    flags = [*bind(scratch / "dir", "/d"), *bind(scratch / "file", "/f"), *bind(scratch / "to-dir", "/td"), *bind(scratch / "to-file", "/tf")]
    script = "cat /d/in /f /td/in /tf; (echo through > /d/fifo) & timeout 10 cat /d/fifo"
    done = run(BUSYBOX, "sh", "-c", script, flags=flags)
    assert done.stdout.decode() == "in\nfile\nin\nfile\nthrough\n", done.stderr


def test_scenario_53_a_bound_file_that_is_replaced_stays_the_old_one(scratch):
    """As with runc: the mount is of the file, not of its name."""
    (scratch / "file").write_text("old\n")
    with Container(BUSYBOX, flags=bind(scratch / "file", "/f")) as container:
        assert says(container, "cat /f") == "old\n"
        (scratch / "new").write_text("new\n")
        os.rename(scratch / "new", scratch / "file")
        assert says(container, "cat /f") == "old\n"


def test_scenario_54_propagation(scratch):
    """Later mounts of the host appear with rslave, not with rprivate; rshared is refused with the reason."""
    (scratch / "v/late").mkdir(parents=True)
    mount("--bind", scratch / "v", scratch / "v")
    try:
        mount("--make-shared", scratch / "v")
        done = run(BUSYBOX, "true", flags=bind(scratch / "v", "/v", "rshared"))
        assert done.returncode != 0 and b"rshared is refused" in done.stderr, done.stderr
        flags = [*bind(scratch / "v", "/follows", "rslave")]
        with Container(BUSYBOX, flags=flags) as follower, \
                Container(BUSYBOX, flags=bind(scratch / "v", "/private", "rprivate")) as private:
            mount("-t", "tmpfs", "tmpfs", scratch / "v/late")
            (scratch / "v/late/f").write_text("later\n")
            assert wait_until(lambda: follower.exec("cat", "/follows/late/f").stdout == b"later\n", 10)
            assert says(private, "ls /private/late") == ""
            # The file server still has what the guest remembers of it.
            assert call(["umount", "-l", scratch / "v/late"]).returncode == 0
            assert wait_until(lambda: says(follower, "ls /follows/late") == "", 10)
    finally:
        call(["umount", "-R", scratch / "v"])


@pytest.mark.parametrize("option", ["ro", "rro"])
def test_scenario_54_read_only_is_so_with_all_below(scratch, option):
    (scratch / "v/below").mkdir(parents=True)
    mount("-t", "tmpfs", "tmpfs", scratch / "v/below")
    try:
        script = "touch /v/x; touch /v/below/x; ls /v/below"
        done = run(BUSYBOX, "sh", "-c", script, flags=bind(scratch / "v", "/v", option))
        assert done.stderr.count(b"Read-only file system") == 2, (done.stdout, done.stderr)
    finally:
        call(["umount", "-R", scratch / "v/below"])
    assert list((scratch / "v").iterdir()) == [scratch / "v/below"]


SERVE = """
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind('/a/socket')
listener.listen()
while True:
    peer = listener.accept()[0]
    peer.sendall(b'from a to ' + peer.recv(100))
    peer.close()
"""
ASK = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/b/socket'); s.sendall(b'b'); print(s.recv(100).decode())"


def test_scenario_53_sockets_and_fifos_between_containers_of_a_sandbox(pod):
    """In an emptyDir on disk, which each has at another place; and the same memory for both, which outlives the one that wrote it."""
    disk, memory = volume(pod, "empty-dir", "disk"), volume(pod, "empty-dir", "memory")
    mount("-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", memory)
    name = unique()
    member = ["--annotation", f"io.kubernetes.cri.sandbox-id={name}"]
    at = lambda directory: [*member, *bind(disk, directory, "rw"), *bind(memory, "/m", "rw")]  # noqa: E731
    with Container(DEBIAN, "python3", "-c", SERVE, flags=at("/a"), name=name) as a:
        with Container(DEBIAN, flags=at("/b")) as b:
            assert wait_until(lambda: b.exec("test", "-S", "/b/socket").returncode == 0, 20)
            done = b.exec("python3", "-c", ASK)
            assert done.stdout == b"from a to b\n", done.stderr
            done = b.exec("sh", "-c", "mkfifo /b/fifo; echo kept > /m/f; timeout 20 cat /b/fifo > /b/out & echo started")
            assert done.stdout == b"started\n"
            assert a.exec("sh", "-c", "timeout 20 sh -c 'echo through > /a/fifo'; cat /m/f").stdout == b"kept\n"
            assert wait_until(lambda: (disk / "out").exists() and (disk / "out").read_text() == "through\n", 20)
        with Container(DEBIAN, flags=at("/b")) as again:
            assert says(again, "cat /m/f /b/out") == "kept\nthrough\n"
    assert list(memory.iterdir()) == []


def test_scenario_55_image_volume_is_a_read_only_share(scratch, busybox_root):
    done = run(BUSYBOX, "sh", "-c", "wc -c < /image/bin/busybox; touch /image/x", flags=bind(busybox_root, "/image", "ro"))
    assert int(done.stdout) == (busybox_root / "bin/busybox").stat().st_size
    assert b"Read-only file system" in done.stderr


def test_scenario_56_character_devices_are_the_guests(scratch):
    """A device of the host's has no meaning in a guest: refused by its node, and a bind of one opens nothing."""
    assert os.path.exists("/dev/kvm")
    done = run(BUSYBOX, "sh", "-c", "head -c 1 /d", flags=bind("/dev/kvm", "/d"))
    assert done.returncode != 0
    done = call(run_argv(BUSYBOX, "true", flags=["--rm", "--device", "/dev/kvm"]))
    assert done.returncode != 0 and b"/dev/kvm" in done.stderr, done.stderr


def test_scenario_56_null_of_the_guest(scratch):
    done = run(BUSYBOX, "sh", "-c", "echo x > /d; wc -c < /d", flags=bind("/dev/null", "/d"))
    assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr


def test_bind_mounts_of_the_sandbox_are_the_guests_read_only(scratch, configure):
    """sandbox.bind_mounts: beside the containers, for what runs in the guest; by no annotation."""
    (scratch / "Tools").mkdir()
    (scratch / "Tools/file").write_text("of the host\n")
    configure(f"sandbox:\n  bind_mounts: [\"{scratch}/Tools/\"]\nguest:\n  debug_exec: true\nannotations:\n  allow: [sandbox.memory]\n")
    with Container(BUSYBOX) as container:
        script = "cat /run/wyvern/share/host-tools/file; echo x > /run/wyvern/share/host-tools/x"
        done = call(["wyvern", "exec", "--guest", container.name, "--", "sh", "-c", script])
        assert done.stdout == b"of the host\n" and b"Read-only file system" in done.stderr, (done.stdout, done.stderr)
        assert container.exec("ls", "/run/wyvern").returncode != 0
    done = run(BUSYBOX, "true", flags=["--annotation", "io.wyvern.sandbox.bind_mounts=/etc"])
    assert done.returncode != 0 and b"sandbox.bind_mounts" in done.stderr, done.stderr
    configure(f"sandbox:\n  bind_mounts: [{scratch}/absent]\n")
    done = run(BUSYBOX, "true")
    assert done.returncode != 0 and f"sandbox.bind_mounts: open_tree {scratch}/absent".encode() in done.stderr, done.stderr
