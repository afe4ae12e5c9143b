"""What is shown while a search runs: on a terminal, in a file, and in the words of who pays for it."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from worlds import TINY, Bowl, search, train

from ray_mixopt import MixtureOptimizer
from ray_mixopt.report import progress
from ray_mixopt.report.progress import Display

LOSS = Bowl(space=TINY, best=(0.2, 0.5, 0.3))


class Clock:
    """A clock that goes on only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def piped() -> Console:
    return Console(file=io.StringIO(), markup=False, emoji=False, width=80)


def said(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_a_line_says_all_of_it_when_something_has_changed(clock: Clock) -> None:
    console = piped()
    optimizer = MixtureOptimizer(TINY, objective={"loss": 1.0}, budget=2 * TINY.target_cost, seed=1)
    with Display(console).shown() as display:
        display.update(optimizer)
        assert said(console) == ["Starting Ray, which takes some seconds."]  # nothing else is known
        run = optimizer.ask()
        clock.now += 1
        display.update(optimizer)  # the first run is news at once
        assert said(console)[
            1
        ] == f"spent: 0 of 2.00 full runs, 0%; time: 1 s; runs: 1 run, now {run.scale} to step " + (f"{run.steps}")
        clock.now += 60
        display.update(optimizer)
        assert len(said(console)) == 2  # nothing has changed
        train(optimizer, run, lambda *of: {"loss": LOSS(*of)})
        search(optimizer, 8, lambda *of: {"loss": LOSS(*of)})
        last = optimizer.ask()
        clock.now += 39
        display.update(optimizer)
        clock.now += 1
        display.update(optimizer)
    line = said(console)[2]
    assert len(said(console)) == 3
    spent, full = optimizer.history.spent, TINY.target_cost
    assert f"spent: {spent / full:.2g} of 2.00 full runs, {spent / (2 * full):.0%}; time: 2 min" in line
    assert f"runs: 9 runs, now {last.scale} to step {last.steps}" in line
    answer = optimizer.answer()
    assert f"against the uniform mixture: {answer.difference} (95%), better with probability " in line
    assert "best so far: " in line and f"predicted at the target: {answer.predicted} (95%)" in line


def test_the_time_that_is_left_is_that_of_the_pace(clock: Clock) -> None:
    console = piped()
    optimizer = MixtureOptimizer(TINY, objective={"loss": 1.0}, budget=2 * TINY.target_cost, strategy="random")
    display = Display(console)
    display.update(optimizer)
    search(optimizer, 1, lambda *of: {"loss": LOSS(*of)})  # a full run, half of the budget
    clock.now += 600
    display.update(optimizer)
    assert "time: 10 min, about 10 min to go at this pace" in said(console)[-1]
    assert "runs: 1 run, none going on" in said(console)[-1]


def test_no_cost_is_a_number_that_nobody_can_read(clock: Clock) -> None:
    flops = replace(
        TINY, scales=tuple(replace(s, cost_per_step=s.cost_per_step * 1e15) for s in TINY.scales), target=None
    )
    optimizer = MixtureOptimizer(flops, objective={"loss": 1.0}, budget=2 * flops.target_cost, strategy="random")
    search(optimizer, 1, lambda *of: {"loss": LOSS(*of), "seconds": 1800.0})
    optimizer.ask()
    console = piped()
    Display(console, {"60M": 4.0}).update(optimizer)
    assert "spent: 1 of 2.00 full runs, 50%, 2 GPU-hours" in said(console)[0] and "e+" not in said(console)[0]
    text = str(optimizer.recommend())
    assert "Spent: 1.00 full runs" in text and "e+" not in text


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_a_table_that_fits(clock: Clock, width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30, markup=False)
    optimizer = MixtureOptimizer(TINY, objective={"loss": 1.0}, budget=2 * TINY.target_cost)
    search(optimizer, 8, lambda *of: {"loss": LOSS(*of)})
    optimizer.ask()
    with Display(console).shown() as display:
        display.update(optimizer)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "against the uniform mixture" in text and "best so far" in text and "now " in text
    assert max(map(len, re.split(r"[\r\n]", text))) <= width
