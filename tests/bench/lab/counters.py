"""What one guest costs: VM exits, system calls, wake-ups and bytes copied, counted by the kernel's histogram triggers.

Triggers see the whole machine: VM exits are those of one guest as long as only one runs; the rest is told apart by thread.
"""

import collections
import contextlib
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading

TRACEFS = pathlib.Path("/sys/kernel/tracing")
ROW = re.compile(r"^\{ (.*?) \} hitcount:\s+(\d+)(?:\s+\w+:\s+(\d+))?", re.M)
# SVM exit codes (the lab's CPU has SVM) and KVM_EXIT_* (linux/kvm.h)
SVM = {0x60: "interrupt", 0x64: "interrupt window", 0x72: "cpuid", 0x78: "hlt", 0x7b: "port", 0x7c: "msr", 0x400: "memory"}
USERSPACE = {2: "port", 5: "hlt", 6: "mmio", 10: "signal"}
# Where Linux copies between a buffer of a process, or of a guest, and one of its own: the page cache, pipes, sockets, taps and vhost's
# threads. What it moves with O_DIRECT does not come here. (The functions below these, in lib/, are not for probes in Debian's kernels.)
COPIES = {
    "page_cache_read": "r64:{} filemap_read bytes=$retval:s64",
    "shmem_read": "r64:{} shmem_file_read_iter bytes=$retval:s64",
    "page_cache_write": "r64:{} generic_perform_write bytes=$retval:s64",
    "pipe_read": "r64:{} pipe_read bytes=$retval:s64",
    "pipe_write": "r64:{} pipe_write bytes=$retval:s64",
    # Of sockets and taps, and of both vhosts with them.
    "from_packet": "p:{} skb_copy_datagram_iter bytes=$arg4:s32",
    "to_packet": "p:{} skb_copy_datagram_from_iter bytes=$arg4:s32",
    "to_tap": "p:{} __tun_build_skb bytes=$arg5:s32",  # packets of less than a page
}
# Who made which thread. Those that have ended by the time of counting have cost something, too.
THREADS = {"task/task_newtask": "hist:keys=common_pid,pid,clone_flags.hex:size=8192"}
CLONE_THREAD = 0x10000
EVENTS = {
    "kvm/kvm_exit": "hist:keys=exit_reason:size=512",
    "kvm/kvm_userspace_exit": "hist:keys=reason:size=512",
    "raw_syscalls/sys_enter": "hist:keys=common_pid,id.syscall:size=8192",
    # 8 bytes are the counter of an eventfd or timer: a notification, which is counted as a system call and a wake-up.
    "raw_syscalls/sys_exit": "hist:keys=common_pid,id.syscall:vals=ret:size=8192 if ret > 0 && ret != 8",
    "io_uring/io_uring_complete": "hist:keys=common_pid:vals=res:size=2048 if res > 0",
    "sched/sched_wakeup": "hist:keys=pid,comm:size=8192",
    **THREADS,
    **{f"wyvern/{name}": "hist:keys=common_pid:vals=bytes:size=4096 if bytes > 0" for name in COPIES},
}
# System calls whose result is the bytes that they have moved.
MOVERS = re.compile(r"(p?read|p?write)(v|64|v2)?|(send|recv)(msg|to|from)|sendfile(64)?|splice|copy_file_range|getdents64")
# What take() has numbers of.
COUNTED = ("exits", "to_vmm", "vmm_calls", "server_calls", "wakeups", "copied", "moved")


def add_probe(file, probe):
    fd = os.open(TRACEFS / file, os.O_WRONLY | os.O_APPEND)  # open() would look for the end of it
    try:
        os.write(fd, f"{probe}\n".encode())
    except OSError as error:
        raise RuntimeError(f"{file} does not take '{probe}': {error}") from error
    finally:
        os.close(fd)


def prepare():
    if not (TRACEFS / "events").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], check=True)
    for name, probe in COPIES.items():
        if not (TRACEFS / "events/wyvern" / name).is_dir():
            add_probe("kprobe_events", probe.format(f"wyvern/{name}"))


def sums(event):
    """[(key, how often, sum of its value)]"""
    text = (TRACEFS / "events" / event / "hist").read_text()
    if dropped := int(re.search(r"^ +Dropped: (\d+)", text, re.M)[1]):
        raise RuntimeError(f"{event}: the table was too small for {dropped} events")
    return [(key, int(n), int(total or 0)) for key, n, total in ROW.findall(text)]


def _rows(event):
    return [(key, n) for key, n, _ in sums(event)]


