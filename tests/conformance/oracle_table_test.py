#!/usr/bin/env python3
"""Tests of oracle_table.py: what must be a fault is one."""
import pathlib
import unittest

import oracle_table
from oracle_table import TableError, judge, read, skips, write

HERE = pathlib.Path(__file__).parent
SKIPS = """# Skips
## containerd, integration/client

| test | reason | upstream |
|---|---|---|
| TestCheckpoint…, TestOther | a reason | CRIU |

## containerd, integration

| test | reason | upstream |
|---|---|---|
| TestPty | the guest's | the host's |
"""


def row(test, runc, wyvern, suite="client"):
    return {"suite": suite, "test": test, "share": "lab", "runc": runc, "wyvern": wyvern}


class OracleTable(unittest.TestCase):
    def faults(self, *rows):
        return judge(list(rows), skips(SKIPS))[0]

    def test_what_only_runc_passes_is_a_fault(self):
        self.assertEqual(len(self.faults(row("TestA", "pass", "fail"))), 1)
        self.assertEqual(len(self.faults(row("TestA", "pass", "skip"))), 1)
        self.assertEqual(len(self.faults(row("TestA", "pass", "hang"))), 1)

    def test_what_both_or_only_wyvern_pass_is_none(self):
        self.assertEqual(self.faults(row("TestA", "pass", "pass"), row("TestB", "fail", "pass"), row("TestC", "fail", "fail")), [])

    def test_what_has_not_run_is_not_judged(self):
        self.assertEqual(self.faults(row("TestA", "-", "-"), row("TestOther", "-", "-")), [])

    def test_a_row_of_skips_excuses_in_its_suite_only(self):
        self.assertEqual(self.faults(row("TestCheckpointRestore", "pass", "fail"), row("TestOther", "pass", "fail")), [])
        self.assertEqual(self.faults(row("TestPty", "pass", "fail", "cri")), [])
        self.assertEqual(len(self.faults(row("TestPty", "pass", "fail"))), 1)

    def test_a_row_of_skips_that_passes_is_a_fault(self):
        self.assertEqual(len(self.faults(row("TestOther", "pass", "pass"))), 1)
        self.assertEqual(len(self.faults(row("TestOther", "fail", "pass"))), 1)
        # One of several that it stands for still fails.
        self.assertEqual(self.faults(row("TestCheckpointA", "pass", "pass"), row("TestCheckpointB", "pass", "fail")), [])

    def test_counts(self):
        counts = judge([row("TestA", "pass", "pass"), row("TestOther", "pass", "fail"), row("TestB", "-", "-"), row("TestC", "fail", "pass")],
                       skips(SKIPS))[1]
        self.assertEqual(counts, ["client: 3 run, 2 pass with runc, of these 1 with wyvern, 1 in SKIPS.md; 2 pass with wyvern in all"])

    def test_a_table_is_read_as_it_was_written(self):
        rows = [row("TestA", "pass", "-"), row("TestA", "fail", "hang", "cri")]
        self.assertEqual(read(write(rows)), rows)

    def test_bad_tables_are_refused(self):
        good = write([row("TestA", "pass", "pass")])
        for bad in ("", good.replace("lab", "now"), good.replace("\tpass", "", 1), good + good.splitlines()[1] + "\n"):
            with self.assertRaises(TableError, msg=bad):
                read(bad)
        with self.assertRaises(TableError):
            skips(SKIPS.replace("| a reason |", "| |"))

    def test_the_table_of_the_tree_holds(self):
        rows = read((HERE / "oracle.tsv").read_text(encoding="utf-8"))
        faults, _ = judge(rows, skips((HERE / "SKIPS.md").read_text(encoding="utf-8")))
        self.assertEqual(faults, [])
        self.assertEqual({r["suite"] for r in rows}, set(oracle_table.SECTIONS.values()))


if __name__ == "__main__":
    unittest.main()
