"""An optimizer that several threads share."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ladder import LadderStrategy
from worlds import TINY

from ray_mixopt.core.strategy import Suggestion
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.surrogate.fit import laplace_draws, map_estimate
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.testing import check_history

BUDGET = 600.0
THREADS = 8


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_no_run_is_handed_out_twice_and_nothing_is_spent_twice() -> None:
    optimizer = MixtureOptimizer(TINY, strategy=LadderStrategy, budget=BUDGET, seed=3)
    going: dict[str, Suggestion] = {}
    errors: list[BaseException] = []
    begin = threading.Barrier(THREADS)

    def work() -> None:
        begin.wait()
        try:
            while (run := optimizer.ask()) is not None:
                assert going.setdefault(run.trial_id, run) is run, "somebody else is training it"
                for step in (step for step in TINY.steps if step <= run.steps):
                    optimizer.tell(run.trial_id, step, run.mixture["web"] + 1 / step)
                del going[run.trial_id]
                optimizer.finish(run.trial_id)
                optimizer.recommend()
                optimizer.state_dict()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    check_history(optimizer.history, budget=BUDGET)
    assert optimizer.history.n_continued > 5 and optimizer.history.spent > BUDGET - TINY.target_cost


def test_what_is_told_does_not_wait_for_a_thread_that_thinks() -> None:
    thinking, thought = threading.Event(), threading.Event()

    class Slow(LadderStrategy):
        def propose(self, history):
            thinking.set()
            assert thought.wait(30)
            return super().propose(history)

    optimizer = MixtureOptimizer(TINY, strategy=Slow, seed=3)
    thought.set()
    run = optimizer.ask()
    thought.clear()
    thinking.clear()
    thread = threading.Thread(target=optimizer.propose, args=[optimizer.history.copy()])
    thread.start()
    assert thinking.wait(30)
    optimizer.tell(run.trial_id, TINY.steps[0], 1.0)
    optimizer.finish(run.trial_id)
    optimizer.state_dict()
    assert thread.is_alive() and optimizer.history[run.trial_id].status == "paused"
    thought.set()
    thread.join(30)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_waits_for_nobody(again) -> None:
    optimizer = MixtureOptimizer(TINY, strategy="random", seed=3)
    with optimizer._history_turn:
        other = again(optimizer)
        thread = threading.Thread(target=other.ask, args=["a"])
        thread.start()
        thread.join(30)
        assert list(other.history.trials) == ["a"] and not optimizer.history.trials


def test_what_is_read_of_the_history_is_whole_while_others_write() -> None:
    optimizer = MixtureOptimizer(TINY, objective={"loss": 1.0}, strategy="random", seed=3)
    history, errors, over = optimizer.history, [], threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                assert history.spent <= history.committed
                assert history.spent_by_scale() and history.mixtures().ndim == 2
                assert not history.metrics or set(history.metrics) >= {"loss"}
                state, other = history.state_dict(), history.copy()
                assert sum(len(trial["observations"]) for trial in state["trials"]) == len(state["arrivals"])
                check_history(other)
                assert all(trial.trial_id in history.trials for trial in history)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        run = optimizer.ask()
        for step in range(1, 30):
            optimizer.tell(run.trial_id, step, {"loss": 1 / step, f"other_{number}_{step}": 1.0})
        optimizer.finish(run.trial_id)
    over.set()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_a_reader_waits_for_who_holds_the_turn() -> None:
    history = MixtureOptimizer(TINY, strategy="random").history
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(history.spent))
    with history.turn:
        thread.start()
        thread.join(0.2)
        assert not found and history.copy().spent == 0.0
    thread.join(30)
    assert found == [0.0]


def test_a_fit_is_on_one_thread_and_leaves_as_many_as_there_were() -> None:
    during = []

    def kernel(n_domains: int, batch_shape: torch.Size | None = None) -> MixtureFidelityKernel:
        during.append(torch.get_num_threads())
        return MixtureFidelityKernel(n_domains, batch_shape)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rng = np.random.default_rng(0)
        x = torch.from_numpy(np.column_stack([rng.dirichlet(np.ones(3), 8), np.zeros((8, 2))]))
        mode = map_estimate(x, x[:, 0], kernel=kernel)
        laplace_draws(x, x[:, 0], mode, 2, rng, kernel=kernel)
        with pytest.raises(RuntimeError):
            map_estimate(x, x[:3, 0], kernel=kernel)
        assert set(during) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
