"""``ray-mixopt backtest``: whether it would have been right on runs like these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    examples,
    objective_of,
    objective_options,
    one_thread,
)
from ray_mixopt.cli.sources import source_options

if TYPE_CHECKING:
    from rich.console import Console

    from ray_mixopt.analysis.scores import Backtest
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.optimizer import MixtureOptimizer


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
@click.option("--page", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page there, too.")
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
    page: Path | None,
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
    from ray_mixopt.core.settings import Settings

    one_thread()
    with bad_arguments(), Console(stderr=True, markup=False, emoji=False).status("Reading the runs") as status:
        if target is not None:
            raise ValueError("A backtest hides a scale of the runs instead of looking for a target: use --hide.")
        if page is not None and not page.parent.is_dir():
            raise ValueError(f"There is no folder {page.parent} for the page: make it, or choose another (--page).")
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
        if page is not None:
            from ray_mixopt.report.backtest import write_backtest

            write_backtest(found, page)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        _print(found, Console(markup=False, emoji=False))


def _print(found: Backtest, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from ray_mixopt.report import backtest as words

    console.print(words.summary(found), highlight=False)
    table = Table(box=None, pad_edge=False)
    for name, side in (("given", "right"), ("method", "left"), *((head, "right") for head in words.HEADS)):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    last = None
    for mixtures, method, cells in words.rows(found):
        table.add_row("" if mixtures == last else f"{mixtures}", Text(method), *cells)
        last = mixtures
    console.print(table)
    console.print(words.WORDS, style="dim", highlight=False)
    console.print(words.sufficient(found), highlight=False)


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
