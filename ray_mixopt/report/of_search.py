"""Figures of how a search went: what it would have said, what it spent, what it saw, what failed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.analysis.study import Study, history_by_status
from ray_mixopt.core.history import History
from ray_mixopt.core.recommendation import Prediction
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.report.drawing import (
    BLUE,
    GREY,
    HATCHES,
    MARKERS,
    ORANGE,
    PALETTE,
    Drawing,
    canvas,
    finish,
    legend,
    listed,
    log_cost,
    short,
    unlabelled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOMAINS = len(PALETTE)  # drawn one by one; the smaller ones together
MOST_CURVES = 300
MOST_TICKS = 6


def incumbent(study: Study) -> Drawing | None:
    """Predicted objective of the recommended mixture against cost, with its interval."""
    points = [point for point in study.way if point.spent > 0]
    if len(points) < 2:
        return None
    figure, axes = canvas()
    (axes,) = axes.flat
    x = [study.full_runs(point.spent) for point in points]
    known = [(xi, p.predicted) for xi, p in zip(x, points, strict=True) if p.predicted is not None]
    if known:
        axes.fill_between(
            [xi for xi, _ in known],
            [p.low for _, p in known],
            [p.high for _, p in known],
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="95% interval at that time",
        )
        axes.plot([xi for xi, _ in known], [p.mean for _, p in known], color=BLUE, marker="o", ms=4, label="predicted")
    now = [study.hindsight(point.mixture) for point in points]
    later = [(xi, p.mean) for xi, p in zip(x, now, strict=True) if p is not None]
    if later:
        axes.plot(*zip(*later, strict=True), color=ORANGE, marker="s", ms=3.5, ls="--", label="as known in the end")
    _zoom(axes, [p.mean for _, p in known] + [value for _, value in later], known[-1][1] if known else None)
    axes.axvline(1.0, color=GREY, ls=":", label="one full run")
    log_cost(axes, _target(study.space))
    axes.set_ylabel(short(f"{study.objective_name} at the target", 44))
    finish(axes)
    legend(figure)
    first, last = known[0] if known else (x[0], None), known[-1] if known else (x[-1], None)
    alt = (
        f"Line chart of {study.objective_name} predicted at the target for the mixture recommended so far. "
        f"After {first[0]:.2g} full runs: {first[1]}. After {last[0]:.2g}: {last[1]}."
    )
    return Drawing(
        name="incumbent",
        title="The recommendation against cost",
        figure=figure,
        alt=alt,
        caption=(
            "What was predicted for the mixture recommended at each cost, with its 95% interval, and what is predicted "
            "for the same mixture with all that is known now. If the dashed line leaves the band, the search was "
            "surer than it should have been."
        ),
    )


def _zoom(axes: Axes, means: list[float], last: Prediction | None) -> None:
    """Keeps a very wide first interval from flattening the rest."""
    if means:
        half = max(2.5 * float(np.ptp(means)), 0.0 if last is None else 0.75 * (last.high - last.low), 1e-9)
        middle = float(np.median(means))
        low, high = axes.get_ylim()  # of all that is drawn
        axes.set_ylim(max(low, middle - half), min(high, middle + half))


def mixtures(study: Study) -> Drawing | None:
    """The recommended shares against cost, stacked."""
    points = [point for point in study.way if point.spent > 0]
    if len(points) < 2:
        return None
    shares = np.array([[point.mixture[d] for d in study.space.domains] for point in points])
    order = np.argsort(-shares.mean(0), kind="stable")
    shown, rest = order[:MOST_DOMAINS], order[MOST_DOMAINS:]
    layers = [(study.space.domains[i], shares[:, i]) for i in shown]
    if len(rest):
        layers.append((f"{len(rest)} other{'s' * (len(rest) != 1)}", shares[:, rest].sum(1)))
    figure, axes = canvas(3.8)
    (axes,) = axes.flat
    x, bottom = [study.full_runs(point.spent) for point in points], np.zeros(len(points))
    for k, (name, share) in enumerate(layers):
        color = PALETTE[k] if k < len(PALETTE) else "#bbbbbb"
        axes.fill_between(
            x,
            bottom,
            bottom + share,
            step="post",
            facecolor=color,
            edgecolor="white",
            linewidth=0.4,
            hatch=HATCHES[k % len(HATCHES)],
            label=short(name),
        )
        bottom = bottom + share
    log_cost(axes, _target(study.space))
    axes.set_ylim(0, 1)
    axes.set_xlim(x[0], x[-1])
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:.0%}")
    axes.set_ylabel("share of tokens")
    legend(figure)
    alt = "Stacked areas of the recommended shares against cost. In the end: " + listed(
        [f"{study.space.domains[i]} {shares[-1, i]:.1%}" for i in order]
    )
    return Drawing(
        name="mixtures",
        title="The recommended mixture against cost",
        figure=figure,
        alt=alt + ".",
        caption="A mixture that still moves at the end has not been found yet; see also how flat the optimum is.",
    )


def spending(study: Study) -> Drawing | None:
    """Cost by scale, split by the rungs it was paid up to."""
    space = study.space
    paid = cost_by_rung(study.history)
    if paid.sum() == 0:
        return None
    import matplotlib

    figure, axes = canvas(1.5 + 0.4 * len(space.scales))
    (axes,) = axes.flat
    colors = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, len(space.steps)))
    left = np.zeros(len(space.scales))
    for k, steps in enumerate(space.steps):
        width = paid[:, k] / space.target_cost
        if width.any():
            label = f"to step {steps:,}"
            axes.barh(space.scale_names, width, left=left, color=colors[k], edgecolor="white", label=label)
        left = left + width
    runs = [sum(t.scale == name and not t.evaluated for t in study.history) for name in space.scale_names]
    for y, (x, n) in enumerate(zip(left, runs, strict=True)):
        axes.text(x, y, f" {n} run{'s' * (n != 1)}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel(f"cost, in full runs ({_target(space)})")
    finish(axes, "x")
    legend(figure)
    total = paid.sum()
    parts = [
        f"{name} {share.sum() / total:.0%} in {n} runs"
        for name, share, n in zip(space.scale_names, paid, runs, strict=True)
        if n
    ]
    return Drawing(
        name="spending",
        title="Where the money went",
        figure=figure,
        alt=f"Bars of cost by model scale: {listed(parts)}. {study.full_runs(total):.2f} full runs in all.",
        caption="Cost by model scale, split by the training steps that it paid for.",
    )


def cost_by_rung(history: History) -> np.ndarray:
    """What the search paid at each scale to come from one rung to the next, ``n_scales x n_steps``.

    Steps beyond the last rung count to it.
    """
    space = history.space
    paid = np.zeros((len(space.scales), len(space.steps)))
    starts = (0, *space.steps[:-1])
    ends = (*space.steps[:-1], np.inf)
    for trial in history:
        if trial.evaluated:
            continue
        row = space.scale_names.index(trial.scale)
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            paid[row, k] += space.scale(trial.scale).cost_per_step * max(min(trial.reached, end) - start, 0)
    return paid


def curves(study: Study) -> Drawing | None:
    """Learning curves of the objective's first metric."""
    metric = next(iter(study.problem.objective))
    runs = [
        (trial.scale, sorted((step, values[metric]) for step, values in trial.observations.items() if metric in values))
        for trial in study.history
    ]
    runs = [(scale, curve) for scale, curve in runs if curve]
    if not runs or len({step for _, curve in runs for step, _ in curve}) < 2:
        return None
    figure, axes = canvas()
    (axes,) = axes.flat
    names = [scale.name for scale in (*study.space.scales, *study.space.earlier_scales)]
    for scale, curve in runs[:MOST_CURVES]:
        k = names.index(scale)
        x, y = zip(*curve, strict=True)
        axes.plot(x, y, color=PALETTE[k % 6], marker=MARKERS[k % 7], ms=3, lw=0.8, alpha=0.7)
    for k, name in enumerate(names):
        if any(scale == name for scale, _ in runs):
            axes.plot([], [], color=PALETTE[k % 6], marker=MARKERS[k % 7], ms=4, label=name)
    axes.set_xscale("log")
    rungs = study.space.steps[:: math.ceil(len(study.space.steps) / MOST_TICKS)]
    axes.set_xticks(rungs, [f"{step:,}" for step in rungs])
    axes.xaxis.set_minor_formatter(unlabelled)
    axes.set_xlabel("training steps")
    axes.set_ylabel(short(metric, 40))
    finish(axes)
    legend(figure)
    counts = [f"{sum(scale == name for scale, _ in runs)} at {name}" for name in names]
    left = f" The first {MOST_CURVES} of them are drawn." if len(runs) > MOST_CURVES else ""
    return Drawing(
        name="curves",
        title="Learning curves",
        figure=figure,
        alt=f"Lines of {metric} against training steps for {len(runs)} runs: {listed(counts)}.{left}",
        caption=f"Every run as it reported {metric}, one colour and marker for each model scale.{left}",
    )


