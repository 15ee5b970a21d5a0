"""One lab machine: QEMU with TCG, its disks, and the two ports to the agent inside.

Nothing of a running machine has a name on the host but its temporary directory: the ports are
inherited socket pairs, so any number of machines can run at once.
"""

import ctypes
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile

from lablib import tsc
from lablib.cache import LabError

PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Arch:
    """What differs between architectures on the host side."""
    name: str
    debian: str
    qemu: str
    qemu_package: str
    machine: tuple
    console: str
    kernel_package: str
    append: str  # what its kernel needs to be told


ARCHES = {
    "x86_64": Arch(
        name="x86_64", debian="amd64", qemu="qemu-system-x86_64", qemu_package="qemu-system-x86",
        # SVM comes from TCG; the kernel inside runs its real kvm_amd on it. x2APIC, for which Linux wants the remapping of
        # interrupts: a local APIC in memory costs the emulator a translation and a lock for each access.
        machine=("-M", "q35,smm=off,vmport=off,hpet=off", "-cpu", "EPYC,+svm,+x2apic", "-accel",
                 "tcg,thread=multi", "-device", "intel-iommu,intremap=on,eim=on"),
        # The check takes a busy host for a broken timer.
        console="ttyS0", kernel_package="linux-image-cloud-amd64", append="intel_iommu=off no_timer_check"),
}


def arch(name: str) -> Arch:
    if name not in ARCHES:
        raise LabError(f"no lab machine for {name} yet (known: {', '.join(ARCHES)})")
    return ARCHES[name]


@dataclasses.dataclass
class Boot:
    """What to boot."""
    arch: Arch
    qemu: pathlib.Path  # cache entry with the emulator's root
    kernel: pathlib.Path
    initrd: pathlib.Path
    disk: pathlib.Path
    build_disk: pathlib.Path
    cpus: int = 2
    memory: int = 2048
    forward: tuple = ()  # ports of this host's 127.0.0.1 that reach the machine, which then has a network card
    keep_writes: bool = False  # True only while an image is made
    saved: pathlib.Path | None = None  # state to continue from instead of booting (lablib/warm.py)


def tool(qemu: pathlib.Path, name: str) -> list:
    """A program of the emulator's root, with its own loader and libraries: no chroot, no privilege."""
    libraries = next((qemu / "root/usr/lib").glob("*-linux-gnu*"))
    loader = next(libraries.glob("ld-linux*.so.*"))
    return [str(loader), "--library-path", str(libraries), str(qemu / "root/usr/bin" / name)]


def _emulator(boot: Boot) -> list:
    share = boot.qemu / "root/usr/share"
    return [*tool(boot.qemu, boot.arch.qemu), "-L", str(share / "qemu"), "-L", str(share / "seabios")]


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Machine:
    """A running QEMU; a context manager that always ends it."""

    def __init__(self, boot: Boot, console: pathlib.Path | None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wyvern-lab."))
        self.console_path = console or self.directory / "console.log"
        self.control, control_end = socket.socketpair()
        self.stdin, stdin_end = socket.socketpair()
        self.qmp, qmp_end = socket.socketpair()
        ends = (control_end, stdin_end, qmp_end)
        argv = self._argv(boot, *(end.fileno() for end in ends))
        # The overlay that takes the machine's writes is a temporary file of QEMU: it goes with it.
        env = dict(os.environ, TMPDIR=str(self.directory))
        self.qmp_ready = False
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=[end.fileno() for end in ends], env=env, start_new_session=True,
            preexec_fn=_die_with_parent)
        for end in ends:
            end.close()

    def _argv(self, boot: Boot, control_fd: int, stdin_fd: int, qmp_fd: int):
        saved = ["-incoming", f"file:{boot.saved}"] if boot.saved else []
        disk_format = "qcow2" if boot.disk.suffix == ".qcow2" else "raw"
        khz = tsc.host_khz()
        clock = f"tsc=reliable tsc_early_khz={khz}" if khz else ""
        overlay = "off" if boot.keep_writes else "on"
        return [
            *_emulator(boot), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            *boot.arch.machine, "-smp", str(boot.cpus), "-m", str(boot.memory),
            "-kernel", str(boot.kernel), "-initrd", str(boot.initrd),
            "-append", f"console={boot.arch.console} {boot.arch.append} quiet loglevel=4 mitigations=off nmi_watchdog=0 "
                       f"panic=-1 lsm=yama {clock} random.trust_cpu=on systemd.show_status=no audit=0",
            "-serial", f"file:{self.console_path}",
            "-drive", f"if=virtio,format={disk_format},cache=unsafe,snapshot={overlay},file={boot.disk}",
            "-drive", f"if=virtio,format=raw,read-only=on,file={boot.build_disk}",
            *self._network(boot), "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=control,fd={control_fd}",
            "-device", "virtserialport,chardev=control,name=lab.ctl",
            "-chardev", f"socket,id=stdin,fd={stdin_fd}",
            "-device", "virtserialport,chardev=stdin,name=lab.in",
            "-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control", *saved,
        ]

    @staticmethod
    def _network(boot: Boot) -> list:
        """QEMU's user network: the machine is 10.0.2.15, and 10.0.2.2 there is this host's loopback; nothing beyond it is meant."""
        if not boot.forward:
            return []
        ports = ",".join(f"hostfwd=tcp:127.0.0.1:{port}-:{port}" for port in boot.forward)
        return ["-netdev", f"user,id=net,ipv6=off,{ports}", "-device", "virtio-net-pci,netdev=net,romfile="]

    def command(self, name: str, **arguments):
        """One QMP command; returns its answer."""
        reader = self.qmp.makefile("rb")
        if not self.qmp_ready:
            reader.readline()  # the greeting
            self.qmp_ready = True
            self.command("qmp_capabilities")
        self.qmp.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while line := reader.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refuses {name}: {answer['error']['desc']}")
        raise LabError(f"QEMU ended during {name}: {self.qemu_output()}")

    def spread_processors(self):
        """Each virtual processor's thread on a processor of its own. A wake-up between two of them is an interrupt that takes
        QEMU's lock, and the kernel likes to put both threads on one processor, where they take turns of milliseconds.
        A machine of one goes where there is room: another machine may be beside it."""
        here = sorted(os.sched_getaffinity(0))
        processors = self.command("query-cpus-fast")
        if len(processors) == 1 or len(processors) > len(here):
            return
        for index, processor in enumerate(processors):
            os.sched_setaffinity(processor["thread-id"], {here[(index + self.process.pid) % len(here)]})

    def console_tail(self, lines: int = 30) -> str:
        try:
            text = self.console_path.read_text(errors="replace")
        except OSError:
            return "(no console output)"
        return "\n".join(text.splitlines()[-lines:])

    def qemu_output(self) -> str:
        """What QEMU itself said. Precondition: it has ended."""
        return self.process.stdout.read().decode(errors="replace").strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.control.close()
        self.stdin.close()
        self.qmp.close()
        shutil.rmtree(self.directory, ignore_errors=True)
