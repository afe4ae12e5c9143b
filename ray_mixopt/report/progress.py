"""A search as it goes on: a live table on a terminal, a line when something has changed elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ray_mixopt.core.history import History
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.words import amount, by_name, counted, duration, full_runs, listed, price, run_to
from ray_mixopt.optimizer import MixtureOptimizer

REDRAW_SECONDS = 0.2
NEWS_SECONDS = 4.0  # between two lines where there is no terminal
PREDICT_SECONDS = 1.5  # between two predictions that only the display needs
PREDICT_SHARE = 0.25  # of the time at most goes into them
N_DOMAINS = 3  # largest shares shown
N_RUNS = 3  # of those going on
LEAST_PACE = 0.05  # of what was left to be spent, before which its pace says little


class Display:
    """Shows the best mixture so far and how sure that is, what was spent, the time, and what runs.

    Args:
        console: where to.
        gpus: that a run of each scale holds; given where runs report the ``seconds`` that they trained.
    """

    def __init__(self, console: Console, gpus: Mapping[str, float] | None = None) -> None:
        self._console, self._gpus = console, gpus or {}
        self._live: Live | None = None
        self._drawn = self._told = self._predicted = -math.inf
        self._pause = PREDICT_SECONDS
        self._answer: Recommendation | None = None
        self._asked = self._said = 0  # fingerprints of what the answer rests on, and of what was said last
        self._began: tuple[float, float] | None = None  # the time of the first look, and what was spent by then

    @contextlib.contextmanager
    def shown(self) -> Iterator[Display]:
        """Keeps the table on the screen while the context lasts. Says first what one waits for."""
        self._console.print("Starting Ray, which takes some seconds.")
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield self
        self._live = None

    def update(self, optimizer: MixtureOptimizer) -> None:
        """Shows the search as it stands; returns at once if that was done a moment ago."""
        now = time.monotonic()
        if now - self._drawn < REDRAW_SECONDS:
            return
        history, state = optimizer.history, optimizer.history.fingerprint()
        self._drawn, self._began = now, self._began or (now, history.spent)
        if now - self._predicted >= self._pause and history.arrivals and state != self._asked:
            self._answer, self._asked = optimizer.answer(), state
            self._predicted = time.monotonic()
            self._pause = max(PREDICT_SECONDS, (self._predicted - now) / PREDICT_SHARE)
        rows = self._rows(optimizer, now)
        if self._live is not None:
            self._live.update(self._table(optimizer, rows), refresh=True)
        elif len(history) and now - self._told >= NEWS_SECONDS and state != self._said:
            self._told, self._said = now, state
            self._console.print("; ".join(f"{label}: {text}" for label, text in rows), soft_wrap=True)

    def _rows(self, optimizer: MixtureOptimizer, now: float) -> list[tuple[str, str]]:
        history, answer = optimizer.history, self._answer
        rows = [("spent", self._spent(optimizer)), ("time", self._time(optimizer, now)), ("runs", _runs(history))]
        if answer is None or answer.predicted is None:
            return rows
        shares = sorted(by_name(answer.mixture).items(), key=lambda item: -item[1])[:N_DOMAINS]
        rows.append(("best so far", ", ".join(f"{domain} {share:.0%}" for domain, share in shares)))
        if answer.difference is not None and (name := answer.against) is not None:
            probability = answer.probability_better[name]
            better = f"{answer.difference} (95%), better with probability"
            said = "no other is surely better so far" if probability is None else f"{better} {probability:.0%}"
            rows.append((f"against the {answer.called(name)}", said))
        rows.append(("predicted at the target", f"{answer.predicted} (95%)"))
        return rows

    def _spent(self, optimizer: MixtureOptimizer) -> str:
        history, budget, full_run = optimizer.history, optimizer.settings.budget, optimizer.space.target_cost
        if budget is None:
            text = price(history.spent, full_run)
        else:
            text = f"{history.spent / full_run:.2g} of {full_runs(budget, full_run)}, {history.spent / budget:.0%}"
        seconds = [
            (trial.scale, trial.observations[trial.reached].get("seconds", 0.0))
            for trial in history
            if not trial.evaluated and trial.observations
        ]
        hours = sum(self._gpus.get(scale, 0.0) * time for scale, time in seconds) / 3600
        return f"{text}, {amount(hours)} GPU-hours" if hours else text

    def _time(self, optimizer: MixtureOptimizer, now: float) -> str:
        assert self._began is not None
        elapsed, budget = now - self._began[0], optimizer.settings.budget
        if budget is None:
            return duration(elapsed)
        spent, rest = optimizer.history.spent - self._began[1], budget - optimizer.history.spent
        if rest <= 0 or spent < LEAST_PACE * (budget - self._began[1]):
            return duration(elapsed)
        return f"{duration(elapsed)}, about {duration(elapsed * rest / spent)} to go at this pace"

    def _table(self, optimizer: MixtureOptimizer, rows: list[tuple[str, str]]) -> Table:
        table, budget, spent = Table.grid(padding=(0, 2)), optimizer.settings.budget, optimizer.history.spent
        if budget is not None:
            table.add_row("", ProgressBar(total=budget, completed=min(spent, budget), width=40))
        for label, text in rows:
            table.add_row(label, text)
        return table


def _runs(history: History) -> str:
    """How many there are, and which of them go on."""
    running = history.pending()
    own = counted(sum(not trial.evaluated for trial in history), "run")
    now = [
        run_to(trial.scale, trial.steps) + (f" from {trial.reached:,}" if trial.reached else "")
        for trial in running[:N_RUNS]
    ]
    if more := len(running) - len(now):
        now.append(f"{more} more")
    return f"{own}, now {listed(now)}" if now else f"{own}, none going on"
