"""deploy/kubernetes' DaemonSet on a node that has never had Wyvern: what its README promises is what kubectl and the node show, in this order.

Run by tests/conformance/kubernetes.sh, which makes its image.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

from harness import kubernetes
from harness.containerd import succeed
from harness.ctr import wait_until
from harness.installation import CONFIGURATION, CONTAINERD_CONFIG, VERSIONS, restart_containerd
from harness.kubernetes import DEPLOY, NODE, Node, OwnContainerd

IMAGE = pathlib.Path("/opt/wyvern/extra/wyvern-installer.tar")
NAMESPACE = ("-n", "wyvern-system")
READY = r".metadata.labels.io\.wyvern/ready"
pytestmark = [pytest.mark.wyvern_only, pytest.mark.no_leak_check, pytest.mark.limit(600),
              pytest.mark.skipif(bool(kubernetes.why_not()), reason=kubernetes.why_not()),
              pytest.mark.skipif(not IMAGE.exists(), reason="the machine has no image of the installer (tests/conformance/kubernetes.sh)")]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wvi")
    with Node(directory, OwnContainerd(directory, IMAGE)) as it:
        yield it
        it.call("delete", "jobs,pods", "--all", "--wait", "--timeout=100s")
        it.call("delete", "-k", DEPLOY / "uninstall", "--ignore-not-found", "--wait", "--timeout=100s")
    shutil.rmtree(directory, ignore_errors=True)


def ready(node) -> str:
    """The node's label."""
    return node.field(f"node/{NODE}", READY)


def wait_for(node, label: str, seconds=200) -> None:
    assert wait_until(lambda: ready(node) == label, seconds, 1), (ready(node), installer(node), node.said())


def installer(node) -> str:
    """What the DaemonSet's pod says."""
    done = node.call(*NAMESPACE, "logs", "daemonset/wyvern-installer")
    return done.stdout.decode() or node.call(*NAMESPACE, "describe", "pods").stdout.decode()


def apply_job(node, name: str) -> None:
    """Prints its kernel. A job makes another pod in the place of one that the kubelet refuses, which hears of its node's label after the scheduler."""
    node.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"backoffLimit": 10, "template": {"spec": {
        "runtimeClassName": "wyvern", "restartPolicy": "Never", "containers": [{
            "name": "says", "image": "docker.io/library/busybox:latest", "imagePullPolicy": "IfNotPresent", "command": ["uname", "-r"]}]}}}})


def runs_in_machines(node, name: str) -> None:
    node.wait(f"job/{name}", "condition=Complete", 240)
    done = node.kubectl("get", "pods", "-l", f"job-name={name}", "--field-selector", "status.phase=Succeeded", "-o", "name").split()
    said = node.kubectl("logs", done[0]).strip()
    assert said and said != os.uname().release
    node.kubectl("delete", "job", name, "--wait", "--timeout=60s")


# What an installation puts there, of each kind one.
OURS = ("/usr/bin/wyvern", "/usr/bin/containerd-shim-wyvern-v2", "/usr/share/wyvern", "/usr/libexec/wyvern", CONFIGURATION,
        "/usr/lib/systemd/system/wyvern-metrics.service", "/usr/lib/tmpfiles.d/wyvern.conf", "/usr/share/man/man1/wyvern.1",
        "/usr/share/bash-completion/completions/wyvern", "/var/lib/wyvern/install.json")


def nothing_is_left() -> None:
    for path in (VERSIONS, "/var/lib/wyvern/restart-containerd", *OURS):
        assert not os.path.lexists(path), path


def test_a_pod_waits_for_a_node_that_is_ready(node):
    node.kubectl("apply", "-k", DEPLOY / "base")
    apply_job(node, "waits")
    node.wait("pod", "condition=PodScheduled=False", 60, "-l", "job-name=waits")
    assert node.kubectl(*NAMESPACE, "get", "pods", "-o", "name") == ""
    nothing_is_left()


def test_nodes_with_the_label_are_installed_on(node):
    before = CONTAINERD_CONFIG.read_text()
    node.kubectl("label", "node", NODE, "io.wyvern/install=true")
    wait_for(node, "restart-containerd", 300)
    said = installer(node)
    assert "handler wyvern added" in said and "missing" not in said, said
    assert CONTAINERD_CONFIG.read_text() != before
    for path in OURS:
        assert os.path.exists(path), path
    assert subprocess.run(["wyvern", "version"], capture_output=True, check=False).returncode == 0
    # Nothing has restarted containerd, and no pod of ours comes before somebody has.
    assert node.kubectl("get", "pods", "-l", "job-name=waits", "-o", "jsonpath={.items[*].status.phase}") == "Pending"
    restart_containerd()
    wait_for(node, "true")
    runs_in_machines(node, "waits")
    status = node.kubectl(*NAMESPACE, "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}")
    assert status == "0"


def test_an_uninstall_waits_for_the_last_sandbox(node):
    node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lives"}, "spec": {
        "runtimeClassName": "wyvern", "terminationGracePeriodSeconds": 1, "containers": [
            {"name": "lives", "image": "docker.io/library/busybox:latest", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"]}]}})
    node.wait("pod/lives", "condition=Ready")
    node.kubectl("apply", "-k", DEPLOY / "uninstall")
    wait_for(node, "")
    assert wait_until(lambda: "end these sandboxes" in installer(node), 60, 1), installer(node)
    assert VERSIONS.exists() and node.kubectl("exec", "lives", "--", "echo", "alive") == "alive\n"
    node.kubectl("delete", "pod", "lives", "--wait", "--timeout=60s")
    assert wait_until(lambda: "our handler taken out" in installer(node), 120, 1), installer(node)
    assert CONTAINERD_CONFIG.read_text() == node.cri.config
    node.kubectl("delete", "-k", DEPLOY / "uninstall", "--wait", "--timeout=100s")
    nothing_is_left()
    assert ready(node) == ""
    restart_containerd()


def test_an_installer_that_may_restarts_containerd_itself(node, tmp_path):
    shutil.copytree(DEPLOY, tmp_path / "kubernetes")

    def started() -> str:
        return succeed("systemctl", "show", "-p", "ExecMainStartTimestampMonotonic", "containerd")

    for name in ("base", "uninstall"):
        (tmp_path / f"our-{name}").mkdir()
        (tmp_path / f"our-{name}/kustomization.yaml").write_text(f"""resources: [../kubernetes/{name}]
patches:
  - target: {{ kind: DaemonSet, name: wyvern-installer }}
    patch: '[{{ "op": "replace", "path": "/spec/template/spec/containers/0/env/1/value", "value": "yes" }}]'
""")
    before = started()
    node.kubectl("apply", "-k", tmp_path / "our-base")
    wait_for(node, "true", 300)
    assert started() != before
    apply_job(node, "again")
    runs_in_machines(node, "again")
    before = started()
    node.kubectl("apply", "-k", tmp_path / "our-uninstall")
    assert wait_until(lambda: started() != before, 200, 1), installer(node)
    assert "our handler taken out" in installer(node)
    node.kubectl("delete", "-k", tmp_path / "our-uninstall", "--wait", "--timeout=100s")
    nothing_is_left()
