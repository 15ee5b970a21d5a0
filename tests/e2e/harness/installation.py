"""A machine that Wyvern was never installed on: what the lab has put there is away meanwhile."""

import contextlib
import os
import pathlib
import shutil

from harness.containerd import succeed
from harness.ctr import call, wait_until

# What the lab has put there by itself, in the way of an installation.
LAB = ["/usr/libexec/wyvern", "/usr/share/wyvern", "/usr/local/bin/wyvern", "/usr/local/bin/containerd-shim-wyvern-v2"]
CONFIGURATION = "/etc/wyvern"
VERSIONS = pathlib.Path("/usr/lib/wyvern")
CONTAINERD_CONFIG = pathlib.Path("/etc/containerd/config.toml")


def restart_containerd() -> None:
    succeed("systemctl", "restart", "containerd")
    assert wait_until(lambda: call(["ctr", "version"]).returncode == 0, 60)


def lay_out(stage: pathlib.Path) -> pathlib.Path:
    """The lab's files as deploy/install.sh --stage lays them out."""
    shutil.copytree("/usr/libexec/wyvern", stage / "libexec")
    shutil.copytree("/usr/share/wyvern", stage / "share")
    (stage / "bin").mkdir()
    for name in ("wyvern", "containerd-shim-wyvern-v2"):
        shutil.copy(f"/usr/local/bin/{name}", stage / "bin" / name)
    return stage


@contextlib.contextmanager
def bare_machine(containerd: str | None = None, away=()):
    """`containerd`: its configuration meanwhile, else its own with CRI; `away`: more that is not there. As it was afterwards."""
    before = CONTAINERD_CONFIG.read_text()
    moved = [path for path in (*LAB, *away) if os.path.lexists(path)]
    CONTAINERD_CONFIG.write_text(containerd or before.replace('"io.containerd.grpc.v1.cri", ', ""))  # off in the lab
    for path in moved:
        os.rename(path, path + ".lab")
    try:
        yield
    finally:
        for path in moved:
            if os.path.lexists(path):  # a test failed half way
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            os.rename(path + ".lab", path)
        CONTAINERD_CONFIG.write_text(before)
        restart_containerd()
