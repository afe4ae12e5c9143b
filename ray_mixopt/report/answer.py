"""Figures of the answer: the mixture beside others, what limits cost, what more data is worth, and trades."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ray_mixopt.analysis.study import Study
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.words import by_phase, shares_named
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
_TRAINED = ("x-thin-open", ORANGE)  # of a phase


def mixture(study: Study) -> Drawing:
    """The recommended shares, the range of those predicted as good, and what stands beside them; a panel a phase."""
    space, each = study.space, study.shares
    whole, apart = space.simplex.mean(study.best[None])[0], space.simplex.apart
    largest = np.max([apart(w[None])[0].max(0) for w in (study.best, *study.beside.values())], axis=0)
    drawn = sorted(range(space.n_domains), key=lambda i: (-largest[i], -whole[i]))[:MOST_DOMAINS]
    shown = [space.domains[i] for i in sorted(drawn, key=lambda i: (-whole[i], i))]
    left = f" The {len(shown)} largest of {space.n_domains} domains." if len(shown) < space.n_domains else ""
    words = []
    for phase, of in each.items():
        shares = listed([f"{d} {of[d]:.1%}" for d in shown], MOST_DOMAINS)
        words.append(f"{phase}: {shares}" if phase else shares)
    return Drawing(
        name="mixture",
        title="Share of each domain",
        panels=tuple(_shares(study, place, shown) for place in range(len(each))),
        alt=f"Recommended shares, largest first: {'; '.join(words)}.{left}",
        caption=f"The table {'below' if len(each) > 1 else 'beside it'} has all numbers.{left}",
    )


def _shares(study: Study, place: int, shown: list[str]) -> Panel:
    """The shares of some domains in the phase of that place among those that are searched."""
    answer, space = study.recommendation, study.space
    phase, shares = list(study.shares.items())[place]
    others = {name: list(by_phase(space.named(w)).values())[place] for name, w in study.beside.items()}
    known = answer.details.ranges if answer.details else {}
    names = {d: shares_named(d, phase if space.phase_names else "") for d in shown}
    ranges = {d: known[name] for d, name in names.items() if name in known}
    high = max([of[d] for of in (shares, *others.values()) for d in shown] + [limits[1] for limits in ranges.values()])
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
    for name, of in others.items():
        symbol, color = _MARKS.get(name, _TRAINED)
        figure.add_scatter(
            x=[of[d] for d in shown],
            y=places,
            mode="markers",
            marker={"symbol": symbol, "color": color, "size": 8, "line": {"width": 1.5}},
            name=plain(called_bare(study, name)),
            text=[hover(d, f"{called_bare(study, name)}: {of[d]:.1%}") for d in shown],
            hoverinfo="none",
        )
    figure.add_scatter(
        x=[shares[d] for d in shown],
        y=places,
        mode="markers",
        marker={"symbol": "circle", "color": BLUE, "size": 10},
        name="recommended",
        text=[
            hover(d, f"recommended: {shares[d]:.1%}", *_as_good(ranges.get(d)))  # what the bar cannot say
            for d in shown
        ],
        hoverinfo="none",
    )
    title = "".join(str(p) for p in space.phases if p.name == phase)
    return Panel(figure=figure, title=title, x=f"share of training tokens{phase and f' of {phase}'}", y="")


def called_bare(study: Study, name: str) -> str:
    """What a mixture beside the recommended one is called where all are mixtures."""
    return study.recommendation.called(name).replace(" mixture", "")


def _as_good(limits: tuple[float, float] | None) -> list[str]:
    return [] if limits is None else [f"as good from {limits[0]:.1%} to {limits[1]:.1%}"]


def columns(study: Study) -> list[str]:
    """Names of the columns of ``cells``."""
    details, found = study.recommendation.details, ["Domain"]
    for phase in study.shares:
        found += [phase or "Share", *(["As good from–to"] if details else [])]
    for name, w in study.beside.items():
        called = called_bare(study, name)
        found += [called] if study.is_tied(w) else [f"{called}, {phase}" for phase in study.shares]
    return found


def cells(study: Study) -> list[list[str]]:
    """The recommended shares of each domain in each phase, what is as good, and those of the mixtures beside it."""
    answer, space = study.recommendation, study.space
    ranges = answer.details.ranges if answer.details else {}
    rows = []
    for i, domain in enumerate(space.domains):
        row = [domain]
        for phase, shares in study.shares.items():
            row.append(f"{shares[domain]:.1%}")
            if ranges:
                low, high = ranges[shares_named(domain, phase if space.phase_names else "")]
                row.append(f"{low:.1%}–{high:.1%}")
        for w in study.beside.values():
            each = space.simplex.apart(w[None])[0, :, i]
            row += [f"{share:.1%}" for share in (each[:1] if study.is_tied(w) else each)]
        rows.append(row)
    return rows


def prices(study: Study) -> Drawing | None:
    """What each binding limit costs; None where none binds."""
    details = study.recommendation.details
    if details is None or not details.limits:
        return None
    rows = [*details.limits, *([details.unconstrained] if details.unconstrained and len(details.limits) > 1 else [])]
    return Drawing(
        name="limits",
        title="What limits cost",
        panels=(_intervals({row.name: row.cost for row in rows}, "costs", f"cost in {study.objective_name}"),),
        alt=f"Intervals of what each limit costs at the target: {listed([f'{r.name} costs {r.cost}' for r in rows])}.",
        caption=(
            "How much better the objective would be without a limit that holds the recommendation, each dropped alone."
        ),
    )


def more_data(study: Study) -> Drawing | None:
    """What twice the tokens of each domain that is repeated would be worth; None where nothing is known of it."""
    details = study.recommendation.details
    if details is None or not details.more_data:
        return None
    rows = {f"{more.domain}, seen {more.passes:.3g} times": more.gain for more in details.more_data}
    return Drawing(
        name="more-data",
        title="What more data would be worth",
        panels=(_intervals(rows, "gains", f"gain in {study.objective_name}"),),
        alt=f"Intervals of what more data is worth at the target: {listed([str(m) for m in details.more_data])}.",
        caption=(
            "How much better the recommended mixture would be at the target with twice the tokens of a domain that it "
            "repeats. Another mixture might make more of them."
        ),
    )


def _intervals(rows: Mapping[str, Prediction], verb: str, axis: str) -> Panel:
    """Means with their 95% intervals, a line each, by name."""
    figure = canvas(rows_height(len(rows)), yaxis=categories(list(rows)))
    of = list(rows.values())
    figure.add_vline(0, line={"color": GREY, "width": 1})
    figure.add_scatter(
        x=np.array([value.mean for value in of]),
        y=list(range(len(of))),
        mode="markers",
        marker={"color": BLUE, "size": 8},
        error_x={
            "array": [value.high - value.mean for value in of],
            "arrayminus": [value.mean - value.low for value in of],
            "color": BLUE,
        },
        showlegend=False,
        text=[hover(name, f"{verb} {value}") for name, value in rows.items()],
        hoverinfo="none",
    )
    return Panel(figure=figure, x=f"{axis}, with its 95% interval", y="")


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
        called = called_bare(study, name)
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
