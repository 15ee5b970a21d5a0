#!/usr/bin/env python3
"""junit_results.py SUITE FILE — a JUnit report (pytest's) as PASS/FAIL/SKIP lines."""
import sys
import xml.etree.ElementTree as ElementTree


def one_line(text):
    return " ".join((text or "").split())[:300]


def main():
    suite, path = sys.argv[1], sys.argv[2]
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        print(f"FAIL {suite}: no report: {error}")
        return
    for case in root.iter("testcase"):
        name = f"{suite}/{case.get('classname')}.{case.get('name')}"
        failed = case.find("failure")
        if failed is None:
            failed = case.find("error")
        skipped = case.find("skipped")
        if failed is not None:
            print(f"FAIL {name}: {one_line(failed.get('message'))}")
        elif skipped is not None:
            print(f"SKIP {name}: {one_line(skipped.get('message'))}")
        else:
            print(f"PASS {name}")


main()
