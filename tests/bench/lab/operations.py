"""What one operation of a running guest costs: the difference of two guests with different numbers of operations, so that what boot and
end cost falls out."""

import contextlib
import dataclasses
import pathlib
import typing

from counters import COUNTED, Counting
from figures import keep
from guests import Run
from user_copies import UserCopies

rounds = 3  # measure.py --rounds


@dataclasses.dataclass(kw_only=True)
class Side:
    """One of those that are compared. `argv`: the words of wyvern-bench for (count, what `within` gave); `servers`: names of the
    processes that are its back-ends; `left_out`: the VMM's main thread has no part in the operation, in this program only."""
    argv: typing.Callable
    servers: tuple = ()
    within: typing.Callable = contextlib.nullcontext
    left_out: bool = False


def _name(proc):
    try:
        return (proc / "comm").read_text().strip()
    except OSError:
        return ""


def _processes(names):
    return {int(proc.name) for proc in pathlib.Path("/proc").iterdir() if proc.name.isdigit() and _name(proc) in names}


def counted(side, count):
    """One guest, and its counts just before it is ended."""
    with Counting() as counting, side.within() as given, Run(side.argv(count, given)) as run:
        counts = counting.take({run.pid}, _processes(side.servers), {run.pid} if side.left_out else ())
    return run, counts


def _copied_inside(side, low, high, per):
    """Bytes that the VMM and its back-ends copy themselves for one operation."""
    copied = {}
    for count in (low, high):
        with UserCopies() as copies, side.within() as given, Run(side.argv(count, given)) as run:
            copied[count] = copies.take({run.pid} | _processes(side.servers))
    return (copied[high] - copied[low]) / (high - low) / per


def _difference(side, low, high, per, took):
    counts = {count: counted(side, count)[1] for count in (low, high)}
    # Its time is that of a guest whose events nobody counts: it would be longer for whoever has more of them.
    with side.within() as given, Run(side.argv(high, given)) as run:
        pass
    operations = (high - low) * per
    cost = {key: (counts[high][key] - counts[low][key]) / operations for key in COUNTED}
    cost["us"] = took(run) / (high * per) / 1000
    for what in ("calls", "woken", "copies", "reasons"):
        names = set(counts[high][what]) | set(counts[low][what])
        each = {name: round((counts[high][what].get(name, 0) - counts[low][what].get(name, 0)) / operations, 2) for name in names}
        cost[what] = {name: n for name, n in each.items() if abs(n) >= 0.05}
    return cost


def compare(name, sides, low, high, per=1, took=None):
    """Keeps as `name` what an operation costs each of `sides` ({name: Side}), `rounds` times in turn. A guest does `low` or `high` times
    `per` operations; `took`: of the Run of the latter, their nanoseconds, unless the guest says them."""
    took = took or (lambda run: run.took(name))
    costs = {side: [] for side in sides}
    for _ in range(rounds):
        for side, what in sides.items():
            costs[side].append(_difference(what, low, high, per, took))
    inside = {side: _copied_inside(what, low, high, per) for side, what in sides.items()}
    # System calls by name, threads woken, who copied and why the guest was left: the last round's, for looking into a difference.
    keep(name, **{side: {**each[-1], **{key: [cost[key] for cost in each] for key in (*COUNTED, "us")}, "copied_inside": inside[side]}
                  for side, each in costs.items()})
