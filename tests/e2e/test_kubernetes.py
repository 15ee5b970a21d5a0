"""A node with kubelet v1.33 and kube-proxy, whose control plane runs outside of the machine: what kubectl's users do with runtimeClassName: wyvern.

Run by tests/conformance/kubernetes.sh.
"""

import json
import pathlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

from harness import kubernetes
from harness.cri import Cri
from harness.ctr import wait_until
from harness.kubernetes import DEPLOY, KUBECONFIG, NODE, PROGRAMS, Node

pytestmark = [pytest.mark.wyvern_only, pytest.mark.no_leak_check, pytest.mark.limit(900),
              pytest.mark.skipif(bool(kubernetes.why_not()), reason=kubernetes.why_not())]
CONF_D = pathlib.Path("/etc/wyvern/conf.d")
IMAGE = {"image": "docker.io/library/busybox:latest", "imagePullPolicy": "IfNotPresent"}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wvk")
    (directory / "containerd").mkdir()
    # The machine has one processor.
    config = CONF_D / "90-kubernetes.yaml"
    config.write_text("sandbox: { max_vcpus: 2 }\n")
    with Node(directory, Cri(directory / "containerd")) as it:
        it.kubectl("apply", "-f", DEPLOY / "base/runtimeclass.yaml")
        it.kubectl("label", "node", NODE, "io.wyvern/ready=true")  # an installer's work (test_kubernetes_install.py)
        yield it
        it.kubectl("delete", "deployments,services,jobs,pods,configmaps", "--all", "--wait", "--timeout=200s")
        assert it.kubectl("get", "pods", "-o", "name") == ""
        it.kubectl("label", "node", NODE, "io.wyvern/ready-")
    left = subprocess.run(["pgrep", "-a", "wyvern|containerd-shim"], capture_output=True, text=True, check=False).stdout
    assert not left, left
    config.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def pod(name: str, *containers: dict, **spec) -> dict:
    spec.setdefault("terminationGracePeriodSeconds", 2)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"runtimeClassName": "wyvern", "containers": list(containers), **spec}}


def sh(name: str, script: str, **fields) -> dict:
    return {"name": name, "command": ["sh", "-c", script], **IMAGE, **fields}


def remove(node, name: str) -> None:
    """Pods ask for a quarter of a CPU each beside what is theirs: the machine, which has one, has room for few."""
    node.kubectl("delete", "pod", name, "--wait", "--timeout=60s")


def test_examples_as_they_stand(node):
    """A deployment with a service, a pod that prints its kernel, one with a larger machine."""
    node.kubectl("apply", "-k", DEPLOY / "examples")
    node.wait("deployment/web-wyvern", "condition=Available", 300)
    for name in ("hello-wyvern", "sized-wyvern"):
        node.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded")
    host = subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout.strip()
    said = node.kubectl("logs", "hello-wyvern")
    assert "Linux hello-wyvern" in said and host not in said
    assert node.kubectl("logs", "sized-wyvern").startswith("2\n")
    overhead = json.loads(node.field("pod/hello-wyvern", ".spec.overhead"))
    assert overhead == {"cpu": "250m", "memory": "128Mi"}


def web_pods(node) -> list[str]:
    items = json.loads(node.kubectl("get", "pods", "-l", "app=web-wyvern", "-o", "json"))["items"]
    return [item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]]


def test_scenario_49_service_between_two_pods(node):
    for name in web_pods(node):
        node.kubectl("exec", name, "--", "sh", "-c", "echo page of $HOSTNAME >/www/index.html")
    address = node.field("service/web-wyvern", ".spec.clusterIP")
    node.apply(pod("asks", sh("asks", "sleep 1000")))
    node.wait("pod/asks", "condition=Ready")
    seen = set()

    def answered() -> bool:
        done = node.call("exec", "asks", "--", "wget", "-q", "-T", "5", "-O", "-", f"http://{address}/")
        seen.update(re.findall(r"page of (\S+)", done.stdout.decode()))
        return seen == set(web_pods(node))

    assert wait_until(answered, 120, 0.5), (seen, node.said())


def test_scenario_50_kubectl_forwards_a_port_and_copies(node, tmp_path):
    name = web_pods(node)[0]
    (tmp_path / "index.html").write_text("copied in\n")
    node.kubectl("cp", tmp_path / "index.html", f"{name}:/www/copied.html")
    with subprocess.Popen([PROGRAMS / "kubectl", "--kubeconfig", KUBECONFIG, "port-forward", name, "18123:8080"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            assert "Forwarding" in forward.stdout.readline()
            with urllib.request.urlopen("http://127.0.0.1:18123/copied.html", timeout=60) as answer:
                assert answer.read() == b"copied in\n"
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen("http://127.0.0.1:18123/not-there", timeout=60)
        finally:
            forward.terminate()


def test_rolling_update(node):
    before = set(web_pods(node))
    node.kubectl("patch", "deployment", "web-wyvern", "-p", json.dumps({"spec": {"strategy": {"rollingUpdate": {
        "maxSurge": 0, "maxUnavailable": 1}}}}))
    node.kubectl("set", "env", "deployment/web-wyvern", "VERSION=2")
    node.kubectl("rollout", "status", "deployment/web-wyvern", "--timeout=300s", timeout=330)
    after = set(web_pods(node))
    assert len(after) == 2 and not after & before
    assert node.kubectl("exec", after.pop(), "--", "sh", "-c", "echo $VERSION") == "2\n"
    node.kubectl("scale", "deployment/web-wyvern", "--replicas=0")
    assert wait_until(lambda: not web_pods(node), 60, 1)


def test_job(node):
    node.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "counts"}, "spec": {
        "completions": 2, "parallelism": 2, "backoffLimit": 3, "template": {"spec": {
            "runtimeClassName": "wyvern", "restartPolicy": "Never", "containers": [sh("counts", "expr 6 '*' 7")]}}}})
    node.wait("job/counts", "condition=Complete", 240)
    assert node.kubectl("logs", "job/counts").endswith("42\n")


