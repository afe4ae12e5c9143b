"""What a backtest found: its words, its table, its figure, and a page of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ray_mixopt.analysis.scores import SURROGATE, Backtest, Case
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.report.drawing import BLUE, GREY, Drawing, canvas, finish
from ray_mixopt.report.page import Finding, embedded, rendered

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
    scale, steps = found.hidden
    known = f", and {found.known} of the hidden mixtures" if found.known else ""
    cells = dict.fromkeys(f"{case.largest[0]} x {case.largest[1]:,}" for case in found.cases if case.largest)
    largest = f" (the largest: {', '.join(cells)} steps)" if cells else ""
    return (
        f"Hidden: {scale} x {steps:,} steps, where {found.n_hidden} mixtures are known. Given: "
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
        f"Cheapest runs that rank the hidden mixtures well by themselves: {proxy.scale} x {proxy.steps:,} steps, "
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
    figure, axes = canvas()
    ax, of = axes[0, 0], case.differences
    assert of is not None
    ax.axline((0.0, 0.0), slope=1, color=GREY, lw=0.8)
    ax.errorbar(of.measured, of.predicted, of.half, color=BLUE, ls="none", marker="o", ms=4, elinewidth=0.7, alpha=0.8)
    ax.set_xlabel("measured difference from the mean of all", fontsize=9)
    ax.set_ylabel("predicted", fontsize=9)
    ax.tick_params(labelsize=8)
    finish(ax)
    inside = sum(abs(p - m) <= h for m, p, h in zip(of.measured, of.predicted, of.half, strict=True))
    return Drawing(
        name=f"given-{case.mixtures}",
        title=f"{case.mixtures} mixtures given",
        figure=figure,
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
            figures=[embedded(contrasts(case)) for case in found.cases if case.differences is not None],
            words=WORDS,
            heads=HEADS,
            rows=[(method, mixtures, *cells) for mixtures, method, cells in rows(found)],
            proxies=found.proxies,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=version("ray-mixopt"),
        ),
    )
    return path


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
