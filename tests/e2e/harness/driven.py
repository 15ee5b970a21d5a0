"""A guest of wyvern-vmm whose devices a test attaches and detaches while it runs: `wyvern-bench drive`, our agent in it.

The suite lab adds the program to its machines: lab run --add build/release/bin/wyvern-bench. Commands go to a shell in the guest on a
virtio-console port, which works while there is no vsock device, too; `run` is the agent's own way, over vsock.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

import pytest

from harness.guest import COMPLAINT

BENCH = pathlib.Path("/opt/wyvern/extra/wyvern-bench")
GUEST = pathlib.Path("/usr/share/wyvern/guest")
LIBEXEC = pathlib.Path("/usr/libexec/wyvern")
MIB = 1 << 20
CMDLINE = ("console=ttyS0 quiet panic=1 oops=panic pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro rootwait=10 "
           "maxcpus={cpus} init=/sbin/wyvern-agent")
needs_bench = pytest.mark.skipif(not BENCH.exists(), reason="this machine was started without wyvern-bench (lab run --add)")
UPCALL, SHELL = "wyvern.upcall", "test.shell"
# VIRTIO 1.2 §5: the kinds by their device ids; PCI's are 0x1040 more.
IDS = {"net": 1, "blk": 2, "console": 3, "rng": 4, "balloon": 5, "vsock": 19, "mem": 24, "fs": 26, "pmem": 27}
# A shell that does a line at a time and says when it is done, on the port whose name is test.shell; its children do not hold the port.
SHELL_ON_PORT = f"""
for port in /sys/class/virtio-ports/*; do
  read -r name <$port/name && [ "$name" = {SHELL} ] && break
done
setsid sh -c 'while read -r line <&0; do eval "$line"; done' <>/dev/${{port##*/}} >&0 2>/dev/null &
"""


class Refused(Exception):
    """What the driver or the VMM answered instead of doing it."""

    def __init__(self, code: str, text: str):
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


class Machine:
    """In a with statement. Devices by id in `devices`: {"kind", "pci_address", "node"}, those that are attached now."""

    def __init__(self, scratch: pathlib.Path, kernel=GUEST / "vmlinux", initrd=None, memory=384, hotplug_memory=256, cpus=1, max_cpus=1):
        self.scratch, self.devices, self.commands, self.next = scratch, {}, 0, 0
        self.waiting: dict[int, concurrent.futures.Future] = {}
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(scratch / "shell.sock"))
        self.listener.listen(1)
        self.shell = None
        argv = [BENCH, "drive", "--vmm", LIBEXEC / "wyvern-vmm", "--fs", LIBEXEC / "wyvern-fs", "--kernel", kernel,
                *(["--initrd", initrd] if initrd else []), "--cmdline", CMDLINE.format(cpus=cpus), "--memory", memory * MIB,
                "--hotplug-memory", hotplug_memory * MIB, "--vcpus", cpus, "--max-vcpus", max_cpus]
        self.log = open(scratch / "driver.log", "w+b")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.first = concurrent.futures.Future()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self):
        try:
            self.pid = self.first.result(30)
            self.attach("root", "pmem", path=GUEST / "image.erofs")
            self.attach("ports", "console", ports=[{"name": UPCALL}, {"name": SHELL, "socket": self.scratch / "shell.sock"}])
            self.shell = self.listener.accept()[0]
            self.boot_devices()
            self.ask("boot")
            self.after_boot()
        except BaseException:
            self._end()
            raise
        return self

    def boot_devices(self):
        """Of a machine of another shape."""

    def after_boot(self):
        """The vsock device comes late, by the console port; then the shell is started over it."""
        deadline = time.monotonic() + 90
        while True:  # until there is an agent that could take it up
            try:
                self.attach("vsock", "vsock", cid=3)
                break
            except Refused as refused:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no agent answers on the console port: {refused}\n{self.said()}") from refused
                time.sleep(0.5)
        self.ask("connect")
        assert self.run(SHELL_ON_PORT)["status"] == 0
        self.sh("true")

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                complaints = [c for c in COMPLAINT.findall(self.sh("dmesg")) if not self.expected_complaint(c)]
                assert not complaints, "\n".join(complaints)
            else:
                print(self.said()[-3000:])
        finally:
            self._end()

    def expected_complaint(self, line: str) -> bool:
        """Of the guest's kernel, where the test gives it reason to."""
        del line
        return False

    def _end(self):
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()
        self.reader.join(10)
        for each in (self.shell, self.listener, self.log):
            if each is not None:
                each.close()

    def _read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            if "vmm" in answer:
                self.first.set_result(answer["vmm"])
                continue
            with self.lock:
                self.waiting.pop(answer["n"]).set_result(answer)
        failure = RuntimeError(f"wyvern-bench ended: {pathlib.Path(self.log.name).read_text(errors='replace')[-3000:]}")
        with self.lock:
            for future in self.waiting.values():
                future.set_exception(failure)
        if not self.first.done():
            self.first.set_exception(failure)

    def begin(self, do: str, **words) -> concurrent.futures.Future:
        """A step; its answer's future. Several may be under way."""
        future = concurrent.futures.Future()
        with self.lock:
            self.next += 1
            self.waiting[self.next] = future
            line = json.dumps({"n": self.next, "do": do, **words}, default=str)
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        return future

    @staticmethod
    def end(future, seconds: float = 90) -> dict:
        answer = future.result(seconds)
        if not answer["ok"]:
            raise Refused(answer["code"], answer["error"])
        return answer

    def ask(self, do: str, **words) -> dict:
        return self.end(self.begin(do, **words))

    def attach(self, name: str, kind: str, **words) -> dict:
        answer = self.ask("attach", id=name, kind=kind, **words)
        self.devices[name] = {"kind": kind, **answer}
        return answer

    def detach(self, name: str, **words) -> dict:
        answer = self.ask("detach", id=name, **words)
        del self.devices[name]
        return answer

    def run(self, script: str, **words) -> dict:
        """By the agent."""
        return self.ask("run", script=f"exec 2>&1; {script}", **words)

    def sh(self, command: str, seconds: float = 60, code: int | None = 0) -> str:
        """A line for the shell on the port: what it printed, without the last end of line. `code` None: whatever it is."""
        assert "\n" not in command
        self.commands += 1
        end = "" if command.endswith("&") else ";"
        self.shell.sendall(f"{{ {command}{end} }} </dev/null 2>&1; echo \"@{self.commands}=$?@\"\n".encode())
        expression, data, deadline = re.compile(rb"@%d=(\d+)@\r?\n" % self.commands), b"", time.monotonic() + seconds
        while not (match := expression.search(data)):
            self.shell.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                piece = self.shell.recv(1 << 16)
            except TimeoutError:
                piece = b""
            assert piece, f"{command}: no end within {seconds} s: {data[-2000:]}\n{self.said()[-2000:]}"
            data += piece
        output = data[:match.start()].decode(errors="replace").replace("\r\n", "\n")
        assert code is None or int(match[1]) == code, f"{command}: exit code {int(match[1])}\n{output}"
        return output.removesuffix("\n")

    def said(self) -> str:
        """The guest on its serial console."""
        with contextlib.suppress(Exception):
            return self.ask("console")["text"]
        return ""

    def counters(self) -> dict:
        return self.ask("metrics")["counters"]

    def check_agreement(self, gone=()):
        """Guest, VMM and test have the same devices; of `gone` nobody has any."""
        wanted = {device["pci_address"]: f"0x{0x1040 + IDS[device['kind']]:04x}" for device in self.devices.values()}
        seen = dict(line.split() for line in self.sh(
            "cd /sys/bus/pci/devices; for d in *; do read -r v <$d/vendor; read -r i <$d/device; "
            "[ $v != 0x1af4 ] || echo $d $i; done; cd /").splitlines())
        assert seen == wanted, f"the guest sees {seen}, attached are {wanted}"
        listed = {name.split(".")[0] for name in self.counters()}
        assert set(self.devices) <= listed, (self.devices, listed)
        assert not set(gone) - set(self.devices) & listed, (gone, listed)

    def rolled_back(self) -> int:
        """Attachments that were taken back; the first ones are from before there was an agent."""
        return self.counters().get("hotplug.rolled_back", 0)

    def held(self) -> dict:
        """What the VMM holds on the host."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return {"fds": len(os.listdir(f"/proc/{self.pid}/fd")), "threads": len(os.listdir(f"/proc/{self.pid}/task")),
                "memslots": self.counters()["memslots"], "rolled_back": self.rolled_back(),
                "anonymous": int(re.search(r"^RssAnon:\s+(\d+) kB$", status, re.M)[1]) << 10}
