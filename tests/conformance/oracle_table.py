"""The table of containerd's own tests (oracle.tsv), and the judgement: what passes with Wyvern holds what passes with runc, less SKIPS.md.

oracle.tsv: suite, test, share, runc, wyvern. `share` is lab (in every run of the lab) or long; the two results are those of the run that wrote
the table last: pass, fail, skip, hang, or - where it has not run yet.
"""

import re

COLUMNS = ["suite", "test", "share", "runc", "wyvern"]
SHARES = ("lab", "long")
# Section of SKIPS.md -> suite.
SECTIONS = {"containerd, integration/client": "client", "containerd, integration": "cri"}
ROW = re.compile(r"^\|\s*(Test[^|]*?)\s*\|\s*([^|]*?)\s*\|\s*([^|]*?)\s*\|\s*$")


class TableError(Exception):
    """The table or SKIPS.md is not as it must be."""


def read(text: str) -> list:
    """Rows as dictionaries, in their order."""
    lines = text.splitlines()
    if not lines or lines[0].split("\t") != COLUMNS:
        raise TableError(f"the first line is not {' '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != len(COLUMNS) or fields[2] not in SHARES:
            raise TableError(f"line {number}: {line!r}")
        rows.append(dict(zip(COLUMNS, fields)))
    names = [(row["suite"], row["test"]) for row in rows]
    if len(set(names)) != len(names):
        raise TableError(f"twice: {sorted({name for name in names if names.count(name) > 1})}")
    return rows


def write(rows: list) -> str:
    return "".join("\t".join(line) + "\n" for line in [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)])


def skips(text: str) -> dict:
    """(suite, name) -> reason, of SKIPS.md. A name that ends with … stands for all that begin so."""
    found, suite = {}, None
    for line in text.splitlines():
        if line.startswith("## "):
            suite = SECTIONS.get(line[3:].strip())
        row = ROW.match(line)
        if not suite or not row:
            continue
        if not row[2] or not row[3]:
            raise TableError(f"SKIPS.md: {row[1]}: no reason, or not what upstream does")
        for name in row[1].split(", "):
            found[suite, name] = row[2]
    return found


def covers(name: str, test: str) -> bool:
    return test.startswith(name[:-1]) if name.endswith("…") else test == name


def judge(rows: list, reasons: dict) -> tuple:
    """Of what has run: (faults, lines of counts)."""
    faults, counts = [], []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        ran = [row for row in rows if row["suite"] == suite and "-" not in (row["runc"], row["wyvern"])]
        known = [name for owner, name in reasons if owner == suite]
        theirs = [row for row in ran if row["runc"] == "pass"]
        less = [row for row in theirs if row["wyvern"] != "pass"]
        excused = [row for row in less if any(covers(name, row["test"]) for name in known)]
        faults += [f"{suite}: {row['test']} passes with runc and not with wyvern ({row['wyvern']}); SKIPS.md has no row of it"
                   for row in less if row not in excused]
        for name in known:
            covered = [row for row in ran if covers(name, row["test"])]
            if covered and all(row["wyvern"] == "pass" for row in covered):
                faults.append(f"{suite}: SKIPS.md has a row of {name}, which passes with wyvern")
        counts.append(f"{suite}: {len(ran)} run, {len(theirs)} pass with runc, of these {len(theirs) - len(less)} with wyvern, "
                      f"{len(excused)} in SKIPS.md; {sum(row['wyvern'] == 'pass' for row in ran)} pass with wyvern in all")
    return faults, counts
