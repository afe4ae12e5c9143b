"""``ray-mixopt replay``: a search with Ray Tune in which only the training is simulated."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ray_mixopt.cli.interrupts import INTERRUPTED, in_order, resumable
from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    checked_budget,
    examples,
    nothing_known,
    one_thread,
    parsed_target,
    scatter_option,
    strategy_option,
)
from ray_mixopt.cli.sources import table_options

if TYPE_CHECKING:
    from ray_mixopt.core.objective import Mode
    from ray_mixopt.io.runs import Source
    from ray_mixopt.optimizer import MixtureOptimizer
    from ray_mixopt.simulators import RunTable, Simulator
    from ray_mixopt.simulators.replay import Replay

DEFAULT_SIMULATOR = "dmsl"
DEFAULT_TARGET_RUNS = 0.5
FIGURE = "replay.png"


@click.command(
    epilog=examples(
        "ray-mixopt replay",
        "ray-mixopt replay --metric val_loss/github --budget 400 --noise 0.1 --out results/github",
        "ray-mixopt replay --runs regmix/data --scale-cost 1m=0.001 --scale-cost 60m=0.06 --scale-cost 1B=1",
        "ray-mixopt replay --from results/interrupted --budget 400",
    )
)
@click.option("--simulator", metavar="NAME", help=f"Simulator, by name or .npz file.  [default: {DEFAULT_SIMULATOR}]")
@click.option("--runs", type=click.Path(exists=True, path_type=Path), help="Logged runs to replay instead.")
@table_options
@click.option("--from", "earlier", metavar="PATH", help="Earlier runs to take in at no cost, see recommend --from.")
@scatter_option
@click.option("--metric", help="Metric to optimise.  [default: the simulator's or table's own]")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Direction.  [default: the metric's own]")
@strategy_option
@click.option(
    "--budget",
    type=float,
    callback=checked_budget,
    help=f"Most to spend, in units of cost.  [default: {DEFAULT_TARGET_RUNS} of a full run]",
)
@click.option("--concurrency", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at a time.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--noise", type=float, help="Noise of the simulator, as a share of each metric's spread.  [default: 0]")
@click.option("--target", metavar="SCALE:STEPS", help="Where the best mixture is wanted.  [default: the largest run]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results, a new one.")
@as_json_option
def replay(
    simulator: str | None,
    runs: Path | None,
    earlier: str | None,
    scatter: Mapping[str, float],
    metric: str | None,
    mode: str | None,
    strategy: str,
    budget: float | None,
    concurrency: int,
    seed: int,
    noise: float | None,
    target: str | None,
    table: Source,
    out: Path | None,
    as_json: bool,
) -> None:
    """Searches with Ray Tune over simulated or logged pre-training runs.

    Writes result.json, history.json, replay.png and Tune's experiment to the folder of the results, by default a new
    one under ./results.
    """
    click.echo("Preparing the replay.", err=True)  # Ray alone takes seconds to load
    from ray_mixopt.core.settings import Settings
    from ray_mixopt.io.runs import Source, read_runs
    from ray_mixopt.simulators import RunTable
    from ray_mixopt.simulators.replay import Replay

    with bad_arguments():
        where = parsed_target(target)
        if scatter and earlier is None:
            raise ValueError("--metric-noise is about earlier runs: give --from, too.")
        if runs is None:
            if table != Source():
                raise ValueError("Options about scales, steps and columns are about logged runs: give --runs, too.")
            source: Simulator | RunTable = _simulator(
                simulator or DEFAULT_SIMULATOR, strategy, noise or 0.0, seed, where
            )
        else:
            if simulator is not None or noise is not None:
                raise ValueError("--simulator and --noise do not go with --runs, whose results are as logged.")
            source = RunTable.read(runs, scale_cost=table.cost or None, target=where, source=table)
        metric = source.default_metric if metric is None else metric
        settings = Settings(
            objective={metric: 1.0},
            mode=cast("Mode", mode or source.modes.get(metric, "min")),
            strategy=strategy,
            budget=DEFAULT_TARGET_RUNS * source.space.target_cost if budget is None else budget,
            seed=seed,
        )
        known = None if earlier is None else read_runs(earlier, Source(noise=scatter))
        search = Replay(source=source, settings=settings, concurrency=concurrency, earlier=known)
        folder = _folder(out, f"replay-{source.name}-{metric.replace('/', '-')}-{strategy}-{seed}")
    sys.exit(_run(search, metric, folder, as_json))


def _simulator(name: str, strategy: str, noise: float, seed: int, target: tuple[str, int] | None) -> Simulator:
    """The simulator, with the rungs that the strategy and the target ask for."""
    from ray_mixopt import simulators

    space = simulators.load(name).space
    scale, steps = target or (space.target_scale, space.target_steps)
    space.scale(scale)
    rungs: Sequence[int] = sorted({*space.steps, steps})
    if strategy.startswith("paper"):
        from ray_mixopt.strategies.paper import paper_rungs  # imports PyTorch

        rungs = paper_rungs(steps)
    loaded = simulators.load(name, noise=noise, seed=seed, steps=rungs)
    return replace(loaded, space=replace(loaded.space, target=(scale, steps)))


def _folder(out: Path | None, name: str) -> Path:
    """Where the results go: ``out``, if that holds none yet, or a new folder of that name below ./results."""
    from ray_mixopt.analysis.result import RESULT
    from ray_mixopt.core.safety import check_file_name
    from ray_mixopt.io import searches

    if out is not None:
        blocked = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
        if blocked is not None:
            raise ValueError(f"{out} cannot be a folder, since {blocked} is a file: choose another --out.")
        if (out / searches.EXPERIMENT).exists() or (out / RESULT).exists():
            raise ValueError(f"{out} holds the results of another replay: remove them, or choose another --out.")
        return out
    check_file_name(name, "A replay without --out")
    numbered = (Path("results") / (name if n == 1 else f"{name}-{n}") for n in count(1))
    return next(folder for folder in numbered if not folder.exists())


def _to_go_on(optimizer: MixtureOptimizer, folder: Path) -> str:
    """The command that goes on from where a replay was ended; of an option that is given twice the last counts."""
    assert optimizer.settings.budget is not None
    rest = max(optimizer.settings.budget - optimizer.history.spent, 0.0)
    later = next(place for n in count(2) if not (place := folder.with_name(f"{folder.name}-{n}")).exists())
    more = ["--from", str(folder), "--budget", f"{rest:.6g}", "--out", str(later)]
    return shlex.join(["ray-mixopt", *sys.argv[1:], *more])


def _run(search: Replay, metric: str, folder: Path, as_json: bool) -> int:
    """Runs the search, writes and prints the results; gives the exit code."""
    from ray.tune.error import TuneError
    from rich.console import Console

    from ray_mixopt.analysis.result import RESULT, RESULT_VERSION, result
    from ray_mixopt.analysis.trajectory import trajectory
    from ray_mixopt.analysis.truth import Truth
    from ray_mixopt.core.safety import write_atomically
    from ray_mixopt.io import searches
    from ray_mixopt.report.progress import Display
    from ray_mixopt.report.replay import draw_replay, tables

    settings = search.settings
    one_thread()
    folder.mkdir(parents=True, exist_ok=True)
    errors = Console(stderr=True, markup=False, emoji=False)
    # Whatever a library prints must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            with in_order(), Display(errors).shown() as progress:
                outcome = search.run(folder / searches.EXPERIMENT, progress.update)
        except (TuneError, RuntimeError, OSError) as error:
            raise click.ClickException(f"The search broke down: {error}") from error
        searches.save(outcome.optimizer, folder / searches.HISTORY)
        again = _to_go_on(outcome.optimizer, folder)
        with (
            errors.status("Looking back at what it would have recommended on the way"),
            resumable(f"the runs are in {folder}/{searches.HISTORY}. To go on: {again}"),
        ):
            truth = Truth(search.source, metric, settings.mode)
            nothing = nothing_known(outcome.optimizer)
            found = result(outcome.optimizer, truth, trajectory(outcome.optimizer))
        summary = {
            "version": RESULT_VERSION,
            "source": search.source.name,
            "metric": metric,
            **{key: getattr(settings, key) for key in ("mode", "strategy", "budget", "seed")},
            "concurrency": search.concurrency,
            **found,
            **({"recommended": None} if nothing else {}),  # equal shares are no answer
            "failed": len(outcome.errors),
            "interrupted": outcome.interrupted,
            "seconds": outcome.seconds,
        }
        write_atomically(folder / RESULT, json.dumps(summary, indent=1))
        draw_replay(summary, folder / FIGURE)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        console = Console(markup=False, emoji=False)
        for part in tables(summary, nothing):
            console.print(part)
        files = f"{RESULT}, {searches.HISTORY}, {FIGURE}; Tune's own in {searches.EXPERIMENT}/"
        console.print(f"Results: {folder}/ ({files})", soft_wrap=True)
    for message in outcome.errors:
        click.echo(f"A run failed: {message}", err=True)
    if outcome.interrupted:
        if nothing:
            click.echo(f"Interrupted. {nothing} Give the same command again, with another --out.", err=True)
        else:
            click.echo(f"Interrupted: this is what is known so far. To go on: {again}", err=True)
        return INTERRUPTED
    return 1 if outcome.errors else 0
