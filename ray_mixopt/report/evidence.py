"""Figures of what the answer rests on: where the runs are and what they cost, and what they reported on their way."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np

from ray_mixopt.analysis.curves import MOST_LAWS, LearningCurve
from ray_mixopt.analysis.ledger import ENDS, Place
from ray_mixopt.analysis.study import Study
from ray_mixopt.core.words import amount, fidelity
from ray_mixopt.report.drawing import (
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    PATTERNS,
    SEQUENTIAL,
    Drawing,
    Panel,
    canvas,
    categories,
    colorbar,
    cost_label,
    hover,
    lines_of,
    listed,
    logarithmic,
    of_mixture,
    plain,
    point_style,
    rows_height,
    short,
)

MOST_DOTS = 1500  # reports drawn, of each scale its share
_LARGEST = 22  # pixels of the place of most runs


def places(study: Study) -> Drawing | None:
    """Runs and spending over scale and length; None before the first report."""
    found, space = study.ledger.places, study.space
    if not found:
        return None
    names = study.ledger.scale_names[::-1]  # the largest on top
    lengths = [place.steps for place in found] + [space.target_steps]
    figure = canvas(rows_height(len(names), 2), xaxis=_length_axis(lengths), yaxis=categories(names))
    figure.update_layout(margin_t=46, showlegend=False)
    most = max(place.reported for place in found)
    figure.add_scatter(
        x=[place.steps for place in found],
        y=[names.index(place.scale) for place in found],
        mode="markers",
        marker={
            "size": [6 + (_LARGEST - 6) * math.sqrt(place.reported / most) for place in found],
            "color": [place.cost for place in found],
            "cmin": 0,
            "cmax": max(place.cost for place in found),
            "colorscale": SEQUENTIAL,
            "reversescale": True,
            "opacity": 0.85,
            "line": {"color": GREY, "width": 1},
            "colorbar": colorbar(),
        },
        text=[hover(*_about(place)) for place in found],
        hoverinfo="none",
    )
    figure.add_scatter(
        x=[space.target_steps],
        y=[names.index(space.target_scale)],
        mode="markers",
        marker={"symbol": "star-open", "size": 15, "color": ORANGE, "line": {"width": 2}},
        text=[hover(f"the target: {study.target_name}")],
        hoverinfo="none",
    )
    parts = [f"{p.reported} at {fidelity(p.scale, p.steps)}" for p in sorted(found, key=lambda p: -p.cost)]
    known = any(steps != 1 for steps in lengths)
    return Drawing(
        name="places",
        title="Where the runs are",
        panels=(
            Panel(
                figure=figure,
                x="training steps" if known else "",
                y="model scale; colour: full runs that those that ended there cost",
            ),
        ),
        alt=f"Map of runs by scale and length; the target is {study.target_name}. Dearest first: {listed(parts)}.",
        caption=(
            "The larger a dot, the more runs reported there. Its colour is what the runs that ended there cost, in "
            "full runs at the target. The farther all dots are from the star, the more is extrapolated."
        ),
        head=("Scale", "Length", "Runs that reported", "Runs that ended", "Full runs", "Of these paid"),
        rows=[
            (p.scale, "–" if p.steps == 1 else p.steps, p.reported, p.ended, float(p.cost), float(p.paid))
            for p in found
        ],
    )


def _about(place: Place) -> list[str]:
    paid = "all of it paid" if place.paid else "all of it given"
    if 0 < place.paid < place.cost * (1 - 1e-9):
        paid = f"{amount(place.paid)} of it paid by the search"
    cost = f"they cost {amount(place.cost)} full runs, {paid}" if place.cost else ""
    return [
        fidelity(place.scale, place.steps),
        f"{place.reported} reported, {place.ended} ended here",
        cost,
    ]


def _length_axis(lengths: list[int]) -> dict[str, object]:
    axis = logarithmic(lengths, whole=True)
    return axis if max(lengths) > 1 else axis | {"ticktext": [""]}


def spending(study: Study) -> Drawing | None:
    """Cost by scale, of paid and of given runs; None before the first report."""
    found = study.ledger.places
    if not any(place.cost for place in found):
        return None
    names = [name for name in study.ledger.scale_names if any(place.scale == name for place in found)]
    rows = []
    for name in names:
        here = [place for place in found if place.scale == name]
        paid = math.fsum(place.paid for place in here)
        given = max(math.fsum(place.cost for place in here) - paid, 0.0)
        rows.append((name, sum(place.ended for place in here), paid, given))
    figure = canvas(rows_height(len(names), 1), xaxis={"nticks": 5, "rangemode": "tozero"}, yaxis=categories(names))
    figure.update_layout(barmode="stack", showlegend=True)
    kinds = ([row[2] for row in rows], "paid", BLUE, ""), ([row[3] for row in rows], "given", GREY, "/")
    for costs, label, color, pattern in kinds:
        if any(cost > 1e-12 for cost in costs):
            figure.add_bar(
                x=costs,
                y=list(range(len(names))),
                orientation="h",
                marker={"color": color, "pattern": {"shape": pattern, "size": 6}},
                name=label,
                text=[
                    hover(name, f"{n} runs", f"{amount(cost)} full runs {label}")
                    for (name, n, *_), cost in zip(rows, costs, strict=True)
                ],
                textposition="none",
                hoverinfo="none",
            )
    paid, given = (math.fsum(costs) for costs, *_ in kinds)
    parts = [f"{name} {amount(p + g)} full runs in {n} runs" for name, n, p, g in rows]
    return Drawing(
        name="spending",
        title="Where the money went",
        panels=(Panel(figure=figure, x=cost_label(study.target_name), y="model scale"),),
        alt=f"Bars of cost by model scale: {listed(parts)}. Paid {amount(paid)} full runs, given {amount(given)}.",
        caption="What the runs of each scale cost to their last report. Given runs cost this search nothing.",
        head=("Scale", "Runs", "Full runs paid", "Full runs given"),
        rows=rows,
    )


def curves(study: Study) -> Drawing | None:
    """Learning curves of the objective's first metric with the fitted law; None where all reported at one step."""
    metric = next(iter(study.problem.weights))
    found, names = study.curves(metric), study.ledger.scale_names
    steps = [step for curve in found for step in curve.steps.tolist()]
    if len(set(steps)) < 2:
        return None
    found = sorted(found, key=lambda curve: names.index(curve.scale))
    figure = canvas(420, xaxis=logarithmic(steps, whole=True))
    kept = max(1, math.ceil(len(steps) / MOST_DOTS))  # every so-many-th run, and those with a law
    n_drawn = 0
    for scale, group in groupby(found, key=lambda curve: curve.scale):
        some = list(group)
        drawn = [c for i, c in enumerate(some) if i % kept == 0 or len(c.law)]
        n_drawn += len(drawn)
        style = point_style(names.index(scale))
        figure.add_scatter(
            x=[step for c in drawn for step in c.steps.tolist()],
            y=[value for c in drawn for value in c.values.tolist()],
            mode="markers",
            marker=style | {"size": 5, "opacity": 0.6},
            name=plain(short(scale)),
            legendgroup=plain(scale),
            text=[text for c in drawn for text in _of_run(study, c, metric)],
            hoverinfo="none",
        )
        laws = [c for c in drawn if len(c.law)]
        figure.add_scatter(
            x=lines_of([c.law_steps.tolist() for c in laws]),
            y=lines_of([c.law.tolist() for c in laws]),
            mode="lines",
            line={"color": style["color"], "width": 1.5},
            legendgroup=plain(scale),
            showlegend=False,
            hoverinfo="skip",
        )
    counts = [f"{sum(c.scale == name for c in found)} at {name}" for name in names]
    left = f" {n_drawn} of {len(found):,} runs are drawn." if n_drawn < len(found) else ""
    lawful = any(len(c.law) for c in found)
    law = (
        f" The lines are what the model of all runs expects of up to {MOST_LAWS} runs of each scale, from the best to "
        "the worst: where dots leave their line, it has not understood how runs go on."
        if lawful
        else ""
    )
    return Drawing(
        name="curves",
        title="What runs reported, and the law fitted to it",
        panels=(Panel(figure=figure, x="training steps", y=metric),),
        alt=f"Reports of {metric} against training steps, of {len(found)} runs: {listed(counts)}.{left}",
        caption=f"Every dot is a report, one colour and symbol for each model scale.{law}{left}",
        head=("Run", "Scale", "First report", metric, "Last report", metric, "Mixture"),
        rows=[
            (
                *(c.run, c.scale, c.steps[0], float(c.values[0]), c.steps[-1], float(c.values[-1])),
                listed(of_mixture(study.space.named(c.mixture))),
            )
            for c in sorted(found, key=lambda c: (-len(c.law), -c.steps[-1]))
        ],
    )


