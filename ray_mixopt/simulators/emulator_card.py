"""Fits an emulator of real runs, measures how far to trust it, and writes both: the simulator and its card."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from ray_mixopt.io.rows import DERIVED_METRIC
from ray_mixopt.io.runs import Source, read_runs
from ray_mixopt.simulators.card import throughput
from ray_mixopt.simulators.emulator import (
    FOLDS,
    LEAST_RANKED,
    EmulatorErrors,
    Measurements,
    Progress,
    emulate,
    errors,
    measurements,
    mixture_groups,
    predictions_left_out,
)
from ray_mixopt.simulators.law import Law
from ray_mixopt.simulators.simulator import Simulator

_COLUMNS = ("Spearman", "worst scale", "contrast", "level")


@dataclass(frozen=True, kw_only=True, eq=False)
class EmulatorReport:
    """What was fitted, and how well it predicts what was left out of the fit.

    Args:
        simulator: the simulator.
        measured: what it was fitted to.
        n_runs: number of runs that were read.
        mixtures: errors in left-out mixtures.
        scales: errors in left-out scales.
        best: by the simulator, the best mixture at the target for each metric, ``n_metrics x d``.
        mixtures_per_second: throughput of ``evaluate`` in batches of 100,000, per second of processor time here.
        seconds: processor time of all fits.
        seed: seed of the groups of mixtures.
    """

    simulator: Simulator
    measured: Measurements
    n_runs: int
    mixtures: EmulatorErrors
    scales: EmulatorErrors
    best: np.ndarray
    mixtures_per_second: float
    seconds: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: by metric the means over scales, None where nothing could be ranked."""
        space, kinds = self.simulator.space, {"left_out_mixtures": self.mixtures, "left_out_scales": self.scales}
        rows: dict[str, Any] = {}
        for j, name in enumerate(self.simulator.metrics):
            rows[name] = {kind: _summary(errors_, j) for kind, errors_ in kinds.items()}
            rows[name]["best_mixture"] = space.named(self.best[j])
        measured = self.measured
        return {
            "metrics": rows,
            "target": list(space.target or ()),
            "runs": self.n_runs,
            "mixtures": measured.n_mixtures,
            "not_fitted": list(measured.left_out),
            "mixtures_per_second": self.mixtures_per_second,
            "seconds": self.seconds,
            "seed": self.seed,
        }

    def table(self) -> str:
        """Errors by metric, as a Markdown table: of left-out mixtures, then of left-out scales."""
        head = ["metric", *(f"mixtures: {c}" for c in _COLUMNS), *(f"scales: {c}" for c in _COLUMNS), "largest share"]
        rows = [
            [name, *_cells(self.mixtures, j), *_cells(self.scales, j), f"{self.best[j].max():.2f}"]
            for j, name in enumerate(self.simulator.metrics)
        ]
        return _markdown(head, rows)

    def table_by_scale(self) -> str:
        """Errors in each left-out scale, as a Markdown table: of the default metric, and on average over metrics."""
        simulator, found = self.simulator, self.measured
        j, shown = simulator.metrics.index(simulator.default_metric), self.scales
        rows = []
        for i, scale in enumerate(found.space.scales):
            here = found.scale == i
            n = str(len(np.unique(found.mixture[here])))
            single = (a[i, j] for a in (shown.spearman, shown.contrast, shown.level))
            mean = (_mean(a[i]) for a in (shown.spearman, shown.contrast))
            rows.append([scale.name, n, f"{found.steps[here].max():,}", *map(_number, (*single, *mean))])
        name = simulator.default_metric
        head = ["scale", "mixtures", "longest", *(f"{name}: {c}" for c in ("Spearman", "contrast", "level"))]
        return _markdown([*head, "all metrics: Spearman", "contrast"], rows)


