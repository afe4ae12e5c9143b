"""Figures of what is believed about the target, and how far to trust it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ray_mixopt.analysis.study import Study
from ray_mixopt.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PALETTE,
    SEQUENTIAL,
    Drawing,
    canvas,
    finish,
    legend,
    listed,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
_GRID = 36  # points on the side of a map


class Line(NamedTuple):
    """The posterior along the share of one domain, each array ``(n,)``."""

    place: int
    domain: str
    shares: np.ndarray
    center: np.ndarray
    half: np.ndarray  # of the 95% interval of the value
    apart: np.ndarray  # of that of the difference from the recommended mixture

    def best_share(self, study: Study) -> float:
        """Where the objective is best."""
        return float(self.shares[np.argmin(study.problem.sign * self.center)])


def slices(study: Study) -> Drawing | None:
    """The posterior along each domain at the target, the others in proportion, with the runs."""
    posterior = study.posterior
    if posterior is None:
        return None
    lines = []
    for i, (domain, shares, mixtures) in enumerate(study.slices()):
        mean, variance = posterior.marginal(mixtures)
        center = study.problem.sign * (mean.mean(0) - posterior.penalty(mixtures)).numpy()
        half = 1.96 * (mean.var(0, correction=0) + variance.mean(0)).sqrt().numpy()
        mean, variance = posterior.marginal(mixtures, study.best[None])
        apart = 1.96 * (mean.var(0, correction=0) + variance.mean(0)).sqrt().numpy()
        lines.append(Line(i, domain, shares, center, half, apart))
    effect = [float(np.ptp(line.center)) for line in lines]
    chosen = sorted(sorted(range(len(lines)), key=lambda i: -effect[i])[:MOST_PANELS])
    rows = -(-len(chosen) // 2)
    figure, axes = canvas(0.6 + 1.75 * rows, rows, 2, sharey=True)
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    low = min(float((lines[k].center - lines[k].apart).min()) for k in chosen)
    high = max(float((lines[k].center + lines[k].apart).max()) for k in chosen)
    for ax, k in zip(axes.flat, chosen, strict=False):
        i, domain, shares, center, half, apart = lines[k]
        ax.fill_between(shares, center - half, center + half, color=BLUE, alpha=0.1, linewidth=0)
        ax.fill_between(shares, center - apart, center + apart, color=BLUE, alpha=0.25, linewidth=0)
        ax.plot(shares, center, color=BLUE)
        _runs_on(ax, study, i, shares, center)
        _outside(ax, study, i)
        ax.axvline(study.best[i], color=ORANGE, ls="--", lw=1.2)
        ax.set_title(short(domain), loc="left", fontsize=9)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        ax.xaxis.set_major_formatter(lambda value, position: f"{value:.0%}")
        ax.tick_params(labelsize=8)
        finish(ax)
    figure.supxlabel("share of the domain, the others in the recommended proportions", fontsize=9)
    figure.supylabel(short(f"{study.objective_name} at the target", 44), fontsize=9)
    words = [
        f"{line.domain} is best at {line.best_share(study):.0%} (recommended {study.best[line.place]:.1%})"
        for line in (lines[k] for k in chosen)
    ]
    left = f" The {len(chosen)} of {len(lines)} domains that matter most." if len(chosen) < len(lines) else ""
    return Drawing(
        name="slices",
        title="What each domain does at the target",
        figure=figure,
        alt=f"A panel a domain: {study.objective_name} predicted at the target along its share. {listed(words)}.{left}",
        caption=(
            f"Prediction along each domain's share.{left} The dark band is the 95% interval of the difference from the "
            "recommended mixture, the light one that of the value itself. The dashed line is the recommendation, grey "
            " areas are outside the limits. Each dot is the last report of a run, placed by its deviation from the "
            "prediction at its own fidelity: filled at the target, open elsewhere."
        ),
    )


def _runs_on(ax: Axes, study: Study, i: int, shares: np.ndarray, center: np.ndarray) -> None:
    for at_target in (False, True):
        some = [r for r in study.residuals if r.at_target is at_target]
        if some:
            x = np.array([r.mixture[i] for r in some])
            y = np.interp(x, shares, center) + np.array([r.value for r in some])
            face = GREEN if at_target else "none"
            ax.scatter(x, y, s=14, facecolors=face, edgecolors=GREEN, linewidths=0.7, zorder=3)


def _outside(ax: Axes, study: Study, i: int) -> None:
    low, high = study.space.simplex.lower[i], study.space.simplex.upper[i]
    for start, end in ((-0.02, low), (high, 1.02)):
        if end - start > 0.021:
            ax.axvspan(start, end, color=GREY, alpha=0.15, lw=0)


def maps(study: Study) -> Drawing | None:
    """The predicted objective over the three domains that matter most: a triangle of three, else in pairs."""
    posterior, space = study.posterior, study.space
    if posterior is None or space.n_domains < 3:
        return None
    if space.n_domains == 3:
        return _triangle(study)
    effect = np.array([_span(study, mixtures) for *_, mixtures in study.slices(17)])
    weight = effect / max(effect.max(), 1e-12) + study.best  # domains that change much, or have much
    three = np.sort(np.argsort(-weight, kind="stable")[:3]).tolist()
    pairs = list(combinations(three, 2))
    figure, axes = canvas(2.4, 1, 3)
    image = None
    values = [_pair(study, *pair) for pair in pairs]
    low, high = min(float(v.min()) for _, v in values), max(float(v.max()) for _, v in values)
    words = []
    for ax, (i, j), (points, value) in zip(axes.flat, pairs, values, strict=True):
        image = ax.tricontourf(points[:, 0], points[:, 1], value, levels=np.linspace(low, high, 15), cmap=SEQUENTIAL)
        ax.plot(study.best[i], study.best[j], marker="*", ms=11, color=ORANGE, mec="white", clip_on=False, zorder=5)
        ax.set_xlabel(short(space.domains[i], 18), fontsize=8)
        ax.set_ylabel(short(space.domains[j], 18), fontsize=8)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
        best = points[np.argmin(study.problem.sign * value)]
        words.append(f"{space.domains[i]} {best[0]:.0%} with {space.domains[j]} {best[1]:.0%}")
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


def _span(study: Study, mixtures: np.ndarray) -> float:
    assert study.posterior is not None
    return float(np.ptp(study.posterior.mean(mixtures).numpy()))


def _means(study: Study, mixtures: np.ndarray) -> np.ndarray:
    """Predicted objective in its own direction, without the pull to a prior."""
    assert study.posterior is not None
    signed = (study.posterior.mean(mixtures) - study.posterior.penalty(mixtures)).numpy()
    values: np.ndarray = study.problem.sign * signed
    return values


def _pair(study: Study, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of two domains over the triangle that they can take, ``(p, 2)``, and the objective there ``(p,)``."""
    grid = np.linspace(0, 1, _GRID)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    inside = a + b <= 1 + 1e-9
    points = np.stack([a[inside], b[inside]], axis=1)
    rest = study.best.copy()
    rest[[i, j]] = 0.0
    others = np.ones_like(rest)
    others[[i, j]] = 0.0
    rest = rest / rest.sum() if rest.sum() > 1e-9 else others / others.sum()
    mixtures = np.clip(1 - points.sum(1, keepdims=True), 0, 1) * rest
    mixtures[:, i], mixtures[:, j] = points.T
    return points, _means(study, mixtures)


