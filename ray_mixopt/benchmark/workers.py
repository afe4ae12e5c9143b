"""Workers that train side by side on a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ray_mixopt.core.trial import Branch

MOST_WORKERS = 10_000


@dataclass(frozen=True)
class Fleet:
    """What trains.

    Args:
        speeds: cost units that each worker trains in a unit of time.

    Raises:
        ValueError: if there is none, or a speed is not a positive number.
    """

    speeds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.speeds) <= MOST_WORKERS:
            raise ValueError(f"There must be between 1 and {MOST_WORKERS} workers, got {len(self.speeds)}.")
        for speed in self.speeds:
            if not (math.isfinite(speed) and speed > 0):
                raise ValueError(f"The speed of a worker must be a positive number, got {speed!r}.")

    @classmethod
    def parse(cls, text: str) -> Fleet:
        """``8``: so many of speed 1; ``1,1,0.5``: one for each speed.

        Raises:
            ValueError: for anything else.
        """
        try:
            if text.strip().isdecimal():
                return cls((1.0,) * min(int(text), MOST_WORKERS + 1))
            return cls(tuple(float(part) for part in text.split(",")))
        except ValueError as error:
            raise ValueError(f"--workers is a number, or speeds such as 1,1,0.5, got {text!r}: {error}") from None

    @property
    def power(self) -> float:
        """Cost units that all of them train in a unit of time."""
        return math.fsum(self.speeds)

    def __str__(self) -> str:
        if set(self.speeds) == {1.0}:
            return str(len(self.speeds))
        return "+".join(f"{speed:g}" for speed in self.speeds)


ONE_WORKER = Fleet((1.0,))


@dataclass(kw_only=True)
class PaidRun:
    """A training run and how far it is paid for.

    Attributes:
        mixture: shares of training tokens in domain order, ``(d,)``.
        scale: name of the model scale.
        reached: training step that it got to; a fraction where it failed between steps.
        failed: whether it failed there.
        branch: where it began, if not from nothing.
    """

    mixture: np.ndarray
    scale: str
    reached: float = 0.0
    failed: bool = False
    branch: Branch | None = None


class Reading(NamedTuple):
    """What a run shows at a rung, and what it costs to get there from where it began."""

    cost: float
    step: int
    metrics: Mapping[str, float]


@dataclass(kw_only=True, eq=False)
class Assignment:
    """A run on its way to a rung.

    Attributes:
        trial_id: its name.
        run: the run.
        number: of the suggestion.
        end: step at which it ends.
        failed: whether it fails there.
        reserved: what it costs if it does not fail.
        cost: what it costs.
        reports: what it will show, ascending.
    """

    trial_id: str
    run: PaidRun
    number: int
    end: float
    failed: bool
    reserved: float
    cost: float
    reports: list[Reading]
    worker: int = field(default=0, init=False)
    began: float = field(default=0.0, init=False)
    over: float = field(default=math.inf, init=False)


class Floor:
    """The workers, what each is busy with, and the clock.

    Args:
        workers: what trains.

    Attributes:
        now: the time, in cost units over a speed of 1.
    """

    def __init__(self, workers: Fleet) -> None:
        self.speeds = workers.speeds
        self.now = 0.0
        self.jobs: list[Assignment] = []  # as they were started
        self._idle = sorted(range(len(workers.speeds)), key=lambda worker: (-workers.speeds[worker], worker))

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return bool(self._idle)

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return bool(self.jobs)

    @property
    def committed(self) -> float:
        """Cost of what runs, in the problem's unit, if none of it fails."""
        return math.fsum(job.reserved for job in self.jobs)

    @property
    def next_end(self) -> float:
        """Time on the virtual clock at which the next run ends."""
        return min(job.over for job in self.jobs)

    def start(self, job: Assignment) -> None:
        """Gives a run to the fastest idle worker."""
        job.worker = self._idle.pop(0)
        job.began, job.over = self.now, self.now + job.cost / self.speeds[job.worker]
        self.jobs.append(job)

    def trained(self, time: float) -> float:
        """Cost of what the present runs will have trained at a time up to the next end."""
        return math.fsum(
            job.cost if time >= job.over else (time - job.began) * self.speeds[job.worker] for job in self.jobs
        )

    def advance(self) -> tuple[list[tuple[str, int, Mapping[str, float]]], list[Assignment]]:
        """Goes on to the next end: what all runs reported until then, in order of time, and the runs that end then."""
        self.now = self.next_end
        ended = sorted((job for job in self.jobs if job.over <= self.now), key=lambda job: job.number)
        heard = []
        for job in self.jobs:
            moments = [job.began + report.cost / self.speeds[job.worker] for report in job.reports]
            # A run that ends has reported everything, whatever the rounding.
            n = len(moments) if job in ended else sum(moment <= self.now for moment in moments)
            heard += [(m, job.number, job.trial_id, r) for m, r in zip(moments[:n], job.reports[:n], strict=True)]
            job.reports = job.reports[n:]
        heard.sort(key=lambda report: report[:2])  # stable: a run's own stay in order
        self.jobs = [job for job in self.jobs if job not in ended]
        self._idle += [job.worker for job in ended]
        self._idle.sort(key=lambda worker: (-self.speeds[worker], worker))
        return [(trial_id, report.step, report.metrics) for _, _, trial_id, report in heard], ended
