"""What was measured: kept in /out/lab.json as it comes, shown on stdout."""

import json
import pathlib
import statistics

RUNS = 5
_results = {}


def say(text):
    print(text, flush=True)


def keep(name, **values):
    _results[name] = values
    say(f"{name}: {json.dumps(values)}")
    pathlib.Path("/out").mkdir(exist_ok=True)
    pathlib.Path("/out/lab.json").write_text(json.dumps(_results, indent=1))


def medians(runs):
    """[{name: value}] → {name: median}"""
    return {name: statistics.median(run.get(name, 0) for run in runs) for name in runs[0]}
