"""How well small and short runs rank mixtures as the target does, by learning rate, and with or without annealing.

Ten mixtures from Dirichlet(1) over the demo's five domains are trained at both scales of `ranking.yaml`. The target
is the larger one at its last rung, its rate by our rule and annealed. What is compared with it has another seed:

* the smaller scale with the rate by our rule (olmix's), with the target's own, by StepLaw's (1.79 N^-0.713 D^0.307, D
  the tokens of the longest run), and a tenth and a hundredth of our rule's, all annealed;
* both scales with our rule, not annealed.

    ray-mixopt prepare data/demo --demo
    python experiments/pretraining/ranking.py --processes 2

or with `--config experiments/pretraining/rates.yaml` some of these ways alone, with shorter runs.

Runs that are there already are not made again. The table has, for each way to train and each rung, the rank correlation
(Spearman) of the mixtures with the target, of the mean of all domains' validation losses and on average of the single
domains'; and by how much differences from the mean mixture are off, relative to how much the mixtures differ.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import spearmanr

from ray_mixopt.benchmark.record import commit, machine, versions
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.training.session import REPORTS, FolderSession
from ray_mixopt.pretraining.training.train import train
from ray_mixopt.pretraining.training.workers import Workers

HERE = Path(__file__).parent
SMALL, TARGET = "femto", "nano"
N_MIXTURES = 10
WAYS = {
    "target": (TARGET, "ours", True),
    "large, ours": (TARGET, "ours", True),
    "large, ours, not annealed": (TARGET, "ours", False),
    "small, ours": (SMALL, "ours", True),
    "small, ours, not annealed": (SMALL, "ours", False),
    "small, the target's": (SMALL, "target", True),
    "small, StepLaw": (SMALL, "steplaw", True),
    "small, ours / 10": (SMALL, "tenth", True),
    "small, ours / 100": (SMALL, "hundredth", True),
}
"""The ways to train: scale, rule of the learning rate, and whether rungs are annealed."""


def rate(settings: PretrainConfig, scale: str, rule: str) -> float:
    """The learning rate of a scale by a rule."""
    ours = settings.recipe(TARGET if rule == "target" else scale).learning_rate
    if rule == "steplaw":
        tokens = settings.rungs(scale)[-1] * settings.batch(scale)
        return 1.79 * settings.model_cost(settings.scale(scale)).in_blocks ** -0.713 * tokens**0.307
    return ours / {"ours": 1, "target": 1, "tenth": 10, "hundredth": 100}[rule]


def reports_of(settings: PretrainConfig, mixture: Mapping[str, float], way: str, seed: int, folder: Path) -> list[Any]:
    """The reports of a run at all of its rungs."""
    torch.set_num_threads(1)
    scale, rule, annealed = WAYS[way]
    run = settings.run(mixture, scale, settings.rungs(scale)[-1])
    recipe = run.optimization.model_copy(update={"learning_rate": rate(settings, scale, rule)})
    changes = {"optimization": recipe, "seed": seed, "anneal": run.anneal if annealed else None}
    workers = Workers.current(torch.device("cpu"))
    train(run.model_copy(update=changes), FolderSession(folder, workers, lambda report: None), workers)
    click.echo(f"{folder.name} is done.", err=True)
    return [json.loads(line) for line in (folder / REPORTS).read_text().splitlines()]


def losses(reports: list[list[Any]], rung: int) -> np.ndarray:
    """Validation losses at a rung, ``(n_mixtures, n_domains + 1)``, the last column being their mean."""
    rows = [next(report for report in run if report["step"] == rung) for run in reports]
    names = [name for name in rows[0] if name.startswith("val_loss/")]
    values = np.array([[row[name] for name in names] for row in rows])
    return np.column_stack([values, values.mean(1)])


def agreement(values: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """Rank correlation of the means, of single domains on average, and the error of contrasts over their spread."""
    ranks = [float(spearmanr(values[:, k], target[:, k]).statistic) for k in range(target.shape[1])]
    here, there = values[:, -1] - values[:, -1].mean(), target[:, -1] - target[:, -1].mean()
    return ranks[-1], float(np.mean(ranks[:-1])), float(np.sqrt(((here - there) ** 2).mean()) / there.std())


def table(settings: PretrainConfig, results: Mapping[str, Mapping[int, list[list[Any]]]]) -> str:
    """The agreement of each way to train at each rung, mean over its seeds."""
    last = settings.rungs(TARGET)[-1]
    target = np.mean([losses(reports, last) for reports in results["target"].values()], axis=0)
    lines = ["| run | rung | rank correlation of the mean | of single domains | contrast error / spread |"]
    lines.append("|---|---|---|---|---|")
    for way in [way for way in results if way != "target"]:
        for rung in settings.rungs(WAYS[way][0]):
            found = np.mean([agreement(losses(reports, rung), target) for reports in results[way].values()], axis=0)
            lines.append(f"| {way} | {rung} | {found[0]:.2f} | {found[1]:.2f} | {found[2]:.2f} |")
    return "\n".join(lines)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=HERE / "ranking.yaml", help="Of both scales.")
@click.option("--only", "ways", multiple=True, help="Way to train beside the target.  [default: all]")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Of each way to train.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE.parent / "results" / "pretraining")
def main(config: Path, ways: tuple[str, ...], seeds: int, processes: int, out: Path) -> None:
    """Trains what is not trained yet, writes the results under the configuration's name, and prints the table."""
    settings = PretrainConfig.read(config)
    space = settings.space
    mixtures = [space.named(row) for row in space.sample(N_MIXTURES, np.random.default_rng(settings.seed))]
    # The target's seeds are its own: what agrees with it agrees across seeds.
    chosen = {way: range(1000, 1000 + seeds) if way == "target" else range(seeds) for way in WAYS}
    asked = [way for way in WAYS if way in ("target", *(ways or WAYS))]
    results: dict[str, dict[int, list[Any]]] = {way: {} for way in asked}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        running = {}
        for number in range(seeds):
            for way in asked:
                for place, mixture in enumerate(mixtures):
                    folder = Path(settings.experiment, f"{way.replace(', ', '-').replace(' / ', '-')}-{number}-{place}")
                    seed = chosen[way][number]
                    running[way, seed, place] = pool.submit(reports_of, settings, mixture, way, seed, folder)
        for (way, seed, _), future in running.items():
            results[way].setdefault(seed, []).append(future.result())
    out.mkdir(parents=True, exist_ok=True)
    about = {"mixtures": mixtures, "results": results, "table": table(settings, results).splitlines()}
    about |= {"config": json.loads(settings.model_dump_json(exclude={"data", "storage"}))}
    about |= {"versions": versions(["transformers"]), "machine": machine(), "commit": commit()}
    (out / f"{settings.name}.json").write_text(json.dumps(about) + "\n")
    click.echo(table(settings, results))


if __name__ == "__main__":
    main()
