"""wyvern metrics, top and events: figures that agree with what the host and the guest say themselves, also when VMM or guest hang."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from harness.containerd import loop_device
from harness.ctr import BUSYBOX, Container, call, run, unique, wait_until
from harness.sandbox import Watch, memory
from test_network import Pod, named_namespaces  # noqa: F401 (a fixture)
from test_wyvern_cli import Running, wyvern

pytestmark = pytest.mark.wyvern_only
MIB = 1 << 20
SAMPLE = re.compile(r'^(wyvern_[a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """Prometheus' text, checked line by line."""

    def __init__(self, text: str):
        self.samples = []  # (name, labels, value)
        self.types = {}
        family = None
        assert text.endswith("\n")
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split()[2]
                assert family not in self.types, f"{family} is in two places"
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                assert name == family
                self.types[name] = kind
            else:
                found = SAMPLE.match(line)
                assert found, line
                assert found[1] in (family, f"{family}_sum", f"{family}_count"), line
                assert not family.endswith("_total") or self.types[family] == "counter", line
                self.samples.append((found[1], dict(LABEL.findall(found[2] or "")), float(found[3])))

    def all(self, metric: str, **labels):
        return [(have, value) for name, have, value in self.samples
                if name == metric and labels.items() <= have.items()]

    def sum(self, metric: str, **labels) -> float:
        found = self.all(metric, **labels)
        assert found, f"no {metric} {labels}"
        return sum(value for _, value in found)


def measure(*words) -> Metrics:
    done = wyvern("metrics", *words)
    assert done.returncode == 0, done.stderr.decode()
    return Metrics(done.stdout.decode())


def scrape(path: str, target="/metrics") -> tuple[int, str]:
    """GET over a unix socket."""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(30)
    connection.sock.connect(path)
    connection.request("GET", target)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def metrics_socket(name: str) -> str:
    rows = json.loads(wyvern("ps", "--json").stdout)
    return next(row["metrics_socket"] for row in rows if row["sandbox"] == name)


