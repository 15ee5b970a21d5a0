"""Unit tests that boot small guests, on this machine's KVM: on a KVM that interprets guests, as a builder's may be, they skip what it cannot do.

ninja -C build/unit machine_test, then lab run --add build/unit/sandbox-vmm/machine/machine_test.
"""

import pathlib
import xml.etree.ElementTree

import pytest

from harness.ctr import call

PROGRAM = pathlib.Path("/opt/wyvern/extra/machine_test")


@pytest.mark.wyvern_only
@pytest.mark.limit(400)
@pytest.mark.skipif(not PROGRAM.exists(), reason="this machine was started without machine_test (lab run --add)")
def test_machines_of_a_few_instructions(scratch):
    report = scratch / "report.xml"
    done = call([PROGRAM, f"--gtest_output=xml:{report}"], timeout=380)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-6000:]
    cases = xml.etree.ElementTree.parse(report).getroot().iter("testcase")
    skipped = [f"{case.get('classname')}.{case.get('name')}" for case in cases if case.find("skipped") is not None]
    assert not skipped, f"a real KVM has what all of them need: {skipped}"
