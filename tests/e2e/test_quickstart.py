"""What deploy/quickstart.sh does once everything is built and installed, on a host whose KVM runs guests."""

import json
import os

import pytest

from harness.ctr import call

pytestmark = pytest.mark.wyvern_only

CONTAINER = "/opt/wyvern/tests/quickstart/container.sh"
IMAGE = "/opt/images/busybox.tar"
PHASES = ("shim", "vmm-exec", "vmm-ready", "kernel", "hello", "crun-create", "container-create", "crun-start")


def test_quickstart_runs_a_container_and_says_how_long_each_phase_took(tmp_path):
    done = call([CONTAINER, IMAGE], env=dict(os.environ, OUT=str(tmp_path)))
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    summary = dict(line.split(":", 1) for line in (tmp_path / "summary.txt").read_text().splitlines())
    assert summary["container printed"].strip() == "hello from Linux"
    assert summary["guest kernel"].strip() != os.uname().release
    assert summary["exit code asked for 7"].strip() == "7"
    points = {p["name"]: p for p in json.loads((tmp_path / "timeline.json").read_text())}
    assert set(PHASES) <= set(points)
    assert points["shim"]["start_ns"] == 0 < points["shim"]["end_ns"] <= points["vmm-exec"]["start_ns"]
    assert all(p["start_ns"] <= p["end_ns"] for p in points.values())


def test_an_image_that_is_none_is_an_error(tmp_path):
    (tmp_path / "none.tar").write_bytes(b"not an archive")
    done = call([CONTAINER, str(tmp_path / "none.tar")], env=dict(os.environ, OUT=str(tmp_path)))
    assert done.returncode != 0
    assert b"the image cannot be imported" in done.stdout