def _of_run(study: Study, curve: LearningCurve, metric: str) -> list[str]:
    mixture = of_mixture(study.space.named(curve.mixture), 3)
    return [
        hover(f"{curve.run}, {fidelity(curve.scale, step)}", f"{metric}: {value:.5g}", *mixture)
        for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True)
    ]


def failures(study: Study) -> Drawing | None:
    """How the runs ended, by scale; None where there are none."""
    ends = study.ledger.ends
    if not ends:
        return None
    seen = np.sum([*ends.values()], axis=0)
    names = [name for name, n in zip(study.ledger.scale_names, seen, strict=True) if n]
    rows = [k for k, n in enumerate(seen) if n]
    ticks = {"dtick": 1} if max(seen) < 5 else {"nticks": 5}
    axes = {"xaxis": ticks | {"rangemode": "tozero"}, "yaxis": categories(names)}
    figure = canvas(rows_height(len(names), len(ends)), **axes)
    figure.update_layout(barmode="stack", showlegend=True)
    for k, end in enumerate(end for end in ENDS if end in ends):
        figure.add_bar(
            x=[int(ends[end][row]) for row in rows],
            y=list(range(len(names))),
            orientation="h",
            marker={"color": PALETTE[k % 7], "pattern": {"shape": PATTERNS[k % 7], "size": 6}},
            name=end,
            text=[hover(name, f"{ends[end][row]} {end}") for name, row in zip(names, rows, strict=True)],
            textposition="none",
            hoverinfo="none",
        )
    counts = [f"{runs.sum()} {end}" for end, runs in ends.items()]
    return Drawing(
        name="failures",
        title="How the runs ended",
        panels=(Panel(figure=figure, x="runs", y="model scale"),),
        alt=f"Bars of runs by scale and how they ended: {listed(counts)}.",
        caption=(
            "Given runs were made elsewhere and cost this search nothing; paused ones can go on. A diverged run counts "
            "as the worst value at its scale; failed and lost ones tell nothing beyond what they reported."
        ),
        head=("Scale", *(end.capitalize() for end in ends)),
        rows=[(name, *(int(n[row]) for n in ends.values())) for name, row in zip(names, rows, strict=True)],
    )
