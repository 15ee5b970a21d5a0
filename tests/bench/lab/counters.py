"""What one guest costs: VM exits, system calls and wake-ups, counted by the kernel's histogram triggers.

Triggers see the whole machine: VM exits are those of one guest as long as only one runs; the rest is told apart by thread.
"""

import collections
import os
import pathlib
import re
import subprocess

TRACEFS = pathlib.Path("/sys/kernel/tracing")
ROW = re.compile(r"^\{ (.*?) \} hitcount:\s+(\d+)", re.M)
# SVM exit codes (the lab's CPU has SVM) and KVM_EXIT_* (linux/kvm.h)
SVM = {0x60: "interrupt", 0x64: "interrupt window", 0x72: "cpuid", 0x78: "hlt", 0x7b: "port", 0x7c: "msr", 0x400: "memory"}
USERSPACE = {2: "port", 5: "hlt", 6: "mmio", 10: "signal"}
EVENTS = {
    "kvm/kvm_exit": "hist:keys=exit_reason:size=512",
    "kvm/kvm_userspace_exit": "hist:keys=reason:size=512",
    "raw_syscalls/sys_enter": "hist:keys=common_pid,id.syscall:size=8192",
    "sched/sched_wakeup": "hist:keys=pid,comm:size=8192",
}


def tids(pid):
    return {int(t) for t in os.listdir(f"/proc/{pid}/task")}


class Counting:
    """with Counting() as counts: start one guest; counts.take() before its processes are gone."""

    def __enter__(self):
        if not (TRACEFS / "events").is_dir():
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], check=True)
        for event, trigger in EVENTS.items():
            (TRACEFS / "events" / event / "trigger").write_text(trigger)
        return self

    def __exit__(self, *_):
        for event, trigger in EVENTS.items():
            (TRACEFS / "events" / event / "trigger").write_text("!" + trigger)

    @staticmethod
    def _rows(event):
        return [(key, int(n)) for key, n in ROW.findall((TRACEFS / "events" / event / "hist").read_text())]

    def take(self, vmm, servers):
        """Counts so far, of the threads (ids) of the VMM and of its back-ends."""
        exits, to_vmm = self._rows("kvm/kvm_exit"), self._rows("kvm/kvm_userspace_exit")
        counts = {"exits": sum(n for _, n in exits), "to_vmm": sum(n for _, n in to_vmm),
                  "vmm_calls": 0, "server_calls": 0, "wakeups": 0}
        by_name = collections.Counter()
        for key, n in self._rows("raw_syscalls/sys_enter"):
            match = re.match(r"common_pid:\s+(\d+), id: (?:sys_)?(\S+)", key)
            thread, name = int(match[1]), match[2]
            if thread in vmm or thread in servers:
                counts["vmm_calls" if thread in vmm else "server_calls"] += n
                by_name[name if thread in vmm else f"server {name}"] += n
        woken = collections.Counter()
        for key, n in self._rows("sched/sched_wakeup"):
            match = re.match(r"pid:\s+(\d+), comm: (\S+)", key)
            if int(match[1]) in vmm | servers:
                counts["wakeups"] += n
                woken[match[2]] += n
        counts["woken"] = dict(woken)
        counts["calls"] = dict(by_name.most_common(25))
        for name, rows, names in (("reasons", exits, SVM), ("vmm_reasons", to_vmm, USERSPACE)):
            numbers = ((int(key.split(":")[1], 0), n) for key, n in rows)
            counts[name] = {names.get(number, str(number)): n for number, n in numbers}
        return counts
