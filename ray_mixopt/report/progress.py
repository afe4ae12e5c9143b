"""A search as it goes on: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ray_mixopt.core.history import History
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.words import amount
from ray_mixopt.optimizer import MixtureOptimizer

REDRAW_SECONDS = 0.2
PREDICT_SECONDS = 4.0
PREDICT_SHARE = 0.05  # of the time at most goes into predictions that only the display needs
N_DOMAINS = 3  # largest shares shown


class Display:
    """Shows spending, runs, the incumbent and its predicted value at the target.

    Args:
        console: where to.
        budget: of the search, in the cost unit of its space.
    """

    def __init__(self, console: Console, budget: float) -> None:
        self._console, self._budget = console, budget
        self._live: Live | None = None
        self._drawn = self._predicted = time.monotonic()
        self._pause = PREDICT_SECONDS
        self._answer: Recommendation | None = None

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
        self._drawn = now
        news = now - self._predicted >= self._pause and bool(optimizer.history.arrivals)
        if news:
            self._answer = optimizer.recommend()
            self._predicted = time.monotonic()
            self._pause = max(PREDICT_SECONDS, (self._predicted - now) / PREDICT_SHARE)
        if self._live is not None:
            self._live.update(self._table(optimizer.history), refresh=True)
        elif news:
            self._console.print(
                "; ".join(f"{label}: {text}" for label, text in self._rows(optimizer.history)), soft_wrap=True
            )

    def _rows(self, history: History) -> list[tuple[str, str]]:
        rows = [
            ("spent", f"{amount(history.spent)} of {amount(self._budget)}"),
            ("runs", f"{len(history)}, {sum(trial.pending for trial in history)} going on"),
        ]
        if self._answer is not None:
            answer = self._answer
            shares = sorted(answer.mixture.items(), key=lambda item: -item[1])[:N_DOMAINS]
            rows.append(("incumbent", ", ".join(f"{domain} {share:.0%}" for domain, share in shares)))
            if answer.predicted is not None:
                rows.append((f"predicted at {answer.scale} x {answer.steps:,}", f"{answer.predicted} (95%)"))
            if answer.difference is not None:
                name, probability = list(answer.probability_better.items())[-1]
                sure = "the same mixture" if probability is None else f"better with probability {probability:.0%}"
                rows.append((f"against {name}", f"{answer.difference}, {sure}"))
        return rows

    def _table(self, history: History) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("", ProgressBar(total=self._budget, completed=min(history.spent, self._budget), width=40))
        for label, text in self._rows(history):
            table.add_row(label, text)
        return table
