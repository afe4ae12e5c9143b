"""Figures of how the answer came about: what was recommended at each cost, what was expected of it, what was true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.analysis.study import Study
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.words import shares_named
from ray_mixopt.report.drawing import (
    BAND,
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    PATTERNS,
    Drawing,
    Panel,
    canvas,
    cost_label,
    hover,
    listed,
    logarithmic,
    of_mixture,
    plain,
    short,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_DOMAINS = len(PALETTE)  # drawn one by one; the smaller ones together


def incumbent(study: Study) -> Drawing | None:
    """Predicted objective of the recommended mixture against cost, with its interval; None for fewer than two."""
    points = study.way
    if len(points) < 2:
        return None
    known = [(point.cost, point.then, point.mixture) for point in points if point.then is not None]
    later = [(point.cost, point.now.mean) for point in points if point.now is not None]
    means = [p.mean for _, p, _ in known] + [value for _, value in later]
    ends = [end for _, p, _ in known for end in (p.low, p.high)]
    figure = canvas(
        360,
        xaxis=logarithmic([point.cost for point in points]),
        yaxis={"range": _zoomed(means, ends, known[-1][1] if known else None)} if means else {},
    )
    if known:
        x = [cost for cost, *_ in known]
        figure.add_scatter(
            x=x + x[::-1],
            y=[p.low for _, p, _ in known] + [p.high for _, p, _ in known][::-1],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=BAND,
            name="95% interval at that time",
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=x,
            y=[p.mean for _, p, _ in known],
            mode="lines+markers",
            line={"color": BLUE},
            name="predicted",
            text=[hover(f"after {cost:.3g} full runs: {p}", *of_mixture(w)) for cost, p, w in known],
            hoverinfo="none",
        )
    if later:
        figure.add_scatter(
            x=[cost for cost, _ in later],
            y=[value for _, value in later],
            mode="lines+markers",
            line={"color": ORANGE, "dash": "dash"},
            marker={"symbol": "square"},
            name="as known in the end",
            text=[f"{value:.5g} as known in the end" for _, value in later],
            hoverinfo="none",
        )
    first, last = (known[0], known[-1]) if known else ((points[0].cost, None), (points[-1].cost, None))
    return Drawing(
        name="incumbent",
        title="What was expected of the recommendation",
        panels=(Panel(figure=figure, x=cost_label(study.target_name), y=f"{study.objective_name} at the target"),),
        alt=(
            f"Line chart of {study.objective_name} predicted at the target for the mixture recommended so far. "
            f"After {first[0]:.2g} full runs: {first[1]}. After {last[0]:.2g}: {last[1]}."
        ),
        caption=(
            "What was predicted for the mixture recommended at each cost, with its 95% interval, and what is predicted "
            "for the same mixture with all that is known now. If the dashed line leaves the band, the search was "
            f"surer than it should have been. Computed for {len(points)} costs; fewer the larger the search."
        ),
        head=("Full runs spent", "Predicted then", "As known in the end"),
        rows=[
            (f"{p.cost:.3g}", "–" if p.then is None else str(p.then), None if p.now is None else f"{p.now.mean:.4f}")
            for p in points
        ],
    )


def _zoomed(means: list[float], ends: list[float], last: Prediction | None) -> list[float]:
    """Keeps a very wide first interval from flattening the rest."""
    half = max(2.5 * float(np.ptp(means)), 0.0 if last is None else 0.75 * (last.high - last.low), 1e-9)
    middle = float(np.median(means))
    low, high = min(means + ends), max(means + ends)
    pad = 0.05 * (high - low)
    return [max(low - pad, middle - half), min(high + pad, middle + half)]


def mixtures(study: Study) -> Drawing | None:
    """The recommended shares against cost, stacked, a panel a phase; None for fewer than two."""
    points = study.way
    if len(points) < 2:
        return None
    domains, simplex, names = study.space.domains, study.space.simplex, list(study.shares)
    each = np.stack([study.space.mixture(point.mixture) for point in points])
    order = np.argsort(-simplex.mean(each).mean(0), kind="stable")
    shares = simplex.apart(each)  # way x phases x d
    x = [point.cost for point in points]
    words = [
        f"{name}{name and ': '}{listed([f'{domains[i]} {shares[-1, p, i]:.1%}' for i in order])}"
        for p, name in enumerate(names)
    ]
    some = order[:12]
    return Drawing(
        name="mixtures",
        title="The mixture recommended",
        panels=tuple(
            Panel(
                figure=_stacked(x, shares[:, p], domains, order),
                title=name if len(names) > 1 else "",
                x=cost_label(study.target_name),
                y="share of training tokens",
            )
            for p, name in enumerate(names)
        ),
        alt=f"Stacked areas of the recommended shares against cost. In the end: {'; '.join(words)}.",
        caption="A mixture that still moves at the end has not been found yet; see also how flat the optimum is.",
        head=("Full runs spent", *(shares_named(domains[i], name) for name in names for i in some)),
        rows=[
            (f"{cost:.3g}", *(f"{shares[row, p, i]:.1%}" for p in range(len(names)) for i in some))
            for row, cost in enumerate(x)
        ],
    )


def _stacked(x: list[float], shares: np.ndarray, domains: Sequence[str], order: np.ndarray) -> Figure:
    """The shares ``len(x) x d`` at costs ``x``, those of the first domains of an order one by one."""
    shown, rest = order[:MOST_DOMAINS], order[MOST_DOMAINS:]
    layers = [(domains[i], shares[:, i]) for i in shown]
    if len(rest):
        layers.append((f"{len(rest)} other{'s' * (len(rest) != 1)}", shares[:, rest].sum(1)))
    figure = canvas(
        400,
        xaxis=logarithmic(x) | {"range": [float(np.log10(x[0])), float(np.log10(x[-1]))]},
        yaxis={"range": [0, 1], "tickformat": ".0%", "tickvals": [0.25, 0.5, 0.75, 1]},
    )
    for k, (name, share) in enumerate(layers):
        color = PALETTE[k] if k < len(PALETTE) else "#bbbbbb"
        figure.add_scatter(
            x=x,
            y=share,
            mode="lines",
            line={"color": "white", "width": 0.5, "shape": "hv"},
            stackgroup="shares",
            fillcolor=color,
            fillpattern={
                "shape": PATTERNS[k % len(PATTERNS)],
                "size": 7,
                "solidity": 0.15,
                "fgcolor": "white",
                "bgcolor": color,
            },
            name=plain(short(name)),
            text=[
                hover(f"{value:.1%} {name}", f"after {cost:.3g} full runs")
                for cost, value in zip(x, share, strict=True)
            ],
            hoverinfo="none",
        )
    return figure


def truth(study: Study) -> Drawing | None:
    """Regret of the recommendation against cost; None but for a replay whose truth is known."""
    course = study.course
    points = [] if course is None else [p for p in course.points if p.regret is not None]
    if course is None or len(points) < 2:
        return None
    x, regrets = [p.full_runs for p in points], [p.regret for p in points if p.regret is not None]
    figure = canvas(
        340, xaxis=logarithmic([p.full_runs for p in points if p.full_runs > 0]), yaxis={"rangemode": "tozero"}
    )
    called = study.recommendation.called("uniform")
    figure.add_scatter(
        x=x,
        y=regrets,
        mode="lines+markers",
        line={"color": BLUE, "shape": "hv"},
        cliponaxis=False,
        name="recommended mixture",
        text=[
            hover(
                f"after {p.full_runs:.3g} full runs",
                f"regret {p.regret:.3f}",
                f"true {p.true:.5g}",
                *of_mixture(p.mixture),
            )
            for p in points
        ],
        hoverinfo="none",
    )
    if course.uniform.regret is not None:
        figure.add_scatter(
            x=[x[0], x[-1]],
            y=[course.uniform.regret] * 2,
            mode="lines",
            line={"color": ORANGE, "dash": "dash"},
            name=called,
            text=[f"{called}: regret {course.uniform.regret:.3f}"] * 2,
            hoverinfo="none",
        )
    figure.add_hline(0, line={"color": GREY, "width": 1})
    return Drawing(
        name="truth",
        title="Regret of the recommendation",
        panels=(
            Panel(
                figure=figure,
                x=cost_label(study.target_name),
                y="regret at the target (0: the best mixture, 1: the median random one)",
            ),
        ),
        alt=(
            f"Line chart of the true regret of the mixture recommended so far: {regrets[0]:.3f} after {x[0]:.2g} full "
            f"runs, {regrets[-1]:.3f} after {x[-1]:.2g}."
        ),
        caption="This search was a replay, so that the truth is known. The search itself did not see it.",
        head=("Full runs spent", f"True {course.metric}", "Regret"),
        rows=[(f"{p.full_runs:.3g}", p.true, p.regret) for p in points],
    )
