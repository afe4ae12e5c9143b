"""``ray-mixopt pretrain``: a search by really training."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import click

from ray_mixopt.cli.interrupts import INTERRUPTED, NOT_BEGUN, resumable
from ray_mixopt.cli.options import (
    as_json_option,
    bad_arguments,
    earlier_option,
    examples,
    nothing_known,
    scatter_option,
)


@click.command(
    epilog=examples(
        "ray-mixopt pretrain experiments/pretraining/demo.yaml --dry-run",
        "ray-mixopt pretrain experiments/pretraining/demo.yaml --final",
        "ray-mixopt pretrain search.yaml --from runs.csv --from results/last-search",
        "ray-mixopt pretrain search.yaml --resume --json",
    )
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted search.")
@click.option("--final", is_flag=True, help="Then train the target with the recommended mixture, and compare.")
@earlier_option
@scatter_option
@as_json_option
def pretrain(
    config: Path,
    dry_run: bool,
    resume: bool,
    final: bool,
    earlier: Sequence[str],
    scatter: Mapping[str, float],
    as_json: bool,
) -> None:
    """Searches by really training language models, as the YAML file CONFIG says. See docs/pretraining.md."""
    from rich.console import Console

    console, errors = (
        Console(stderr=as_json, markup=False, emoji=False),
        Console(stderr=True, markup=False, emoji=False),
    )
    click.echo("Checking the configuration and the data.", err=True)  # PyTorch and Ray take seconds to load
    with bad_arguments():
        from ray.tune.error import TuneError

        from ray_mixopt.analysis.final import FinalRun
        from ray_mixopt.pretraining.config import MEAN_LOSS, PretrainConfig
        from ray_mixopt.pretraining.plan import check, earlier_runs, plan, plan_tables
        from ray_mixopt.pretraining.search import check_as_begun, check_storage, exists, final_folder, final_run, search
        from ray_mixopt.report.progress import Display

        settings = PretrainConfig.read(config).starting_from(earlier, scatter)
        try:
            check(settings)
            check_storage(settings)
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
        if resume and (earlier or scatter):
            raise ValueError(
                "--from and --metric-noise are about the start of a search: what it took in is still there, drop them."
            )
        if not dry_run and exists(settings) != resume:
            found = "holds a search already: add --resume, or change its name" if not resume else "holds no search"
            raise ValueError(f"{settings.experiment} {found}.")
        if resume:
            check_as_begun(settings)
        planned = plan(settings, {} if resume else earlier_runs(settings))
    for part in plan_tables(planned):
        console.print(part)
    if dry_run:
        if as_json:
            click.echo(json.dumps(planned))
        return
    gpus = {scale.name: scale.resources.total.get("GPU", 0.0) for scale in settings.scales}
    again = f"ray-mixopt pretrain {config} --resume{' --final' if final else ''}"
    try:
        # Whatever Ray prints must not end up in the JSON.
        with (
            bad_arguments(),
            resumable(lambda: f"go on with: {again}" if exists(settings) else NOT_BEGUN),
            redirect_stdout(sys.stderr),
            Display(errors, gpus).shown() as shown,
        ):
            outcome = search(settings, shown.update, resume=resume)
        optimizer = outcome.searcher.optimizer
        nothing = nothing_known(optimizer)
        recommendation = optimizer.recommend(details=True)
        console.print(nothing or str(recommendation))
        for message in outcome.errors:
            click.echo(f"A run failed: {message}", err=True)
        if outcome.interrupted:
            so_far = "go" if nothing else "this is what is known so far. Go"
            click.echo(f"Interrupted: {so_far} on with: {again}", err=True)
        reports, trained = [], None
        if final and not outcome.interrupted and nothing:
            raise RuntimeError(f"{nothing[0].lower()}{nothing[1:-1]}, nor to train the target with")
        if final and not outcome.interrupted:
            with redirect_stdout(sys.stderr), resumable(f"the search is done. Go on with the final run: {again}"):
                for report in final_run(settings, recommendation.mixture):
                    losses = f"mean_loss {report[MEAN_LOSS]:.4f}, train_loss {report['train_loss']:.4f}"
                    errors.print(f"Final run, step {report['step']:,} of {settings.target_steps:,}: {losses}.")
                    reports.append(report)
            decay_steps = 0 if settings.decay is None else settings.decay.steps
            trained = FinalRun.of(optimizer, recommendation.mixture, reports[-1], decay_steps=decay_steps)
            trained.write(settings.experiment)
            console.print(trained.text)
            if math.isfinite(reports[-1][MEAN_LOSS]):
                model = f"{final_folder(settings, recommendation.mixture)} --data {settings.data} --out model"
                console.print(f"As a model for other programs: ray-mixopt checkpoint {model}", soft_wrap=True)
    except (TuneError, RuntimeError, OSError) as error:
        raise click.ClickException(f"The search broke down: {error}") from error
    if as_json:
        known = None if nothing else recommendation.to_dict()
        last = None if trained is None else asdict(trained)
        answer = {"recommendation": known, "final": reports, "final_run": last, "interrupted": outcome.interrupted}
        click.echo(json.dumps(answer))
    sys.exit(INTERRUPTED if outcome.interrupted else 1 if outcome.errors else 0)
