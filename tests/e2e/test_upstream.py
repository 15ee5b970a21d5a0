"""containerd's own tests, with runc and with Wyvern in the same machine: what passes with runc passes with ours, less tests/conformance/SKIPS.md.
The list is tests/conformance/oracle.tsv; with --long all of it. /out/oracle.tsv is the same table with this run's results."""

import os
import pathlib
import sys
import time

import pytest

from harness import upstream
from harness.traces import processes

CONFORMANCE = pathlib.Path(__file__).resolve().parents[1] / "conformance"
sys.path.insert(0, str(CONFORMANCE))
import oracle_table  # noqa: E402  (beside the table)

OUT = pathlib.Path("/out")
NAMED = os.environ.get("WYVERN_TEST_UPSTREAM", "").split()  # only these
SECONDS = {False: 300, True: 2200}  # for one suite with one runtime

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(30), pytest.mark.limit(2 * SECONDS[True] + 300)]


@pytest.fixture(scope="module")
def table():
    rows = oracle_table.read((CONFORMANCE / "oracle.tsv").read_text(encoding="utf-8"))
    yield rows
    if OUT.is_dir():
        (OUT / "oracle.tsv").write_text(oracle_table.write(rows), encoding="utf-8")


@pytest.mark.parametrize("suite", upstream.SUITES)
def test_what_passes_with_runc_passes_with_wyvern(table, suite, long, scratch, request):
    program, start = upstream.SUITES[suite]
    if not program.exists():
        pytest.skip(f"the machine has no {program.name} (tests/conformance/clients.sh makes it, lab run --add hands it in)")
    rows = [row for row in table if row["suite"] == suite and (row["test"] in NAMED if NAMED else long or row["share"] == "lab")]
    if long:  # tests of theirs that fail or hang leave what they made, with runc, too
        request.node.add_marker(pytest.mark.no_leak_check)
    seconds, strangers = {}, []
    for handler in upstream.HANDLERS:
        directory = scratch / handler
        directory.mkdir()
        before = processes()
        with start(directory, handler) as run:
            if long:
                strangers = sorted(set(run.tests()) - {row["test"] for row in table if row["suite"] == suite})
            run.run([row["test"] for row in rows], time.monotonic() + SECONDS[long])
        if OUT.is_dir():
            (OUT / f"{suite}-{handler}.log").write_bytes(run.log.read_bytes())
        for row in rows:
            ended = run.results.get(row["test"])
            row[handler] = ended.result if ended else "-"
            seconds[handler, row["test"]] = ended.seconds if ended else 0.0
        if any(ended.result == "hang" for ended in run.results.values()):
            upstream.sweep(before)
    ran = [row for row in rows if row["runc"] != "-"]
    for row in ran:
        print(f"{suite}\t{row['test']}\t" + "\t".join(f"{handler} {row[handler]} {seconds[handler, row['test']]:.1f} s" for handler in upstream.HANDLERS))
    faults, counts = oracle_table.judge(ran, oracle_table.skips((CONFORMANCE / "SKIPS.md").read_text(encoding="utf-8")))
    if not any(row["runc"] == "pass" for row in ran):
        faults.append(f"{suite}: nothing passes with runc, so nothing is shown")
    faults += [f"{suite}: no time was left for {row['test']}" for row in rows if "-" in (row["runc"], row["wyvern"])]
    faults += [f"{suite}: {name} stands in no row of oracle.tsv" for name in strangers]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *counts, *faults, sep="\n")
    assert not faults, "\n".join(faults)
