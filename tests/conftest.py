"""Shared by all tests; imports no Ray."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and for child processes: its matrices are small here, and threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for the helpers that lie here

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so are the children of that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


RAY = ("tests/pretraining/test_search.py", "tests/pretraining/test_trainable.py", "tests/tune/")
"""Where tests start Ray, or processes that do: minutes of work in few tests."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; runs where MIXOPT_SLOW_TESTS is set")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray come first: in the end many short ones fill up what time is left on a worker."""
    if "MIXOPT_SLOW_TESTS" not in os.environ:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: set MIXOPT_SLOW_TESTS=1"))
    items.sort(key=lambda item: not item.nodeid.startswith(RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under pytest-xdist, a module whose tests start Ray stays on one worker, which keeps its Ray for the next one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.split("::")[0] if nodeid.startswith(RAY) else nodeid

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """``with full_disk(): ...``: no file may grow beyond a few bytes, whoever writes it in this process."""

    @contextmanager
    def full() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full