def failures(study: Study) -> Drawing | None:
    """How the runs ended, by scale."""
    if not len(study.history):
        return None
    states = [s for s in ("given", "done", "paused", "running", "diverged", "failed", "lost") if s in _states(study)]
    names = [scale.name for scale in (*study.space.scales, *study.space.earlier_scales)]
    figure, axes = canvas(1.3 + 0.35 * len(names))
    (axes,) = axes.flat
    left = np.zeros(len(names))
    for k, state in enumerate(states):
        width = np.array(
            [
                sum(t.scale == name and ("given" if t.evaluated else t.status) == state for t in study.history)
                for name in names
            ]
        )
        bars = {"color": PALETTE[k % 7], "hatch": HATCHES[k % 7], "edgecolor": "white"}
        axes.barh(names, width, left=left, label=state, **bars)
        left = left + width
    axes.invert_yaxis()
    axes.set_xlabel("runs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    finish(axes, "x")
    legend(figure)
    counts = history_by_status(study.history)
    return Drawing(
        name="failures",
        title="How the runs ended",
        figure=figure,
        alt="Bars of runs by scale and how they ended: " + listed([f"{n} {s}" for s, n in counts.items()]) + ".",
        caption=(
            "Given runs were made elsewhere and cost this search nothing; paused ones can go on. A diverged run counts "
            "as the worst value at its scale; failed and lost ones tell nothing beyond what they reported."
        ),
    )


def _states(study: Study) -> set[str]:
    return set(history_by_status(study.history))


def _target(space: MixtureSpace) -> str:
    return f"{space.target_scale} x {space.target_steps:,} steps"
