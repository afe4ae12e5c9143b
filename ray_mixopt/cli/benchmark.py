"""``ray-mixopt benchmark``: strategies and other packages against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.interrupts import resumable
from ray_mixopt.cli.options import as_json_option, bad_arguments, examples
from ray_mixopt.core.words import counted

if TYPE_CHECKING:
    from ray_mixopt.benchmark.problem import BenchmarkProblem

TABLE = "table.md"
DEFAULT_SUITE, DEFAULT_METHOD, DEFAULT_BUDGET = "headline", "default", "2x"


@click.command(
    epilog=examples(
        "ray-mixopt benchmark --list",
        "ray-mixopt benchmark --suite headline --methods default,random --seeds 100-104 --budget 394 --processes 2",
        "ray-mixopt benchmark --problems 'slimpajama/sum/losses@300M+noise' --methods 'default,smac-*' --budget 1x",
        "ray-mixopt benchmark --report --out experiments/results/headline --json",
    )
)
@click.option("--suite", "suites", metavar="NAME", multiple=True, help="A named list of problems; may be repeated.")
@click.option(
    "--problems", metavar="NAMES", multiple=True, help="Problems by name or pattern, separated by commas or repeated."
)
@click.option(
    "--methods",
    metavar="NAMES",
    multiple=True,
    help="Methods by name or pattern, likewise; a strategy of your own as module:attribute.",
)
@click.option("--seeds", default="0-4", show_default=True, metavar="A-B", help="Seeds of the methods, both ends count.")
@click.option(
    "--budget",
    default=DEFAULT_BUDGET,
    show_default=True,
    help="In the problem's unit of cost (100 steps of the 1B model, or a target run), or in target runs, as in 3x.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results/benchmark"),
    show_default=True,
    help="Folder of the results; what is there is not run again.",
)
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Searches at a time.")
@click.option(
    "--workers",
    default="1",
    show_default=True,
    help="How many runs train at a time, on a virtual clock; or the speed of each worker, as in 1,1,0.5.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the reference data.  [default: ../shared/data beside a checkout]",
)
@click.option("--list", "listing", is_flag=True, help="Print the suites, problems and methods, and run nothing.")
@click.option("--report", "report_only", is_flag=True, help="Only make the tables and figures of what is there.")
@as_json_option
def benchmark(
    suites: Sequence[str],
    problems: Sequence[str],
    methods: Sequence[str],
    seeds: str,
    budget: str,
    out: Path,
    processes: int,
    workers: str,
    data: Path | None,
    listing: bool,
    report_only: bool,
    as_json: bool,
) -> None:
    """Runs search methods on problems with a known truth, and scores them.

    Writes one JSON file for each problem, method and seed, and makes table.md and the figures of all that is in the
    folder of the results. A run whose file is there is not repeated.
    """
    from ray_mixopt.benchmark import campaign
    from ray_mixopt.benchmark.problems import default_data, expand
    from ray_mixopt.benchmark.workers import Fleet

    if listing:
        _list(as_json)
        return
    failures: list[str] = []
    data = default_data() if data is None else data
    if not report_only:
        wanted, searched_by = _split(problems), _split(methods)
        with bad_arguments():
            for option, given, named in (("--problems", problems, wanted), ("--methods", methods, searched_by)):
                if given and not named:
                    raise ValueError(f"{option} names none: give names or patterns, or leave it out for the default.")
            plan = campaign.plan(
                expand(suites or (() if wanted else (DEFAULT_SUITE,)), wanted),
                searched_by or (DEFAULT_METHOD,),
                seeds_of(seeds),
                _budget(budget),
                out=out,
                data=data,
                workers=Fleet.parse(workers),
            )
            out.mkdir(parents=True, exist_ok=True)
        for sentence in plan.skipped:
            click.echo(f"Skipped {sentence}.", err=True)
        click.echo(f"{counted(len(plan.done), 'search is', 'searches are')} there, {len(plan.missing)} to do", err=True)
        with resumable(f"finished searches are kept in {out}, give the same command again for the others."):
            failures = campaign.run(
                plan.missing,
                out=out,
                data=data,
                processes=processes,
                report=lambda line: click.echo(line, err=True),
            )
    _report(out, failures, as_json, only=report_only)
    if failures:
        raise click.ClickException("\n".join([f"{counted(len(failures), 'search', 'searches')} failed:", *failures]))


def _report(out: Path, failures: Sequence[str], as_json: bool, *, only: bool) -> None:
    """Prints the tables, or all numbers, and writes the tables with the figures."""
    from ray_mixopt.benchmark.figures import draw
    from ray_mixopt.benchmark.markdown import tables
    from ray_mixopt.benchmark.record import read_all
    from ray_mixopt.benchmark.scores import summary

    with bad_arguments():
        records = read_all(out)
        if only and not records:
            raise ValueError(f"There are no results of a benchmark below {str(out)!r}.")
    text = tables(records)
    figures: list[str] = []
    if records:
        (out / TABLE).write_text(text + "\n")
        figures = list(map(str, draw(records, out)))
    if as_json:
        click.echo(json.dumps({"groups": summary(records), "figures": figures, "failures": list(failures)}))
        return
    click.echo(text)
    for path in figures:
        click.echo(f"Figure: {path}", err=True)


def _list(as_json: bool) -> None:
    from ray_mixopt.benchmark.methods import registry
    from ray_mixopt.benchmark.problems import SUITES

    if as_json:
        methods = {
            entry.name: {"about": entry.about, "obstacle": entry.obstacle or None} for entry in registry().values()
        }
        click.echo(
            json.dumps({"suites": {name: list(problems) for name, problems in SUITES.items()}, "methods": methods})
        )
        return
    for suite, names in SUITES.items():
        click.echo(f"suite {suite}: {', '.join(names)}")
    for entry in registry().values():
        obstacle = f" (cannot run: {entry.obstacle})" if entry.obstacle else ""
        click.echo(f"method {entry.name}: {entry.about}{obstacle}")


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def seeds_of(text: str) -> range:
    """The seeds that ``A-B`` or a single ``A`` names.

    Raises:
        ValueError: for anything else.
    """
    first, separator, last = text.partition("-")
    if not first.isdecimal() or (separator and not last.isdecimal()):
        raise ValueError(f"--seeds is A-B or a single A, for instance 100-119, got {text!r}.")
    start, end = int(first), int(last) if separator else int(first)
    if end < start:
        raise ValueError(f"--seeds runs from small to large, got {text!r}.")
    return range(start, end + 1)


class _Budget:
    """A budget for each problem, from what was asked for."""

    def __init__(self, amount: float, in_target_runs: bool) -> None:
        self.amount, self.in_target_runs = amount, in_target_runs

    def __call__(self, problem: BenchmarkProblem) -> float:
        return self.amount * problem.space.target_cost if self.in_target_runs else self.amount


def _budget(text: str) -> _Budget:
    try:
        amount = float(text.removesuffix("x"))
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount > 0):
        raise ValueError(f"--budget is a positive cost, or a number of target runs such as 3x, got {text!r}.")
    return _Budget(amount, text.endswith("x"))
