"""Random scripts on a volume in a guest and on a directory of the host: equal logs, equal file systems.

sandbox-vmm/devices/fs/differential says what is compared, and which differences are allowed. The suite lab adds the program to its machines:
lab run --add build/release/bin/wyvern-fsdiff. WYVERN_FSDIFF_SEED (lab run --env) is another first seed, "today" the day's. --long: 20 000
steps. tests/interop has the same on a share with ACLs.
"""

import datetime
import os
import pathlib

import pytest

from harness.ctr import DEBIAN, call, more, run

FSDIFF = pathlib.Path("/opt/wyvern/extra/wyvern-fsdiff")


def first_seed() -> int:
    value = os.environ.get("WYVERN_FSDIFF_SEED", "20261122")
    return int(datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d")) if value == "today" else int(value)


def first_difference(left: str, right: str) -> str:
    for ours, theirs in zip(left.splitlines(), right.splitlines()):
        if ours != theirs:
            return f"in the guest: {ours}\non the host:  {theirs}"
    return f"{left.count(chr(10))} and {right.count(chr(10))} lines"


# One of the two asks for holes, the other maps files.
@pytest.mark.skipif(not FSDIFF.exists(), reason="this machine was started without wyvern-fsdiff (lab run --add)")
@pytest.mark.limit(1800)
@pytest.mark.parametrize("script", [0, more(1)])
def test_a_volume_is_like_the_directory(scratch, long, script):
    for name in ("share", "beside"):
        (scratch / name).mkdir()
        (scratch / name).chmod(0o777)
    arguments = ["--seed", str(first_seed() + script), "--steps", "10000" if long else "1000", "--guest"]
    print("wyvern-fsdiff", *arguments)
    flags = ["--privileged", "--mount", f"type=bind,src={scratch / 'share'},dst=/data,options=rbind:rw",
             "--mount", f"type=bind,src={FSDIFF.parent},dst=/extra,options=rbind:ro"]
    guest = run(DEBIAN, "/extra/wyvern-fsdiff", "--dir", "/data", *arguments, flags=flags, timeout=1700)
    assert guest.returncode == 0, guest.stderr.decode(errors="replace")
    host = call([FSDIFF, "--dir", scratch / "beside", "--beside", *arguments], timeout=600)
    assert host.returncode == 0, host.stderr.decode(errors="replace")
    ours, theirs = (log.stdout.decode(errors="backslashreplace") for log in (guest, host))
    assert ours == theirs, first_difference(ours, theirs)
    assert ours.count("\n") > int(arguments[3])
