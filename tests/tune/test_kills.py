"""A search that is killed twenty times. Takes minutes: run with MIXOPT_SLOW_TESTS=1, and -s to see the log."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import replay_driver
from killing import printed, saved
from ladder import LadderStrategy, observations, wait_until

from ray_mixopt import MixOptSearcher
from ray_mixopt.core.history import History
from ray_mixopt.testing import check_history

KILLS = 20
BUDGET = 400.0
SEED = 7


def at_least(n_observations: int, driver: subprocess.Popen, folder: Path) -> bool:
    """Whether a snapshot has so many observations, or the driver has ended."""
    history = saved(folder)
    return driver.poll() is not None or (history is not None and len(history.arrivals) >= n_observations)


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path, start_driver: Callable) -> None:
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=SEED)
    replay_driver.make_tuner(searcher, str(tmp_path / "whole"), concurrency=1).fit()
    whole = searcher.optimizer.history

    folder, moments = tmp_path / "killed", random.Random(SEED)
    for kill in range(KILLS):
        driver = start_driver("restore" if kill else "start", folder, 1, BUDGET, SEED)
        before = len(h.arrivals) if (h := saved(folder)) is not None else 0
        # Now and then before anything new is known; else after some reports, at any point of a step or a snapshot.
        wanted = before + moments.choice([0, 1, 2, 4]) if kill else 3

        wait_until(partial(at_least, wanted, driver, folder), timeout_s=300, what="progress")
        time.sleep(moments.uniform(0, 1.5))
        if driver.poll() is not None:
            pytest.fail(f"The driver ended before kill {kill + 1}: {driver.communicate()[1][-2000:]}")
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        history = saved(folder)
        assert history is not None
        check_history(history, budget=BUDGET)
        same = observations(history) == observations(whole)[: len(history.arrivals)]
        print(
            f"kill {kill + 1}: {len(history.arrivals)} of {len(whole.arrivals)} observations, "
            f"{len(history.paused())} paused, spent {history.spent:.4g}, differences: {'none' if same else 'some'}"
        )
        assert same

    out, err = (driver := start_driver("restore", folder, 1, BUDGET, SEED)).communicate(timeout=240)
    assert driver.returncode == 0, err[-3000:]
    end = printed(out)
    history = History.from_state_dict(end["history"])
    check_history(history, budget=BUDGET)
    assert end["errors"] == 0 and observations(history) == observations(whole)
    assert [(run.steps, run.status) for run in history] == [(run.steps, run.status) for run in whole]
    assert (history.n_asked, history.spent) == (whole.n_asked, whole.spent)
    print(
        f"end: {len(history)} trials, {len(history.arrivals)} observations, spent {history.spent:.6g}, "
        f"{history.n_duplicates} repeated reports dropped, differences: none"
    )
