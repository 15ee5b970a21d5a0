#!/usr/bin/env python3
"""check_deps.py on a small tree: each promise is broken once. The suite style runs it."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent


class CheckDeps(unittest.TestCase):
    def check(self, files):
        """(exit code, lines) for a tree of these files: path to the headers that it includes."""
        with tempfile.TemporaryDirectory(prefix="wyvern-deps-") as directory:
            root = pathlib.Path(directory)
            for path, headers in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text("".join(f'#include "{header}"\n' for header in headers))
            (root / "tools").mkdir()
            shutil.copy(HERE / "check_deps.py", root / "tools")
            for argv in (["git", "init", "-q"], ["git", "add", "."]):
                subprocess.run(argv, cwd=root, check=True)
            done = subprocess.run([sys.executable, root / "tools/check_deps.py"], stdout=subprocess.PIPE, text=True, check=False)
            return done.returncode, done.stdout.splitlines()

    def test_each_promise(self):
        for path, header in (("sandbox-vmm/devices/blk/blk.cc", "kvm/vm.h"), ("sandbox-vmm/devices/blk/blk.h", "pci/function.h"),
                             ("sandbox-vmm/virtio/queue.cc", "transport/core.h"), ("sandbox-vmm/virtio/queue.h", "arch/arch.h"),
                             ("runtime/sandbox/start.cc", "mem/guest_memory.h"), ("shim/task/task.cc", "machine/machine.h"),
                             ("agent/crun.cc", "oci/spec.h"), ("agent/crun_test.cc", "config/config.h")):
            code, lines = self.check({path: ["base/fd.h", header]})
            self.assertEqual((code, lines), (1, [f"{path}: may not include {header.split('/')[0]}/"]))

    def test_what_keeps_them(self):
        code, lines = self.check({"sandbox-vmm/devices/blk/blk.cc": ["virtio/device.h"],
                                  "sandbox-vmm/devices/blk/blk_test.cc": ["transport/core.h"],
                                  "sandbox-vmm/virtio/testing/driver.h": ["pci/function.h"],
                                  "sandbox-vmm/machine/machine.cc": ["kvm/vm.h", "pci/function.h"],
                                  "runtime/hypervisor/vmm_client.cc": ["api/donation.h"],
                                  "agent/crun.cc": ["agent/crun.h", "base/fd.h", "proto/agent.pb.h", "ttrpc/server.h"]})
        self.assertEqual((code, lines), (0, []))

    def test_all_of_several(self):
        code, lines = self.check({"agent/a.cc": ["kvm/vm.h", "mem/guest_memory.h"], "shim/b.cc": ["virtio/queue.h"]})
        self.assertEqual(code, 1)
        self.assertEqual(lines, ["agent/a.cc: may not include kvm/", "agent/a.cc: may not include mem/",
                                 "shim/b.cc: may not include virtio/"])


if __name__ == "__main__":
    unittest.main()
