"""``ray-mixopt search``: a search in which any command does the training."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ray_mixopt.cli.interrupts import INTERRUPTED, NOT_BEGUN, resumable
from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    checked_budget,
    earlier_option,
    examples,
    noise_option,
    nothing_known,
    objective_options,
    one_thread,
    scatter_option,
    strategy_option,
)
from ray_mixopt.core.words import counted, fidelity, units

if TYPE_CHECKING:
    from ray_mixopt.analysis.final import FinalRun
    from ray_mixopt.command.search import CommandSearch
    from ray_mixopt.core.objective import Objective
    from ray_mixopt.optimizer import MixtureOptimizer

DEFAULT_TARGET_RUNS = 3.0


@click.command(
    epilog=examples(
        "ray-mixopt search space.yaml --weight loss=1 -- python train.py --mixture {mixture} --steps {steps}",
        "ray-mixopt search space.yaml --weight loss=1 --out results/first --resume -- python train.py ...",
        "ray-mixopt search space.yaml --weight loss=1 --dry-run -- torchrun train.py --mixture {mixture} ...",
    ),
)
@click.argument("space", type=click.Path(path_type=Path))
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@objective_options
@strategy_option
@click.option(
    "--budget",
    type=float,
    callback=checked_budget,
    help=f"Most to spend, in units of cost.  [default: {DEFAULT_TARGET_RUNS:g} full runs]",
)
@click.option("--stop-when-sure", "stops", is_flag=True, help="End once the verdict is to train the answer.")
@click.option("--num-samples", type=click.IntRange(min=1), help="Most runs.  [default: as many as the budget buys]")
@click.option("--concurrency", type=click.IntRange(min=1), help="Runs at a time.  [default: as many as find room]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@noise_option
@earlier_option
@scatter_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the search, which all nodes have.  [default: results/ and the space's name]",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted search.")
@click.option("--dry-run", is_flag=True, help="Check all that can be without Ray, and print the command of each scale.")
@click.option("--final", is_flag=True, help="Then train the target with the recommended mixture, and compare.")
@as_json_option
def search(
    space: Path,
    program: Sequence[str],
    objective: Objective | None,
    mode: str | None,
    strategy: str,
    budget: float | None,
    stops: bool,
    num_samples: int | None,
    concurrency: int | None,
    seed: int,
    noise: Mapping[str, float],
    earlier: Sequence[str],
    scatter: Mapping[str, float],
    out: Path | None,
    resume: bool,
    dry_run: bool,
    final: bool,
    as_json: bool,
) -> None:
    """Searches by running COMMAND for each run, over the space in the YAML file SPACE.

    Placeholders in the command: {mixture} is a file with the shares, {steps} and {scale} what to train, {folder} the
    run's own. See docs/how-to/command.md.
    """
    if not dry_run:
        click.echo("Checking the command, the space and the folder.", err=True)  # Ray alone takes seconds to load
    with bad_arguments():
        from ray.tune.error import TuneError
        from rich.console import Console

        from ray_mixopt.command.search import CommandSearch
        from ray_mixopt.command.settings import read_command
        from ray_mixopt.core.settings import Settings
        from ray_mixopt.io.runs import Source, read_runs, told_apart
        from ray_mixopt.io.space_file import read_space

        if objective is None:
            raise ValueError("Say what the mixture is to be best for: --weight METRIC=1, for instance --weight loss=1.")
        if scatter and not earlier:
            raise ValueError("--metric-noise is about old runs: give --from, too.")
        if resume and (earlier or scatter):
            raise ValueError(
                "--from and --metric-noise are about the start of a search: what it took in is still there, drop them."
            )
        wanted = read_space(space)
        costs = {scale.name: scale.cost_per_step for scale in wanted.scales}
        sizes = {scale.name: scale.parameters for scale in wanted.scales if scale.parameters is not None}
        source = Source(cost=costs, parameters=sizes, noise=scatter)
        one_thread()
        asked = CommandSearch(
            command=read_command(space, tuple(program), Path.cwd()),
            space=wanted,
            settings=Settings(
                objective=objective,
                mode="max" if mode == "max" else "min",
                strategy=strategy,
                budget=DEFAULT_TARGET_RUNS * wanted.target_cost if budget is None else budget,
                seed=seed,
                noise=noise,
                stop_when_sure=stops,
            ),
            folder=out or Path("results", space.stem),
            num_samples=num_samples or -1,
            concurrency=concurrency,
            earlier={name: read_runs(path, source) for name, path in told_apart(earlier).items()},
        )
        if dry_run:
            _print_commands(asked, as_json)
            return
        _check_folder(asked, resume)
    again = shlex.join(_words_to_resume())
    console = Console(stderr=as_json, markup=False, emoji=False)
    try:
        sys.exit(_run(asked, resume, final, again, console, as_json))
    except (TuneError, RuntimeError, OSError) as error:
        raise click.ClickException(f"The search broke down: {error}") from error


def _words_to_resume() -> list[str]:
    """The words of this command, to go on with its search."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    return ["ray-mixopt", *words[:end], *([] if "--resume" in words[:end] else ["--resume"]), *words[end:]]


