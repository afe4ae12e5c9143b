"""Trains the mixture that a search recommends at the target, next to uniform, proportional and random search's best.

Run it after the search, from the root of the repository; what is trained already is not trained again:

    python experiments/pretraining/compare.py

Random search gets the budget of the search: mixtures from Dirichlet(1), each trained at the target. Its best mixture,
and all others, are then trained with seeds that neither search has used, the same for all mixtures. So is the guess
that needs no search: the domains of the objective, by their weights in it. Ray has no part in this: it is the training
loop alone.
"""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure

from ray_mixopt import MixOptSearcher, MixtureOptimizer
from ray_mixopt.benchmark.record import commit, machine, versions
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.training.session import REPORTS, FolderSession
from ray_mixopt.pretraining.training.train import train
from ray_mixopt.pretraining.training.workers import Workers
from ray_mixopt.report.drawing import PALETTE

HERE = Path(__file__).parent


def searched(settings: PretrainConfig) -> MixtureOptimizer:
    """The optimizer at the end of the search, be it by `ray-mixopt pretrain` or by `search.py`."""
    state = Path(settings.experiment, "search", "optimizer.json")
    if state.is_file():
        return MixtureOptimizer.from_state_dict(json.loads(state.read_text()))
    return MixOptSearcher.load(settings.experiment).optimizer


def trained(settings: PretrainConfig, mixture: Mapping[str, float], seed: int, name: str) -> dict[str, float]:
    """The last report of a run at the target."""
    torch.set_num_threads(1)
    run = settings.run(mixture, settings.space.target_scale, settings.target_steps).model_copy(update={"seed": seed})
    folder = Path(settings.experiment, "compare", f"{name}-{seed}")
    workers = Workers.current(torch.device("cpu"))
    train(run, FolderSession(folder, workers, lambda report: None), workers)
    report = json.loads((folder / REPORTS).read_text().splitlines()[-1])
    click.echo(f"{name}, seed {seed}: {objective(settings, report):.4f}", err=True)
    return report


def objective(settings: PretrainConfig, report: Mapping[str, float]) -> float:
    """The weighted sum of metrics that was minimised."""
    return sum(weight * report[name] for name, weight in settings.objective.items())


def objective_mixture(settings: PretrainConfig) -> dict[str, float]:
    """The domains whose validation losses make up the objective, by their weights in it."""
    weights = {name: settings.objective.get(f"val_loss/{name}", 0.0) for name in settings.mixed_domains}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def random_search(settings: PretrainConfig, pool: Executor) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The best mixture of random search with the budget of the search, and all its runs."""
    optimizer = MixtureOptimizer(settings.space, settings.search_settings, strategy="random", min_gain_per_cost=0.0)
    running = []
    while (suggestion := optimizer.ask()) is not None:
        name = f"random-{suggestion.trial_id}"
        running.append((suggestion, pool.submit(trained, settings, suggestion.mixture, settings.seed, name)))
    runs = []
    for suggestion, future in running:
        report = future.result()
        optimizer.tell(suggestion.trial_id, suggestion.steps, report)
        optimizer.finish(suggestion.trial_id)
        runs.append({"mixture": suggestion.mixture, "objective": objective(settings, report), "report": report})
    return optimizer.recommend().mixture, runs


def draw(result: Mapping[str, Any], path: Path) -> None:
    """The losses of all mixtures with their seeds, and the mixtures."""
    figure = Figure(figsize=(11, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(result["mixtures"])
    for place, name in enumerate(names):
        losses = [run["objective"] for run in result["mixtures"][name]["runs"]]
        left.plot(losses, [place] * len(losses), "o", color=PALETTE[0], alpha=0.5)
        left.plot(np.mean(losses), place, "|", color=PALETTE[0], markersize=24, markeredgewidth=2)
        start = 0.0
        for number, (domain, share) in enumerate(result["mixtures"][name]["mixture"].items()):
            right.barh(place, share, left=start, color=PALETTE[number], label=domain if place == 0 else None)
            start += share
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    target = f"{result['target']['scale']} x {result['target']['steps']} steps"
    left.set_xlabel(f"objective at the target, {target} (nats a byte; a dot a seed)")
    right.set_xlabel("share of the training tokens")
    right.set_xlim(0, 1)
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, fontsize=9)
    figure.savefig(path)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=HERE / "experiment.yaml", help="Of the search.")
@click.option("--seeds", type=click.IntRange(min=2), default=6, show_default=True, help="Of each mixture: 1 and up.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE.parent / "results" / "pretraining")
def main(config: Path, seeds: int, processes: int, out: Path) -> None:
    """Compares what the search recommends with four other mixtures; writes JSON, a figure and a table."""
    settings = PretrainConfig.read(config)
    space = settings.space
    optimizer = searched(settings)
    recommendation = optimizer.recommend()
    proportional = space.proportional()
    assert proportional is not None  # the supply of tokens is known
    runs: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        best_random, random_runs = random_search(settings, pool)
        mixtures = {
            "recommended": recommendation.mixture,
            "random search": best_random,
            "uniform": space.named(space.uniform()),
            "proportional": space.named(proportional),
            "objective's weights": objective_mixture(settings),
        }
        reports = {
            (name, seed): pool.submit(trained, settings, mixture, seed, re.sub(r"\W+", "-", name))
            for seed in range(1, seeds + 1)
            for name, mixture in mixtures.items()
        }
        for (name, seed), future in reports.items():
            report = future.result()
            runs.setdefault(name, []).append({"seed": seed, "objective": objective(settings, report), "report": report})
    result: dict[str, Any] = {
        "config": json.loads(settings.model_dump_json(exclude={"data", "storage"})),
        "data": {name: domain.train.tokens for name, domain in settings.manifest.domains.items()},
        "fingerprint": settings.manifest.fingerprint,
        "target": {"scale": space.target_scale, "steps": space.target_steps, "cost_flops": space.target_cost},
        "search": {
            "recommendation": recommendation.to_dict(),
            "history": optimizer.history.state_dict(),
        },
        "random_search": random_runs,
        "mixtures": {name: {"mixture": mixture, "runs": runs[name]} for name, mixture in mixtures.items()},
        "versions": versions(["ray", "transformers"]),
        "machine": machine(),
        "commit": commit(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "experiment.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, out / "experiment.png")
    click.echo(table(result))


def table(result: Mapping[str, Any]) -> str:
    """Means over seeds with their standard errors, and the same of the differences from the recommended mixture."""
    losses = {name: np.array([run["objective"] for run in entry["runs"]]) for name, entry in result["mixtures"].items()}
    lines = ["| mixture | objective | minus recommended | worse than recommended |", "|---|---|---|---|"]
    for name, values in losses.items():
        differences = values - losses["recommended"]
        error = differences.std(ddof=1) / np.sqrt(len(values))
        compared = f"{differences.mean():+.4f} ± {error:.4f} | {(differences > 0).sum()} of {len(values)} seeds"
        mean = f"{values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(len(values)):.4f}"
        lines.append(f"| {name} | {mean} | {compared if name != 'recommended' else ' | '} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
