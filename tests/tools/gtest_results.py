#!/usr/bin/env python3
"""gtest_results.py SUITE REPORT_DIR CTEST_JUNIT — gtest's XML reports as PASS/FAIL/SKIP lines."""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def one_line(text):
    return " ".join(text.split())[:300]


def result_of(name, case):
    failure, skipped = case.find("failure"), case.find("skipped")
    if case.get("result") == "skipped":
        # The first line is the place.
        why = "" if skipped is None else skipped.get("message", "")
        return f"SKIP {name}: {one_line(why.split(chr(10), 1)[-1])}"
    if failure is not None:
        return f"FAIL {name}: {one_line(failure.get('message', ''))}"
    return f"PASS {name}" if case.get("status") == "run" else None


def main():
    suite, directory, junit = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    reported, failed = set(), set()
    for path in sorted(directory.glob("*.xml")):
        reported.add(path.stem)
        try:
            report = ElementTree.parse(path).getroot()
        except ElementTree.ParseError:
            failed.add(path.stem)
            print(f"FAIL {suite}/{path.stem}: its report is not XML (it crashed?)")
            continue
        for case in report.iter("testcase"):
            line = result_of(f"{suite}/{case.get('classname')}.{case.get('name')}", case)
            if line is not None:
                print(line)
                if line.startswith("FAIL"):
                    failed.add(path.stem)
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = case.get("name")
        if name not in reported:
            print(f"FAIL {suite}/{name}: ended without a report ({case.get('status')})")
        elif case.get("status") == "fail" and name not in failed:
            # A leak, or whatever else happens after the last test.
            print(f"FAIL {suite}/{name}: every test passed, but the program failed")


main()
