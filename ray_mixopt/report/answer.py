"""Figures of the answer: the mixture beside others, what limits cost, and what there is to trade."""

from __future__ import annotations

import numpy as np

from ray_mixopt.analysis.study import Study
from ray_mixopt.report.drawing import (
    BAND,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Drawing,
    Panel,
    canvas,
    categories,
    hover,
    lines_of,
    listed,
    plain,
    rows_height,
    share_axis,
    short,
)

MOST_DOMAINS = 24
_MARKS = {"uniform": ("square-open", GREY), "proportional": ("triangle-up", GREEN), "reference": ("diamond", ORANGE)}


def mixture(study: Study) -> Drawing:
    """The recommended shares, the range of those predicted as good, and what they are compared with."""
    answer, space = study.recommendation, study.space
    others = {name: space.named(w) for name, w in study.problem.baselines().items()}
    ranges = answer.details.ranges if answer.details else {}
    largest = {d: max(answer.mixture[d], *(w[d] for w in others.values())) for d in space.domains}
    drawn = set(sorted(space.domains, key=lambda d: (-largest[d], -answer.mixture[d]))[:MOST_DOMAINS])
    shown = sorted(drawn, key=lambda d: (-answer.mixture[d], space.domains.index(d)))
    high = max([largest[d] for d in shown] + [ranges[d][1] for d in shown if d in ranges])
    figure = canvas(rows_height(len(shown), 2 + len(others)), xaxis=share_axis(high), yaxis=categories(shown))
    places = list(range(len(shown)))
    if ranges:
        figure.add_scatter(
            x=lines_of([ranges[d] for d in shown]),
            y=lines_of([(k, k) for k in places]),
            mode="lines",
            line={"color": BAND, "width": 10},
            name="predicted as good",
            hoverinfo="skip",
        )
    for name, shares in others.items():
        symbol, color = _MARKS[name]
        figure.add_scatter(
            x=[shares[d] for d in shown],
            y=places,
            mode="markers",
            marker={"symbol": symbol, "color": color, "size": 8, "line": {"width": 1.5}},
            name=_bare(answer.called(name)),
            text=[hover(d, f"{answer.called(name)}: {shares[d]:.1%}") for d in shown],
            hoverinfo="none",
        )
    figure.add_scatter(
        x=[answer.mixture[d] for d in shown],
        y=places,
        mode="markers",
        marker={"symbol": "circle", "color": BLUE, "size": 10},
        name="recommended",
        text=[
            hover(d, f"recommended: {answer.mixture[d]:.1%}", *_as_good(ranges.get(d)))  # what the bar cannot say
            for d in shown
        ],
        hoverinfo="none",
    )
    left = f" The {len(shown)} largest of {space.n_domains} domains." if len(shown) < space.n_domains else ""
    words = [f"{d} {answer.mixture[d]:.1%}" for d in shown]
    return Drawing(
        name="mixture",
        title="Share of each domain",
        panels=(Panel(figure=figure, x="share of training tokens", y=""),),
        alt=f"Recommended shares, largest first: {listed(words, MOST_DOMAINS)}.{left}",
        caption=f"The table beside it has all numbers.{left}",
    )


def _as_good(limits: tuple[float, float] | None) -> list[str]:
    return [] if limits is None else [f"as good from {limits[0]:.1%} to {limits[1]:.1%}"]


def _bare(called: str) -> str:
    return called.replace(" mixture", "")


def prices(study: Study) -> Drawing | None:
    """What each binding limit costs; None where none binds."""
    details = study.recommendation.details
    if details is None or not details.limits:
        return None
    rows = [*details.limits, *([details.unconstrained] if details.unconstrained and len(details.limits) > 1 else [])]
    figure = canvas(rows_height(len(rows)), yaxis=categories([row.name for row in rows]))
    means = np.array([row.cost.mean for row in rows])
    figure.add_vline(0, line={"color": GREY, "width": 1})
    figure.add_scatter(
        x=means,
        y=list(range(len(rows))),
        mode="markers",
        marker={"color": BLUE, "size": 8},
        error_x={
            "array": [row.cost.high - row.cost.mean for row in rows],
            "arrayminus": [row.cost.mean - row.cost.low for row in rows],
            "color": BLUE,
        },
        showlegend=False,
        text=[hover(row.name, f"costs {row.cost}") for row in rows],
        hoverinfo="none",
    )
    words = [f"{row.name} costs {row.cost}" for row in rows]
    return Drawing(
        name="limits",
        title="What limits cost",
        panels=(Panel(figure=figure, x=f"cost in {study.objective_name}, with its 95% interval", y=""),),
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
    figure = canvas(360)

    def error(part: str) -> dict[str, object]:
        values = [getattr(point, part) for point in points]
        return {
            "array": [v.high - v.mean for v in values],
            "arrayminus": [v.mean - v.low for v in values],
            "color": BAND,
            "thickness": 1,
            "width": 0,
        }

    figure.add_scatter(
        x=[p.first.mean for p in points],
        y=[p.second.mean for p in points],
        error_x=error("first"),
        error_y=error("second"),
        mode="lines+markers",
        line={"color": BLUE},
        name="best trade-offs",
        text=[hover(f"{a}: {p.first}", f"{b}: {p.second}") for p in points],
        hoverinfo="none",
    )
    for name, symbol, color in (("recommended", "star", ORANGE), ("uniform", "square", GREEN)):
        called = _bare(study.recommendation.called(name))
        figure.add_scatter(
            x=[found.marks[name][0]],
            y=[found.marks[name][1]],
            mode="markers",
            marker={"symbol": symbol, "color": color, "size": 13},
            name=plain(called),
            text=[
                hover(
                    called, *(f"{metric}: {value:.5g}" for metric, value in zip((a, b), found.marks[name], strict=True))
                )
            ],
            hoverinfo="none",
        )
    better = ["less" if mode == "min" else "more" for mode in found.modes]
    ends = [f"{a} {p.first.mean:.4g} with {b} {p.second.mean:.4g}" for p in (points[0], points[-1])]
    return Drawing(
        name="front",
        title=f"{short(a, 60)} against {short(b, 60)}",
        panels=(Panel(figure=figure, x=f"{a} ({better[0]} is better)", y=f"{b} ({better[1]} is better)"),),
        alt=f"Pareto front of {a} and {b} at the target, from {ends[0]} to {ends[1]}, {len(points)} mixtures.",
        caption="Mixtures that no other is predicted to beat in both metrics, with 95% intervals.",
        head=(a, b),
        rows=[(str(p.first), str(p.second)) for p in points],
    )
