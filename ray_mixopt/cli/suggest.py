"""``ray-mixopt suggest``: the next runs, for those who launch them by hand."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mixopt.cli.blend_options import FORMATS, AboutData, data_options
from ray_mixopt.cli.interrupts import resumable
from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    checked_budget,
    examples,
    limit_options,
    noise_option,
    objective_of,
    objective_options,
    one_thread,
    strategy_option,
)
from ray_mixopt.cli.sources import source_options
from ray_mixopt.cli.suggested import Answer

if TYPE_CHECKING:
    from ray_mixopt.core.history import History
    from ray_mixopt.core.merging import DomainMap
    from ray_mixopt.core.objective import Mode, Objective
    from ray_mixopt.core.settings import Settings
    from ray_mixopt.core.space import MixtureSpace
    from ray_mixopt.io.bookkeeping import Books
    from ray_mixopt.io.by_hand import ByHand
    from ray_mixopt.io.launch import LaunchFile
    from ray_mixopt.optimizer import MixtureOptimizer

MOST_RUNS = 1000  # under way; all of a call are chosen before the first is handed out


@click.command(
    epilog=examples(
        "ray-mixopt suggest --space space.yaml --weight loss=1 -n 8 --budget 50",
        "ray-mixopt suggest --space space.yaml --from runs.csv --weight loss=1 -n 8 --budget 50 --failed hand-0003",
        "ray-mixopt suggest --from runs.csv --weight val_loss/arxiv=1 -n 4 --launch job.sh.j2 --out jobs",
    )
)
@functools.partial(source_options, needed=False, with_space=True)
@objective_options
@limit_options
@click.option(
    "-n",
    "number",
    type=click.IntRange(1, MOST_RUNS),
    default=1,
    show_default=True,
    help="Runs to have under way: those suggested before whose rows are not there yet count.",
)
@click.option(
    "--budget",
    type=float,
    callback=checked_budget,
    help="Most to spend on suggested runs, in units of cost.  [default: no limit]",
)
@strategy_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@noise_option
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    default="by-hand.json",
    show_default=True,
    help="File that knows which runs were suggested.",
)
@click.option("--failed", metavar="RUN", multiple=True, help="A suggested run that will not come; repeatable.")
@click.option("--no-continue", "fresh", is_flag=True, help="No run goes on: there are no checkpoints.")
@click.option(
    "--launch",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Template of launch files, in Jinja2, to be filled in for each run.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the launch files.")
@click.option("--as", "kind", type=click.Choice(FORMATS), help="Format of the blend next to each.  [default: json]")
@data_options
@as_json_option
def suggest(
    histories: Mapping[str, History],
    changes: DomainMap | None,
    target: tuple[str, int] | None,
    own: MixtureOptimizer | None,
    space: MixtureSpace | None,
    objective: Objective | None,
    mode: Mode | None,
    limits: Callable[[MixtureSpace], MixtureSpace],
    number: int,
    budget: float | None,
    strategy: str,
    seed: int,
    noise: Mapping[str, float],
    state: Path,
    failed: Sequence[str],
    fresh: bool,
    launch: Path | None,
    out: Path | None,
    kind: str | None,
    data: AboutData,
    as_json: bool,
) -> None:
    """Suggests the next runs, from those that are finished and those under way, and writes a launch file for each.

    What was suggested counts as running until its rows are in the tables, so that the same command gives the same
    answer until they are.
    """
    from rich.console import Console

    from ray_mixopt.io import by_hand
    from ray_mixopt.io.blends import remarks
    from ray_mixopt.io.launch import Template, taken_back

    waiting = Console(stderr=True, markup=False, emoji=False)
    with (
        bad_arguments(),
        resumable("the same command goes on. What was suggested so far stays so, and is not suggested twice."),
    ):
        if launch is None and (out is not None or kind is not None):
            given = f"--as {kind} says how the blend next to" if out is None else f"--out {out} says where"
            raise ValueError(
                f"{given} each launch file is written, and there is none: give --launch TEMPLATE, too, or drop it."
            )
        if launch is not None and out is None:
            raise ValueError(f"--launch {launch} makes launch files: say where to write them, --out FOLDER.")
        data.check(kind, "--as")
        template = None if launch is None else Template(launch)
        if template is not None and not fresh and not template.goes_on:
            raise ValueError(
                f"{launch} uses neither from_step nor continues, so that a run that is to go on would begin anew: heed "
                "one of them, or add --no-continue."
            )
        with by_hand.held(state) as state, waiting.status("Asking the surrogate"):
            before = by_hand.read(state)
            base = _base(space, before, histories, changes, state)
            searched = limits(base if target is None else replace(base, target=target))
            search = by_hand.begun(state, base) if before is None else replace(before, space=base)
            search.check_fits(searched, state)
            search = _failed(search, failed, state)
            ask = _Question(
                histories=histories,
                changes=changes,
                space=searched,
                settings=lambda history: _settings(history, objective, mode, own, strategy, budget, seed, noise),
                continues=not fresh,
                branches=template is not None and template.branches,
            )
            search, books = ask.fill(search, number)
            for name in failed:
                if books.status(name) == "paused":
                    raise ValueError(
                        f"--failed {name}: its rows go to step {books.reached(name):,}, so that it has done what it "
                        "was asked for: leave it out."
                    )
            search = search.having_seen({run.run: books.reached(run.run) for run in search.runs})
            files: list[LaunchFile] = []
            if template is not None and out is not None:
                out.mkdir(parents=True, exist_ok=True)
                files = list(
                    template.files(
                        books.under_way(), searched, out, kind=kind or "json", sources=data.sources(searched)
                    )
                )
                for file in files:
                    file.check()
            by_hand.write(state, search)
            withdrawn = list(taken_back(books.given_up()))
            if files:
                search = _handed(search, files)
                by_hand.write(state, search)

        answer = Answer.of(
            search,
            books,
            number=number,
            space=searched,
            budget=budget,
            continues=not fresh,
            branches=ask.branches,
            files=files,
        )
        of_all = searched.named([1.0] * searched.n_shares)
        about = remarks(kind, of_all, data.sources(searched)) if kind and files else ()
    for line in dict.fromkeys([*books.notices, *answer.warnings, *withdrawn, *about]):
        click.echo(line, err=True)
    if as_json:
        click.echo(json.dumps(answer.to_dict()))
    else:
        click.echo(str(answer))


def _base(
    space: MixtureSpace | None,
    before: ByHand | None,
    histories: Mapping[str, History],
    changes: DomainMap | None,
    state: Path,
) -> MixtureSpace:
    """The search space: that of the file, else that of the search so far, else that of the runs.

    Raises:
        ValueError: if there is none.
    """
    from ray_mixopt.core.merging import common_space

    if space is not None:
        return space
    if before is not None:
        return before.space
    if not histories:
        raise ValueError(
            f"There is neither a space nor a run nor a state {state}: give --space FILE, a YAML file with domains, "
            "scales and steps, or --from PATH."
        )
    return common_space(histories, changes)


def _settings(
    history: History,
    objective: Objective | None,
    mode: Mode | None,
    own: MixtureOptimizer | None,
    strategy: str,
    budget: float | None,
    seed: int,
    noise: Mapping[str, float],
) -> Settings:
    """What is asked; while no run has reported anything, the objective may be anything."""
    from ray_mixopt.core.settings import Settings
    from ray_mixopt.io import searches
    from ray_mixopt.io.rows import DERIVED_METRIC

    asked: Objective | Mapping[str, float] | None = objective
    direction: Mode = mode or "min"
    if history.metrics:
        asked, direction = objective_of(history, objective, mode, own)
    settings = Settings(
        objective=asked or {DERIVED_METRIC: 1.0},
        mode=direction,
        strategy=strategy,
        budget=budget,
        seed=seed,
        noise=noise if asked else {},  # nothing is known by its name yet
    )
    if history.metrics:
        searches.check_reported(settings.metrics, history)
    return settings


def _failed(search: ByHand, names: Collection[str], state: Path) -> ByHand:
    """The search, in which these runs have failed.

    Raises:
        ValueError: for a run that was never suggested.
    """
    known = dict.fromkeys(run.run for run in search.runs)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"--failed {unknown[0]}: {state} has not suggested such a run; it has {', '.join(known) or 'none'}."
        )
    return search.marked_failed(set(names))


def _handed(search: ByHand, files: Sequence[LaunchFile]) -> ByHand:
    """Writes launch files; gives the search that knows where they are."""
    written = {(file.run.run, file.run.steps): file.write() for file in files}
    return replace(search, runs=tuple(written.get((run.run, run.steps), run) for run in search.runs))


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What runs are to come next, given tables of runs.

    Attributes:
        histories: the tables, by name.
        changes: what became of domains.
        space: the search space.
        settings: of the search, for a history.
        continues: whether runs can go on.
        branches: whether they can begin at the checkpoint of another.
    """

    histories: Mapping[str, History]
    changes: DomainMap | None
    space: MixtureSpace
    settings: Callable[[History], Settings]
    continues: bool
    branches: bool

    def fill(self, search: ByHand, number: int) -> tuple[ByHand, Books]:
        """The search with as many runs under way as wanted, or as the budget allows, and its books.

        Raises:
            ValueError: for tables or settings that do not fit, and a budget that buys no run at all.
        """
        from ray_mixopt import strategies
        from ray_mixopt.io.bookkeeping import Books
        from ray_mixopt.io.by_hand import AskedRun

        books = Books(search, self.histories, self.space, self.changes)
        wanted = number - len(books.under_way())
        history = books.history(continues=self.continues)
        settings = replace(self.settings(history), branches=self.branches)
        strategies.check(settings, self.space)
        if wanted <= 0:
            return search, books
        from ray_mixopt.analysis.purpose import best_now, purpose  # with the surrogate, which takes seconds to load
        from ray_mixopt.optimizer import MixtureOptimizer

        one_thread()
        optimizer = MixtureOptimizer.of_history(history, settings)
        best = best_now(optimizer)
        this_round = search.latest + 1
        while wanted > 0 and (proposal := optimizer.propose(optimizer.history)) is not None:
            why = purpose(optimizer, proposal, best)
            start = 0 if proposal.continues is None else optimizer.history[proposal.continues].reached
            one = optimizer.accept(proposal, search.new_name)
            run = AskedRun(
                run=one.trial_id,
                round=this_round,
                mixture=one.mixture,
                scale=one.scale,
                start=start,
                steps=one.steps,
                why=why,
                counts=proposal.counts,
                acquisition=optimizer.history[one.trial_id].acquisition,
                parent=one.parent or "",
                begins=one.from_step,
                known=books.known(one.mixture, one.scale),
            )
            search, wanted = replace(search, runs=(*search.runs, run)), wanted - 1
        if not search.runs:
            optimizer.problem.check_budget(optimizer.history)
        if len(search.runs) > len(books.asked):
            books = Books(search, self.histories, self.space, self.changes)
        return search, books