def fit_emulator(
    runs: str | Path,
    out: str | Path,
    *,
    source: Source | None = None,
    metrics: Sequence[str] | None = None,
    about: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> EmulatorReport:
    """Fits a simulator to a table of real runs and writes it, with a card in Markdown beside it.

    Args:
        runs: what ``ray_mixopt.io.runs.read_runs`` reads.
        out: where the ``.npz`` goes; the card gets the same name with ``.md``.
        source: what the runs do not say: costs, parameters, and the target, the largest scale's longest run by default.
        metrics: fit only these; all by default.
        about: where the runs come from, a sentence for the card.
        seed: seed of the groups of mixtures that are left out.
        progress: called with a line of text now and then.

    Returns:
        How well it predicts the mixtures and the scales that were left out of the fit.

    Raises:
        ValueError: if the runs cannot be read or fitted; the message says what to change.
    """
    place, say = Path(out), progress or (lambda line: None)
    if place.suffix != ".npz":
        raise ValueError(f"The simulator is written as .npz, got {str(place)!r}.")
    if not place.parent.is_dir():
        raise ValueError(f"There is no folder {str(place.parent)!r} for the simulator: make it first.")
    history = read_runs(runs, source)
    scales = history.space.scale_names
    if source:
        source.check_scales(scales)
    found = measurements(history, metrics)
    for sentence in found.left_out:
        say(f"Not fitted: {sentence}")
    start = time.process_time()
    say(f"fit to {len(found.steps):,} measurements of {found.n_mixtures} mixtures")
    simulator = emulate(found, place.stem)
    groups = {"groups of mixtures": mixture_groups(found, seed), "scales": found.scale}
    by_mixture, by_scale = (errors(found, predictions_left_out(found, g, kind, say)) for kind, g in groups.items())
    simulator.save(place)
    report = EmulatorReport(
        simulator=simulator,
        measured=found,
        n_runs=len(history),
        mixtures=by_mixture,
        scales=by_scale,
        best=best_mixtures(simulator, np.random.default_rng([seed, 1])),
        mixtures_per_second=throughput(simulator, np.random.default_rng([seed, 2])),
        seconds=time.process_time() - start,
        seed=seed,
    )
    place.with_suffix(".md").write_text(card(report, Path(runs).name, about))
    return report


def best_mixtures(simulator: Simulator, rng: np.random.Generator) -> np.ndarray:
    """The best mixture for each metric at the target, ``n_metrics x d``, to about a hundredth of a share.

    A dense sample, and then steps towards random mixtures that get shorter. Each metric has one optimum only.
    """
    space = simulator.space
    signs = np.array([1.0 if simulator.modes[name] == "min" else -1.0 for name in simulator.metrics])
    spread_out = [space.sample(100_000, rng), space.sample(100_000, rng, 0.3), space.corners()]

    def values(mixtures: np.ndarray) -> np.ndarray:
        return signs * simulator.evaluate(mixtures, space.target_scale, space.target_steps)

    sample = np.concatenate(spread_out)
    best: np.ndarray = sample[values(sample).argmin(axis=0)]
    for width in np.geomspace(0.3, 0.003, 12):
        aims = np.concatenate([space.sample(2000, rng, 0.3), space.corners()])
        for j in range(len(best)):
            near = np.concatenate([best[j : j + 1], (1 - width) * best[j] + width * aims])
            best[j] = near[values(near)[:, j].argmin()]
    return best


def card(report: EmulatorReport, table: str, about: str) -> str:
    """What was fitted, on what, how, and how well, in Markdown.

    Args:
        report: how well.
        table: name of the file of the runs.
        about: where the runs come from.
    """
    simulator, found = report.simulator, report.measured
    space, name = simulator.space, simulator.name
    smallest, target = space.scale_names[0], f"{space.target_scale} x {space.target_steps:,}"
    shortest, longest = (f"{steps:,}" for steps in simulator.fitted_steps)
    shares, steps = found.shares, [f"{s:,}" for s in space.steps]
    law = simulator.model
    derived = isinstance(law, Law) and law.combine.shape[0] > law.combine.shape[1]
    mean = f" of which `{DERIVED_METRIC}` is the mean of the validation losses." if derived else ""
    what = f"""What a pre-training run on a mixture of {", ".join(space.domains)} would report, at scales from
        {smallest} to {space.scale_names[-1]} and after {shortest} to {longest} steps: {len(simulator.metrics)}
        metrics{"," if derived else "."}{mean} Rungs: {", ".join(steps)}. Target: {target}."""
    source = f"""**Fitted on** {report.n_runs} runs of {found.n_mixtures} mixtures at {len(found.space.scales)} scales,
        {found.space.scale_names[0]} to {found.space.scale_names[-1]}. {about} No run is in this file: it has
        coefficients only."""
    how = """**How**: each metric is c(w) + a(w) (parameters)^-alpha + b(w) (steps)^-beta, and each of the three depends
        on the mixture w by a linear term, by terms that fall with the fourth root of each share, and by one that falls
        with that of a weighted sum of shares: gains diminish, and similar domains replace each other. All is convex in
        the mixture, so that a metric, and an average of metrics, has one optimum, and goes on beyond the mixtures that
        were tried as it began. Regularised least squares; early parts of a run count for less."""
    command = (
        f"    ray-mixopt simulator fit --runs {table} --target {space.target_scale}:{space.target_steps}"
        f" --out {name}.npz --seed {report.seed}"
    )
    measures = f"""**How well**, on what was left out of the fit. Mixtures: {FOLDS} groups of mixtures, each left out
        once with all of its runs. Scales: each left out once. All at the longest length of a scale with at least
        {LEAST_RANKED} left-out mixtures. Spearman: rank correlation of mixtures, mean over scales, and of the worst
        scale. Contrast: standard deviation of the error over mixtures, relative to that of the metric. Level: root mean
        square over scales of the mean error, in the metric's unit. Largest share: of the mixture that is best at the
        target by this simulator; 1 is a corner."""
    j = simulator.metrics.index(simulator.default_metric)
    best = ", ".join(f"{d} {s:.2f}" for d, s in space.named(report.best[j]).items())
    optimum = f"The best mixture for `{simulator.default_metric}` at the target, by this simulator: {best}."
    by_scale = "Each scale, predicted by the fit to all others:"
    speed = f"""Throughput of `evaluate` in batches of 100,000 on one core of the machine that wrote this card:
        {report.mixtures_per_second / 1e6:.1f} million mixtures/s. All fits took {report.seconds:.0f} s."""
    limits = f"""**Limits**: shares that were tried are from {shares.min():.2g} to {shares.max():.2g}; beyond them, and
        at lengths that a scale was not trained for, nothing checks it. It has no noise of its own, and what the
        runs have is part of the errors above. It refuses other scales, and lengths outside {shortest} to
        {longest} steps."""
    skipped = "**Not fitted**: " + " ".join(found.left_out) if found.left_out else ""

    def wrapped(text: str) -> str:
        return fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)

    parts = [f"# Simulator `{name}`", *map(wrapped, (what, source, how)), command]
    parts += [
        wrapped(measures),
        report.table(),
        wrapped(optimum),
        by_scale,
        report.table_by_scale(),
        *map(wrapped, (speed, limits, skipped)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(left_out: EmulatorErrors, j: int) -> dict[str, float | None]:
    """Over scales, of metric ``j``: mean and least rank correlation, mean contrast, root mean square level."""
    spearman, contrast, level = (a[:, j] for a in (left_out.spearman, left_out.contrast, left_out.level))
    known = ~np.isnan(spearman)
    if not known.any():
        return dict.fromkeys(("spearman", "worst", "contrast", "level"))
    return {
        "spearman": float(spearman[known].mean()),
        "worst": float(spearman[known].min()),
        "contrast": float(contrast[known].mean()),
        "level": float(np.sqrt((level[known] ** 2).mean())),
    }


def _cells(left_out: EmulatorErrors, j: int) -> list[str]:
    return [_number(value) for value in _summary(left_out, j).values()]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
