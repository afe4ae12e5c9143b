"""``ray-mixopt report``: an HTML report of a search."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.interrupts import in_order
from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    examples,
    objective_of,
    objective_options,
    one_thread,
    opened,
    reference_of,
    reference_option,
)
from ray_mixopt.cli.sources import check_heeded, table_options

if TYPE_CHECKING:
    from ray_mixopt.core.baselines import Baseline
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.io.runs import Source
    from ray_mixopt.optimizer import MixtureOptimizer


@click.command(
    epilog=examples(
        "ray-mixopt report results/replay-slimpajama-val_loss-common_crawl-default-0",
        "ray-mixopt report ~/ray_results/my-search --follow",
        "ray-mixopt report runs.csv --weight val_loss/arxiv=1 --reference proportional --out decision",
        "ray-mixopt report results/history.json --weight accuracy/hellaswag=1 --mode max --out hellaswag",
    )
)
@click.argument("path")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the report.  [default: PATH/report]"
)
@click.option("--follow", is_flag=True, help="Write it again while the search runs, until Ctrl-C.")
@click.option("--every", type=click.FloatRange(min=1), help="--follow: seconds between.  [default: 30]")
@click.option("--name", help="Heading.  [default: that of PATH]")
@reference_option
@objective_options
@table_options
@as_json_option
def report(
    path: str,
    out: Path | None,
    follow: bool,
    every: float | None,
    name: str | None,
    reference: Sequence[str],
    objective: Objective | None,
    mode: Mode | None,
    table: Source,
    as_json: bool,
) -> None:
    """Writes report.html about a search: one file that works offline, on a phone and on paper.

    PATH is the folder or URI of a Tune experiment, running or done, the folder of a replay, a history's JSON file, or
    anything that recommend --from takes, such as a table of runs.
    """
    with bad_arguments():
        if every is not None and not follow:
            raise ValueError("--every is about --follow: give that, too, or drop it.")
        every = 30.0 if every is None else every
        folder, asked = out or _folder(path), Subject(objective, mode, reference_of(reference))
        page = _write(path, table, folder, name, asked, every if follow else None)
    if follow:
        click.echo(f"Open {page}. It is written anew every {every:g} s; Ctrl-C ends this, not the search.", err=True)
        try:
            with in_order():
                while True:
                    time.sleep(every)
                    # A search that is just writing its state is tried again the next time.
                    with contextlib.suppress(ValueError, OSError):
                        _write(path, table, folder, name, asked, every)
        except KeyboardInterrupt:
            click.echo("One last time.", err=True)
        with bad_arguments():
            page = _write(path, table, folder, name, asked, None)
    if as_json:
        click.echo(json.dumps({"page": str(page)}))
    else:
        click.echo(f"Report: {page}")


@dataclass(frozen=True)
class Subject:
    """What the report is to be about, where that is not what the search was.

    Attributes:
        objective: None for the search's own.
        mode: likewise.
        reference: likewise.
    """

    objective: Objective | None
    mode: Mode | None
    reference: Baseline | None


def _folder(path: str) -> Path:
    if "://" in path:
        raise ValueError(f"{path} is not on this machine: say where the report goes with --out.")
    place = Path(path)
    return place / "report" if place.is_dir() else place.with_name(f"{place.stem}-report")


def _write(
    path: str,
    table: Source,
    folder: Path,
    name: str | None,
    asked: Subject,
    refresh: float | None,
) -> Path:
    from ray_mixopt.analysis.final import FinalRun
    from ray_mixopt.analysis.result import Course
    from ray_mixopt.analysis.study import Study
    from ray_mixopt.report.page import write_report

    one_thread()
    optimizer = _optimizer(path, table, asked)
    course = None if "://" in path else Course.read(Path(path))
    with _status() as tick:
        study = Study(optimizer, name or _name(path), tick, course, FinalRun.read(path))
        return write_report(study, folder, refresh=refresh)


def _optimizer(path: str, table: Source, asked: Subject) -> MixtureOptimizer:
    from ray_mixopt.core.settings import Settings
    from ray_mixopt.io import searches
    from ray_mixopt.io.runs import Source, are_tables, read_runs
    from ray_mixopt.optimizer import MixtureOptimizer

    if not are_tables(path):
        if table != Source():
            raise ValueError("Options about scales, steps and columns are about tables of runs: drop them.")
        return opened(path, objective=asked.objective, mode=asked.mode, reference=asked.reference)
    history = read_runs(path, table)
    check_heeded(table, [history])
    objective, mode = objective_of(history, asked.objective, asked.mode, None)
    settings = Settings(objective=objective, mode=mode, reference=asked.reference)
    searches.check_reported(settings.metrics, history)
    return MixtureOptimizer.of_history(history, settings)


def _name(path: str) -> str:
    place = Path(path.rstrip("/"))
    return place.resolve().parent.name if place.name in ("experiment", "history.json") else place.stem


@contextlib.contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Shows on stderr what is being computed."""
    from rich.console import Console

    with Console(stderr=True, markup=False, emoji=False).status("Reading the search") as status:
        yield lambda what: status.update(what)
