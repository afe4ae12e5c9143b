"""The search of an experiment without Ray: the ask/tell optimizer, and training runs in processes of this machine.

The same as `ray-mixopt pretrain`, for machines on which the start of a group of workers takes longer than its run:

    python experiments/pretraining/search.py --processes 2

A run that goes on does so from its own checkpoint. The optimizer's state is kept as JSON, next to the runs.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import click
import torch

from ray_mixopt import MixtureOptimizer
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.plan import check
from ray_mixopt.pretraining.training.session import REPORTS, FolderSession
from ray_mixopt.pretraining.training.settings import TrainingRun
from ray_mixopt.pretraining.training.train import train
from ray_mixopt.pretraining.training.workers import Workers

HERE = Path(__file__).parent
STATE = "optimizer.json"


def reports_of(run: TrainingRun, folder: Path) -> list[dict[str, float]]:
    """Trains a run, from where it is, and returns all its reports."""
    torch.set_num_threads(1)
    workers = Workers.current(torch.device("cpu"))
    train(run, FolderSession(folder, workers, lambda report: None), workers)
    return [json.loads(line) for line in (folder / REPORTS).read_text().splitlines()]


def search(settings: PretrainConfig, folder: Path, processes: int) -> MixtureOptimizer:
    """Searches to the end of the budget; goes on where an earlier search in the folder ended."""
    state = folder / STATE
    if state.exists():
        optimizer = MixtureOptimizer.from_state_dict(json.loads(state.read_text()) | {"budget": settings.budget})
    else:
        optimizer = MixtureOptimizer(settings.space, settings.search_settings)
    history = optimizer.history
    running: dict[Future[list[dict[str, float]]], str] = {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:

        def start(trial_id: str) -> None:
            trial = history[trial_id]
            run = settings.run(settings.space.named(trial.mixture), trial.scale, trial.steps)
            running[pool.submit(reports_of, run, folder / trial_id)] = trial_id

        for trial in history:
            if trial.status == "running":
                start(trial.trial_id)
        while True:
            while len(running) < processes and (suggestion := optimizer.ask()) is not None:
                start(suggestion.trial_id)
            if not running:
                return optimizer
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial = history[running.pop(future)]
                for report in future.result():
                    optimizer.tell(trial.trial_id, int(report["step"]), report)
                optimizer.finish(trial.trial_id)
                spent = history.spent / settings.space.target_cost
                click.echo(f"{spent:.2f} {trial.trial_id}: {trial.scale} to {trial.steps}", err=True)
            write_atomically(state, json.dumps(optimizer.state_dict()))


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=HERE / "experiment.yaml", help="Of the search.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
def main(config: Path, processes: int) -> None:
    """Searches, and prints the recommendation."""
    settings = PretrainConfig.read(config)
    check(settings)
    folder = Path(settings.experiment, "search")
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(search(settings, folder, processes).recommend())


if __name__ == "__main__":
    main()
