#!/usr/bin/env python3
"""check_tables.py on a small tree: each fault is made once. The suite style runs it."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent

CLAUSES = """# comment
file\tside\tlabel\theading\tMUST\tSHOULD\tMAY
ring.tex\tdevice\tRing / Used\tUsed\t2\t0\t0
ring.tex\tdriver\tRing / Used\tUsed\t1\t0\t0
gpu.tex\tdevice\tGpu / All\tAll\t9\t0\t0
"""
CONFORMANCE = """file\tside\tlabel\theading\ttests\treason
ring.tex\tdevice\tRing / Used\tUsed\tRingTest.Works RingTest.Wraps proof.2_7_wrap\t
ring.tex\tdriver\t*\t*\t-\tdriver side
g*.tex\t*\t*\t*\t-\tno such device
"""
INCIDENTS = """id\twhere\twhat\ttests\treason
CVE-1\tring\tloop\tLoopTest.Ends\t
CVE-2\tdisk\tescape\ttest_disk.test_escape\t
"""
SOURCE = """TEST(RingTest, Works) {}
TEST_F(RingTest,
       Wraps) {}
TEST_P(LoopTest, Ends) {}
INSTANTIATE_TEST_SUITE_P(All, LoopTest, Values(1));
"""
PROOFS = """static void proof_of_nothing(void) {}
void proof_2_7_wrap(void) {
}
"""


class CheckTables(unittest.TestCase):
    def check(self, clauses=CLAUSES, conformance=CONFORMANCE, incidents=INCIDENTS, source=SOURCE):
        """(exit code, lines) for a tree of these files."""
        with tempfile.TemporaryDirectory(prefix="wyvern-spec-") as directory:
            root = pathlib.Path(directory)
            for path, text in (("tests/spec/virtio_clauses.tsv", clauses), ("tests/spec/virtio_conformance.tsv", conformance),
                               ("tests/spec/incidents.tsv", incidents), ("ring/ring_test.cc", source),
                               ("ring/proof/ring_proofs.c", PROOFS),
                               ("tests/e2e/test_disk.py", "def test_escape(disk):\n    pass\n")):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text, encoding="utf-8")
            subprocess.run(["git", "init", "-q"], cwd=root, check=True)
            done = subprocess.run([sys.executable, HERE / "check_tables.py", "--root", root],
                                  stdout=subprocess.PIPE, text=True, check=False)
            return done.returncode, done.stdout.splitlines()

    def assert_fault(self, says, **files):
        code, lines = self.check(**files)
        self.assertEqual(code, 1)
        self.assertEqual([line for line in lines if line.startswith("FAIL")], [f"FAIL {says}"])

    def test_what_is_right(self):
        self.assertEqual(self.check(), (0, ["3 rows name their tests, 2 a reason"]))

    def test_unmapped_clause(self):
        self.assert_fault("tests/spec/virtio_clauses.tsv:6: unmapped clause: net.tex, device, Net",
                          clauses=CLAUSES + "net.tex\tdevice\tNet\tNet\t1\t0\t0\n")

    def test_row_without_a_clause(self):
        self.assert_fault("tests/spec/virtio_conformance.tsv:5: there is no such clause",
                          conformance=CONFORMANCE + "ring.tex\tdevice\tRing / Free\tFree\tRingTest.Works\t\n")
        self.assert_fault("tests/spec/virtio_conformance.tsv:5: no clause needs this row",
                          conformance=CONFORMANCE + "snd.tex\t*\t*\t*\t-\tno such device\n")

    def test_clause_mapped_twice(self):
        self.assert_fault("tests/spec/virtio_conformance.tsv:5: the clause has a row already (tests/spec/virtio_conformance.tsv:2)",
                          conformance=CONFORMANCE + "ring.tex\tdevice\tRing / Used\tUsed\tRingTest.Works\t\n")

    def test_test_that_does_not_exist(self):
        self.assert_fault("tests/spec/virtio_conformance.tsv:2: there is no test RingTest.Wraps",
                          source=SOURCE.replace("Wraps", "Wrapped"))
        self.assert_fault("tests/spec/incidents.tsv:3: there is no test test_disk.test_reads",
                          incidents=INCIDENTS.replace("test_escape", "test_reads"))

    def test_parameterized_test_that_is_never_instantiated(self):
        self.assert_fault("tests/spec/incidents.tsv:2: there is no test LoopTest.Ends",
                          source=SOURCE.replace("INSTANTIATE_TEST_SUITE_P(All, LoopTest", "INSTANTIATE_TEST_SUITE_P(All, OtherTest"))

    def test_name_that_is_none(self):
        self.assert_fault("tests/spec/incidents.tsv:2: 'later' is no Suite.Test", incidents=INCIDENTS.replace("LoopTest.Ends", "later"))

    def test_empty_reason(self):
        self.assert_fault("tests/spec/virtio_conformance.tsv:3: no test, and no reason why",
                          conformance=CONFORMANCE.replace("driver side", " "))
        self.assert_fault("tests/spec/incidents.tsv:2: no test, and no reason why", incidents=INCIDENTS.replace("LoopTest.Ends", ""))

    def test_proof_that_does_not_exist(self):
        for name in ("2_7_wraps", "proof_2_7_wrap", "of_nothing"):
            self.assert_fault(f"tests/spec/virtio_conformance.tsv:2: there is no test proof.{name}",
                              conformance=CONFORMANCE.replace("2_7_wrap", name))

    def test_table_that_is_none(self):
        self.assert_fault("tests/spec/incidents.tsv:3: 4 columns instead of 5", incidents=INCIDENTS.replace("escape\ttest", "escape test"))
        self.assert_fault("tests/spec/incidents.tsv:4: CVE-1 has a row already (tests/spec/incidents.tsv:2)",
                          incidents=INCIDENTS + "CVE-1\tring\tloop\t-\tagain\n")


if __name__ == "__main__":
    unittest.main()
