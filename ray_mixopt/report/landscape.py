"""Figures of what matters at the target: each domain, pairs of them, limits, and a second metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.analysis.landscape import Slice, Surface
from ray_mixopt.analysis.study import Study
from ray_mixopt.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SEQUENTIAL,
    Drawing,
    canvas,
    even_choice,
    finish,
    listed,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
MOST_DOTS = 500  # runs in a panel


def slices(study: Study) -> Drawing | None:
    """The posterior along each domain at the target, the others in proportion, with the runs; None without one."""
    lines = study.slices
    if not lines:
        return None
    most = sorted(range(len(lines)), key=lambda i: -lines[i].effect)[:MOST_PANELS]
    chosen = [lines[i] for i in sorted(most)]
    rows = -(-len(chosen) // 2)
    figure, axes = canvas(0.6 + 1.75 * rows, rows, 2, sharey=True)
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    low = min(float((line.mean - line.half_apart).min()) for line in chosen)
    high = max(float((line.mean + line.half_apart).max()) for line in chosen)
    for ax, line in zip(axes.flat, chosen, strict=False):
        for half, alpha in ((line.half, 0.1), (line.half_apart, 0.25)):
            ax.fill_between(line.shares, line.mean - half, line.mean + half, color=BLUE, alpha=alpha, linewidth=0)
        ax.plot(line.shares, line.mean, color=BLUE)
        _runs_on(ax, line)
        _outside(ax, line)
        ax.axvline(line.recommended, color=ORANGE, ls="--", lw=1.2)
        ax.set_title(short(line.domain), loc="left", fontsize=9)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        ax.xaxis.set_major_formatter(lambda value, position: f"{value:.0%}")
        ax.tick_params(labelsize=8)
        finish(ax)
    figure.supxlabel("share of the domain, the others in the recommended proportions", fontsize=9)
    figure.supylabel(short(f"{study.objective_name} at the target", 44), fontsize=9)
    words = [f"{line.domain} is best at {line.best_share:.0%} (recommended {line.recommended:.1%})" for line in chosen]
    left = f" The {len(chosen)} of {len(lines)} domains that matter most." if len(chosen) < len(lines) else ""
    n_runs = len(lines[0].run_shares)
    dots = f" {MOST_DOTS} of {n_runs:,} runs are drawn, evenly chosen." if n_runs > MOST_DOTS else ""
    return Drawing(
        name="slices",
        title="What each domain does at the target",
        figure=figure,
        alt=f"A panel a domain: {study.objective_name} predicted at the target along its share. {listed(words)}.{left}",
        caption=(
            f"Prediction along each domain's share.{left} The dark band is the 95% interval of the difference from the "
            "recommended mixture, the light one that of the value itself. The dashed line is the recommendation, grey "
            " areas are outside the limits. Each dot is the last report of a run, placed by its deviation from the "
            f"prediction at its own fidelity: filled at the target, open elsewhere.{dots}"
        ),
    )


def _runs_on(ax: Axes, line: Slice) -> None:
    drawn = even_choice(len(line.run_shares), MOST_DOTS)
    for at_target in (False, True):
        some = drawn[line.run_at_target[drawn] == at_target]
        if len(some):
            face = GREEN if at_target else "none"
            x, y = line.run_shares[some], line.run_values[some]
            ax.scatter(x, y, s=14, facecolors=face, edgecolors=GREEN, linewidths=0.7, zorder=3)


def _outside(ax: Axes, line: Slice) -> None:
    low, high = line.limits
    for start, end in ((-0.02, low), (high, 1.02)):
        if end - start > 0.021:
            ax.axvspan(start, end, color=GREY, alpha=0.15, lw=0)


def maps(study: Study) -> Drawing | None:
    """The predicted objective over three domains that matter, in pairs; a triangle where there are no others.

    None without a surrogate, or for two domains.
    """
    surfaces = study.surfaces
    if not surfaces:
        return None
    if len(surfaces) == 1:
        return _triangle(study, surfaces[0])
    figure, axes = canvas(2.4, 1, len(surfaces))
    image = None
    low, high = min(float(s.mean.min()) for s in surfaces), max(float(s.mean.max()) for s in surfaces)
    words = []
    for ax, surface in zip(axes.flat, surfaces, strict=True):
        (x, y), (name, other) = surface.shares.T, surface.domains
        image = ax.tricontourf(x, y, surface.mean, levels=np.linspace(low, high, 15), cmap=SEQUENTIAL)
        ax.plot(*surface.recommended, marker="*", ms=11, color=ORANGE, mec="white", clip_on=False, zorder=5)
        ax.set_xlabel(short(name, 18), fontsize=8)
        ax.set_ylabel(short(other, 18), fontsize=8)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
        words.append(f"{name} {surface.best[0]:.0%} with {other} {surface.best[1]:.0%}")
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes.flat), orientation="horizontal", shrink=0.8, aspect=40, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    return Drawing(
        name="maps",
        title="Pairs of domains at the target",
        figure=figure,
        alt=f"Maps of predicted {study.objective_name} over pairs of domains. Best on each map: {listed(words)}.",
        caption=(
            "Predicted mean over the shares of two domains, the others in the recommended proportions; the star is "
            "the recommendation. Three domains that change the prediction much or have a large share."
        ),
    )


def _triangle(study: Study, surface: Surface) -> Drawing:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    figure, axes = canvas(4.2)
    (ax,) = axes.flat
    image = ax.tricontourf(*(surface.shares @ corners).T, surface.mean, levels=15, cmap=SEQUENTIAL)
    runs = study.history.mixtures() @ corners
    ax.scatter(*runs.T, s=12, facecolors="none", edgecolors="white", linewidths=0.8)
    ax.plot(*(surface.recommended @ corners), marker="*", ms=15, color=ORANGE, mec="white")
    for name, (x, y), side in zip(surface.domains, corners, ("right", "left", "center"), strict=True):
        ax.text(x, y + (0.03 if y else -0.06), short(name), ha={"right": "left", "left": "right"}.get(side, side))
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_ylim(-0.12, 0.95)
    figure.colorbar(image, ax=ax, shrink=0.7, label=short(f"{study.objective_name} at the target", 40))
    return Drawing(
        name="maps",
        title="All mixtures at the target",
        figure=figure,
        alt=(
            f"Triangle of predicted {study.objective_name} over the three shares; best near "
            + listed([f"{name} {share:.0%}" for name, share in zip(surface.domains, surface.best, strict=True)])
            + "."
        ),
        caption="Predicted mean over all mixtures. Rings are the runs at any fidelity, the star is the recommendation.",
    )


def prices(study: Study) -> Drawing | None:
    """What each binding limit costs; None where none binds."""
    details = study.recommendation.details
    if details is None or not details.limits:
        return None
    rows = [*details.limits, *([details.unconstrained] if details.unconstrained and len(details.limits) > 1 else [])]
    figure, axes = canvas(1.0 + 0.42 * len(rows))
    (ax,) = axes.flat
    for y, row in enumerate(rows):
        cost = row.cost
        ax.errorbar(
            cost.mean, y, xerr=[[cost.mean - cost.low], [cost.high - cost.mean]], fmt="o", color=BLUE, capsize=3
        )
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_yticks(range(len(rows)), [short(row.name, 34) for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(short(f"cost in {study.objective_name} (95%)", 50))
    finish(ax, "x")
    words = [f"{row.name} costs {row.cost}" for row in rows]
    return Drawing(
        name="limits",
        title="What limits cost",
        figure=figure,
        alt=f"Intervals of what each limit costs at the target: {listed(words)}.",
        caption=(
            "How much better the objective would be without a limit that holds the recommendation, each dropped alone."
        ),
    )


def front(study: Study) -> Drawing | None:
    """The Pareto front of two metrics; None for a single metric."""
    found = study.front
    if found is None or len(found.points) < 2:
        return None
    (a, b), points = found.metrics, found.points
    figure, axes = canvas()
    (ax,) = axes.flat
    x, y = np.array([p.first.mean for p in points]), np.array([p.second.mean for p in points])
    xe = np.array([[p.first.mean - p.first.low, p.first.high - p.first.mean] for p in points]).T
    ye = np.array([[p.second.mean - p.second.low, p.second.high - p.second.mean] for p in points]).T
    ax.errorbar(x, y, ye, xe, fmt="none", ecolor=BLUE, alpha=0.2, lw=0.8)
    ax.plot(x, y, color=BLUE, marker="o", ms=4, label="best trade-offs")
    for name, marker, size, color in (("recommended", "*", 12, ORANGE), ("uniform", "s", 6, GREEN)):
        ax.plot(
            *found.marks[name],
            marker=marker,
            ms=size,
            color=color,
            ls="none",
            label=study.recommendation.called(name).replace(" mixture", ""),
        )
    better = ["less" if mode == "min" else "more" for mode in found.modes]
    ax.set_xlabel(f"{short(a, 40)} ({better[0]} is better)")
    ax.set_ylabel(f"{short(b, 30)} ({better[1]} is better)")
    finish(ax)
    ax.legend()
    ends = [f"{a} {p.first.mean:.4g} with {b} {p.second.mean:.4g}" for p in (points[0], points[-1])]
    return Drawing(
        name="front",
        title=f"{a} against {b}",
        figure=figure,
        alt=f"Pareto front of {a} and {b} at the target, from {ends[0]} to {ends[1]}, {len(points)} mixtures.",
        caption="Mixtures that no other is predicted to beat in both metrics, with 95% intervals.",
    )
