#!/usr/bin/env python3
"""check_scenarios.py on a small tree: each fault is made once. The suite style runs it."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
HEADER = "# comment\nnumber\ttitle\tstate\ttests\tnote\n"
ROWS = {
    1: "1\ttrue\tshown\tTaskTest.Scenario01_True TaskTest.Other\t",
    2: "2\tcodes\tpartly\ttests/e2e/test_run.py::test_scenario_02_codes\tsignals",
    3: "3\tmissing\tskip\t-\tneeds a kubelet",
}
SKIPS = "| scenario | why |\n|---|---|\n| 3 | no kubelet |\n"
SOURCE = "TEST_F(TaskTest, Scenario01_True) {}\nTEST(TaskTest, Other) {}\n"
PYTHON = "def test_scenario_02_codes():\n    pass\n\n\ndef test_of_something():\n    pass\n"


def table(changed=None):
    rows = {number: f"{number}\tscenario {number}\topen\t-\tlater" for number in range(1, 75)}
    rows.update(ROWS)
    rows.update(changed or {})
    return HEADER + "".join(f"{row}\n" for row in rows.values() if row)


class CheckScenarios(unittest.TestCase):
    def check(self, scenarios=None, skips=SKIPS, source=SOURCE, python=PYTHON):
        with tempfile.TemporaryDirectory(prefix="wyvern-scenarios-") as directory:
            root = pathlib.Path(directory)
            for path, text in (("tests/conformance/scenarios.tsv", scenarios or table()), ("tests/conformance/SKIPS.md", skips),
                               ("shim/task_test.cc", source), ("tests/e2e/test_run.py", python)):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text, encoding="utf-8")
            subprocess.run(["git", "init", "-q"], cwd=root, check=True)
            done = subprocess.run([sys.executable, HERE / "check_scenarios.py", "--root", root],
                                  stdout=subprocess.PIPE, text=True, check=False)
            return done.returncode, done.stdout.splitlines()

    def assert_faults(self, *says, **files):
        code, lines = self.check(**files)
        self.assertEqual(code, 1)
        place = "FAIL tests/conformance/scenarios.tsv"
        self.assertEqual([line for line in lines if line.startswith("FAIL")], [f"{place}{text}" for text in says])

    def test_what_is_right(self):
        self.assertEqual(self.check(), (0, ["1 shown, 1 partly, 71 open, 1 skip"]))

    def test_scenario_that_is_missing(self):
        self.assert_faults(": rows are 1 to 74 in order; missing: [9]", scenarios=table({9: ""}))

    def test_test_that_does_not_exist(self):
        self.assert_faults(":3: there is no test TaskTest.Other", source=SOURCE.replace("Other", "Another"))
        self.assert_faults(":4: there is no test tests/e2e/test_run.py::test_scenario_02_codes",
                           python=PYTHON.replace("scenario_02", "numbers"))

    def test_name_that_is_none(self):
        self.assert_faults(":3: 'True' is neither Suite.Test nor tests/e2e/test_x.py::test_y",
                           scenarios=table({1: ROWS[1].replace("TaskTest.Other", "True")}))

    def test_row_whose_tests_have_another_number(self):
        self.assert_faults(":3: no test has the number 01 in its name", ": TaskTest.Scenario01_True stands in no row",
                           scenarios=table({1: "1\ttrue\tshown\tTaskTest.Other\t"}))
        self.assert_faults(":4: a test of scenario 1 stands here",
                           scenarios=table({2: ROWS[2].replace("\tsignals", " TaskTest.Scenario01_True\tsignals")}))

    def test_numbered_test_in_no_row(self):
        self.assert_faults(": TaskTest.Scenario09_Execs stands in no row", source=SOURCE + "TEST(TaskTest, Scenario09_Execs) {}\n")

    def test_states_and_their_notes(self):
        self.assert_faults(":4: what is missing is not said", scenarios=table({2: ROWS[2].replace("signals", "")}))
        self.assert_faults(":11: no reason", scenarios=table({9: "9\texecs\topen\t-\t"}))
        self.assert_faults(":11: 'maybe' is none of shown, partly, open, skip", scenarios=table({9: "9\texecs\tmaybe\t-\tx"}))
        self.assert_faults(":11: tests of what is open: '-' is meant", scenarios=table({9: "9\texecs\topen\tTaskTest.Other\tx"}))
        self.assert_faults(":11: no test", scenarios=table({9: "9\texecs\tshown\t\t"}))

    def test_skips_agree(self):
        self.assert_faults(":5: SKIPS.md has no row of it", skips=SKIPS.replace("| 3 |", "| 2 |"))
        self.assert_faults(":3: SKIPS.md has a row of it, but it is shown", skips=SKIPS + "| 1 | x |\n")

    def test_table_that_is_none(self):
        self.assert_faults(":11: 4 columns instead of 5", ": rows are 1 to 74 in order; missing: [9]",
                           scenarios=table({9: "9\texecs\topen\t-"}))


if __name__ == "__main__":
    unittest.main()