def test_scenario_42_init_containers_sidecar_probes_and_volumes(node):
    node.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "green"}},
        pod("many",
            sh("main", "until [ -e /shared/sidecar ]; do sleep 0.2; done; touch /tmp/ready; sleep 1000",
               volumeMounts=[{"name": "shared", "mountPath": "/shared"}, {"name": "settings", "mountPath": "/settings"}],
               readinessProbe={"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1},
               livenessProbe={"exec": {"command": ["true"]}, "periodSeconds": 5, "timeoutSeconds": 20}),
            initContainers=[
                sh("first", "echo first >/shared/order", volumeMounts=[{"name": "shared", "mountPath": "/shared"}]),
                sh("sidecar", "echo sidecar >>/shared/order; touch /shared/sidecar; trap 'exit 0' TERM; while :; do sleep 0.5; done",
                   restartPolicy="Always", volumeMounts=[{"name": "shared", "mountPath": "/shared"}])],
            volumes=[{"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                     {"name": "settings", "configMap": {"name": "settings"}}]))
    node.wait("pod/many", "condition=Ready", 240)
    assert node.kubectl("exec", "many", "-c", "main", "--", "cat", "/shared/order") == "first\nsidecar\n"
    assert node.kubectl("exec", "many", "-c", "main", "--", "cat", "/settings/colour") == "green"
    token = "/var/run/secrets/kubernetes.io/serviceaccount/"
    assert "ca.crt" in node.kubectl("exec", "many", "-c", "main", "--", "ls", token)
    node.kubectl("patch", "configmap", "settings", "-p", '{"data": {"colour": "blue"}}')
    assert wait_until(lambda: node.call("exec", "many", "-c", "main", "--", "cat", "/settings/colour").stdout == b"blue", 120, 2), node.said()
    node.kubectl("debug", "many", "--image", IMAGE["image"], "--image-pull-policy=IfNotPresent", "-c", "looks", "--", "sh", "-c",
                 "hostname; sleep 1000")
    assert wait_until(lambda: node.call("logs", "many", "-c", "looks").stdout == b"many\n", 90, 2), node.said()
    remove(node, "many")


def test_container_that_ends_is_started_again_by_the_kubelet(node):
    node.apply(pod("again", sh("again", "date +%s; sleep 3; exit 3")))
    assert wait_until(lambda: int(node.field("pod/again", ".status.containerStatuses[0].restartCount") or 0) >= 2, 240, 2), node.said()
    # A status in between may have none.
    assert wait_until(lambda: node.field("pod/again", ".status.containerStatuses[0].lastState.terminated.exitCode") == "3", 60, 2), node.said()
    assert node.kubectl("logs", "again", "--previous").strip().isdigit()
    remove(node, "again")


def test_scenario_58_resize_in_place(node):
    node.apply(pod("grows", sh("grows", "sleep 1000", resources={"requests": {"cpu": "200m", "memory": "64Mi"},
                                                                 "limits": {"cpu": "500m", "memory": "64Mi"}})))
    node.wait("pod/grows", "condition=Ready")
    read = lambda: node.kubectl("exec", "grows", "--", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max").split()  # noqa: E731
    assert read() == ["50000", "100000", str(64 << 20)]
    wanted = {"spec": {"containers": [{"name": "grows", "resources": {"limits": {"cpu": "2", "memory": "512Mi"}}}]}}
    node.kubectl("patch", "pod", "grows", "--subresource", "resize", "-p", json.dumps(wanted))
    assert wait_until(lambda: read() == ["200000", "100000", str(512 << 20)], 120, 2), (read(), node.kubectl("describe", "pod", "grows"))
    assert node.kubectl("exec", "grows", "--", "nproc") == "2\n"
    assert node.field("pod/grows", ".status.containerStatuses[0].restartCount") == "0"
    remove(node, "grows")


def test_kubelet_that_was_restarted_finds_its_pods(node):
    started = node.field("pod/asks", ".status.containerStatuses[0].containerID")
    kubelet = node.processes[0]
    kubernetes.end(kubelet)
    del node.processes[:2]
    node.start()
    assert wait_until(lambda: node.call("exec", "asks", "--", "echo", "alive").stdout == b"alive\n", 120, 2), node.said()
    assert node.field("pod/asks", ".status.containerStatuses[0].containerID") == started
    assert node.field(f"node/{NODE}", ".status.nodeInfo.containerRuntimeVersion").startswith("containerd://")
    assert pathlib.Path("/run/wyvern").exists()
