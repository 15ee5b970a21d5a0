#!/usr/bin/env python3
"""fuzz_coverage.py FUZZERS LOGS — what each fuzz target has reached of its component, as a table.

FUZZERS: lines "PROGRAM CORPUS" (build/fuzz/fuzzers.txt); LOGS/NAME/reached.profraw is what the program's last run counted. A component's
sources are those of its directory and the ones below, without tests, fuzz targets, what is in testing/, and what protoc makes. Regions are
stretches of code without a branch, edges are the sides of its branches (llvm-cov's regions and branches).
"""
import json
import pathlib
import re
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
NO_SOURCE = re.compile(r"_(test|fuzz|bench)\.cc$|/fuzz_\w+\.h$|/(testing|proof|differential|gen)/")


def covered(programs: list, profiles: list, component: str, scratch: pathlib.Path) -> dict:
    """{"regions": (reached, all), "branches": …} of the component's sources."""
    merged = scratch / "reached.profdata"
    subprocess.run(["llvm-profdata-16", "merge", "-sparse", "-o", merged, *profiles], check=True)
    objects = [word for program in programs[1:] for word in ("-object", program)]
    done = subprocess.run(["llvm-cov-16", "export", "-summary-only", f"-instr-profile={merged}", programs[0], *objects],
                          check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # Names are from the tree's root (-ffile-prefix-map), of what a unity build includes below its directory.
    files = [each["summary"] for each in json.loads(done.stdout)["data"][0]["files"]
             if each["filename"].removeprefix("build/fuzz/").startswith(component + "/") and not NO_SOURCE.search(each["filename"])]
    if not files:
        sys.exit(f"fuzz_coverage.py: {programs[0]} has no source of {component}")
    return {name: (sum(each[name]["covered"] for each in files), sum(each[name]["count"] for each in files))
            for name in ("regions", "branches")}


def row(name: str, counts: dict) -> str:
    cells = (f"{100 * reached // all_} % of {all_}" if all_ else "none" for reached, all_ in counts.values())
    return "{:<44}{:>18}{:>18}".format(name, *cells)


def main():
    logs = pathlib.Path(sys.argv[2])
    components = {}
    for line in pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        program, corpus = line.split()
        profile = logs / pathlib.Path(program).name / "reached.profraw"
        if profile.exists():
            components.setdefault(pathlib.Path(corpus).parents[1], []).append((program, profile))
    print("{:<44}{:>18}{:>18}".format("component / target", "regions", "edges"))
    for component, targets in sorted(components.items()):
        name = str(component.relative_to(TREE))
        programs, profiles = [program for program, _ in targets], [profile for _, profile in targets]
        print(row(name, covered(programs, profiles, name, logs)))
        for program, profile in targets if len(targets) > 1 else []:
            print(row("  " + pathlib.Path(program).name, covered([program], [profile], name, logs)))


if __name__ == "__main__":
    main()