def _triangle(study: Study) -> Drawing:
    space = study.space
    a, b = np.meshgrid(np.arange(_GRID + 1), np.arange(_GRID + 1), indexing="ij")
    inside = a + b <= _GRID
    shares = np.stack([a[inside], b[inside], _GRID - a[inside] - b[inside]], axis=1) / _GRID
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    value = _means(study, shares)
    figure, axes = canvas(4.2)
    (ax,) = axes.flat
    image = ax.tricontourf(*(shares @ corners).T, value, levels=15, cmap=SEQUENTIAL)
    runs = np.array([trial.mixture for trial in study.history]).reshape(-1, 3) @ corners
    ax.scatter(*runs.T, s=12, facecolors="none", edgecolors="white", linewidths=0.8)
    ax.plot(*(study.best @ corners), marker="*", ms=15, color=ORANGE, mec="white")
    for name, (x, y), side in zip(space.domains, corners, ("right", "left", "center"), strict=True):
        ax.text(x, y + (0.03 if y else -0.06), short(name), ha={"right": "left", "left": "right"}.get(side, side))
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_ylim(-0.12, 0.95)
    figure.colorbar(image, ax=ax, shrink=0.7, label=short(f"{study.objective_name} at the target", 40))
    best = shares[np.argmin(study.problem.sign * value)]
    return Drawing(
        name="maps",
        title="All mixtures at the target",
        figure=figure,
        alt=(
            f"Triangle of predicted {study.objective_name} over the three shares; best near "
            + listed([f"{name} {share:.0%}" for name, share in zip(space.domains, best, strict=True)])
            + "."
        ),
        caption="Predicted mean over all mixtures. Rings are the runs at any fidelity, the star is the recommendation.",
    )


