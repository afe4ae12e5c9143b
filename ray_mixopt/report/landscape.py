"""Figures of what matters at the target: along each domain, and over pairs of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.analysis.landscape import Residuals, Slice, Surface, by_importance
from ray_mixopt.analysis.study import Study
from ray_mixopt.core.words import fidelity
from ray_mixopt.report.drawing import (
    BAND,
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    SEQUENTIAL,
    Drawing,
    Panel,
    canvas,
    colorbar,
    even_choice,
    hover,
    listed,
    share_axis,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_PANELS = 12
MOST_DOTS = 300  # runs in a panel


def slices(study: Study) -> Drawing | None:
    """The posterior along each domain at the target, the others in proportion, with the runs; None without one."""
    lines, runs = study.slices, study.residuals
    if not lines or runs is None:
        return None
    chosen = [lines[i] for i in by_importance(lines)[:MOST_PANELS]]
    halves = [study.half_widths(line) for line in chosen]
    low = min(float((line.mean - apart).min()) for line, (_, apart) in zip(chosen, halves, strict=True))
    high = max(float((line.mean + apart).max()) for line, (_, apart) in zip(chosen, halves, strict=True))
    pad = 0.05 * (high - low) or 1e-9
    y = f"{study.objective_name} at the target"
    panels = []
    for line, (of_value, apart) in zip(chosen, halves, strict=True):
        figure = canvas(220, xaxis=share_axis(), yaxis={"range": [low - pad, high + pad], "nticks": 5})
        for half, color in ((of_value, FAINT), (apart, BAND)):
            _band(figure, line.shares, line.mean, half, color)
        figure.add_scatter(
            x=line.shares,
            y=line.mean,
            mode="lines",
            line={"color": BLUE},
            text=[
                hover(f"{share:.0%} {line.domain}", f"{mean:.5g} ± {half:.2g} predicted")
                for share, mean, half in zip(line.shares, line.mean, of_value, strict=True)
            ],
            hoverinfo="none",
        )
        _runs_on(figure, line, runs)
        _outside(figure, line.limits)
        figure.add_vline(line.recommended, line={"color": ORANGE, "dash": "dash", "width": 1.5})
        figure.update_layout(showlegend=False)
        title = f"{line.domain}: {line.recommended:.1%} recommended"
        panels.append(
            Panel(figure=figure, title=title, x="share of all tokens" if study.space.phase_names else "share", y=y)
        )
    phases = (
        " Shares are of the tokens of all phases, which have less and more of a domain together."
        if study.space.phase_names
        else ""
    )
    words = [f"{line.domain} is best at {line.best_share:.0%} (recommended {line.recommended:.1%})" for line in chosen]
    left = f" The {len(chosen)} of {len(lines)} domains that matter most." if len(chosen) < len(lines) else ""
    n_runs = len(runs.values)
    dots = f" {MOST_DOTS} of {n_runs:,} runs are drawn, evenly chosen." if n_runs > MOST_DOTS else ""
    return Drawing(
        name="slices",
        title="What each domain does at the target",
        panels=tuple(panels),
        alt=f"A panel a domain: {study.objective_name} predicted at the target along its share. {listed(words)}.{left}",
        caption=(
            f"Prediction along each domain's share, the others in the recommended proportions.{phases}{left} The dark "
            "band is the 95% interval of the difference from the recommended mixture, the light one that of the value. "
            "The dashed line is the recommendation, grey areas are outside the limits. Each dot is the last report of "
            "a run, placed by its deviation from the prediction at its own fidelity: filled at the target, open "
            f"elsewhere.{dots}"
        ),
        head=("Domain", "Recommended", "Best alone", "From least to most changes by"),
        rows=[
            (line.domain, f"{line.recommended:.1%}", f"{line.best_share:.0%}", line.effect)
            for line in (lines[i] for i in by_importance(lines))
        ],
    )


def _band(figure: Figure, x: np.ndarray, middle: np.ndarray, half: np.ndarray, color: str) -> None:
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([middle - half, (middle + half)[::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=color,
        hoverinfo="skip",
    )


def _runs_on(figure: Figure, line: Slice, runs: Residuals) -> None:
    drawn = even_choice(len(line.run_shares), MOST_DOTS) if len(line.run_shares) else np.empty(0, dtype=int)
    for at_target in (False, True):
        some = drawn[line.run_at_target[drawn] == at_target]
        if len(some):
            figure.add_scatter(
                x=line.run_shares[some],
                y=line.run_values[some],
                mode="markers",
                marker={"symbol": "circle" if at_target else "circle-open", "color": GREEN, "size": 5},
                text=[
                    hover(
                        f"{runs.runs[i][0]}, {fidelity(*runs.runs[i][1:])}",
                        f"{line.run_shares[i]:.1%} {line.domain}",
                        f"{runs.values[i]:+.3g} from its prediction",
                    )
                    for i in some
                ],
                hoverinfo="none",
            )


def _outside(figure: Figure, limits: tuple[float, float]) -> None:
    low, high = limits
    for start, end in ((-0.02, low), (high, 1.02)):
        if end - start > 0.021:
            figure.add_vrect(start, end, fillcolor=GREY, opacity=0.15, line_width=0)


def order(study: Study) -> Drawing | None:
    """What moving a domain between phases does, all tokens being the same; None where there is one phase."""
    found = study.moves
    if not found:
        return None
    chosen = found[:MOST_PANELS]
    halves = [study.half_widths(move)[1] for move in chosen]
    ends = [end for m, half in zip(chosen, halves, strict=True) for end in (m.change - half, m.change + half)]
    low, high = (float(of(np.concatenate(ends))) for of in (np.min, np.max))
    pad = 0.05 * (high - low) or 1e-9
    panels = []
    for move, half in zip(chosen, halves, strict=True):
        figure = canvas(220, xaxis=share_axis(), yaxis={"range": [low - pad, high + pad], "nticks": 5})
        figure.update_layout(showlegend=False)
        figure.add_hline(0, line={"color": GREY, "width": 1})
        _band(figure, move.shares, move.change, half, BAND)
        figure.add_scatter(
            x=move.shares,
            y=move.change,
            mode="lines",
            line={"color": BLUE},
            text=[
                hover(f"{share:.0%} {move.domain} in {move.phase}", f"{change:+.3g} ± {plus:.2g} predicted")
                for share, change, plus in zip(move.shares, move.change, half, strict=True)
            ],
            hoverinfo="none",
        )
        _outside(figure, move.limits)
        figure.add_vline(move.recommended, line={"color": ORANGE, "dash": "dash", "width": 1.5})
        title = f"{move.domain} in {move.phase}: {move.recommended:.1%}"
        change = f"change of {study.objective_name}"
        panels.append(Panel(figure=figure, title=title, x=f"share in {move.phase}", y=change))
    words = [f"{m.domain} is best at {m.best_share:.0%} of {m.phase} (recommended {m.recommended:.1%})" for m in chosen]
    left = f" The {len(chosen)} of {len(found)} that matter most." if len(chosen) < len(found) else ""
    return Drawing(
        name="order",
        title="What the order of the same data does at the target",
        panels=tuple(panels),
        alt=(
            f"A panel a domain: the change of {study.objective_name} along its share in a later phase. {listed(words)}."
            f"{left}"
        ),
        caption=(
            "What a domain does that comes later or earlier, with the mixture of all tokens as it is: the other phases "
            "have less of what a phase has more of. The change from the recommended mixture with its 95% interval: "
            f"where the band is around 0, order is not known to matter.{left} The dashed line is the recommendation, "
            "grey areas are outside the limits; a line ends where the other phases have nothing left to give."
        ),
        head=("Domain", "Phase", "Recommended", "Best", "From least to most changes by"),
        rows=[(m.domain, m.phase, f"{m.recommended:.1%}", f"{m.best_share:.0%}", m.effect) for m in found],
    )


def maps(study: Study) -> Drawing | None:
    """The predicted objective over pairs of three domains that matter; None without a surrogate, or for two domains."""
    surfaces = study.surfaces
    if not surfaces:
        return None
    low, high = min(float(s.mean.min()) for s in surfaces), max(float(s.mean.max()) for s in surfaces)
    panels = tuple(_map(study, surface, low, high) for surface in surfaces)
    whole = len(surfaces[0].domains) == 3
    if whole:
        words = [f"{n} {share:.0%}" for n, share in zip(surfaces[0].domains, surfaces[0].best, strict=True)]
    else:
        words = [f"{s.domains[0]} {s.best[0]:.0%} with {s.domains[1]} {s.best[1]:.0%}" for s in surfaces]
    rest = f"the rest is {surfaces[0].domains[2]}" if whole else "the others in the recommended proportions"
    same = ", the same in all phases" if study.space.phase_names else ""
    which = "" if whole else " Three domains that change the prediction much or have a large share."
    return Drawing(
        name="maps",
        title="All mixtures at the target" if whole else "Pairs of domains at the target",
        panels=panels,
        alt=f"Maps of predicted {study.objective_name} over pairs of domains. Best on each map: {listed(words)}.",
        caption=(
            f"Predicted mean of {study.objective_name} over the shares of two domains{same}, {rest}; the star is the "
            f"recommendation, each dot a run by its two shares.{which}"
        ),
        head=("Domains", "Best on the map", "Recommended"),
        rows=[
            (" and ".join(s.domains), *(", ".join(f"{share:.1%}" for share in of) for of in (s.best, s.recommended)))
            for s in surfaces
        ],
    )


def _map(study: Study, surface: Surface, low: float, high: float) -> Panel:
    name, other = surface.domains[:2]
    grid = np.unique(surface.shares[:, 0].round(9))
    values = np.full((len(grid), len(grid)), np.nan)
    columns, rows = (np.searchsorted(grid, surface.shares[:, k] - 1e-6) for k in (0, 1))
    values[rows, columns] = surface.mean
    figure = canvas(360, xaxis=share_axis(), yaxis=share_axis())
    figure.update_layout(showlegend=False, margin_t=46)
    figure.add_contour(
        x=grid,
        y=grid,
        z=values,
        zmin=low,
        zmax=high,
        ncontours=14,
        colorscale=SEQUENTIAL,
        line={"width": 0},
        colorbar=colorbar(),
        text=[
            [hover(f"{x:.0%} {name}", f"{y:.0%} {other}", f"{z:.5g} predicted") for x, z in zip(grid, row, strict=True)]
            for y, row in zip(grid, values, strict=True)
        ],
        hoverinfo="none",
    )
    runs, whole = study.residuals, study.space.simplex.mean
    places = [study.space.domains.index(domain) for domain in (name, other)]
    if runs is not None and len(runs.runs):
        drawn, mixtures = even_choice(len(runs.runs), MOST_DOTS), whole(runs.mixtures)
        figure.add_scatter(
            x=mixtures[drawn, places[0]],
            y=mixtures[drawn, places[1]],
            mode="markers",
            marker={"symbol": "circle-open", "color": "white", "size": 5, "line": {"width": 1}},
            text=[
                hover(
                    f"{runs.runs[i][0]}, {fidelity(*runs.runs[i][1:])}",
                    *(f"{mixtures[i, k]:.1%} {d}" for k, d in zip(places, (name, other), strict=True)),
                )
                for i in drawn
            ],
            hoverinfo="none",
        )
    figure.add_scatter(
        x=[surface.recommended[0]],
        y=[surface.recommended[1]],
        mode="markers",
        marker={"symbol": "star", "size": 15, "color": ORANGE, "line": {"color": "white", "width": 1}},
        text=[
            hover(
                "recommended",
                *(f"{share:.1%} {d}" for share, d in zip(surface.recommended[:2], (name, other), strict=True)),
            )
        ],
        hoverinfo="none",
    )
    return Panel(figure=figure, x=name, y=other)
