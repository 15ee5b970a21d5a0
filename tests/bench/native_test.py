#!/usr/bin/env python3
"""native.py on what the benchmark programs print: which figure it takes, and whose it is. The suite style runs it."""

import contextlib
import io
import unittest

import native


class Figures(unittest.TestCase):
    def test_median_comes_before_the_mean_and_the_rate_is_of_the_same(self):
        runs = [{"name": "BM_Read1M/process/manual_time", "real_time": 2000.0, "median_ns": 1000.0, "server_ns_per_item": 900.0,
                 "bytes_per_second": 5e8}]
        self.assertEqual(native.figures("fs_ring_bench", runs), {
            "ns": {"fs_ring_bench/BM_Read1M/process": 1000.0},
            "cpu_ns": {"fs_ring_bench/BM_Read1M/process": 900.0},
            "bytes_per_s": {"fs_ring_bench/BM_Read1M/process": 1e9}})

    def test_items_are_what_is_counted_where_there_are_several(self):
        runs = [{"name": "BM_Transmit/60/real_time", "real_time": 32000.0, "items_per_second": 1e6, "worker_ns_per_item": 700.0},
                {"name": "BM_Lookup", "real_time": 1400.0}]
        found = native.figures("net_bench", runs)
        self.assertEqual(found["ns"], {"net_bench/BM_Transmit/60": 1000.0, "net_bench/BM_Lookup": 1400.0})
        self.assertEqual(found["cpu_ns"], {"net_bench/BM_Transmit/60": 700.0})
        self.assertEqual(found["bytes_per_s"], {})

    def test_benchmark_that_did_not_run_is_named_and_left_out(self):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            found = native.figures("fs_ring_bench", [{"name": "BM_Lookup/process", "error_occurred": True, "error_message": "not root"}])
        self.assertEqual(found["ns"], {})
        self.assertIn("fs_ring_bench/BM_Lookup/process: not root", said.getvalue())

    def test_virtiofsd_is_the_peer_of_both_isolations_and_no_row_of_ours(self):
        ours = {"b/BM_Lookup/thread": [1], "b/BM_Lookup/process": [2], "b/BM_Lookup/virtiofsd": [3], "virtio_bench/BM_Push128": [4]}
        peers = native.split_virtiofsd(ours)
        self.assertEqual(peers, {"b/BM_Lookup/process": [3], "b/BM_Lookup/thread": [3]})
        self.assertEqual(ours, {"b/BM_Lookup/thread": [1], "b/BM_Lookup/process": [2], "virtio_bench/BM_Push128": [4]})


if __name__ == "__main__":
    unittest.main()
