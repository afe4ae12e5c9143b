"""Figures of what was done: what the runs cost, what they reported, how they ended."""

from __future__ import annotations

import math

import numpy as np

from ray_mixopt.analysis.ledger import ENDS
from ray_mixopt.analysis.study import Study
from ray_mixopt.report.drawing import (
    HATCHES,
    PALETTE,
    SEQUENTIAL,
    Drawing,
    canvas,
    cost_label,
    finish,
    legend,
    listed,
    point_style,
    short,
    unlabelled,
)

MOST_CURVES = 300
MOST_TICKS = 6


def spending(study: Study) -> Drawing | None:
    """Cost by scale, split by the rungs it was paid up to; None where nothing was paid."""
    space = study.space
    paid, runs = study.ledger.full_runs_by_rung, list(study.ledger.paid_runs.values())
    if paid.sum() == 0:
        return None
    import matplotlib

    figure, axes = canvas(1.5 + 0.4 * len(space.scales))
    (axes,) = axes.flat
    colors = matplotlib.colormaps[SEQUENTIAL](np.linspace(0.05, 0.95, len(space.steps)))
    left = np.zeros(len(space.scales))
    for k, steps in enumerate(space.steps):
        width = paid[:, k]
        if width.any():
            label = f"to step {steps:,}"
            axes.barh(space.scale_names, width, left=left, color=colors[k], edgecolor="white", label=label)
        left = left + width
    for y, (x, n) in enumerate(zip(left, runs, strict=True)):
        axes.text(x, y, f" {n} run{'s' * (n != 1)}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel(cost_label(study.target_name))
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
        alt=f"Bars of cost by model scale: {listed(parts)}. {total:.2f} full runs in all.",
        caption="Cost by model scale, split by the training steps that it paid for.",
    )


def curves(study: Study) -> Drawing | None:
    """Learning curves of the objective's first metric; None where all reported at the same step."""
    metric = next(iter(study.problem.weights))
    runs, names = study.ledger.curves(metric), study.ledger.scale_names
    if len({step for _, steps, _ in runs for step in steps}) < 2:
        return None
    figure, axes = canvas()
    (axes,) = axes.flat
    for scale, steps, values in runs[:MOST_CURVES]:
        k = names.index(scale)
        axes.plot(steps, values, **point_style(k), ms=3, lw=0.8, alpha=0.7)
    for k, name in enumerate(names):
        if any(scale == name for scale, *_ in runs):
            axes.plot([], [], **point_style(k), ms=4, label=name)
    axes.set_xscale("log")
    rungs = study.space.steps[:: math.ceil(len(study.space.steps) / MOST_TICKS)]
    axes.set_xticks(rungs, [f"{step:,}" for step in rungs])
    axes.xaxis.set_minor_formatter(unlabelled)
    axes.set_xlabel("training steps")
    axes.set_ylabel(short(metric, 40))
    finish(axes)
    legend(figure)
    counts = [f"{sum(scale == name for scale, *_ in runs)} at {name}" for name in names]
    left = f" The first {MOST_CURVES} of them are drawn." if len(runs) > MOST_CURVES else ""
    return Drawing(
        name="curves",
        title="Learning curves",
        figure=figure,
        alt=f"Lines of {metric} against training steps for {len(runs)} runs: {listed(counts)}.{left}",
        caption=f"Every run as it reported {metric}, one colour and marker for each model scale.{left}",
    )


def failures(study: Study) -> Drawing | None:
    """How the runs ended, by scale; None where there are none."""
    ends, names = study.ledger.ends, study.ledger.scale_names
    if not ends:
        return None
    figure, axes = canvas(1.3 + 0.35 * len(names))
    (axes,) = axes.flat
    left = np.zeros(len(names))
    for k, end in enumerate(end for end in ENDS if end in ends):
        bars = {"color": PALETTE[k % 7], "hatch": HATCHES[k % 7], "edgecolor": "white"}
        axes.barh(names, ends[end], left=left, label=end, **bars)
        left = left + ends[end]
    axes.invert_yaxis()
    axes.set_xlabel("runs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    finish(axes, "x")
    legend(figure)
    counts = [f"{runs.sum()} {end}" for end, runs in ends.items()]
    return Drawing(
        name="failures",
        title="How the runs ended",
        figure=figure,
        alt=f"Bars of runs by scale and how they ended: {listed(counts)}.",
        caption=(
            "Given runs were made elsewhere and cost this search nothing; paused ones can go on. A diverged run counts "
            "as the worst value at its scale; failed and lost ones tell nothing beyond what they reported."
        ),
    )
