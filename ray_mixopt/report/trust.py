"""Figures of how far to trust the answer: larger runs predicted from smaller ones, every run from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.analysis.study import Study
from ray_mixopt.core.words import fidelity
from ray_mixopt.report.drawing import (
    BLUE,
    DASHES,
    FAINT,
    GREY,
    Drawing,
    Panel,
    canvas,
    cost_label,
    even_choice,
    hover,
    listed,
    logarithmic,
    of_mixture,
    plain,
    point_style,
    short,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_METRICS = 4
MOST_POINTS = 1000  # drawn in a panel
_MANY_STEPS = 8  # rungs beyond which only those with runs are drawn


def diagonal(figure: Figure, low: float, high: float) -> None:
    """The line on which what was predicted is what was seen."""
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": GREY, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )


def extrapolation(study: Study) -> Drawing | None:
    """The largest runs, predicted from smaller scales; None where there are too few to say."""
    found = study.hidden
    if found is None:
        return None
    where, score = fidelity(found.scale, found.steps), found.score
    figure = canvas(360)
    diagonal(figure, float(found.measured.min()), float(found.measured.max()))
    drawn = even_choice(len(found.seen), MOST_POINTS)
    texts = [
        hover(
            f"measured {found.measured[i]:+.4g}",
            f"predicted {found.predicted[i]:+.4g} ± {found.half[i]:.2g}",
            *of_mixture(study.space.named(found.mixtures[i])),
        )
        for i in drawn
    ]
    figure.add_scatter(
        x=found.measured[drawn],
        y=found.predicted[drawn],
        error_y={"array": found.half[drawn], "color": BLUE, "thickness": 1, "width": 0},
        mode="markers",
        marker={"color": BLUE, "size": 7, "opacity": 0.85},
        showlegend=False,
        text=texts,
        hoverinfo="none",
    )
    n_inside, n = int(found.inside.sum()), len(found.seen)
    rank = "" if score.rank is None else f" They are ranked with a correlation of {score.rank:.2f}."
    return Drawing(
        name="extrapolation",
        title=f"{where}, predicted from smaller scales alone",
        panels=(
            Panel(figure=figure, x="measured: difference from the mean of these mixtures", y="predicted difference"),
        ),
        alt=(
            f"Scatter of predicted against measured differences of {n} mixtures at {where}; {n_inside} of the 95% "
            f"intervals hold what was measured.{rank}"
        ),
        caption=(
            f"What the smaller runs say of the largest ones, had these not been made: {n_inside} of {n} intervals "
            f"cross the line.{rank} The step to the target is such a step. ray-mixopt backtest asks the same with "
            "fewer mixtures, and beside methods that take no model."
        ),
        head=("Mixture", "Measured", "Predicted", "95% interval ±"),
        rows=[
            (
                listed(of_mixture(study.space.named(found.mixtures[i]))),
                *(float(part[i]) for part in (found.measured, found.predicted, found.half)),
            )
            for i in np.argsort(study.problem.sign * found.measured, kind="stable")
        ],
    )


def agreement(study: Study) -> Drawing | None:
    """Rank correlation of each fidelity with the target, against its cost; None for a single fidelity."""
    details, space = study.recommendation.details, study.space
    if details is None or len(details.agreement) < 2:
        return None
    cells = [a for a in details.agreement if a.runs or len(space.steps) <= _MANY_STEPS]
    if len(cells) < 2:
        return None
    figure = canvas(380, xaxis=logarithmic([a.cost / space.target_cost for a in cells]))
    lowest = min(min(a.expected, 1.0 if a.observed is None else a.observed) for a in cells)
    figure.update_yaxes(range=[min(lowest - 0.05, 0.85), 1.02], nticks=6)
    figure.add_hrect(0.9, 1.0, fillcolor=FAINT, line_width=0, layer="below")
    for k, name in enumerate(space.scale_names):
        here = [a for a in cells if a.scale == name]
        if not here:
            continue
        style = point_style(k)
        figure.add_scatter(
            x=[a.cost / space.target_cost for a in here],
            y=[a.expected for a in here],
            mode="lines+markers",
            line={"color": style["color"], "width": 1.2, "dash": DASHES[k % 4]},
            marker={
                "symbol": [style["symbol"] if a.runs else f"{style['symbol']}-open" for a in here],
                "color": style["color"],
                "size": 7,
            },
            name=plain(short(name)),
            text=[hover(fidelity(a.scale, a.steps), f"{a.runs} mixtures seen here", a.grounds) for a in here],
            hoverinfo="none",
        )
    good = details.shortest_agreeing
    words = "none" if good is None else f"{fidelity(good.scale, good.steps)}, {good.grounds}"
    both = [a for a in cells if a.observed is not None and a.cost < space.target_cost]
    observed = [f"{fidelity(a.scale, a.steps)}: {a.observed:.2f} over {a.common}" for a in both]
    seen = f" Observed among mixtures run at both: {listed(observed, 6)}." if observed else ""
    return Drawing(
        name="agreement",
        title="Do small runs rank mixtures like the target?",
        panels=(Panel(figure=figure, x=cost_label(study.target_name), y="rank correlation with the target"),),
        alt=f"Rank correlation with the target against cost, a line a scale. Cheapest above 0.9: {words}.{seen}",
        caption=(
            "Rank correlation with the target that the model expects over random mixtures; filled where runs were "
            f"made, in the band from 0.9. Cheapest that agrees: {words}."
        ),
        head=("Scale", "Length", "Full runs", "Mixtures seen", "Expected", "Seen at both", "Observed"),
        rows=[
            (
                a.scale,
                "–" if a.steps == 1 else a.steps,
                a.cost / space.target_cost,
                a.runs,
                f"{a.expected:.2f}",
                a.common,
                None if a.observed is None else f"{a.observed:.2f}",
            )
            for a in cells
        ],
    )


def predictions(study: Study) -> Drawing | None:
    """Predicted against observed, each run left out in turn; None without a surrogate."""
    parts = study.left_out[:MOST_METRICS]
    if not parts:
        return None
    words, panels, rows = [], [], []
    most = max(len(part.observed) for part in parts)
    left = f" {MOST_POINTS} of {most:,} values are drawn, evenly chosen." if most > MOST_POINTS else ""
    for part in parts:
        drawn = even_choice(len(part.observed), MOST_POINTS)
        figure = canvas(320)
        diagonal(figure, float(part.observed.min()), float(part.observed.max()))
        for k, name in enumerate(study.ledger.scale_names):
            here = drawn[[part.scales[row] == name for row in drawn]]
            if not len(here):
                continue
            style = point_style(k)
            figure.add_scatter(
                x=part.observed[here],
                y=part.predicted[here],
                error_y={"array": part.half[here], "color": style["color"], "thickness": 0.7, "width": 0},
                mode="markers",
                marker=style | {"size": 5, "opacity": 0.7},
                name=plain(short(name)),
                text=[
                    hover(
                        f"{part.runs[row]}, {name}",
                        f"observed {part.observed[row]:.5g}",
                        f"predicted {part.predicted[row]:.5g} ± {part.half[row]:.2g}",
                    )
                    for row in here
                ],
                hoverinfo="none",
            )
        title = f"{part.metric}: {part.coverage:.0%} of {len(part.observed):,} inside"
        panels.append(Panel(figure=figure, title=title, x="observed", y="predicted from the other runs"))
        words.append(f"{part.metric}: {part.coverage:.0%} of {len(part.observed)} inside")
        rows += [
            (part.metric, part.runs[i], *(float(v[i]) for v in (part.observed, part.predicted, part.half)))
            for i in np.argsort(-np.abs(part.observed - part.predicted) / part.half, kind="stable")[:50]
        ]
    return Drawing(
        name="predictions",
        title="Every run, predicted from all others",
        panels=tuple(panels),
        alt=f"Scatter of left-out predictions against observations with 95% intervals. {listed(words)}.",
        caption=(
            "With 95% intervals. About 95% of them should cross the line; fewer mean that the search is surer than it "
            f"should be. Neighbours help: this says nothing of larger scales.{left}"
        ),
        head=("Metric", "Run", "Observed", "Predicted", "95% interval ±"),
        rows=rows,
    )
