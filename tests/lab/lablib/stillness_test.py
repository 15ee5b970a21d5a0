"""Stillness: of a process that works, of one that sleeps, and of one that goes on."""

import signal
import subprocess
import sys
import time
import unittest

from stillness import Stillness

WORK = "while True: pass"


class StillnessTest(unittest.TestCase):
    def start(self, program):
        process = subprocess.Popen([sys.executable, "-c", program])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, Stillness(process.pid)

    def test_process_that_works_is_never_still(self):
        _, stillness = self.start(WORK)
        for _ in range(4):
            time.sleep(0.3)
            self.assertEqual(stillness.seconds(), 0)

    def test_process_that_stops_is_still_until_it_goes_on(self):
        process, stillness = self.start(WORK)
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        self.assertEqual(stillness.seconds(), 0)
        time.sleep(0.4)
        self.assertGreater(stillness.seconds(), 0.3)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        self.assertEqual(stillness.seconds(), 0)


if __name__ == "__main__":
    unittest.main()
