"""What a backtest found: its words, its table, its figure, and a page of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray_mixopt.analysis.scores import SURROGATE, Backtest, Case
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.core.words import fidelity
from ray_mixopt.report.drawing import BLUE, Drawing, Panel, canvas, hover
from ray_mixopt.report.page import Finding, rendered
from ray_mixopt.report.trust import diagonal

HEADS = ("n", "rank", "error", "95%", "level", "picked", "seconds")
WORDS = (
    "Rank: Spearman's correlation of predicted and measured. Error: of the differences between mixtures, over how "
    "much the mixtures differ (1: as if all were equal). 95%: share of the differences inside their interval. Level: "
    "error of what all mixtures have in common. Picked: how much worse the mixture picked is than the best one, over "
    "how much the mixtures differ. Over the mixtures that a method can say something of (n)."
)
_HELD = 0.9  # coverage of 95% intervals, from which on they may be believed


def summary(found: Backtest) -> str:
    """What was hidden, given and predicted."""
    known = f", and {found.known} of the hidden mixtures" if found.known else ""
    cells = dict.fromkeys(fidelity(*case.largest) for case in found.cases if case.largest)
    largest = f" (the largest: {', '.join(cells)})" if cells else ""
    return (
        f"Hidden: {fidelity(*found.hidden)}, where {found.n_hidden} mixtures are known. Given: "
        f"{', '.join(found.given)}{largest}{known}. Predicted: {found.objective}, in which the mixtures differ by "
        f"{found.spread:.4g}."
    )


def sufficient(found: Backtest) -> str:
    """Which smaller runs would have done by themselves."""
    proxy = found.sufficient
    if proxy is None and not found.proxies:
        return (
            "Whether smaller runs rank the hidden mixtures by themselves is not known: too few of them ran at a "
            "smaller scale, too."
        )
    if proxy is None:
        return "No smaller scale and length by itself ranks the hidden mixtures with a correlation of 0.9."
    return (
        f"Cheapest runs that rank the hidden mixtures well by themselves: {fidelity(proxy.scale, proxy.steps)}, "
        f"{proxy.cost:.2%} of a hidden run's cost (rank {proxy.rank:.2f}, {proxy.n} mixtures)."
    )


def rows(found: Backtest) -> Iterator[tuple[int, str, list[str]]]:
    """For each number of mixtures given and each method, its scores in the order of ``HEADS``."""
    for case in found.cases:
        for method, scores in case.scores.items():
            cells = [
                f"{scores.n:.3g}",
                _number(scores.rank, ".2f"),
                _number(scores.error, ".2f"),
                _number(scores.covered, ".0%"),
                _number(scores.level, ".1%"),
                _number(scores.regret, ".2f"),
                f"{scores.seconds:.1f}",
            ]
            yield case.mixtures, method, cells


def findings(found: Backtest) -> Iterator[Finding]:
    """What a reader should know first, for each number of mixtures given, and what should make them doubt."""
    for case in found.cases:
        scores = case.scores[SURROGATE]
        held = scores.covered is not None and scores.covered >= _HELD
        text = f"From {case.mixtures} mixtures, the hidden ones were ranked with a correlation of "
        text += (
            f"{_number(scores.rank, '.2f')}; of 95% intervals of their differences {_number(scores.covered, '.0%')} "
        )
        text += f"held; the level was off by {_number(scores.level, '.1%')}; and the one predicted best is worse than "
        text += f"the best one by {_number(scores.regret, '.2f')} of how much they differ."
        yield Finding(text=text, warning=not held)
    yield Finding(text=sufficient(found))


def contrasts(case: Case) -> Drawing:
    """Predicted against measured differences of the hidden mixtures, with their intervals."""
    of = case.differences
    assert of is not None
    figure = canvas(340)
    diagonal(figure, min(of.measured), max(of.measured))
    figure.add_scatter(
        x=of.measured,
        y=of.predicted,
        error_y={"array": of.half, "color": BLUE, "thickness": 1, "width": 0},
        mode="markers",
        marker={"color": BLUE, "size": 7, "opacity": 0.85},
        showlegend=False,
        text=[
            hover(f"measured {m:+.4g}", f"predicted {p:+.4g} ± {h:.2g}")
            for m, p, h in zip(of.measured, of.predicted, of.half, strict=True)
        ],
        hoverinfo="none",
    )
    inside = sum(abs(p - m) <= h for m, p, h in zip(of.measured, of.predicted, of.half, strict=True))
    return Drawing(
        name=f"given-{case.mixtures}",
        title=f"{case.mixtures} mixtures given",
        panels=(Panel(figure=figure, x="measured difference from the mean of all", y="predicted"),),
        alt=f"Scatter of predicted against measured differences of {len(of.measured)} mixtures; {inside} inside.",
        caption=f"The first draw; 95% intervals, of which {inside} of {len(of.measured)} hold the truth.",
    )


def write_backtest(found: Backtest, path: Path) -> Path:
    """Writes one HTML file that works offline, and returns its path."""
    write_atomically(
        path,
        rendered(
            "backtest.html.j2",
            found=found,
            summary=summary(found),
            findings=list(findings(found)),
            drawings=[contrasts(case) for case in found.cases if case.differences is not None],
            words=WORDS,
            heads=HEADS,
            rows=[(method, mixtures, *cells) for mixtures, method, cells in rows(found)],
            proxies=found.proxies,
            fidelity=fidelity,
        ),
    )
    return path


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
