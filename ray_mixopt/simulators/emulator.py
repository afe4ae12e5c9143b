"""Emulators of real runs: a table of runs in, a simulator out that answers every mixture, and how far to trust it.

Each metric gets a ``Law``. How well it predicts is measured by the fit itself: mixtures are left out with all their
runs, a group at a time, and each scale is left out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ray_mixopt.core.history import History, is_sound
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import distinct_mixtures
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.rows import DERIVED_METRIC
from ray_mixopt.simulators.law import Law, fit_law, together
from ray_mixopt.simulators.run_table import default_mode
from ray_mixopt.simulators.simulator import Simulator

LEAST_MIXTURES = 8  # with values of a metric, for it to be fitted
LEAST_RANKED = 5  # left-out mixtures at one scale and length, for their ranks to say anything
FOLDS = 6  # groups of mixtures that are left out in turn
RUNGS = 7  # of the simulator
MOST_LENGTHS = 12  # of one run that are fitted
_SAME = 1e-6  # by which a mean may differ from what it is said to be the mean of, relative to its size

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """What was measured: ``k`` rows of runs.

    Args:
        space: of the runs; every scale has ``parameters``.
        metrics: names of the metrics that can be fitted.
        shares: ``k x d``.
        mixture: number of the row's mixture, ``(k,)``.
        scale: index of its scale in the space, ``(k,)``.
        steps: ``(k,)``.
        values: ``k x n_metrics``, NaN where not measured.
        left_out: why other metrics of the runs are not fitted, a sentence each.
    """

    space: MixtureSpace
    metrics: tuple[str, ...]
    shares: np.ndarray
    mixture: np.ndarray
    scale: np.ndarray
    steps: np.ndarray
    values: np.ndarray
    left_out: tuple[str, ...] = ()

    @property
    def n_mixtures(self) -> int:
        """Number of distinct mixtures."""
        return len(np.unique(self.mixture))

    @property
    def parameters(self) -> np.ndarray:
        """Parameters of each row's model, ``(k,)``."""
        return np.array([scale.parameters for scale in self.space.scales], dtype=np.float64)[self.scale]

    @property
    def cells(self) -> list[np.ndarray]:
        """Rows of each scale and length, as indices."""
        _, which = np.unique(np.column_stack([self.scale, self.steps]), axis=0, return_inverse=True)
        return [np.flatnonzero(which == i) for i in range(int(which.max()) + 1)]

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each metric over mixtures of the same scale and length, ``(n_metrics,)``."""
        apart = self.values.copy()
        for rows in self.cells:
            # Of a single mixture, or none, there is no deviation.
            seen = ~np.isnan(apart[rows]).all(axis=0)
            apart[np.ix_(rows, seen)] -= np.nanmean(apart[np.ix_(rows, seen)], axis=0)
        return np.sqrt(np.nanmean(apart**2, axis=0))


@dataclass(frozen=True, kw_only=True, eq=False)
class EmulatorErrors:
    """Errors in what was left out, at the longest length of each scale; NaN with too few mixtures there to rank.

    Args:
        spearman: rank correlation of mixtures, ``n_scales x n_metrics``.
        contrast: standard deviation of the error over mixtures, relative to that of the metric, same shape.
        level: mean error over mixtures, in the metric's unit, same shape.
    """

    spearman: np.ndarray
    contrast: np.ndarray
    level: np.ndarray


def measurements(history: History, metrics: Sequence[str] | None = None) -> Measurements:
    """The rows of some runs that a law can be fitted to.

    Args:
        history: the runs.
        metrics: keep only these; all by default.

    Raises:
        ValueError: if nothing can be fitted; the message says what to change.
    """
    space, known = history.space, history.metrics
    if unknown := [name for name in metrics or () if name not in known]:
        raise ValueError(f"No run reports {unknown[0]!r}: choose metrics among {', '.join(known)}.")
    if unsized := [scale.name for scale in space.scales if scale.parameters is None]:
        raise ValueError(
            f"The parameters of {', '.join(unsized)} are not known: give --scale-parameters SCALE=NUMBER (in Python "
            "Source(parameters={scale: number})), or a column parameters."
        )
    rows = [(trial, step) for trial in history for step in _thinned(sorted(trial.observations))]
    if not rows:
        raise ValueError("The runs report no metric: a table needs a column for each, with numbers.")
    shares = np.array([trial.mixture for trial, _ in rows])
    mixture = distinct_mixtures(shares)[1]
    names = tuple(metrics or known)
    reports = [trial.observations[step] for trial, step in rows]
    values = np.array([[report.get(name, np.nan) for name in names] for report in reports])
    values[~np.array([[is_sound(value) for value in row] for row in values.tolist()])] = np.nan
    found = Measurements(
        space=space,
        metrics=names,
        shares=shares,
        mixture=mixture,
        scale=np.array([space.scale_names.index(trial.scale) for trial, _ in rows]),
        steps=np.array([step for _, step in rows]),
        values=values,
    )
    return _fittable(found)


def _thinned(steps: list[int]) -> list[int]:
    """At most ``MOST_LENGTHS`` of them, the first and the last included."""
    if len(steps) <= MOST_LENGTHS:
        return steps
    return [steps[i] for i in np.round(np.linspace(0, len(steps) - 1, MOST_LENGTHS)).astype(int)]


def _fittable(found: Measurements) -> Measurements:
    """The same, without the metrics that say nothing about mixtures."""
    spread, keep, why = found.spread, [], []
    for i, name in enumerate(found.metrics):
        seen = ~np.isnan(found.values[:, i])
        n = len(np.unique(found.mixture[seen]))
        if n < LEAST_MIXTURES:
            why.append(
                f"{name} was measured on {n} distinct mixtures, and a fit needs {LEAST_MIXTURES}: add runs of others."
            )
        elif not spread[i] > 1e-9 * max(np.abs(found.values[seen, i]).max(), 1e-300):
            value = found.values[seen, i].mean()
            why.append(f"{name} is the same for all mixtures ({value:g}), so that there is nothing to fit.")
        else:
            keep.append(i)
    if not keep:
        raise ValueError(f"No metric of the runs can be fitted. {' '.join(why)}")
    some = ~np.isnan(found.values[:, keep]).all(axis=1)
    return Measurements(
        space=found.space,
        metrics=tuple(found.metrics[i] for i in keep),
        shares=found.shares[some],
        mixture=found.mixture[some],
        scale=found.scale[some],
        steps=found.steps[some],
        values=found.values[np.ix_(some, keep)],
        left_out=tuple(why),
    )


def emulate(found: Measurements, name: str) -> Simulator:
    """The simulator of all measurements, called ``name``.

    Its scales are those of the runs up to the target's. Larger ones take part in the fit only.
    """
    scale, steps = found.space.scale(found.space.target_scale), found.space.target_steps
    shortest, longest = int(found.steps.min()), int(found.steps.max())
    scales = tuple(s for s in found.space.scales if _size(s) <= _size(scale))
    space = MixtureSpace(
        domains=found.space.domains,
        scales=scales,
        steps=_rungs(min(shortest, steps), steps),
        target=(scale.name, steps),
    )
    modes = {metric: default_mode(metric) for metric in found.metrics}
    simulator = Simulator(
        name=name,
        space=space,
        metrics=found.metrics,
        modes=modes,
        default_metric=DERIVED_METRIC if DERIVED_METRIC in found.metrics else found.metrics[0],
        model=fitted_law(found, np.ones(len(found.steps), dtype=bool)),
        fitted_steps=(min(shortest, steps), max(longest, steps)),
        unit_parameters=float(found.parameters.max()),
        spread=np.ones(len(found.metrics)),
    )
    sample = space.sample(100_000, np.random.default_rng(0))
    return replace(simulator, spread=simulator.evaluate(sample, scale.name, steps).std(axis=0))


def _size(scale: Scale) -> float:
    assert scale.parameters is not None
    return scale.parameters


def _rungs(shortest: int, longest: int) -> tuple[int, ...]:
    """Training lengths at equal ratios, in round numbers but for the ends."""
    between = [float(f"{steps:.2g}") for steps in np.geomspace(shortest, longest, RUNGS)[1:-1]]
    return tuple(sorted({shortest, *(int(b) for b in between if shortest < b < longest), longest}))


def fitted_law(found: Measurements, rows: np.ndarray) -> Law:
    """The law of all metrics, fitted to the rows of a mask ``(k,)``."""
    log_size = np.log(found.parameters / found.parameters.max())
    log_length = np.log(found.steps / found.steps.max())
    # The first part of a run, warm-up included, is off any power law, and decides little.
    longest = np.array([found.steps[found.scale == i].max(initial=1) for i in range(len(found.space.scales))])
    weights = np.sqrt(found.steps / longest[found.scale])
    spread, combine = found.spread, _combination(found)
    laws = []
    for i in np.flatnonzero(combine.sum(axis=0) > 0):
        seen = rows & ~np.isnan(found.values[:, i])
        laws.append(
            fit_law(
                found.shares[seen],
                log_size[seen],
                log_length[seen],
                found.values[seen, i],
                weights[seen],
                spread=float(spread[i]),
                maximise=default_mode(found.metrics[i]) == "max",
            )
        )
    return together(laws, combine[:, combine.sum(axis=0) > 0])


def _combination(found: Measurements) -> np.ndarray:
    """Weights of each fitted metric in each metric, square: the identity, but for a loss that is the others' mean."""
    combine = np.eye(len(found.metrics))
    parts = [i for i, name in enumerate(found.metrics) if name.startswith("val_loss/")]
    if DERIVED_METRIC in found.metrics and parts:
        loss = found.metrics.index(DERIVED_METRIC)
        gap = found.values[:, loss] - found.values[:, parts].mean(axis=1)
        if np.nanmax(np.abs(gap), initial=0.0) <= _SAME * np.nanmax(np.abs(found.values[:, loss])):
            combine[loss] = np.isin(np.arange(len(combine)), parts) / len(parts)
    return combine