def predictions(study: Study) -> Drawing | None:
    """Predicted against observed, each run left out in turn."""
    parts = study.left_out[:4]
    if not parts:
        return None
    columns = min(len(parts), 2)
    rows = -(-len(parts) // columns)
    figure, axes = canvas(0.6 + (3.2 if columns == 1 else 2.5) * rows, rows, columns)
    for ax in axes.flat[len(parts) :]:
        ax.set_visible(False)
    names = [scale.name for scale in (*study.space.scales, *study.space.earlier_scales)]
    words = []
    for ax, part in zip(axes.flat, parts, strict=False):
        ax.axline((float(part.observed[0]), float(part.observed[0])), slope=1, color=GREY, lw=0.8)
        for k, name in enumerate(names):
            rows_ = np.array([scale == name for scale in part.scales])
            if rows_.any():
                ax.errorbar(
                    part.observed[rows_],
                    part.predicted[rows_],
                    1.96 * part.deviation[rows_],
                    fmt=MARKERS[k % 7],
                    ms=3.5,
                    color=PALETTE[k % 6],
                    elinewidth=0.5,
                    alpha=0.8,
                    label=name,
                )
        ax.set_title(f"{short(part.metric, 22)}: {part.inside.mean():.0%} inside", loc="left", fontsize=9)
        ax.tick_params(labelsize=8)
        finish(ax)
        words.append(f"{part.metric}: {part.inside.mean():.0%} of {len(part.observed)} inside")
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
            "mean that the search is surer than it should be."
        ),
    )


def agreement(study: Study) -> Drawing | None:
    """Rank correlation of each fidelity with the target."""
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
    words = "none" if good is None else f"{good.scale} x {good.steps:,} steps, {good.expected:.2f}"
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


def prices(study: Study) -> Drawing | None:
    """What each binding limit costs."""
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
    """The Pareto front of two metrics."""
    found = study.front
    if found is None or len(found[1]) < 2:
        return None
    (a, b), points = found
    figure, axes = canvas()
    (ax,) = axes.flat
    x, y = np.array([p.first.mean for p in points]), np.array([p.second.mean for p in points])
    xe = np.array([[p.first.mean - p.first.low, p.first.high - p.first.mean] for p in points]).T
    ye = np.array([[p.second.mean - p.second.low, p.second.high - p.second.mean] for p in points]).T
    ax.errorbar(x, y, ye, xe, fmt="none", ecolor=BLUE, alpha=0.2, lw=0.8)
    ax.plot(x, y, color=BLUE, marker="o", ms=4, label="best trade-offs")
    best = study.recommendation.mixture
    for name, mixture, marker, color in (
        ("recommended", best, "*", ORANGE),
        ("uniform", study.space.named(study.space.uniform()), "s", GREEN),
    ):
        there = [_single(study, metric, mixture) for metric in (a, b)]
        ax.plot(*there, marker=marker, ms=12 if marker == "*" else 6, color=color, ls="none", label=name)
    ax.set_xlabel(f"{short(a, 40)} ({'less' if study.mode(a) == 'min' else 'more'} is better)")
    ax.set_ylabel(f"{short(b, 30)} ({'less' if study.mode(b) == 'min' else 'more'} is better)")
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


def _single(study: Study, metric: str, mixture: dict[str, float]) -> float:
    posterior = study.metric(metric)
    return posterior.prediction(study.space.mixture(mixture)).mean
