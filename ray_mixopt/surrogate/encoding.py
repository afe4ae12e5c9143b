"""From runs to the surrogate's inputs and values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.core.history import History
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.supply import passes

THINNING = 1.5  # least ratio between the steps of two reports of a run that both enter


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Data of one metric: inputs ``n x d+2``, values ``(n,)``, the run each belongs to, and its known noise.

    The noise is a variance, ``(n,)``, in the metric's unit squared, on top of that of all; None if no run says any. The
    first ``given`` are of runs made elsewhere, in an order that does not depend on that in which they were given.
    ``scatter`` is the standard deviation of any report in the metric's unit, None where it is to be learned. ``chance``
    is what guessing scores, of an accuracy.
    """

    x: Tensor
    y: Tensor
    runs: tuple[str, ...]
    noise: Tensor | None = None
    given: int = 0
    scatter: float | None = None
    chance: float | None = None

    def take(self, rows: Tensor) -> Observations:
        """Some of them, by ascending index."""
        noise = None if self.noise is None else self.noise[rows]
        runs, given = tuple(self.runs[i] for i in rows.tolist()), int((rows < self.given).sum())
        return replace(self, x=self.x[rows], y=self.y[rows], runs=runs, noise=noise, given=given)

    def largest(self, n: int) -> Observations:
        """The ``n`` of largest fidelity, by log size plus log steps, in their order; of equals the earlier ones."""
        if len(self.y) <= n:
            return self
        return self.take(self.x[:, -2:].sum(-1).argsort(descending=True, stable=True)[:n].sort().values)

    def content(self) -> bytes:
        """Inputs, values and noise as bytes: the same for the same data."""
        parts = (part.numpy().tobytes() for part in (self.x, self.y, self.noise) if part is not None)
        return b"".join(parts) + repr((self.scatter, self.chance)).encode()


def fidelity_coordinates(space: MixtureSpace, scale: str, steps: float) -> tuple[float, float]:
    """Log size and log length relative to the target.

    Size is parameters, or cost per step where one is unknown; length is tokens, or steps where no scale's are known.
    """
    known = all(s.parameters is not None for s in (*space.scales, *space.earlier_scales))
    this, target = (
        (s.parameters if known else None) or s.cost_per_step for s in map(space.scale, (scale, space.target_scale))
    )
    here, there = ((space.scale(name).tokens_per_step or 1.0) for name in (scale, space.target_scale))
    return math.log(this / target), math.log(steps * here / (space.target_steps * there))


def encode(
    space: MixtureSpace,
    mixtures: np.ndarray,
    fidelities: Sequence[tuple[str, int]],
    supplies: Sequence[Mapping[str, float]] | None = None,
) -> Tensor:
    """Inputs of ``n`` mixtures, ``n x d``, at one fidelity each (or all at a single one), ``n x d+2``.

    Where the space says what repetition there is, passes stand between mixtures and fidelities, ``n x 2d+2``.

    Args:
        space: the search space.
        mixtures: shares.
        fidelities: scale and steps, ``n`` or one.
        supplies: of each run what there was of some domains, where that is other than the space says.
    """
    table = {cell: fidelity_coordinates(space, *cell) for cell in set(fidelities)}
    coordinates = np.array([table[cell] for cell in fidelities], dtype=np.float64).reshape(-1, 2)
    both = np.broadcast_to(coordinates, (len(mixtures), 2))
    if not space.repetition:
        return torch.from_numpy(np.concatenate([mixtures, both], axis=1))
    cells = {cell: space.rates(*cell) for cell in set(fidelities)}
    own = supplies or [{}] * len(fidelities)
    each = [space.rates(*cell, of) if of else cells[cell] for cell, of in zip(fidelities, own, strict=True)]
    rates = np.array(each, dtype=np.float64).reshape(-1, space.n_domains)
    return torch.from_numpy(np.concatenate([mixtures, passes(mixtures, rates), both], axis=1))


def observations(
    space: MixtureSpace, history: History, metric: str, *, scatter: float | None = None, chance: float | None = None
) -> Observations:
    """What the reports say of a metric: of runs made elsewhere first, then in the order of their arrival.

    Reports that lack the metric are left out, and so are those within 50% of one of the run before (except the last of
    a run that has ended): neighbours on a learning curve say nearly the same and cost cubic time.

    Args:
        space: the search space.
        history: trials and reports.
        metric: name of the metric.
        scatter: the standard deviation of its reports where it is known, in its unit.
        chance: what guessing scores, of an accuracy.
    """
    rows: dict[tuple[str, int], float] = {}
    for trial in history:
        values = {step: found[metric] for step, found in sorted(trial.observations.items()) if metric in found}
        kept, last = 0, 0 if trial.pending else max(values, default=0)
        for step, value in values.items():
            if step == last or step >= THINNING * kept:
                rows[trial.trial_id, step], kept = value, step
    trials = history.trials
    elsewhere = sorted(
        (row for row in rows if trials[row[0]].evaluated),
        key=lambda row: (trials[row[0]].mixture, trials[row[0]].scale, row[1], rows[row]),
    )
    ordered = elsewhere + [row for row in history.arrivals if row in rows and not trials[row[0]].evaluated]
    of = [trials[name] for name, _ in ordered]
    noise = torch.tensor([trial.noise.get(metric, 0.0) ** 2 for trial in of], dtype=torch.float64)
    mixtures = np.array([trial.mixture for trial in of], dtype=np.float64).reshape(-1, space.n_shares)
    return Observations(
        x=encode(
            space,
            mixtures,
            [(trial.scale, step) for trial, (_, step) in zip(of, ordered, strict=True)],
            [trial.supply for trial in of],
        ),
        y=torch.tensor([rows[row] for row in ordered], dtype=torch.float64),
        runs=tuple(name for name, _ in ordered),
        noise=noise if noise.any() else None,
        given=len(elsewhere),
        scatter=scatter,
        chance=chance,
    )


def reports(data: Observations) -> dict[str, dict[tuple[float, ...], int]]:
    """The rows of each run by fidelity, as in the inputs."""
    result: dict[str, dict[tuple[float, ...], int]] = {}
    for row, (run, fidelity) in enumerate(zip(data.runs, data.x[:, -2:].tolist(), strict=True)):
        result.setdefault(run, {})[tuple(fidelity)] = row
    return result
