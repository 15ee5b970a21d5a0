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


NATIVE = {"first_answer": [{"answered_ms": 2.0, "serving_ms": 1.0, "anonymous_kib": 500, "pss_kib": 7000}], "exec_ms": [0.5],
          "vmm_bytes": 8 << 20}


class Report(unittest.TestCase):
    def table(self, lab=None, native=None):
        """[what, figure, peer, ratio, target, met] of each row"""
        with tempfile.TemporaryDirectory(prefix="wyvern-report-") as directory:
            for name, figures in (("native.json", native), ("lab.json", lab)):
                if figures is not None:
                    pathlib.Path(directory, name).write_text(json.dumps(figures))
            done = subprocess.run([sys.executable, REPORT, f"{directory}/native.json", f"{directory}/lab.json"], stdout=subprocess.PIPE,
                                  text=True, check=True)
        return [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]

    def rows(self, lab):
        """what -> [figure, peer, ratio, target, met]"""
        return {what: cells for what, *cells in self.table(lab)}

    def test_native_rows_stand_beside_the_peer_that_has_them(self):
        table = self.table(native=dict(
            NATIVE,
            ns={"virtio_bench/BM_Push128": [12.0], "virtio_bench/BM_PackedPush128": [14.0], "fs_ring_bench/BM_Read1M/process": [5e5]},
            cpu_ns={"fs_ring_bench/BM_Read1M/process": [4e5]}, bytes_per_s={"fs_ring_bench/BM_Read1M/process": [2e9]},
            peers={"rust-vmm": {"ns": {"virtio_bench/BM_Push128": [10.0]}},
                   "virtiofsd": {"ns": {"fs_ring_bench/BM_Read1M/process": [1e6]}, "cpu_ns": {"fs_ring_bench/BM_Read1M/process": [5e5]}}}))
        self.assertEqual(table[-5:], [
            ["virtio_bench/BM_Push128", "12.0 ns", "10.0 ns rust-vmm", "1.20", "≤ 1.0 × rust-vmm", "**no**"],
            ["virtio_bench/BM_PackedPush128", "14.0 ns", "–", "–", "–", "–"],  # rust-vmm has no packed rings
            ["fs_ring_bench/BM_Read1M/process", "500000 ns", "1000000 ns virtiofsd", "0.50", "≤ 1.0 × virtiofsd", "yes"],
            ["— CPU time of who serves it", "400000 ns", "500000 ns virtiofsd", "0.80", "–", "–"],
            ["— that is", "2000 MB/s", "–", "–", "–", "–"]])

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

    def test_containers_on_a_bridge_stand_beside_runcs(self):
        rows = self.rows({"bridge-bytes_per_s": {"ours": [2e6], "peer": [8e6]}, "bridge-round_trip_us": {"ours": [900.0], "peer": [300.0]}})
        self.assertEqual(rows["TCP between two containers over a bridge: stream"], ["2.00 MB/s", "8.00 MB/s runc", "0.25", "–", "–"])
        self.assertEqual(rows["— round trip of a byte"], ["900 µs", "300 µs runc", "3.00", "–", "–"])

    def test_hotplug_has_the_target_of_the_whole(self):
        rows = self.rows({"hotplug-blk": {"ours": [60.0, 70.0, 80.0], "peer": [100.0], "vmm": [1.0]},
                          "hotplug-vcpu": {"ours": [160.0], "peer": [100.0], "vmm": [1.0]}})
        self.assertEqual(rows["hot-plug, asked for → usable: a disk"],
                         ["70.0 ms (60.0–80.0)", "100 ms QEMU q35", "0.70", "≤ 0.7 × QEMU q35", "yes"])
        self.assertEqual(rows["hot-plug, asked for → usable: a vCPU"][2:], ["1.60", "≤ 1.5 × QEMU q35", "**no**"])
        self.assertEqual(rows["— of it the VMM's own, emulated here"][3:], ["–", "–"])

    def test_more_wakeups_than_the_peer_miss_the_target(self):
        rows = self.rows({"fs-read": {"ours": dict(OURS, wakeups=3.01), "peer": PEER}})
        self.assertEqual(rows["fs, 4 KiB read: wake-ups per read"][4], "**no**")

    def test_rounds_are_shown_by_their_median_and_spread(self):
        rounds = {"exits": [3.0, 2.0, 4.0], "vmm_calls": [1.0, 2.0, 3.0], "server_calls": [3.0, 2.0, 5.0], "wakeups": [2.0, 2.0, 2.0],
                  "us": [90.0, 80.0, 100.0]}
        rows = self.rows({"fs-walk": {"ours": rounds, "peer": PEER}})
        self.assertEqual(rows["fs, walk of 50 000 files: exits per file"][:3], ["3.00 (2.00–4.00)", "4.00 QEMU + virtiofsd", "0.75"])
        self.assertEqual(rows["fs, walk of 50 000 files: system calls per file"][0], "4.00 (4.00–8.00)")  # of each round together
        self.assertEqual(rows["fs, walk of 50 000 files: time"][0], "90.0 µs (80.0–100)")

    def test_bytes_copied_have_the_target_and_none_is_no_ratio(self):
        def copied(name, ours, peer):
            return self.rows({name: {"ours": dict(OURS, copied=ours), "peer": dict(PEER, copied=peer)}})
        self.assertEqual(copied("net-send", [2097152.0], [1048576.0])["net, guest → host: copied per MiB"],
                         ["2048 KiB", "1024 KiB QEMU", "2.00", "≤ 1.0 × QEMU", "**no**"])
        inside = {"ours": dict(OURS, copied=[1024.0, 2048.0, 3072.0], copied_inside=1024.0), "peer": dict(PEER, copied=[3072.0])}
        self.assertEqual(self.rows({"net-send": inside})["net, guest → host: copied per MiB"][:2], ["3.00 KiB (2.00–4.00)", "3.00 KiB QEMU"])
        # O_DIRECT: what is left is what boot and end differ by.
        self.assertEqual(copied("blk-read", [0.3, -0.2], [-0.4])["blk, 4 KiB read: copied per read"],
                         ["0.00 B (0.00–0.00)", "0.00 B QEMU", "–", "≤ QEMU", "yes"])
        self.assertEqual(copied("blk-read", [4096.0], [0.2])["blk, 4 KiB read: copied per read"][3:], ["≤ QEMU", "**no**"])

    def test_vhost_beside_net_is_for_information(self):
        rows = self.rows({"net-ping": {"ours": OURS, "peer": PEER, "ours on vhost": OURS, "peer on vhost": dict(PEER, exits=1.0)}})
        self.assertEqual(rows["net, round trip: exits per round trip"][3:], ["≤ 1.0 × QEMU", "yes"])
        self.assertEqual(rows["— on vhost: net, round trip: exits per round trip"], ["3.00", "1.00 QEMU + vhost", "3.00", "–", "–"])

    def test_figures_of_before_wakeups_were_kept(self):
        old = {key: value for key, value in OURS.items() if key != "wakeups"}
        self.assertEqual(len(self.rows({"blk-read": {"ours": old, "peer": old}})), 3)


if __name__ == "__main__":
    unittest.main()
