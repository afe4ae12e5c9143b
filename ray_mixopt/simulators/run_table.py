"""Replay of logged runs: only the mixtures, scales and steps in the log exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.core.objective import is_score
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.safety import check_count
from ray_mixopt.core.scale import Scale, by_size, largest
from ray_mixopt.core.simplex import distinct_mixtures
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.rows import DERIVED_METRIC, Rows
from ray_mixopt.io.runs import Source

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


MOST_CELLS = 50_000_000  # of a table that is kept whole in memory, most of them empty


@dataclass(frozen=True, kw_only=True, eq=False)
class RunTable:
    """Logged runs, behind the same methods as a ``Simulator``. ``RunTable.read`` makes one from files.

    Args:
        name: what it is called.
        space: domains, scales small to large, all logged steps, and the target.
        metrics: names of the metrics.
        modes: "min" or "max" for each metric.
        default_metric: the metric to optimise unless said otherwise.
        mixtures: the distinct mixtures, ``n_mixtures x d``.
        values: metrics, averaged over repeats, ``n_mixtures x n_scales x n_steps x n_metrics``; NaN where unknown.
        counts: number of rows behind each cell, ``n_mixtures x n_scales x n_steps``.
    """

    name: str
    space: MixtureSpace
    metrics: tuple[str, ...]
    modes: dict[str, str]
    default_metric: str
    mixtures: np.ndarray
    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        scale_cost: Mapping[str, float] | None = None,
        target: tuple[str, int] | None = None,
        metrics: Sequence[str] | None = None,
        modes: Mapping[str, str] | None = None,
        source: Source | None = None,
    ) -> RunTable:
        """Reads a table of runs, RegMix pairs or an olmix folder.

        Args:
            path: a table; a folder of RegMix pairs or of olmix; or one file of a RegMix pair. Pairs of one scale are
                joined.
            scale_cost: cost of one training step by scale name; needed where the files give no cost, and taken
                instead of theirs. RegMix logs one length, called step 1: give the cost of a whole run.
            target: ``(scale name, steps)`` wanted; the largest scale at its last step by default.
            metrics: keep only these; all by default. ``loss``, the mean of all ``val_loss/*``, is added if missing.
            modes: "min" or "max" by metric, where the default is wrong: "max" for names with "acc", else "min".
            source: what the files do not say of themselves, but for the costs and the target.

        Raises:
            ValueError: if the files are not as ``ray_mixopt.io.read`` describes (naming the row; the header is row 1),
                or costs, target, metrics or modes do not fit them.
        """
        path = Path(path)
        source = source or Source()
        rows = source.rows(path).with_loss().keeping(metrics)
        source.check_scales(tuple(dict.fromkeys(rows.scale)))
        rows = replace(rows, parameters=rows.parameters | dict(source.parameters))
        return _tabulate(path.name.partition(".")[0], rows, scale_cost, target, modes)

    @property
    def available(self) -> np.ndarray:
        """Which runs are logged, ``n_mixtures x n_scales x n_steps``."""
        return self.counts > 0

    @cached_property
    def pool(self) -> Pool:
        """The logged mixtures and where they are available, for ``MixtureOptimizer``."""
        return Pool(
            mixtures=self.mixtures, available=self.available, scales=self.space.scale_names, steps=self.space.steps
        )

    def rungs(self, mixture: ArrayLike, scale: str) -> tuple[int, ...]:
        """Steps at which that mixture ``(d,)`` is logged at that scale, ascending."""
        shares = self.space.mixture(mixture)
        self._rows(shares[None])
        self.space.scale(scale)
        return self.pool.rungs(shares, scale)

    def evaluate(self, mixtures: ArrayLike, scale: str, steps: int) -> np.ndarray:
        """The logged metrics.

        Args:
            mixtures: ``n x d``, logged mixtures in the space's domain order.
            scale: name of a scale.
            steps: logged training steps.

        Returns:
            ``n x n_metrics``; NaN where a metric was not measured.

        Raises:
            ValueError: naming the first mixture that was not logged there.
        """
        shares = np.asarray(mixtures, dtype=np.float64)
        if shares.ndim != 2 or shares.shape[1] != self.space.n_domains:
            raise ValueError(f"mixtures must be n x {self.space.n_domains}, got shape {shares.shape}.")
        self.space.scale(scale)
        column = self.space.scale_names.index(scale)
        rows = self._rows(shares)
        there = np.zeros(len(rows), dtype=bool)
        if steps in self.space.steps:
            rung = self.space.steps.index(int(steps))
            there = self.available[rows, column, rung]
        if not there.all():
            mixture = self.space.named(shares[int(np.argmin(there))])
            raise ValueError(f"No run of mixture {mixture} is logged at scale {scale!r} and {steps} steps.")
        return self.values[rows, column, rung] if len(rows) else np.empty((0, len(self.metrics)))

    def observe(self, mixture: Mapping[str, float] | ArrayLike, scale: str, steps: int) -> dict[str, float]:
        """What the logged run of that mixture reported, by metric; NaN where a metric was not measured.

        Raises:
            ValueError: if there is no such run.
        """
        values = self.evaluate(self.space.mixture(mixture)[None], scale, steps)[0]
        return dict(zip(self.metrics, values.tolist(), strict=True))

    def _rows(self, shares: np.ndarray) -> np.ndarray:
        """Where ``n x d`` mixtures stand among the logged ones, ``(n,)``; ValueError if one is not there."""
        rows = self.pool.rows(shares) if len(shares) else np.empty(0, dtype=np.intp)
        if (rows < 0).any():
            stranger = self.space.named(shares[int(rows.argmin())])
            raise ValueError(f"Mixture {stranger} is not among the {len(self.mixtures)} logged ones.")
        return rows


def default_mode(metric: str) -> str:
    """The direction of a metric of which no one says it: "max" for accuracies and their like, by their names."""
    return "max" if is_score(metric) else "min"


def _tabulate(
    name: str,
    rows: Rows,
    scale_cost: Mapping[str, float] | None,
    target: tuple[str, int] | None,
    modes: Mapping[str, str] | None,
) -> RunTable:
    names = list(dict.fromkeys(rows.scale))
    cost = dict(scale_cost) if scale_cost is not None else rows.known_costs({}, {})
    if len(names) == 1:
        cost.setdefault(names[0], 1.0)  # counted in its steps
    if set(cost) != set(names):
        missing, unknown = sorted(set(names) - set(cost)), sorted(set(cost) - set(names))
        raise ValueError(
            "Every scale needs a cost per step, and a label never implies one: give --scale-cost SCALE=COST (in Python "
            "scale_cost={scale: cost}), or a column cost_per_step. "
            f"Without a cost: {', '.join(missing) or 'none'}; unknown scales: {', '.join(unknown) or 'none'}."
        )
    modes = {} if modes is None else modes
    if not set(modes) <= set(rows.metrics) or not set(modes.values()) <= {"min", "max"}:
        raise ValueError(f"modes must give 'min' or 'max' for metrics of the runs, got {dict(modes)!r}.")
    scales = by_size(Scale(n, cost_per_step=cost[n], parameters=rows.parameters.get(n)) for n in names)
    names = [scale.name for scale in scales]
    steps = sorted(set(rows.steps.tolist()))
    mixtures, which = distinct_mixtures(rows.mixtures)
    cell = (which, np.array([names.index(s) for s in rows.scale]), np.searchsorted(steps, rows.steps))
    cells = len(mixtures) * len(names) * len(steps) * len(rows.metrics)
    if rows.phases:
        raise ValueError(
            f"{name}: a replay is of runs of one mixture, and these have the phases {', '.join(rows.phases)}."
        )
    check_count(name, cells, MOST_CELLS, "mixtures x scales x steps x metrics")
    counts = np.zeros((len(mixtures), len(names), len(steps)), dtype=np.int64)
    np.add.at(counts, cell, 1)
    shape = (*counts.shape, len(rows.metrics))
    total, seen = np.zeros(shape), np.zeros(shape)
    np.add.at(total, cell, np.nan_to_num(rows.values, nan=0.0))
    np.add.at(seen, cell, ~np.isnan(rows.values))
    values = np.divide(total, seen, out=np.full(shape, np.nan), where=seen > 0)
    if target is None:
        target = largest(scales).name, steps[int(np.flatnonzero(counts[:, -1].any(axis=0)).max())]
    space = MixtureSpace(
        domains=rows.domains,
        scales=scales,
        steps=tuple(steps),
        target=target,
        token_supply=rows.supply,
    )
    if not counts[:, names.index(space.target_scale), steps.index(space.target_steps)].any():
        raise ValueError(f"No run is logged at the target {target!r}: choose a scale and steps that have runs.")
    by_metric = {metric: modes.get(metric) or default_mode(metric) for metric in rows.metrics}
    return RunTable(
        name=name,
        space=space,
        metrics=rows.metrics,
        modes=by_metric,
        default_metric=DERIVED_METRIC if DERIVED_METRIC in rows.metrics else rows.metrics[0],
        mixtures=mixtures,
        values=values,
        counts=counts,
    )
