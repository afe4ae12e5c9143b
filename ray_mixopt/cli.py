"""The command ``ray-mixopt``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast
from zipfile import BadZipFile

import click

from ray_mixopt import pretraining_commands
from ray_mixopt.benchmark.command import benchmark
from ray_mixopt.strategies import STRATEGIES

if TYPE_CHECKING:
    from ray_mixopt.replay import Replay
    from ray_mixopt.simulators import RunTable, Simulator
    from ray_mixopt.strategies.base import Mode

DEFAULT_SIMULATOR = "slimpajama"
DEFAULT_TARGET_RUNS = 0.5
RESULT, HISTORY, FIGURE, EXPERIMENT = "result.json", "history.json", "replay.png", "experiment"
INTERRUPTED = 130  # the shell's exit code of a program that Ctrl-C ended


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ray-mixopt")
def main() -> None:
    """Finds the mixture of training data that is best for a large model, from cheap runs of small ones."""


main.add_command(benchmark)
main.add_command(pretraining_commands.prepare)
main.add_command(pretraining_commands.pretrain)


@main.command()
@click.option("--simulator", metavar="NAME", help=f"Simulator, by name or .npz file.  [default: {DEFAULT_SIMULATOR}]")
@click.option("--runs", type=click.Path(exists=True, path_type=Path), help="Logged runs to replay instead.")
@click.option("--metric", help="Metric to optimise.  [default: the simulator's or table's own]")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Direction.  [default: the metric's own]")
@click.option("--strategy", type=click.Choice(list(STRATEGIES)), default="default", show_default=True)
@click.option(
    "--budget", type=float, help=f"Most to spend, in units of cost.  [default: {DEFAULT_TARGET_RUNS} of a full run]"
)
@click.option("--concurrency", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at a time.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--noise", type=float, help="Noise of the simulator, as a share of each metric's spread.  [default: 0]")
@click.option("--target", metavar="SCALE:STEPS", help="Where the best mixture is wanted.  [default: the largest run]")
@click.option("--scale-cost", metavar="SCALE=COST", multiple=True, help="Cost of a step of logged runs; once a scale.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results, a new one.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object and nothing else.")
def replay(
    simulator: str | None,
    runs: Path | None,
    metric: str | None,
    mode: str | None,
    strategy: str,
    budget: float | None,
    concurrency: int,
    seed: int,
    noise: float | None,
    target: str | None,
    scale_cost: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """Searches with Ray Tune over simulated or logged pre-training runs.

    Writes result.json, history.json, replay.png and Tune's experiment to the folder of the results, by default a new
    one under ./results.
    """
    from ray_mixopt.replay import Replay
    from ray_mixopt.simulators import RunTable

    with _bad_arguments():
        where = _target(target)
        if runs is None:
            if scale_cost:
                raise ValueError("--scale-cost is about logged runs: give --runs, too.")
            source: Simulator | RunTable = _simulator(
                simulator or DEFAULT_SIMULATOR, strategy, noise or 0.0, seed, where
            )
        else:
            if simulator is not None or noise is not None:
                raise ValueError("--simulator and --noise do not go with --runs, whose results are as logged.")
            source = RunTable.read(runs, scale_cost=_costs(scale_cost), target=where)
        metric = source.default_metric if metric is None else metric
        settings = Replay(
            source=source,
            metric=metric,
            mode=cast("Mode", mode or source.modes.get(metric, "min")),
            strategy=strategy,
            budget=DEFAULT_TARGET_RUNS * source.space.target_cost if budget is None else budget,
            concurrency=concurrency,
            seed=seed,
        )
        folder = _folder(out, settings)
    sys.exit(_run(settings, folder, as_json))


@main.group()
def simulator() -> None:
    """Simulated pre-training runs."""


@simulator.command()
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The reference network, an .npz file.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the .npz file goes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def fit(reference: Path, out: Path, seed: int) -> None:
    """Fits a simulator to a reference network, and writes it with a card that says how well. Takes minutes."""
    from ray_mixopt.simulators.fit import fit_simulator

    with _bad_arguments():
        report = fit_simulator(reference, out, seed, progress=lambda line: click.echo(line, err=True))
    click.echo(report.table())


@contextlib.contextmanager
def _bad_arguments() -> Iterator[None]:
    """What the library refuses is a usage error here: exit code 2."""
    try:
        yield
    except (ValueError, OSError, BadZipFile) as error:
        raise click.UsageError(str(error)) from error


def _target(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    scale, separator, steps = text.rpartition(":")
    if not separator or not scale or not steps.isdecimal():
        raise ValueError(f"--target is SCALE:STEPS, for instance 1B:19700, got {text!r}.")
    return scale, int(steps)


def _costs(texts: Sequence[str]) -> dict[str, float] | None:
    costs = {}
    for text in texts:
        scale, separator, cost = text.rpartition("=")
        try:
            costs[scale] = float(cost)
        except ValueError:
            separator = ""
        if not separator or not scale:
            raise ValueError(f"--scale-cost is SCALE=COST, for instance 60M=0.03, got {text!r}.")
    return costs or None


def _simulator(name: str, strategy: str, noise: float, seed: int, target: tuple[str, int] | None) -> Simulator:
    """The simulator, with the rungs that the strategy and the target ask for."""
    from ray_mixopt import simulators
    from ray_mixopt.strategies.rungs import paper_rungs

    space = simulators.load(name).space
    scale, steps = target or (space.target_scale, space.target_steps)
    space.scale(scale)
    rungs = paper_rungs(steps) if strategy.startswith("paper") else sorted({*space.steps, steps})
    loaded = simulators.load(name, noise=noise, seed=seed, steps=rungs)
    return replace(loaded, space=replace(loaded.space, target=(scale, steps)))


def _folder(out: Path | None, settings: Replay) -> Path:
    """Where the results go: ``out``, if that holds none yet, or a new folder."""
    if out is not None:
        blocked = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
        if blocked is not None:
            raise ValueError(f"{out} cannot be a folder, since {blocked} is a file: choose another --out.")
        if (out / EXPERIMENT).exists() or (out / RESULT).exists():
            raise ValueError(f"{out} holds the results of another replay: remove them, or choose another --out.")
        return out
    name = f"replay-{settings.source.name}-{settings.metric.replace('/', '-')}-{settings.strategy}-{settings.seed}"
    numbered = (Path("results") / (name if n == 1 else f"{name}-{n}") for n in count(1))
    return next(folder for folder in numbered if not folder.exists())


def _run(settings: Replay, folder: Path, as_json: bool) -> int:
    """Runs the search, writes and prints the results; gives the exit code."""
    import torch
    from ray.tune.error import TuneError
    from rich.console import Console

    from ray_mixopt.report.figures import draw_replay
    from ray_mixopt.report.progress import Progress
    from ray_mixopt.report.summary import summarise, tables
    from ray_mixopt.report.trajectory import trajectory

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # the matrices are small: on a busy machine threads wait for each other
    folder.mkdir(parents=True, exist_ok=True)
    errors = Console(stderr=True)
    # Whatever a library prints must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            with Progress(errors, settings.budget).shown() as progress:
                outcome = settings.run(folder / EXPERIMENT, progress.update)
        except (TuneError, OSError) as error:
            raise click.ClickException(f"The search broke down: {error}") from error
        with errors.status("Looking back at what it would have recommended on the way"):
            summary = summarise(settings, outcome, trajectory(outcome.optimizer))
        (folder / HISTORY).write_text(json.dumps(outcome.optimizer.history.state_dict()))
        (folder / RESULT).write_text(json.dumps(summary, indent=1))
        draw_replay(summary, folder / FIGURE)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        console = Console()
        for part in tables(summary):
            console.print(part)
        console.print(
            f"Results: {folder}/ ({RESULT}, {HISTORY}, {FIGURE}; Tune's own in {EXPERIMENT}/)", soft_wrap=True
        )
    for message in outcome.errors:
        click.echo(f"A run failed: {message}", err=True)
    if outcome.interrupted:
        click.echo("Interrupted: this is what is known so far.", err=True)
        return INTERRUPTED
    return 1 if outcome.errors else 0
