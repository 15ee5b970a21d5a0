#!/usr/bin/env python3
"""Does scenarios.tsv say of each of the 74 acceptance scenarios of containerd's shims which tests show it, or why none does?

    tests/conformance/check_scenarios.py [--root DIR]

A test is named as one runs it: Suite.Test of a *_test.cc, or tests/e2e/test_x.py::test_y. One of a row's tests at least has the scenario's
number in its name (Scenario07_…, test_scenario_07_…), and every test that has one stands in the row of that number. SKIPS.md has a row
of each scenario that is skipped, in whole or in part.
One line "FAIL file:line: what" for each fault; exit code 1 where there is one.
"""

import argparse
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "spec"))
from check_tables import PYTHON_TEST, Tables  # noqa: E402  (a script beside ours)

DIRECTORY = "tests/conformance"
COLUMNS = ["number", "title", "state", "tests", "note"]
STATES = ("shown", "partly", "open", "skip")
SCENARIOS = 74
NAME = re.compile(r"\w+\.\w+|tests/\w+/test_\w+\.py::test_\w+")
NUMBERED = re.compile(r"(?:\.Scenario|::test_scenario_)(\d\d)_\w")
SKIP_ROW = re.compile(r"^\|\s*(\d+)\s*\|", re.MULTILINE)


class Scenarios(Tables):
    def __init__(self, root):
        super().__init__(root, DIRECTORY)
        self.counts = dict.fromkeys(STATES, 0)

    def known(self):
        """Every name that the table may use."""
        names = {name for name in self.tests() if not name.startswith(("test_", "proof."))}
        for path in self.files("tests/*/test_*.py"):
            place = path.relative_to(self.root)
            names |= {f"{place}::{function}" for function in PYTHON_TEST.findall(path.read_text(encoding="utf-8"))}
        return names

    def judge_row(self, place, row, known, skipped):
        number, state = int(row["number"]), row["state"]
        tests, note = row["tests"].split(), row["note"].strip()
        if state not in STATES:
            self.fault(place, f"'{state}' is none of {', '.join(STATES)}")
            return
        self.counts[state] += 1
        if not row["title"].strip():
            self.fault(place, "no title")
        if state in ("shown", "partly"):
            self.judge_tests(place, number, tests, known)
        elif tests != ["-"]:
            self.fault(place, f"tests of what is {state}: '-' is meant")
        if state != "shown" and not note:
            self.fault(place, {"partly": "what is missing is not said", "open": "no reason", "skip": "no reason"}[state])
        if state == "skip" and number not in skipped:
            self.fault(place, "SKIPS.md has no row of it")
        if state == "shown" and number in skipped:
            self.fault(place, "SKIPS.md has a row of it, but it is shown")

    def judge_tests(self, place, number, tests, known):
        if not tests:
            self.fault(place, "no test")
            return
        for name in tests:
            if not NAME.fullmatch(name):
                self.fault(place, f"'{name}' is neither Suite.Test nor tests/e2e/test_x.py::test_y")
            elif name not in known:
                self.fault(place, f"there is no test {name}")
        numbers = {int(found.group(1)) for found in map(NUMBERED.search, tests) if found}
        if number not in numbers:
            self.fault(place, f"no test has the number {number:02} in its name")
        for other in sorted(numbers - {number}):
            self.fault(place, f"a test of scenario {other} stands here")

    def check(self):
        known = self.known()
        skipped = {int(number) for number in SKIP_ROW.findall((self.root / DIRECTORY / "SKIPS.md").read_text(encoding="utf-8"))}
        seen, named = [], set()
        for place, row in self.rows("scenarios.tsv", COLUMNS):
            if not row["number"].isdigit():
                self.fault(place, f"'{row['number']}' is no number")
                continue
            seen.append(int(row["number"]))
            named.update(row["tests"].split())
            self.judge_row(place, row, known, skipped)
        if seen != list(range(1, SCENARIOS + 1)):
            self.fault(f"{DIRECTORY}/scenarios.tsv", f"rows are 1 to {SCENARIOS} in order; "
                       f"missing: {sorted(set(range(1, SCENARIOS + 1)) - set(seen))}")
        for name in sorted(known - named):
            if NUMBERED.search(name):
                self.fault(f"{DIRECTORY}/scenarios.tsv", f"{name} stands in no row")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    options = parser.parse_args()
    scenarios = Scenarios(options.root)
    scenarios.check()
    print("\n".join([*scenarios.faults, ", ".join(f"{count} {state}" for state, count in scenarios.counts.items())]))
    return 1 if scenarios.faults else 0


if __name__ == "__main__":
    sys.exit(main())
