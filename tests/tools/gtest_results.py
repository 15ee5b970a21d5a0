#!/usr/bin/env python3
"""gtest_results.py SUITE REPORT_DIR CTEST_JUNIT — gtest's JSON reports as PASS/FAIL/SKIP lines."""
import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def one_line(text):
    return " ".join(text.split())[:300]


def main():
    suite, directory, junit = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    reported = set()
    for path in sorted(directory.glob("*.json")):
        reported.add(path.stem)
        try:
            report = json.loads(path.read_text())
        except ValueError:
            print(f"FAIL {suite}/{path.stem}: its report is not JSON (it crashed?)")
            continue
        for group in report["testsuites"]:
            for case in group["testsuite"]:
                name = f"{suite}/{group['name']}.{case['name']}"
                if case["result"] == "SKIPPED":
                    why = (case.get("skipped") or [{}])[0].get("message", "")
                    print(f"SKIP {name}: {one_line(why.split(chr(10), 1)[-1])}")
                elif case.get("failures"):
                    print(f"FAIL {name}: {one_line(case['failures'][0]['failure'])}")
                elif case["status"] == "RUN":
                    print(f"PASS {name}")
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        if case.get("name") not in reported:
            print(f"FAIL {suite}/{case.get('name')}: ended without a report ({case.get('status')})")


main()