class Follower:
    """`wyvern events --json` while a with statement runs."""

    def __init__(self, *words):
        self.words = words
        self.events = []
        self.mu = threading.Lock()

    def __enter__(self):
        self.process = subprocess.Popen(["wyvern", "events", "--json", *self.words], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.thread.join()

    def _read(self):
        for line in self.process.stdout:
            with self.mu:
                self.events.append(json.loads(line))

    def of(self, name: str) -> list:
        """(event, container or None) of one sandbox, in order."""
        with self.mu:
            return [(e["event"], e["container"]) for e in self.events if e["sandbox"] == name]

    def text(self, name: str, event: str) -> str:
        with self.mu:
            return next((e["text"] for e in self.events if e["sandbox"] == name and e["event"] == event), "")

    def sees(self, name: str, event: str, seconds=60) -> bool:
        return wait_until(lambda: event in [e for e, _ in self.of(name)], seconds)


def test_figures_agree_with_the_host_and_the_guest():
    watch = Watch()
    with Running(flags=["--memory", "512MiB", "--cpus", "2"]) as running:
        first = measure(running.name)
        assert all(labels["sandbox"] == running.name for _, labels, _ in first.samples)
        assert first.sum("wyvern_vmm_up") == first.sum("wyvern_guest_up") == 1
        for process, program in (("vmm", "wyvern-vmm"), ("fs", "wyvern-fs")):
            pid = watch.pid(program)
            shown = first.sum("wyvern_host_process_pss_bytes", process=process, pid=str(pid))
            assert shown == pytest.approx(memory(pid)["Pss"] * 1024, rel=0.2), process
        for process in ("owner", "keeper", "anchor"):
            assert first.sum("wyvern_host_process_pss_bytes", process=process) > 0
        total = first.sum("wyvern_guest_memory_total_bytes", source="guest")
        assert 400 * MIB < total <= 512 * MIB
        used = first.sum("wyvern_guest_memory_used_bytes")
        free = first.sum("wyvern_guest_memory_free_bytes")
        assert 0 < used and 0 < free and used + free <= total
        assert first.sum("wyvern_guest_cpus_online") == first.sum("wyvern_vcpus_running") == 2
        assert {labels["vcpu"] for labels, _ in first.all("wyvern_vcpu_exits_total")} >= {"0", "1"}
        assert first.sum("wyvern_container_memory_bytes", container=running.name) > 0
        assert first.sum("wyvern_sandbox_containers") == 1
        # What the guest does is in the exits, and what it has seen of the processors in its time.
        assert wyvern("exec", "--guest", running.name, "--", "sh", "-c", "echo the VMM has the serial port >/dev/ttyS0").returncode == 0
        second = measure(running.name)
        assert second.sum("wyvern_vcpu_exits_total") > first.sum("wyvern_vcpu_exits_total")
        assert second.sum("wyvern_guest_cpu_seconds_total") > first.sum("wyvern_guest_cpu_seconds_total")
        for name, labels, value in first.samples:
            if first.types.get(name) == "counter" and "pid" not in labels:
                assert second.sum(name, **labels) >= value, f"{name} {labels} goes backwards"


def test_text_on_the_sandboxes_socket():
    with Running() as running:
        path = metrics_socket(running.name)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        status, text = scrape(path)
        assert status == 200 and Metrics(text).sum("wyvern_vmm_up", sandbox=running.name) == 1
        assert scrape(path, "/")[0] == 404
        # Somebody who does not say what he wants holds the next one up for seconds, and no longer.
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(path)
        with contextlib.closing(silent):
            assert scrape(path)[0] == 200
    assert not os.path.exists(path)


def test_node_has_all_of_them(tmp_path):
    with Running() as one, Container(BUSYBOX) as other:
        names = {one.name, other.name}
        metrics = measure("--node")
        assert metrics.sum("wyvern_node_sandboxes") >= 2
        up = {labels["sandbox"]: value for labels, value in metrics.all("wyvern_sandbox_up")}
        assert {name: up.get(name) for name in names} == dict.fromkeys(names, 1)
        namespaces = {labels["sandbox"]: labels["namespace"] for labels, _ in metrics.all("wyvern_sandbox_up")}
        assert namespaces[one.name] == "wyvern-run" and namespaces[other.name] == "default"
        path = str(tmp_path / "node.sock")
        server = subprocess.Popen(["wyvern", "metrics", "--node", "--listen", path], stderr=subprocess.PIPE)
        try:
            assert wait_until(lambda: os.path.exists(path), 10)
            for _ in range(2):
                text = Metrics(scrape(path)[1])
                assert all(text.sum("wyvern_vmm_up", sandbox=name) == 1 for name in names)
        finally:
            server.terminate()
            assert server.wait(20) == 0, server.stderr.read()
            server.stderr.close()
        assert not os.path.exists(path)


def test_what_a_disk_and_a_share_move(scratch):
    volume = scratch / "volume"
    volume.mkdir()
    with open(scratch / "disk", "wb") as image:
        image.truncate(64 * MIB)
    with loop_device(scratch / "disk") as device:
        flags = ["--device", device, "--mount", f"type=bind,src={volume},dst=/data,options=rbind:rw"]
        with Container(BUSYBOX, flags=flags) as container:
            before = measure(container.name)
            assert before.sum("wyvern_upcall_duration_seconds_count", call="pci_rescan") == 1, "the disk"
            assert before.sum("wyvern_hotplug_operations_total", outcome="attached") >= 5, "with those of the boot"
            script = f"dd if=/dev/zero of={device} bs=1M count=16 conv=fsync; dd if=/dev/zero of=/data/f bs=1M count=16 conv=fsync"
            done = container.exec("sh", "-c", script)
            assert done.returncode == 0, done.stderr.decode()
            after = measure(container.name)

            def moved(name, **labels):
                return after.sum(name, **labels) - before.sum(name, **labels)

            assert 16 * MIB <= moved("wyvern_block_written_bytes_total") < 20 * MIB
            assert moved("wyvern_block_operations_total", operation="flush") >= 1
            assert 16 * MIB <= moved("wyvern_host_process_written_bytes_total", process="fs") < 40 * MIB
            assert 0 < after.sum("wyvern_upcall_duration_seconds_sum", call="pci_rescan") < 60


def asked_for() -> list[tuple[str, set[str]]]:
    """What deploy/grafana's dashboard asks Prometheus for: each metric, and the labels that it has to have there."""
    dashboard = json.loads(pathlib.Path("/opt/wyvern/deploy/grafana/wyvern.json").read_text())
    queries = []
    for target in (target for panel in dashboard["panels"] for target in panel.get("targets", [])):
        metrics = re.findall(r"(wyvern_[a-z_]+)(?:\{([^}]*)\})?", target["expr"])
        assert metrics, target
        by = {label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")}
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        queries += [(name, by | shown | set(re.findall(r"(\w+)=~?\"", matched))) for name, matched in metrics]
    for variable in dashboard["templating"]["list"]:
        for name, matched, label in re.findall(r"label_values\((\w+)(?:\{([^}]*)\})?, (\w+)\)", variable["query"]):
            queries.append((name, {label} | set(re.findall(r"(\w+)=~?\"", matched))))
    return queries


def test_dashboard_asks_for_what_is_exported(scratch):
    """Of a machine that has all of it: a disk, an interface, memory that was plugged, a limit, an event."""
    with open(scratch / "disk", "wb") as image:
        image.truncate(16 * MIB)
    with Pod() as pod, loop_device(scratch / "disk") as device:
        flags = ["--device", device, "--memory-limit", str(512 * MIB), *pod.flags]
        with Container(BUSYBOX, flags=flags):
            metrics = measure("--node")
    asked = asked_for()
    assert len(asked) > 30
    for name, labels in asked:
        samples = metrics.all(name)
        assert samples, f"nothing is called {name}"
        assert all(labels <= have.keys() for have, _ in samples), (name, labels, samples[0])


def test_vmm_that_hangs_costs_seconds_and_its_own_figures():
    watch = Watch()
    with Running() as running:
        pid = watch.pid("wyvern-vmm")
        os.kill(pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            metrics = measure(running.name)
            assert time.monotonic() - begin < 10
            assert metrics.sum("wyvern_vmm_up") == metrics.sum("wyvern_guest_up") == 0
            assert metrics.sum("wyvern_host_process_pss_bytes", process="vmm") > 0
            assert measure("--node").sum("wyvern_vmm_up", sandbox=running.name) == 0
        finally:
            os.kill(pid, signal.SIGCONT)
        assert wait_until(lambda: measure(running.name).sum("wyvern_guest_up") == 1, 30)


def test_top():
    with Running() as running:
        done = wyvern("top", "--count", "1", "--interval", "0.5")
        lines = done.stdout.decode().splitlines()
        assert lines[0].split()[:6] == ["SANDBOX", "NAMESPACE", "CPU%", "VMM", "FS", "SHIM"]
        row = next(line.split() for line in lines if line.startswith(running.name[:20]))
        assert row[1] == "wyvern-run" and len(row) == 15 and row[6] != "-", row
        done = wyvern("top", "--count", "2", "-i", "0.3", running.name)
        assert done.stdout.decode().count("\nEXITS/s ") == 2, done.stdout.decode()


def test_events_of_a_life():
    with Follower() as follower:
        name = unique()
        assert run(BUSYBOX, "sh", "-c", "exit 3", name=name).returncode == 3
        assert follower.sees(name, "ended")
        assert follower.of(name) == [("started", None), ("started", name), ("exited", name), ("ended", None)]
        assert follower.text(name, "exited") == "status 3"


@pytest.mark.thorough  # test_memory.py sees what it is made of
def test_oom_is_an_event_and_counted():
    with Follower() as follower, Container(BUSYBOX, flags=["--memory-limit", str(64 * MIB)]) as container:
        container.exec("sh", "-c", "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}")
        assert follower.sees(container.name, "oom"), follower.of(container.name)
        assert ("oom", container.name) in follower.of(container.name)
        metrics = measure(container.name)
        assert metrics.sum("wyvern_events_total", event="oom") >= 1
        assert metrics.sum("wyvern_container_oom_kills_total") >= 1
        assert metrics.sum("wyvern_host_cgroup_oom_kills_total") == 0, "the guest's, not the host's"
        assert container.status() == "RUNNING"


@pytest.mark.parametrize("program,words", [("wyvern-vmm", "the VMM died"), ("containerd-shim-wyvern-v2", "was killed")])
def test_death_is_an_event(program, words):
    watch = Watch()
    with Follower() as follower, Container(BUSYBOX) as container:
        assert follower.sees(container.name, "started")
        os.kill(watch.pid(program), signal.SIGKILL)
        assert follower.sees(container.name, "died"), follower.of(container.name)
        assert words in follower.text(container.name, "died")


def test_events_of_one_end_with_it():
    with Container(BUSYBOX) as container:
        follower = Follower(container.name)
        with follower:
            assert follower.sees(container.name, "started")
            container.remove()
            assert follower.process.wait(60) == 0
    assert follower.of(container.name)[-1] == ("ended", None)


def test_journal_has_the_lines_of_a_sandbox():
    """With its namespace, sandbox and container as fields; what containerd copies to its own log has them, too."""
    watch = Watch()
    with Container() as container:
        os.kill(watch.pid("wyvern-vmm"), signal.SIGKILL)
        assert container.wait_status("STOPPED", 30)

        def told():
            lines = call(["journalctl", "--no-pager", "-o", "json", f"WYVERN_SANDBOX={container.name}"]).stdout.splitlines()
            return [line for line in map(json.loads, lines) if "died" in line["MESSAGE"]]

        assert wait_until(told, 10)
        line = told()[0]
        assert (line["SYSLOG_IDENTIFIER"], line["PRIORITY"], line["WYVERN_NS"]) == ("wyvern-shim", "3", "default"), line
        copied = call(["journalctl", "--no-pager", "-o", "cat", "-u", "containerd"]).stdout.decode(errors="replace")
        assert f" ERROR shim ns=default sandbox={container.name}" in copied


@pytest.mark.parametrize("words", [["metrics"], ["metrics", "--node", "x"], ["top", "-i", "0"]])
def test_wrong_usage(words):
    done = wyvern(*words)
    assert done.returncode == 2 and b"--help" in done.stderr


@pytest.mark.parametrize("verb", ["metrics", "top", "events"])
def test_nobody_of_that_name(verb):
    done = call(["wyvern", verb, "nobody-has-this-id"])
    assert done.returncode == 125 and b"`wyvern ps` lists them" in done.stderr