def _print_commands(asked: CommandSearch, as_json: bool) -> None:
    program = asked.command.program[0]
    if "{" not in program and shutil.which(program) is None:
        click.echo(f"There is no program {program!r} on this machine: it must be on those that train.", err=True)
    commands = {scale: asked.arguments(scale) for scale in asked.space.scale_names}
    if as_json:
        click.echo(json.dumps({"commands": commands}))
        return
    for scale, words in commands.items():
        needs = asked.command.needs(scale)
        each = f"{units(needs.cpus, needs.gpus)}{' each' * (needs.nodes > 1)}"
        click.echo(f"{scale}, on {counted(needs.nodes, 'node')} with {each}: {shlex.join(words)}")
    click.echo(
        "Runs are continued where that is worth more than a new one."
        if asked.command.continues
        else "Each run ends at its rung, for `resume` does not say how one goes on."
    )


def _check_folder(asked: CommandSearch, resume: bool) -> None:
    """Checks that the folder holds a search where one is to go on, and none where one is to begin.

    Raises:
        ValueError: if not, or if the search there was asked for something else.
    """
    from ray_mixopt.cli.options import opened

    if asked.begun != resume:
        found = "holds a search already: add --resume, or choose another --out" if asked.begun else "holds no search"
        raise ValueError(f"{asked.folder} {found}.")
    if not resume:
        return
    own = opened(str(asked.experiment))
    pairs: dict[str, tuple[Any, Any]] = {}
    kept = ("objective", "mode", "strategy", "budget", "seed", "noise", "stop_when_sure")
    pairs |= {name: (own.settings, asked.settings) for name in kept}
    pairs |= {field.name: (own.space, asked.space) for field in fields(asked.space) if field.name != "earlier_scales"}
    for name, (before, now) in pairs.items():
        if (was := getattr(before, name)) != (wanted := getattr(now, name)):
            raise ValueError(
                f"The search in {asked.folder} has {name} {was}, not {wanted}: it goes on as it began. Give the same "
                "options and the same space, or begin another with --from and another --out."
            )


def _final_run(asked: CommandSearch, optimizer: MixtureOptimizer, mixture: Mapping[str, float], again: str) -> FinalRun:
    """Trains the target, which the search may have done already, and sets it against the prediction."""
    from ray_mixopt.analysis.final import FinalRun, made_before

    def heard(report: Mapping[str, Any]) -> None:
        metrics = ", ".join(f"{name} {report[name]:.5g}" for name in asked.settings.metrics if name in report)
        click.echo(f"Final run, step {report['step']:,} of {asked.space.target_steps:,}: {metrics}", err=True)

    report = known = made_before(optimizer, mixture)
    if report is None:
        where = fidelity(asked.space.target_scale, asked.space.target_steps)
        click.echo(f"Final run: {where}, besides the budget.", err=True)
        with redirect_stdout(sys.stderr), resumable(f"the search is done. Go on with the final run: {again}"):
            report = asked.final_run(mixture, heard)
    found = FinalRun.of(optimizer, mixture, report, before=known is not None)
    found.write(str(asked.folder))
    return found


def _run(asked: CommandSearch, resume: bool, final: bool, again: str, console: Any, as_json: bool) -> int:
    """Runs the search and prints its answer; gives the exit code."""
    from rich.console import Console

    from ray_mixopt.io import searches
    from ray_mixopt.report.progress import Display

    errors = Console(stderr=True, markup=False, emoji=False)
    # Whatever Ray prints must not end up in the JSON.
    with (
        bad_arguments(),
        resumable(lambda: f"go on with: {again}" if asked.begun else NOT_BEGUN),
        redirect_stdout(sys.stderr),
        Display(errors).shown() as shown,
    ):
        asked.folder.mkdir(parents=True, exist_ok=True)
        outcome = asked.run(shown.update, resume=resume)
    optimizer = outcome.searcher.optimizer
    searches.save(optimizer, asked.folder / searches.HISTORY)
    nothing = nothing_known(optimizer)
    recommendation = None if nothing else outcome.searcher.recommend(details=True)
    console.print(nothing or str(recommendation))
    console.print(
        f"Results: {asked.folder}/ ({searches.HISTORY}; logs in runs/; Tune's own in experiment/)", soft_wrap=True
    )
    for message in outcome.errors:
        click.echo(f"A run failed: {message}", err=True)
    if outcome.interrupted:
        so_far = "go" if nothing else "this is what is known so far. Go"
        click.echo(f"Interrupted: {so_far} on with: {again}", err=True)
    trained = None
    if final and not outcome.interrupted:
        if recommendation is None:
            raise RuntimeError(f"{nothing[0].lower()}{nothing[1:-1]}, nor to train the target with")
        trained = _final_run(asked, optimizer, recommendation.mixture, again)
        console.print(trained.text)
    if as_json:
        known = None if recommendation is None else recommendation.to_dict()
        last = None if trained is None else asdict(trained)
        answer = {
            "recommendation": known,
            "final": last,
            "failed": len(outcome.errors),
            "interrupted": outcome.interrupted,
        }
        click.echo(json.dumps(answer))
    return INTERRUPTED if outcome.interrupted else 1 if outcome.errors else 0
