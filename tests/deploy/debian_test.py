#!/usr/bin/env python3
"""debian/: what it builds with is what deploy/ names, and what it packages exists."""

import pathlib
import re
import subprocess
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
DEBIAN = TREE / "debian"
# Made by debian/rules.
MADE = ("build/package/",)


def group(name: str) -> set[str]:
    """A group of deploy/packages.sh."""
    return set(re.search(rf"^{name}=\(([^)]*)\)", (TREE / "deploy/packages.sh").read_text(), re.M)[1].split())


def field(name: str) -> set[str]:
    value = re.search(rf"^{name}:((?:.*\n)(?:[ #].*\n)*)", (DEBIAN / "control").read_text(), re.M)[1]
    return {re.sub(r"\s*\(.*", "", word.strip()) for word in value.replace("\n", " ").split(",")}


class DebianTest(unittest.TestCase):
    def test_build_dependencies_are_what_building_needs(self):
        image = subprocess.run([TREE / "deploy/guest/build-image.sh", "--print-packages"], capture_output=True, text=True, check=True)
        wanted = group("build") | group("kernel") | group("image") | set(image.stdout.split())
        self.assertEqual(field("Build-Depends") - {"debhelper-compat"}, wanted)

    def test_what_is_packaged_exists(self):
        for listing in [*DEBIAN.glob("*.install"), *DEBIAN.glob("*.docs"), *DEBIAN.glob("*.examples"), *DEBIAN.glob("*.manpages")]:
            for line in listing.read_text().splitlines():
                pattern = line.split()[0]
                if not pattern.startswith(MADE):
                    self.assertTrue(list(TREE.glob(pattern)), f"{listing.name}: {pattern}")

    def test_version_is_the_trees(self):
        version = re.match(r"wyvern \(([\d.]+)\)", (DEBIAN / "changelog").read_text())[1]
        self.assertIn(f"project(wyvern VERSION {version} ", (TREE / "CMakeLists.txt").read_text())


if __name__ == "__main__":
    unittest.main()
