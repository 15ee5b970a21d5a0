"""What a sandbox may leave on the host: a snapshot of it, and the difference of two."""

import os
import pathlib
import re

OURS = re.compile(r"^(wyvern.*|containerd-shim-.*|crun|runc|passt.*)$")
FILE_TREES = ("/run/wyvern", "/run/containerd/s", "/run/containerd/fifo", "/run/netns",
              "/run/containerd/io.containerd.runtime.v2.task", "/var/lib/containerd/io.containerd.runtime.v2.task",
              "/run/containerd/runc", "/var/lib/wyvern/run", "/dev/shm", "/tmp", "/var/tmp")
# Directories that stay once the first container has made them.
STAYS = re.compile(r"^(/run/wyvern(/direct-volumes)?"
                   r"|/run/containerd/(fifo|s|runc|runc/default)"
                   r"|/(run|var/lib)/containerd/io\.containerd\.runtime\.v2\.task(/(default|moby))?"
                   r"|/(tmp|var/tmp)/(pytest-of-.*|wyvern-e2e.*|systemd-private-.*))$")
PRUNED = re.compile(r"^/(tmp|var/tmp)/(pytest-of-|wyvern-e2e|systemd-private-)")
CGROUP_STAYS = re.compile(r"^(default|wyvern|system\.slice/.*|user\.slice.*|init\.scope|kubepods|sys-.*|dev-.*)$")


def processes() -> dict:
    """pid -> program name, of our processes and shims that are not zombies of somebody else."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            argv = pathlib.Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            name = os.path.basename(argv[0].decode(errors="replace"))
            if not name:  # a kernel thread or a zombie
                stat = pathlib.Path("/proc", entry, "stat").read_text()
                name = stat[stat.index("(") + 1:stat.rindex(")")]
                if stat[stat.rindex(")") + 2] != "Z":
                    continue
        except (OSError, ValueError):
            continue
        if OURS.match(name):
            found[int(entry)] = name
    return found


def _files():
    for tree in FILE_TREES:
        for directory, subdirectories, files in os.walk(tree):
            if PRUNED.match(directory):
                subdirectories.clear()
                continue
            for name in subdirectories + files:
                path = os.path.join(directory, name)
                if not STAYS.match(path) and not PRUNED.match(path):
                    yield path
            # A container's root may hold many files; its directory is trace enough.
            subdirectories[:] = [d for d in subdirectories if d != "rootfs"]


def _cgroups():
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        name = os.path.relpath(directory, "/sys/fs/cgroup")
        if name != "." and not CGROUP_STAYS.match(name):
            yield name


def _loops():
    for path in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield f"{path.parts[3]} {path.read_text().strip()}"
        except OSError:
            pass


def _listening():
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        path = line.split()[-1]
        if "wyvern" in path or "/run/containerd/s/" in path:
            yield path


def snapshot() -> dict:
    """Kind -> set of things that exist."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "process": {f"{pid} {name}" for pid, name in processes().items()},
        "mount": {line.split()[4] for line in mounts},
        "cgroup": set(_cgroups()),
        "file": set(_files()),
        "loop device": set(_loops()),
        "socket": set(_listening()),
        "network device": set(os.listdir("/sys/class/net")),
    }


def left(before: dict, after: dict) -> list:
    """Lines for what is in after but not in before."""
    return [f"{kind}: {item}" for kind, items in after.items() for item in sorted(items - before[kind])]


def tree(directory: pathlib.Path) -> list:
    """Everything below it: name, owners, mode, text; to be compared with another runtime's."""
    return sorted((str(path.relative_to(directory)), path.lstat().st_uid, path.lstat().st_gid, path.lstat().st_mode,
                   path.read_text() if path.is_file() and not path.is_symlink() else "") for path in directory.rglob("*"))
