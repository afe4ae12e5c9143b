"""From runs to the surrogate's inputs and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.history import History
from ray_mixopt.core.space import MixtureSpace

THINNING = 1.25  # least ratio between the steps of two reports of a run that both enter


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Data of one metric: inputs ``n x d+2``, values ``(n,)``, the run each belongs to, and its known noise.

    The noise is a variance, ``(n,)``, in the metric's unit squared; None if no run says any.
    """

    x: Tensor
    y: Tensor
    runs: tuple[str, ...]
    noise: Tensor | None = None

    def take(self, rows: Tensor) -> Observations:
        """Some of them, by index."""
        noise = None if self.noise is None else self.noise[rows]
        runs = tuple(self.runs[i] for i in rows.tolist())
        return Observations(x=self.x[rows], y=self.y[rows], runs=runs, noise=noise)

    def largest(self, n: int) -> Observations:
        """The ``n`` of largest fidelity, by log size plus log steps, in their order; of equals the earlier ones."""
        if len(self.y) <= n:
            return self
        return self.take(self.x[:, -2:].sum(-1).argsort(descending=True, stable=True)[:n].sort().values)

    def content(self) -> bytes:
        """Inputs, values and noise as bytes: the same for the same data."""
        return b"".join(part.numpy().tobytes() for part in (self.x, self.y, self.noise) if part is not None)


def fidelity_coordinates(space: MixtureSpace, scale: str, steps: float) -> tuple[float, float]:
    """Log size and log steps relative to the target. Size is parameters, or cost per step where one is unknown."""
    known = all(s.parameters is not None for s in (*space.scales, *space.earlier_scales))
    this, target = (
        (s.parameters if known else None) or s.cost_per_step for s in map(space.scale, (scale, space.target_scale))
    )
    return math.log(this / target), math.log(steps / space.target_steps)


def encode(space: MixtureSpace, mixtures: np.ndarray, fidelities: Sequence[tuple[str, int]]) -> Tensor:
    """Inputs of ``n`` mixtures, ``n x d``, at one fidelity each (or all at a single one), ``n x d+2``."""
    table = {cell: fidelity_coordinates(space, *cell) for cell in set(fidelities)}
    coordinates = np.array([table[cell] for cell in fidelities], dtype=np.float64).reshape(-1, 2)
    both = np.broadcast_to(coordinates, (len(mixtures), 2))
    return torch.from_numpy(np.concatenate([mixtures, both], axis=1))


def observations(space: MixtureSpace, history: History, metric: str, worst: float) -> Observations:
    """What the reports say of a metric, in the order of their arrival.

    Reports that lack the metric are left out, and so are those within 25% of the run's previous one (except at the
    target): neighbours on a learning curve say nearly the same and cost cubic time. The report in which a run diverged
    counts as the worst value seen at its scale so far: the mixture is priced as bad there, not forgotten.

    Args:
        space: the search space.
        history: trials and reports.
        metric: name of the metric.
        worst: +1 if larger values of the metric are worse, -1 if smaller ones are.
    """
    mixtures, fidelities, values, runs = [], [], [], []
    worst_at: dict[str, float] = {}
    kept: dict[str, int] = {}
    trials, target_steps = history.trials, space.target_steps
    for trial_id, step in history.arrivals:
        trial = trials[trial_id]
        value = trial.observations[step].get(metric)
        if value is None and trial.status == "diverged" and step == trial.reached:
            value = worst_at.get(trial.scale)
        if value is None:
            continue
        last = kept.get(trial_id, math.inf)
        if last < step < THINNING * last and step != target_steps:
            continue
        kept[trial_id] = step
        mixtures.append(trial.mixture)
        fidelities.append((trial.scale, step))
        values.append(value)
        runs.append(trial_id)
        seen = worst_at.get(trial.scale, value)
        worst_at[trial.scale] = max(seen, value) if worst > 0 else min(seen, value)
    noise = torch.tensor([trials[run].noise.get(metric, 0.0) ** 2 for run in runs], dtype=torch.float64)
    x = encode(space, np.array(mixtures, dtype=np.float64).reshape(-1, space.n_domains), fidelities)
    y = torch.tensor(values, dtype=torch.float64)
    return Observations(x=x, y=y, runs=tuple(runs), noise=noise if noise.any() else None)


def reports(data: Observations) -> dict[str, dict[tuple[float, ...], int]]:
    """The rows of each run by fidelity, as in the inputs."""
    result: dict[str, dict[tuple[float, ...], int]] = {}
    for row, (run, fidelity) in enumerate(zip(data.runs, data.x[:, -2:].tolist(), strict=True)):
        result.setdefault(run, {})[tuple(fidelity)] = row
    return result
