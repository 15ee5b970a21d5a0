#!/usr/bin/env python3
"""deploy/quickstart.sh with everything that builds, installs or boots replaced by words, and the timeline that it ends with.

Neither root nor network: the suite style runs it. What a container prints on a host whose KVM works: tests/e2e/test_quickstart.py.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMELINE = HERE / "timeline.json"  # of a start in the lab
SVG = "{http://www.w3.org/2000/svg}"


def call(*argv, **kwargs):
    return subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=60, check=False, **kwargs)


class InDirectory(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="wyvern-quickstart-")
        self.addCleanup(directory.cleanup)
        self.dir = pathlib.Path(directory.name)


class Timeline(InDirectory):
    def draw(self, file, *more):
        return call(sys.executable, HERE / "timeline.py", file, *more)

    def test_each_phase_has_its_name_and_its_milliseconds(self):
        done = self.draw(TIMELINE)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = done.stdout.splitlines()
        points = sorted(json.loads(TIMELINE.read_text()), key=lambda p: p["start_ns"])
        self.assertEqual(len(lines), len(points) + 1)
        for line, point in zip(lines, points):
            milliseconds = (point["end_ns"] - point["start_ns"]) / 1e6
            self.assertRegex(line, rf"^  {re.escape(point['name'])} +{milliseconds:.1f} ms  ")
        self.assertRegex(lines[-1], r"^  total +3117\.3 ms$")
        # A bar as long as its phase, after those before it.
        bars = {line.split()[0]: line[line.index(" ms  ") + 5:] for line in lines[:-1]}
        self.assertTrue(bars["shim"].startswith("█"))
        self.assertGreater(bars["kernel"].count("█"), 20)
        self.assertGreater(bars["crun-start"].count(" "), 40)
        self.assertTrue(all(bar.count("█") >= 1 for bar in bars.values()), bars)

    def test_the_picture_has_a_bar_for_each_phase(self):
        done = self.draw(TIMELINE, "--svg", self.dir / "t.svg")
        self.assertEqual(done.returncode, 0, done.stderr)
        root = xml.etree.ElementTree.parse(self.dir / "t.svg").getroot()
        self.assertEqual(root.tag, SVG + "svg")
        points = sorted(json.loads(TIMELINE.read_text()), key=lambda p: p["start_ns"])
        background, *bars = root.iter(SVG + "rect")
        self.assertEqual(background.get("width"), "100%")
        self.assertEqual(len(bars), len(points))
        texts = [t.text for t in root.iter(SVG + "text")]
        for bar, point in zip(bars, points):
            self.assertIn(point["name"], texts)
            self.assertIn(f"{(point['end_ns'] - point['start_ns']) / 1e6:.1f} ms", texts)
            begin, end = float(bar.get("x")), float(bar.get("x")) + float(bar.get("width"))
            self.assertAlmostEqual(begin, 170 + point["start_ns"] * 700 / 3117330918, delta=1)
            self.assertLessEqual(end, float(root.get("width")))
        self.assertIn("total 3117.3 ms", texts)

    def test_names_are_text_not_markup(self):
        file = self.dir / "t.json"
        file.write_text(json.dumps([{"name": "<rect> & 'x'", "start_ns": 0, "end_ns": 5}]))
        self.assertEqual(self.draw(file, "--svg", self.dir / "t.svg").returncode, 0)
        root = xml.etree.ElementTree.parse(self.dir / "t.svg").getroot()
        self.assertEqual(len(list(root.iter(SVG + "rect"))), 2)
        self.assertIn("<rect> & 'x'", [t.text for t in root.iter(SVG + "text")])

    def test_what_cannot_be_drawn(self):
        file = self.dir / "t.json"
        file.write_text("[]")
        done = self.draw(file)
        self.assertEqual((done.returncode, done.stderr), (1, "timeline.py: the file has no points\n"))
        file.write_text('[{"name": "none", "start_ns": 0, "end_ns": 0}]')
        self.assertEqual(self.draw(file, "--svg", self.dir / "t.svg").returncode, 0)


SAY = '#!/bin/bash\necho "$(basename "$0") $*" >>"$CALLS"\n'
# Like tests/lab/lab, as far as quickstart.sh uses it.
LAB = SAY + """
while [ $# -gt 0 ]; do
  case "$1" in
    --oci) echo "$IMAGES" ;;
    --share-out) cp "$TIMELINE" "$2/timeline.json"; echo "container printed: hello" >"$2/summary.txt"; shift ;;
  esac
  shift
