#!/usr/bin/env python3
"""installer_image.py [--build DIR] ARCHIVE: the image that deploy/kubernetes/Containerfile describes, without a registry, as root.

What the file says is followed word by word, with what this host has of it: FROM a Debian image is mmdebstrap of that release (in the lab's cache), the
packages that its RUN installs are in there, COPY is what `deploy/install.sh --stage` lays out of the build, with node.sh. A line that is not
understood is a failure. `ctr images import` reads the archive.
"""

import argparse
import io
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests/lab"), str(TREE / "tests/e2e")]

from harness.images import Images  # noqa: E402
from lablib import cache, root  # noqa: E402

CONTAINERFILE = TREE / "deploy/kubernetes/Containerfile"
NAME = "docker.io/library/wyvern-installer:latest"  # what a kubelet makes of the DaemonSet's
SUITES = {"debian:12-slim": "bookworm"}
INSTALLS = re.compile(r"RUN apt-get update && apt-get install --yes --no-install-recommends ([a-z0-9 .+-]+) && rm -rf /var/lib/apt/lists/\*")


class Recipe:
    """What a Containerfile of these few kinds of lines says."""

    def __init__(self, text: str):
        self.suite, self.packages, self.place = None, (), None
        for line in text.splitlines():
            if match := re.fullmatch(r"FROM (\S+)", line):
                self.suite = SUITES[match[1]]
            elif match := INSTALLS.fullmatch(line):
                self.packages = tuple(match[1].split())
            elif match := re.fullmatch(r"COPY \. (/\S+)", line):
                self.place = match[1]
            elif line and not re.match(r"#|ENTRYPOINT \[\]$|CMD \[", line):
                raise SystemExit(f"{CONTAINERFILE}: what is {line!r}?")
        if not self.suite or not self.place:
            raise SystemExit(f"{CONTAINERFILE} has no FROM or no COPY")


def debian(recipe: Recipe) -> pathlib.Path:
    """Its root as a tar file."""

    def build(out: pathlib.Path) -> None:
        root.install_host_tools()
        with cache.step(f"root of the installer's image (mmdebstrap {recipe.suite})"):
            root.debootstrap("minbase", "amd64", recipe.suite, recipe.packages, out / "root.tar")

    return cache.entry("installer-root", cache.digest(recipe.suite, recipe.packages, root.MIRROR), build) / "root.tar"


def staged(build: pathlib.Path, place: str) -> bytes:
    """A layer: what the image has of ours."""
    with tempfile.TemporaryDirectory() as directory:
        stage = pathlib.Path(directory, "stage")
        subprocess.run([TREE / "deploy/install.sh", "--build", build, "--stage", stage], check=True, stdout=sys.stderr)
        shutil.copy(TREE / "deploy/kubernetes/node.sh", stage)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(stage, place.strip("/"))
        return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=TREE / "build/release")
    parser.add_argument("archive", type=pathlib.Path)
    options = parser.parse_args()
    recipe = Recipe(CONTAINERFILE.read_text())
    images = Images()
    images.make(NAME, [debian(recipe).read_bytes(), staged(options.build, recipe.place)])
    images.archive(options.archive)


if __name__ == "__main__":
    main()
