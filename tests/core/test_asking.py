"""Suggestions made in a thread while the history goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ray_mixopt.core.history import History
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies.random import RandomStrategy
from ray_mixopt.tune.background import Asking


class Gate:
    """Holds every proposal of an optimizer up until it is let through."""

    def __init__(self, optimizer: MixtureOptimizer) -> None:
        self.open, self.threads, self._propose = threading.Event(), [], optimizer.propose
        optimizer.propose = self.propose

    def propose(self, history: History) -> Proposal | None:
        self.threads.append(threading.current_thread().name)
        assert self.open.wait(30)
        return self._propose(history)


@pytest.fixture
def optimizer(space: MixtureSpace) -> MixtureOptimizer:
    return MixtureOptimizer(space, strategy="random", budget=2.5 * space.target_cost)


@pytest.fixture
def gate(optimizer: MixtureOptimizer) -> Iterator[Gate]:
    made = Gate(optimizer)
    yield made
    made.open.set()


def soon(asking: Asking, optimizer: MixtureOptimizer, name: str):
    """Asks until it is known."""
    for _ in range(3000):
        known, suggestion = asking.ask(optimizer, name, patient=False)
        if known:
            return suggestion
        time.sleep(0.01)
    raise AssertionError("no answer")


def test_a_slow_suggestion_is_not_waited_for(optimizer: MixtureOptimizer, gate: Gate) -> None:
    asking = Asking(0.0)
    assert [asking.ask(optimizer, "a", patient=False) for _ in range(3)] == [(False, None)] * 3
    assert len(optimizer.history) == 0
    gate.open.set()
    assert soon(asking, optimizer, "b").trial_id == "b", "it has the name of the trial that gets it"
    assert len(gate.threads) == 1 and gate.threads[0].startswith("mixopt")


def test_without_a_wait_all_happens_on_the_spot(optimizer: MixtureOptimizer, gate: Gate) -> None:
    gate.open.set()
    known, suggestion = Asking(None).ask(optimizer, "a", patient=False)
    assert known and suggestion.trial_id == "a" and gate.threads == [threading.current_thread().name]


def test_the_thread_suggests_what_the_optimizer_would(space: MixtureSpace, optimizer: MixtureOptimizer) -> None:
    same = MixtureOptimizer(space, strategy="random", budget=2.5 * space.target_cost)
    asking = Asking(5.0)
    for name in "ab":
        assert asking.ask(optimizer, name, patient=True) == (True, same.ask(name))
    assert asking.ask(optimizer, "c", patient=True) == (True, None)


def test_what_became_impossible_meanwhile_is_thought_over(optimizer: MixtureOptimizer, gate: Gate) -> None:
    asking = Asking(0.0)
    assert asking.ask(optimizer, "a", patient=False) == (False, None)
    gate.open.set()
    time.sleep(0.2)
    for name in "xy":
        optimizer.ask(name)  # all the money is spent
    assert asking.ask(optimizer, "a", patient=True) == (True, None)
    assert list(optimizer.history.trials) == ["x", "y"]


def test_nothing_to_ask_is_an_answer_only_while_nothing_happens(optimizer: MixtureOptimizer, gate: Gate) -> None:
    gate.open.set()
    for name in "xy":
        optimizer.ask(name)
    gate.open.clear()
    asking = Asking(0.0)
    assert asking.ask(optimizer, "a", patient=False) == (False, None)
    optimizer.finish("x", failed=True)  # leaves its money
    gate.open.set()
    assert soon(asking, optimizer, "a").trial_id == "a"


class Stumbling(RandomStrategy):
    """Cannot think, so many times."""

    times = 0

    def propose(self, history: History) -> Proposal | None:
        if Stumbling.times:
            Stumbling.times -= 1
            raise FloatingPointError("no fit")
        return super().propose(history)


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize("times", [2, 3])
def test_an_error_in_the_thread_is_said_and_tried_again_but_not_for_ever(
    space: MixtureSpace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, times: int, patient: bool
) -> None:
    monkeypatch.setattr(Stumbling, "times", times)
    asking, optimizer = Asking(1.0), MixtureOptimizer(space, strategy=Stumbling)

    def answer():
        return asking.ask(optimizer, "a", patient=True)[1] if patient else soon(asking, optimizer, "a")

    if times == 3:
        with pytest.raises(RuntimeError, match="No suggestion .* 3 times in a row: FloatingPointError: no fit") as info:
            answer()
        assert isinstance(info.value.__cause__, FloatingPointError)
    assert answer().trial_id == "a", "after three errors it can be asked anew"
    told = [record for record in caplog.records if "tried again" in record.message]
    assert len(told) == 2 and all("no fit" in str(record.exc_info) for record in told)


@pytest.mark.parametrize("wait", [-1.0, float("inf"), float("nan"), "long"])
def test_bad_waits_are_refused(wait: float) -> None:
    with pytest.raises(ValueError, match="max_wait_s must be a number of seconds or None"):
        Asking(wait)
