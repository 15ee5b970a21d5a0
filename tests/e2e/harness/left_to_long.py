"""--long and the marker `thorough`, for tests/e2e and tests/interop (pytest_plugins of their conftest.py)."""

import pytest

LEFT_TO_LONG = pytest.StashKey[int]()


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the big sizes and counts, and what is one more of a kind")


def pytest_configure(config):
    config.addinivalue_line("markers", "thorough: one more of a kind; only with --long")


@pytest.hookimpl(trylast=True)  # after -k: what it leaves out is not counted
def pytest_collection_modifyitems(config, items):
    # The lab's share of a run is minutes: what is one more of a kind is left to --long, and counted at the end.
    left_out = [i for i in items if i.get_closest_marker("thorough") and not config.getoption("--long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [i for i in items if i not in left_out]
    config.stash[LEFT_TO_LONG] = len(left_out)


def pytest_terminal_summary(terminalreporter, config):
    """tests/suites/lab.sh reads this line."""
    terminalreporter.write_line(f"{config.stash.get(LEFT_TO_LONG, 0)} left to --long")
