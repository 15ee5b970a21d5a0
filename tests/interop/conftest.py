"""--long as in tests/e2e: what is one more of a kind is left to it."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

pytest_plugins = ["harness.left_to_long"]