done
"""
CONTAINER = SAY + 'cp "$TIMELINE" "$OUT/timeline.json"; echo "container printed: hello on $1" >"$OUT/summary.txt"\n'
# Puts down the one program that quickstart.sh runs by itself; its `check` says whether KVM works.
NINJA = SAY + """
mkdir -p build/release/bin
printf '#!/bin/bash\\necho "KVM ${KVM:-interprets}"; [ "${KVM:-}" = works ]\\n' >build/release/bin/wyvern
chmod +x build/release/bin/wyvern
[ -z "${BROKEN:-}" ] || { echo "no such header"; exit 1; }
"""


class Quickstart(InDirectory):
    """A tree of the script itself, timeline.py, and words."""

    def setUp(self):
        super().setUp()
        self.tree = self.dir / "tree"
        self.calls = self.dir / "calls"
        for path in ("deploy/quickstart.sh", "tests/quickstart/timeline.py"):
            target = self.tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target)
        words = self.dir / "bin"
        for path, text in ((self.tree / "deploy/packages.sh", SAY), (self.tree / "deploy/install.sh", SAY),
                           (self.tree / "deploy/guest/build-kernel.sh", SAY), (self.tree / "deploy/guest/build-image.sh", SAY),
                           (self.tree / "tests/lab/lab", LAB), (self.tree / "tests/quickstart/container.sh", CONTAINER),
                           (words / "cmake", SAY), (words / "ninja", NINJA), (words / "ctr", SAY), (words / "systemctl", SAY),
                           (words / "id", "#!/bin/sh\necho ${ID:-0}\n"),
                           # Other sources: other words.
                           (words / "git", '#!/bin/sh\necho "${SOURCES:-one}"\n')):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        self.env = dict(os.environ, PATH=f"{words}:{os.environ['PATH']}", CALLS=str(self.calls), TIMELINE=str(TIMELINE),
                        IMAGES="/images", WYVERN_CACHE=str(self.dir / "cache"))
        self.env.pop("CCACHE_DIR", None)

    def start(self, *argv, **env):
        return call(self.tree / "deploy/quickstart.sh", *argv, env=dict(self.env, **env), cwd=self.dir)

    def called(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def test_help(self):
        for word in ("-h", "--help"):
            done = self.start(word, ID="1000")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for option in ("--lab", "--host", "--timeline FILE.svg"):
                self.assertIn(option, done.stdout)
            self.assertNotIn("#", done.stdout)
        self.assertEqual(self.called(), [])

    def test_wrong_words_are_usage_errors_and_do_nothing(self):
        for argv, says in ((["--bogus"], "unknown option '--bogus'"), (["--lab", "x"], "unknown option 'x'"),
                           (["--timeline"], "--timeline needs a file"),
                           (["--timeline", "none/t.svg"], f"no directory {self.dir}/none")):
            done = self.start(*argv)
            self.assertEqual((done.returncode, done.stdout), (2, ""), argv)
            self.assertIn(says, done.stderr)
        self.assertEqual(self.called(), [])

    def test_users_other_than_root_are_told_so(self):
        done = self.start(ID="1000")
        self.assertEqual(done.returncode, 1)
        self.assertIn("run it as root", done.stderr)
        self.assertEqual(self.called(), [])

    def test_in_the_lab_first_and_again(self):
        first = self.start("--timeline", "t.svg")
        self.assertEqual(first.returncode, 0, first.stdout + first.stderr)
        self.assertEqual([line[:5] for line in first.stdout.splitlines() if line.startswith("[")],
                         [f"[{n}/6]" for n in range(1, 7)])
        for words in ("KVM here: KVM interprets", "runs in the lab", "container printed: hello", "crun-start",
                      f"timeline: {self.dir}/t.svg"):
            self.assertIn(words, first.stdout)
        xml.etree.ElementTree.parse(self.dir / "t.svg")
        self.assertRegex(first.stdout, r"done in \d+ s; from nothing it should take at most 1200 s\n$")
        self.assertIn("packages.sh build guest lab", self.called())
        self.assertFalse(any(c.startswith("install.sh") for c in self.called()), self.called())
        again = self.start()
        self.assertRegex(again.stdout, r"done in \d+ s; again with the same sources it should take at most 60 s\n$")
        self.assertRegex(self.start(SOURCES="two").stdout, "from nothing it should take at most 1200 s\n$")

    def test_on_this_host_where_kvm_works_or_is_said_to(self):
        for argv, kvm in (([], "works"), (["--host"], "interprets")):
            done = self.start(*argv, KVM=kvm)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("runs on this host", done.stdout)
            self.assertIn("hello on /images/busybox.tar", done.stdout)
        self.assertIn("install.sh ", self.called())
        self.assertIn("runs in the lab", self.start("--lab", KVM="works").stdout)

    def test_a_step_that_fails_shows_its_log_and_ends_all(self):
        done = self.start(BROKEN="yes")
        self.assertEqual(done.returncode, 1)
        self.assertIn("[2/6]", done.stdout)
        self.assertIn("no such header", done.stdout)
        self.assertNotIn("[3/6]", done.stdout)
        self.assertIn("quickstart-logs/2.log", done.stderr)


if __name__ == "__main__":
    unittest.main()
