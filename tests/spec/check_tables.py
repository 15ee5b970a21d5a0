#!/usr/bin/env python3
"""Do the tables of this directory say of everything which test shows it, or why none can?

    tests/spec/check_tables.py [--root DIR]

virtio_conformance.tsv against virtio_clauses.tsv (every clause), incidents.tsv by itself. A test is named as it is in the sources:
Suite.Test of a TEST, TEST_F or TEST_P in a *_test.cc (a TEST_P needs an INSTANTIATE_TEST_SUITE_P of its suite), file.function of a
test_*.py, or proof.NAME for the harness proof_NAME of a proof/*.c, which the suite proof runs.
One line "FAIL file:line: what" for each fault; exit code 1 where there is one.
"""

import argparse
import fnmatch
import pathlib
import re
import subprocess
import sys

CLAUSE_COLUMNS = ["file", "side", "label", "heading", "MUST", "SHOULD", "MAY"]
CONFORMANCE_COLUMNS = ["file", "side", "label", "heading", "tests", "reason"]
INCIDENT_COLUMNS = ["id", "where", "what", "tests", "reason"]
TEST = re.compile(r"\b(TEST|TEST_F|TEST_P|TYPED_TEST)\(\s*(\w+)\s*,\s*(\w+)\s*\)")
INSTANTIATION = re.compile(r"\b(?:INSTANTIATE_TEST_SUITE_P|INSTANTIATE_TYPED_TEST_SUITE_P|TYPED_TEST_SUITE)\(\s*(\w+)(?:\s*,\s*(\w+))?")
PYTHON_TEST = re.compile(r"^\s*def (test_\w+)\(", re.MULTILINE)
HARNESS = re.compile(r"^void proof_(\w+)\(void\) \{", re.MULTILINE)
NAME = re.compile(r"\w+\.\w+")


class Tables:
    def __init__(self, root, directory="tests/spec"):
        self.root = root
        self.directory = directory
        self.faults = []
        self.mapped = 0
        self.explained = 0

    def fault(self, place, what):
        self.faults.append(f"FAIL {place}: {what}")

    def files(self, *patterns):
        listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
                                cwd=self.root, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")
        return sorted({self.root / path for path in listed if path and (self.root / path).is_file()})

    def tests(self):
        """Every name that a table may use."""
        names, parameterized, instantiated = set(), set(), set()
        for path in self.files("*_test.cc"):
            text = path.read_text(encoding="utf-8", errors="replace")
            for kind, suite, test in TEST.findall(text):
                (parameterized if kind in ("TEST_P", "TYPED_TEST") else names).add(f"{suite}.{test}")
            for first, second in INSTANTIATION.findall(text):
                instantiated.update((first, second))
        names |= {name for name in parameterized if name.split(".")[0] in instantiated}
        for path in self.files("test_*.py", "**/test_*.py"):
            names |= {f"{path.stem}.{function}" for function in PYTHON_TEST.findall(path.read_text(encoding="utf-8"))}
        for path in self.files("*/proof/*.c"):
            names |= {f"proof.{name}" for name in HARNESS.findall(path.read_text(encoding="utf-8"))}
        return names

    def rows(self, name, columns):
        """(place, row) of a table: comments and the line with the columns are passed over."""
        path = self.root / self.directory / name
        header = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line or line.startswith("#"):
                continue
            place, fields = f"{self.directory}/{name}:{number}", line.split("\t")
            if header is None:
                header = fields
                if header != columns:
                    self.fault(place, f"the columns are {', '.join(columns)}")
                    return
            elif len(fields) != len(columns):
                self.fault(place, f"{len(fields)} columns instead of {len(columns)}")
            else:
                yield place, dict(zip(columns, fields))

    def judge(self, place, row, known):
        """The tests and the reason of one row."""
        tests, reason = row["tests"].strip(), row["reason"].strip()
        if tests == "-":
            self.explained += 1
            if not reason:
                self.fault(place, "no test, and no reason why")
            return
        names = tests.split()
        if names:
            self.mapped += 1
        else:
            self.fault(place, "no test, and no reason why")
        for name in names:
            if not NAME.fullmatch(name):
                self.fault(place, f"'{name}' is no Suite.Test")
            elif name not in known:
                self.fault(place, f"there is no test {name}")

    def check_conformance(self, known):
        clauses = {tuple(row[c] for c in CONFORMANCE_COLUMNS[:4]): place
                   for place, row in self.rows("virtio_clauses.tsv", CLAUSE_COLUMNS)}
        exact, general = {}, []
        for place, row in self.rows("virtio_conformance.tsv", CONFORMANCE_COLUMNS):
            self.judge(place, row, known)
            key = tuple(row[c] for c in CONFORMANCE_COLUMNS[:4])
            if row["label"] == "*":
                general.append((place, key))
            elif key not in clauses:
                self.fault(place, "there is no such clause")
            elif key in exact:
                self.fault(place, f"the clause has a row already ({exact[key]})")
            else:
                exact[key] = place
        used = set()
        for clause, place in clauses.items():
            if clause in exact:
                continue
            matching = [row for row, key in general if fnmatch.fnmatchcase(clause[0], key[0]) and key[1] in ("*", clause[1])]
            if not matching:
                self.fault(place, f"unmapped clause: {clause[0]}, {clause[1]}, {clause[2]}")
            used.update(matching[:1])
        for row, _ in general:
            if row not in used:
                self.fault(row, "no clause needs this row")

    def check_incidents(self, known):
        seen = {}
        for place, row in self.rows("incidents.tsv", INCIDENT_COLUMNS):
            self.judge(place, row, known)
            if row["id"] in seen:
                self.fault(place, f"{row['id']} has a row already ({seen[row['id']]})")
            seen[row["id"]] = place


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    options = parser.parse_args()
    tables = Tables(options.root)
    known = tables.tests()
    tables.check_conformance(known)
    tables.check_incidents(known)
    print("\n".join([*tables.faults, f"{tables.mapped} rows name their tests, {tables.explained} a reason"]))
    return 1 if tables.faults else 0


if __name__ == "__main__":
    sys.exit(main())
