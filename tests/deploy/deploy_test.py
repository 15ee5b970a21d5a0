#!/usr/bin/env python3
"""deploy/kubernetes, deploy/grafana and deploy/systemd: what they name exists elsewhere in the tree, and node.sh does what its pod is for."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

import yaml

TREE = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = TREE / "deploy/kubernetes"
MIB = 1 << 20


def documents(path: pathlib.Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests(directory: str) -> list[dict]:
    """What its kustomization lists, in order."""
    base = KUBERNETES / directory
    found = []
    for name in yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]:
        found += documents(base / name)
    return found


def one(kind: str) -> dict:
    found = [document for document in manifests("base") if document["kind"] == kind]
    assert len(found) == 1, kind
    return found[0]


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi|KiB|MiB|GiB|)", text).groups()
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit[:1]]


def pods(found: list[dict]) -> list[dict]:
    return [document["spec"]["template"]["spec"] if "template" in document["spec"] else document["spec"] for document in found
            if document["kind"] in ("Pod", "Deployment", "DaemonSet", "Job")]


class KubernetesTest(unittest.TestCase):
    def test_handler_is_the_one_that_containerd_is_told(self):
        for version in (2, 3):
            with open(TREE / f"deploy/containerd/wyvern-v{version}.toml", "rb") as file:
                config = tomllib.load(file)
            self.assertEqual(config["version"], version)
            (plugin,) = config["plugins"].values()
            self.assertEqual(list(plugin["containerd"]["runtimes"]), [one("RuntimeClass")["handler"]])
            handler = plugin["containerd"]["runtimes"]["wyvern"]
            self.assertTrue(handler["privileged_without_host_devices"])
            self.assertEqual(handler["runtime_type"], "io.containerd.wyvern.v2")

    def test_overhead_is_what_limits_and_measurements_say(self):
        config = yaml.safe_load((TREE / "configs/wyvern.yaml").read_text())
        bench = (TREE / "tests/bench/README.md").read_text()
        touched = float(re.search(r"guest memory touched at N=1 \| ([\d.]+) MiB", bench)[1]) * MIB
        wanted = size(config["overhead"]["memory"]) + size(config["sandbox"]["memory"]) / 64 + touched
        fixed = one("RuntimeClass")["overhead"]["podFixed"]
        self.assertGreaterEqual(size(fixed["memory"]), wanted)
        self.assertLess(size(fixed["memory"]), wanted + 16 * MIB)
        self.assertEqual(fixed["cpu"], f"{config['overhead']['cpu_percent'] * 10 // 2}m")
        self.assertIn(f"{wanted / MIB:.0f} MiB", (KUBERNETES / "README.md").read_text())

    def test_pods_go_where_the_installer_says_ready(self):
        selector = one("RuntimeClass")["scheduling"]["nodeSelector"]
        self.assertEqual(selector, {"io.wyvern/ready": "true"})
        self.assertIn('"io.wyvern/ready\\":$1', (KUBERNETES / "node.sh").read_text())

    def test_installer_may_do_what_it_does_and_no_more(self):
        installer, account, role, binding = (one(kind) for kind in ("DaemonSet", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"))
        namespace = one("Namespace")["metadata"]["name"]
        self.assertEqual(role["rules"], [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}])
        self.assertEqual(binding["roleRef"]["name"], role["metadata"]["name"])
        self.assertEqual(binding["subjects"], [{"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": namespace}])
        for document in (installer, account):
            self.assertEqual(document["metadata"]["namespace"], namespace)
        pod = installer["spec"]["template"]["spec"]
        self.assertEqual(pod["serviceAccountName"], account["metadata"]["name"])
        self.assertLessEqual(installer["spec"]["selector"]["matchLabels"].items(), installer["spec"]["template"]["metadata"]["labels"].items())
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        self.assertEqual(mounted, {volume["name"]: "/host" for volume in pod["volumes"]})
        self.assertIn(f"-t {container['image']}", (KUBERNETES / "Containerfile").read_text())

    def test_examples_use_the_class_and_what_annotations_may_set(self):
        name = one("RuntimeClass")["metadata"]["name"]
        allowed = yaml.safe_load((TREE / "configs/wyvern.yaml").read_text())["annotations"]["allow"]
        found = manifests("examples")
        self.assertGreaterEqual(len(pods(found)), 3)
        for pod in pods(found):
            self.assertEqual(pod["runtimeClassName"], name)
        for document in found:
            for key in document["metadata"].get("annotations", {}):
                self.assertIn(key.removeprefix("io.wyvern."), allowed)

    @unittest.skipUnless(shutil.which("kubectl"), "no kubectl")
    def test_kustomize_builds_each(self):
        for directory in ("base", "examples", "uninstall"):
            built = subprocess.run(["kubectl", "kustomize", KUBERNETES / directory], capture_output=True, text=True, check=True)
            found = [document for document in yaml.safe_load_all(built.stdout) if document]
            self.assertEqual(len(found), len(manifests("base" if directory == "uninstall" else directory)))
        (installer,) = [document for document in found if document["kind"] == "DaemonSet"]
        self.assertEqual(pods([installer])[0]["containers"][0]["command"], ["/opt/wyvern/node.sh", "uninstall"])


class NodeTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        (self.directory / "host/var/lib/wyvern").mkdir(parents=True)
        (self.directory / "secrets").mkdir()
        (self.directory / "secrets/token").write_text("wordofentry")
        self.calls = self.directory / "calls"
        self.program("curl", 'echo "curl $*" >>"$CALLS"; grep -q "Bearer wordofentry" || exit 9; exit ${CURL_FAILS:-0}')
        self.program("chroot", 'shift; echo "$*" >>"$CALLS"')
        self.program("wyvern", 'echo "wyvern $*" >>"$CALLS"; echo "$SAYS"; exit ${FAILS:-0}')

    def program(self, name: str, text: str):
        path = self.directory / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def run_node(self, verb: str, **env: str) -> tuple[int, list[str]]:
        """Its exit code, and what it had done: labels as "ready=…", programs by their words."""
        self.calls.write_text("")
        done = subprocess.run(
            ["bash", KUBERNETES / "node.sh", verb], capture_output=True, text=True, timeout=30,
            env={"PATH": f"{self.directory}:{os.environ['PATH']}", "CALLS": str(self.calls), "WYVERN": str(self.directory / "wyvern"),
                 "HOST": str(self.directory / "host"), "SECRETS": str(self.directory / "secrets"), "NODE_NAME": "node-1", "ONCE": "1",
                 "SAYS": "version 1 is in /usr/lib/wyvern/1", **env})
        calls = []
        for line in self.calls.read_text().splitlines():
            label = re.search(r'"io.wyvern/ready":([^}]*)}', line)
            calls.append(f"ready={label[1]}" if label else line)
            if label:
                self.assertTrue(line.endswith("/api/v1/nodes/node-1"), line)
                self.assertNotIn("wordofentry", line)
        return done.returncode, calls

    def test_an_install_labels_the_node(self):
        host = self.directory / "host"
        self.assertEqual(self.run_node("install"), (0, [f"wyvern install --root {host}", 'ready="true"']))

    def test_a_failed_install_takes_the_node_out(self):
        status, calls = self.run_node("install", FAILS="125")
        self.assertEqual((status, calls[1:]), (1, ['ready="false"']))

    def test_a_changed_containerd_waits_for_its_restart(self):
        restart = "restart containerd, so that it knows the handler"
        self.assertEqual(self.run_node("install", SAYS=restart)[1][1:], ['ready="restart-containerd"'])
        # The next look finds nothing to change, and containerd as it was.
        self.assertEqual(self.run_node("install")[1][1:], ['ready="restart-containerd"'])
        socket = self.directory / "host/run/containerd/containerd.sock"
        socket.parent.mkdir(parents=True)
        socket.touch()
        later = os.stat(self.directory / "host/var/lib/wyvern/restart-containerd").st_mtime + 5
        os.utime(socket, (later, later))
        self.assertEqual(self.run_node("install")[1][1:], ['ready="true"'])

    def test_containerd_is_restarted_where_that_is_asked_for(self):
        restart = "restart containerd, so that it knows the handler"
        self.assertEqual(self.run_node("install", SAYS=restart, RESTART_CONTAINERD="yes")[1][1:],
                         ["systemctl restart containerd", 'ready="true"'])
        self.assertEqual(self.run_node("install", RESTART_CONTAINERD="yes")[1][1:], ['ready="true"'])

    def test_an_uninstall_takes_the_label_first(self):
        host = self.directory / "host"
        self.assertEqual(self.run_node("uninstall"), (0, ["ready=null", f"wyvern uninstall --root {host}"]))
        self.assertEqual(self.run_node("uninstall", CURL_FAILS="22"), (1, ["ready=null"]))

    def test_an_uninstall_that_must_wait_is_tried_again(self):
        self.assertEqual(self.run_node("uninstall", FAILS="125", SAYS="Wyvern is used by wyvern-vmm (pid 3)")[0], 1)
        self.assertEqual(self.run_node("uninstall", FAILS="125", SAYS="`wyvern install` has put nothing here")[0], 0)

    def test_another_verb_is_refused(self):
        self.assertEqual(self.run_node("upgrade")[0], 2)


class ObservationTest(unittest.TestCase):
    def metrics(self) -> set[str]:
        """What the programs export: the names in their sources."""
        names = set()
        for pattern in ("runtime/observe/*.cc", "runtime/cli/measure.cc"):
            for path in TREE.glob(pattern):
                if not path.stem.endswith(("_test", "_fuzz")):
                    names |= set(re.findall(r'"(wyvern_[a-z_]+)"', path.read_text()))
        return names

    def test_dashboard_asks_for_metrics_that_exist(self):
        dashboard = json.loads((TREE / "deploy/grafana/wyvern.json").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        queries += [variable["query"] for variable in dashboard["templating"]["list"]]
        named = set(re.findall(r"wyvern_[a-z_]+", " ".join(queries)))
        self.assertGreater(len(named), 20)
        self.assertEqual(named - self.metrics(), set())

    def test_panels_have_places_of_their_own(self):
        taken = set()
        for panel in json.loads((TREE / "deploy/grafana/wyvern.json").read_text())["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            self.assertLess(max(x for x, _ in cells), 24)
            self.assertFalse(taken & cells, panel["title"])
            taken |= cells

    def test_unit_runs_what_is_installed(self):
        unit = (TREE / "deploy/systemd/wyvern-metrics.service").read_text()
        program = re.search(r"^ExecStart=(\S+) metrics --node --listen (\S+)/\S+$", unit, re.M)
        self.assertIn(f'"{program[1]}"', (TREE / "runtime/cli/install/install.cc").read_text())
        self.assertIn(f"RuntimeDirectory={pathlib.Path(program[2]).name}\n", unit)

    def test_a_boot_removes_what_runs_leave_and_nothing_else(self):
        lines = [line for line in (TREE / "deploy/systemd/wyvern.conf").read_text().splitlines() if not line.startswith("#")]
        scratch = re.search(r'kScratch = "(.*)";', (TREE / "runtime/cli/scratch.h").read_text())[1]
        self.assertEqual(lines, [f"R! {scratch}/*"])


if __name__ == "__main__":
    unittest.main()
