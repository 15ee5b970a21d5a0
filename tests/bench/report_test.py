#!/usr/bin/env python3
"""report.py on a few figures: which targets it shows, and what it says of them. The suite style runs it."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

REPORT = pathlib.Path(__file__).resolve().parent / "report.py"
OURS = {"exits": 3.0, "vmm_calls": 2.0, "server_calls": 1.0, "wakeups": 2.5, "us": 100.0}
PEER = {"exits": 4.0, "vmm_calls": 2.0, "server_calls": 0.0, "wakeups": 3.0, "us": 200.0}


class Report(unittest.TestCase):
    def rows(self, lab):
        """what -> [figure, peer, ratio, target, met]"""
        with tempfile.TemporaryDirectory(prefix="wyvern-report-") as directory:
            file = pathlib.Path(directory, "lab.json")
            file.write_text(json.dumps(lab))
            done = subprocess.run([sys.executable, REPORT, "/no/native.json", file], stdout=subprocess.PIPE, text=True, check=True)
        table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
        return {what: cells for what, *cells in table}

    def test_operations_have_the_three_counts_of_the_design_and_their_targets(self):
        for name, what, unit, peer in (("blk-read", "blk, 4 KiB read", "read", "QEMU"),
                                       ("fs-lookup", "fs, lookup", "lookup", "QEMU + virtiofsd"),
                                       ("vsock-ping", "vsock, round trip", "round trip", "QEMU + vhost")):
            rows = self.rows({name: {"ours": OURS, "peer": PEER}})
            target = f"≤ 1.0 × {peer}"
            self.assertEqual(rows[f"{what}: exits per {unit}"], ["3.00", f"4.00 {peer}", "0.75", target, "yes"])
            self.assertEqual(rows[f"{what}: system calls per {unit}"], ["3.00", f"2.00 {peer}", "1.50", target, "**no**"])
            self.assertEqual(rows[f"{what}: wake-ups per {unit}"], ["2.50", f"3.00 {peer}", "0.83", target, "yes"])
            self.assertEqual(rows[f"{what}: time"][3:], ["–", "–"])

    def test_more_wakeups_than_the_peer_miss_the_target(self):
        rows = self.rows({"fs-read": {"ours": dict(OURS, wakeups=3.01), "peer": PEER}})
        self.assertEqual(rows["fs, 4 KiB read: wake-ups per read"][4], "**no**")

    def test_figures_of_before_wakeups_were_kept(self):
        old = {key: value for key, value in OURS.items() if key != "wakeups"}
        self.assertEqual(len(self.rows({"blk-read": {"ours": old, "peer": old}})), 3)


if __name__ == "__main__":
    unittest.main()
