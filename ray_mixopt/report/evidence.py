"""Figures of how sure the answer is: the way there, predictions put to the test, small runs against the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.analysis.study import Study
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.words import fidelity
from ray_mixopt.report.drawing import (
    BLUE,
    GREY,
    HATCHES,
    ORANGE,
    PALETTE,
    SEQUENTIAL,
    Drawing,
    canvas,
    even_choice,
    finish,
    legend,
    listed,
    log_cost,
    point_style,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOMAINS = len(PALETTE)  # drawn one by one; the smaller ones together
MOST_METRICS = 4
MOST_POINTS = 1000  # drawn in a panel


def incumbent(study: Study) -> Drawing | None:
    """Predicted objective of the recommended mixture against cost, with its interval; None for fewer than two."""
    points = study.way
    if len(points) < 2:
        return None
    figure, axes = canvas()
    (axes,) = axes.flat
    known = [(point.cost, point.then) for point in points if point.then is not None]
    if known:
        x, low, high = zip(*((cost, p.low, p.high) for cost, p in known), strict=True)
        axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95% interval at that time")
        axes.plot(x, [p.mean for _, p in known], color=BLUE, marker="o", ms=4, label="predicted")
    later = [(point.cost, point.now.mean) for point in points if point.now is not None]
    if later:
        axes.plot(*zip(*later, strict=True), color=ORANGE, marker="s", ms=3.5, ls="--", label="as known in the end")
    _zoom(axes, [p.mean for _, p in known] + [value for _, value in later], known[-1][1] if known else None)
    axes.axvline(1.0, color=GREY, ls=":", label="one full run")
    log_cost(axes, study.target_name)
    axes.set_ylabel(short(f"{study.objective_name} at the target", 44))
    finish(axes)
    legend(figure)
    first, last = (known[0], known[-1]) if known else ((points[0].cost, None), (points[-1].cost, None))
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
            f"surer than it should have been. Computed for {len(points)} costs; fewer the larger the search."
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
    """The recommended shares against cost, stacked; None for fewer than two."""
    points = study.way
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
    x, bottom = [point.cost for point in points], np.zeros(len(points))
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
    log_cost(axes, study.target_name)
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


def predictions(study: Study) -> Drawing | None:
    """Predicted against observed, each run left out in turn; None without a surrogate."""
    parts = study.left_out[:MOST_METRICS]
    if not parts:
        return None
    columns = min(len(parts), 2)
    rows = -(-len(parts) // columns)
    figure, axes = canvas(0.6 + (3.2 if columns == 1 else 2.5) * rows, rows, columns)
    for ax in axes.flat[len(parts) :]:
        ax.set_visible(False)
    words = []
    most = max(len(part.observed) for part in parts)
    left = f" {MOST_POINTS} of {most:,} values are drawn, evenly chosen." if most > MOST_POINTS else ""
    for ax, part in zip(axes.flat, parts, strict=False):
        drawn = even_choice(len(part.observed), MOST_POINTS)
        ax.axline((float(part.observed[0]), float(part.observed[0])), slope=1, color=GREY, lw=0.8)
        for k, name in enumerate(study.ledger.scale_names):
            here = drawn[[part.scales[row] == name for row in drawn]]
            if len(here):
                ax.errorbar(
                    part.observed[here],
                    part.predicted[here],
                    part.half[here],
                    **point_style(k),
                    ls="none",
                    ms=3.5,
                    elinewidth=0.5,
                    alpha=0.8,
                    label=name,
                )
        ax.set_title(f"{short(part.metric, 22)}: {part.coverage:.0%} inside", loc="left", fontsize=9)
        ax.tick_params(labelsize=8)
        finish(ax)
        words.append(f"{part.metric}: {part.coverage:.0%} of {len(part.observed)} inside")
    legend(figure)
    figure.supxlabel("observed", fontsize=9)
    figure.supylabel("predicted from the other runs", fontsize=9)
    return Drawing(
        name="predictions",
        title="Predicted against observed",
        figure=figure,
        alt=f"Scatter of left-out predictions against observations with 95% intervals. {listed(words)}.",
        caption=(
            "Every run predicted from all others, with 95% intervals. About 95% of them should cross the line; fewer "
            f"mean that the search is surer than it should be.{left}"
        ),
    )


def agreement(study: Study) -> Drawing | None:
    """Rank correlation of each fidelity with the target; None for a single fidelity."""
    details = study.recommendation.details
    if details is None or len(details.agreement) < 2:
        return None
    space = study.space
    table = {(a.scale, a.steps): a for a in details.agreement}
    value = np.array([[table[s, z].expected for z in space.steps] for s in space.scale_names])
    figure, axes = canvas(1.5 + 0.42 * len(space.scales))
    (ax,) = axes.flat
    image = ax.imshow(value, vmin=-1, vmax=1, cmap=SEQUENTIAL, aspect="auto")
    size = 8 if len(space.steps) <= 6 else 6
    for i, scale in enumerate(space.scale_names):
        for j, steps in enumerate(space.steps):
            cell = table[scale, steps]
            text = f"{cell.expected:.2f}" + (f"\n{cell.runs} runs" if cell.runs and len(space.steps) <= 6 else "")
            color = "black" if cell.expected > 0.2 else "white"
            weight = "bold" if cell.runs else "normal"
            ax.text(j, i, text, ha="center", va="center", fontsize=size, color=color, fontweight=weight)
    ax.set_xticks(range(len(space.steps)), [f"{steps:,}" for steps in space.steps], rotation=30, fontsize=8)
    ax.set_yticks(range(len(space.scales)), space.scale_names)
    ax.set_xlabel("training steps")
    figure.colorbar(image, ax=ax, label="rank correlation")
    good = details.shortest_agreeing
    words = "none" if good is None else f"{fidelity(good.scale, good.steps)}, {good.grounds}"
    both = [a for a in details.agreement if a.observed is not None and a.cost < space.target_cost]
    observed = [f"{a.scale} x {a.steps:,}: {a.observed:.2f} over {a.common}" for a in both]
    seen = f" Observed among mixtures run at both: {listed(observed, 6)}." if observed else ""
    return Drawing(
        name="agreement",
        title="Do small runs rank mixtures like the target?",
        figure=figure,
        alt=f"Table of rank correlations with the target by scale and steps. Cheapest above 0.9: {words}.{seen}",
        caption=(
            "Rank correlation with the target that the surrogate expects over random mixtures; bold where runs were "
            f"made. Cheapest that agrees: {words}.{seen}"
        ),
    )