# -- how well


def predictions_left_out(found: Measurements, groups: np.ndarray, what: str, progress: Progress) -> np.ndarray:
    """What a fit to all other groups says of each row, ``k x n_metrics``; NaN where too little is left to fit.

    Args:
        found: the measurements.
        groups: number of each row's group, ``(k,)``.
        what: what the groups are called.
        progress: called with a line of text now and then.
    """
    predicted = np.full(found.values.shape, np.nan)
    kinds = np.unique(groups)
    for n, group in enumerate(kinds if len(kinds) > 1 else ()):
        progress(f"fit without number {n + 1} of {len(kinds)} {what}")
        out = groups == group
        seen = [len(np.unique(found.mixture[~out & ~np.isnan(column)])) for column in found.values.T]
        if min(seen) < LEAST_MIXTURES // 2:
            continue
        predicted[out] = predicted_rows(found, fitted_law(found, ~out), np.flatnonzero(out))
    return predicted


def predicted_rows(found: Measurements, law: Law, rows: np.ndarray) -> np.ndarray:
    """What a law says of some rows, ``len(rows) x n_metrics``."""
    predicted = np.empty((len(rows), law.outputs))
    fidelity = np.column_stack([found.parameters / found.parameters.max(), found.steps / found.steps.max()])[rows]
    kinds, which = np.unique(fidelity, axis=0, return_inverse=True)
    for i, (m, z) in enumerate(kinds):
        here = which.ravel() == i
        predicted[here] = law(found.shares[rows][here], np.array([np.log(m), m, np.log(z), z]))
    return predicted


def errors(found: Measurements, predicted: np.ndarray) -> EmulatorErrors:
    """How far predictions ``k x n_metrics`` are off, by scale and metric."""
    from scipy.stats import spearmanr

    shape = len(found.space.scales), len(found.metrics)
    spearman, contrast, level = np.full((3, *shape), np.nan)
    for rows in found.cells:  # by ascending length, so that the longest of a scale stays
        scale = found.scale[rows[0]]
        for j in range(shape[1]):
            both = np.column_stack([predicted[rows, j], found.values[rows, j]])
            got, wanted = both[~np.isnan(both).any(axis=1)].T
            if len(got) < LEAST_RANKED or not np.ptp(wanted) > 0:
                continue
            spearman[scale, j] = spearmanr(got, wanted).statistic
            contrast[scale, j] = (got - wanted).std() / wanted.std()
            level[scale, j] = (got - wanted).mean()
    return EmulatorErrors(spearman=spearman, contrast=contrast, level=level)


def mixture_groups(found: Measurements, seed: int) -> np.ndarray:
    """The group of each row when mixtures are left out, ``(k,)``: with a mixture go all of its runs."""
    kinds, which = np.unique(found.mixture, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(kinds))
    groups: np.ndarray = (order % FOLDS)[which]
    return groups