def threads_of(pids):
    """The threads, with those that have ended, of processes that were started since THREADS are counted."""
    made = []
    for key, _ in _rows("task/task_newtask"):
        maker, thread, flags = re.match(r"common_pid:\s+(\d+), pid:\s+(\d+), clone_flags:\s+(\w+)", key).groups()
        if int(flags, 16) & CLONE_THREAD:
            made.append((int(maker), int(thread)))
    found, before = set(pids), set()
    while found != before:
        before = set(found)
        found |= {thread for maker, thread in made if maker in found}
    return found


def _thread_and_call(key):
    match = re.match(r"common_pid:\s+(\d+), id: (?:sys_)?(\S+)", key)
    return int(match[1]), match[2]


class Counting:
    """with Counting() as counts: start one guest; counts.take() before its processes are gone."""

    def __enter__(self):
        prepare()
        for event, trigger in EVENTS.items():
            (TRACEFS / "events" / event / "trigger").write_text(trigger)
        return self

    def __exit__(self, *_):
        for event, trigger in EVENTS.items():
            (TRACEFS / "events" / event / "trigger").write_text("!" + trigger)

    @staticmethod
    def take(vmm, servers=(), left_out=()):
        """Counts so far, of processes: the VMM and its back-ends; `left_out`: threads that are not counted. copied: bytes that the kernel
        has copied for them; moved: bytes that their calls say they have moved, copied or not."""
        exits, to_vmm = _rows("kvm/kvm_exit"), _rows("kvm/kvm_userspace_exit")
        vmm, servers = (threads_of(pids) - set(left_out) for pids in (vmm, servers))
        both = vmm | servers
        counts = {"exits": sum(n for _, n in exits), "to_vmm": sum(n for _, n in to_vmm),
                  "vmm_calls": 0, "server_calls": 0, "wakeups": 0, "copied": 0, "moved": 0}
        by_name, woken, copies = collections.Counter(), collections.Counter(), collections.Counter()
        for key, n in _rows("raw_syscalls/sys_enter"):
            thread, name = _thread_and_call(key)
            if thread in both:
                counts["vmm_calls" if thread in vmm else "server_calls"] += n
                by_name[name if thread in vmm else f"server {name}"] += n
        for key, n in _rows("sched/sched_wakeup"):
            match = re.match(r"pid:\s+(\d+), comm: (\S+)", key)
            if int(match[1]) in both:
                counts["wakeups"] += n
                woken[match[2]] += n
        for key, _, total in sums("raw_syscalls/sys_exit"):
            thread, name = _thread_and_call(key)
            if thread in both and MOVERS.fullmatch(name):
                counts["moved"] += total
        counts["moved"] += sum(total for key, _, total in sums("io_uring/io_uring_complete") if int(key.split(":")[1]) in both)
        for probe in COPIES:
            for key, _, total in sums(f"wyvern/{probe}"):
                if int(key.split(":")[1]) in both:
                    counts["copied"] += total
                    copies[probe] += total
        counts.update(calls=dict(by_name), woken=dict(woken), copies=dict(copies))
        for name, rows, names in (("reasons", exits, SVM), ("vmm_reasons", to_vmm, USERSPACE)):
            numbers = ((int(key.split(":")[1], 0), n) for key, n in rows)
            counts[name] = {names.get(number, str(number)): n for number, n in numbers}
        return counts


@contextlib.contextmanager
def expected(size):
    """That this thread, within, copies and moves so many bytes: probes are attached by the names of functions, which other kernels may not
    have, or not call."""
    me = {threading.get_native_id()}
    with Counting() as counting:
        before = counting.take(me)
        yield
        after = counting.take(me)
    copied, moved = (after[what] - before[what] for what in ("copied", "moved"))
    # take() reads, too, but nothing that is copied there.
    if not size <= copied <= size + 1024 or moved < size:
        raise RuntimeError(f"{copied} bytes copied and {moved} moved instead of {size}, by {after['copies']} less {before['copies']}")


def check():
    """That the copies of files, a pipe and a socket are seen."""
    size = 1 << 14
    ends, pipe = socket.socketpair(), os.pipe()
    with tempfile.TemporaryFile(buffering=0, dir="/var/tmp") as disk, tempfile.TemporaryFile(buffering=0, dir="/dev/shm") as memory, \
            ends[0], ends[1], expected(8 * size):
        for file in (disk, memory):
            file.write(bytes(size))
            os.pread(file.fileno(), size, 0)
        os.write(pipe[1], bytes(size))
        os.read(pipe[0], size)
        ends[0].sendall(bytes(size))
        ends[1].recv(size)
    for end in pipe:
        os.close(end)
