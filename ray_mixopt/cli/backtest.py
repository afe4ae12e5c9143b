"""``ray-mixopt backtest``: whether it would have been right on runs like these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    examples,
    objective_of,
    objective_options,
    one_thread,
    source_options,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ray_mixopt.analysis.backtest import Backtest
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.optimizer import MixtureOptimizer

_WORDS = """Rank: Spearman's correlation of predicted and measured. Error: of the differences between mixtures, over how
much the mixtures differ (1: as if all were equal). 95%: share of the differences inside their interval. Level: error
of what all mixtures have in common. Picked: how much worse the mixture picked is than the best one, over how much the
mixtures differ. Over the mixtures that a method can say something of (n)."""


@click.command(
    epilog=examples(
        "ray-mixopt backtest --runs runs.csv --weight val_loss/arxiv=1",
        "ray-mixopt backtest --runs runs.csv --hide 1B:20000 --given 60M --given 150M --mixtures 8,16,all",
        "ray-mixopt backtest --runs ~/ray_results/my-search --known 2 --json",
    )
)
@source_options
@objective_options
@click.option("--hide", metavar="SCALE[:STEPS]", help="What is predicted.  [default: the largest with 5 mixtures]")
@click.option("--given", metavar="SCALE", multiple=True, help="Smaller scale whose runs are given; repeatable.")
@click.option("--mixtures", default="8,16,all", show_default=True, help="How many are given, drawn at random.")
@click.option(
    "--known", type=click.IntRange(min=0), default=0, show_default=True, help="Given at the hidden scale too."
)
@click.option("--draws", type=click.IntRange(min=1), default=5, show_default=True, help="How often they are drawn.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@as_json_option
def backtest(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    objective: Objective | None,
    mode: Mode | None,
    hide: str | None,
    given: Sequence[str],
    mixtures: str,
    known: int,
    draws: int,
    seed: int,
    as_json: bool,
) -> None:
    """Says how well old runs would have been predicted.

    Hides their largest scale and predicts it from the smaller ones, beside what takes no model at all. Without --weight
    the objective is that of the search at PATH, or "loss", the mean of all val_loss/*.
    """
    from rich.console import Console
    from rich.text import Text

    from ray_mixopt.analysis import backtest as analysis
    from ray_mixopt.core.merging import common_space, joined
    from ray_mixopt.core.problem import Settings

    one_thread()
    with bad_arguments(), Console(stderr=True, markup=False, emoji=False).status("Reading the runs") as status:
        if target is not None:
            raise ValueError("A backtest hides a scale of the runs instead of looking for a target: use --hide.")
        history = joined(histories, common_space(histories, changes), changes)
        asked, direction = objective_of(history, objective, mode, own)
        found = analysis.backtest(
            history,
            Settings(objective=asked, mode=direction),
            hide=_hidden(hide),
            given=given,
            mixtures=_sizes(mixtures),
            known=known,
            draws=draws,
            seed=seed,
            tick=lambda what: status.update(Text(f"Predicting from {what}")),
        )
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        _print(found, Console(markup=False, emoji=False))


def _print(found: Backtest, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    scale, steps = found.hidden
    console.print(
        f"Hidden: {scale} x {steps:,} steps, where {found.n_hidden} mixtures are known. Given: {', '.join(found.given)}"
        + (f", and {found.known} of the hidden mixtures" if found.known else "")
        + f". Predicted: {found.objective}, in which the mixtures differ by {found.spread:.4g}.",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for name, side in (("given", "right"), ("method", "left"), *((head, "right") for head in _HEADS)):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for case in found.cases:
        for place, (method, scores) in enumerate(case.scores.items()):
            table.add_row(
                "" if place else f"{case.mixtures}",
                Text(method),
                f"{scores.n:.3g}",
                _number(scores.rank, ".2f"),
                _number(scores.error, ".2f"),
                _number(scores.covered, ".0%"),
                _number(scores.level, ".1%"),
                _number(scores.regret, ".2f"),
                f"{scores.seconds:.1f}",
            )
    console.print(table)
    console.print(" ".join(_WORDS.split()), style="dim", highlight=False)
    proxy = found.sufficient
    if proxy is None:
        text = "No smaller scale and length by itself ranks the hidden mixtures with a correlation of 0.9."
    else:
        text = (
            f"Cheapest runs that rank the hidden mixtures well by themselves: {proxy.scale} x {proxy.steps:,} steps, "
            f"{proxy.cost:.2%} of a hidden run's cost (rank {proxy.rank:.2f}, {proxy.n} mixtures)."
        )
    console.print(text, highlight=False)


_HEADS = ("n", "rank", "error", "95%", "level", "picked", "seconds")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _hidden(text: str | None) -> tuple[str, int | None] | None:
    """The scale, and the steps if there are any, that ``SCALE[:STEPS]`` names."""
    if text is None:
        return None
    scale, separator, steps = text.rpartition(":")
    return (scale, int(steps)) if separator and steps.isdecimal() else (text, None)


def _sizes(text: str) -> list[int | None]:
    """The numbers in ``8,16,all``; None is all."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "all" or (part.isdecimal() and int(part) > 1) for part in parts):
        raise ValueError(f"--mixtures is numbers above 1, or all, for instance 8,16,all; got {text!r}.")
    return [None if part == "all" else int(part) for part in parts]
