#!/usr/bin/env python3
"""fuzz_coverage.py FUZZERS LOGS — what each fuzz target has reached of its component, as a table.

FUZZERS: lines "PROGRAM CORPUS" (build/fuzz/fuzzers.txt); LOGS/NAME/reached.profraw is what the program's last run counted. A component's
sources are those of its directory and the ones below, without tests, fuzz targets and what is in testing/. Regions are stretches of code
without a branch, edges are the sides of its branches (llvm-cov's regions and branches).
"""
import json
import pathlib
import re
import subprocess
import sys

NO_SOURCE = re.compile(r"_(test|fuzz|bench)\.cc$|/testing/|/proof/|/differential/")


def sources(component: pathlib.Path) -> list:
    return sorted(str(path) for pattern in ("*.cc", "*.h") for path in component.rglob(pattern) if not NO_SOURCE.search(str(path)))


def covered(programs: list, profiles: list, files: list, scratch: pathlib.Path) -> dict:
    """{"regions": (reached, all), "branches": …} of `files`."""
    merged = scratch / "reached.profdata"
    subprocess.run(["llvm-profdata-16", "merge", "-sparse", "-o", merged, *profiles], check=True)
    objects = [word for program in programs[1:] for word in ("-object", program)]
    done = subprocess.run(["llvm-cov-16", "export", "-summary-only", f"-instr-profile={merged}", programs[0], *objects, *files],
                          check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    totals = json.loads(done.stdout)["data"][0]["totals"]
    return {name: (totals[name]["covered"], totals[name]["count"]) for name in ("regions", "branches")}


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
        files = sources(component)
        programs, profiles = [program for program, _ in targets], [profile for _, profile in targets]
        print(row("/".join(component.parts[-2:]), covered(programs, profiles, files, logs)))
        for program, profile in targets if len(targets) > 1 else []:
            print(row("  " + pathlib.Path(program).name, covered([program], [profile], files, logs)))


if __name__ == "__main__":
    main()
