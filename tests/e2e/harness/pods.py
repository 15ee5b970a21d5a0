"""What the tests of pods start from: a CRI for the module, and the handlers that are ours."""

import contextlib
import pathlib

import pytest

from harness.cri import Cri, Pod, generation, network, why_not

# By podsandbox mode, and where containerd has it by the Sandbox API.
OURS = ["wyvern", "sandbox-api"] if why_not() == "" and generation() > 1 else ["wyvern"]


@contextlib.contextmanager
def settled_cri(directory: pathlib.Path, pods=network):
    """A Cri whose first pod was runc's: what that makes and leaves, the bridge, is no leak of a test."""
    with Cri(directory, pods) as one:
        with Pod(one, "runc"):
            pass
        yield one


@pytest.fixture(scope="module")
def cri(tmp_path_factory):
    why = why_not()
    if why:
        pytest.skip(why)
    with settled_cri(tmp_path_factory.mktemp("wyvern-e2e-cri")) as one:
        yield one
