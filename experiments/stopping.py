"""What it saves and loses to end a search when no run is worth its cost: the ten metrics of the reference network.

    python experiments/stopping.py --seeds 100-101 --processes 2

The least gain is a share of the gap between the median random mixture and the best, per target run's cost. Each search
goes on to the budget if nothing ends it. Writes experiments/results/stopping.json and .md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry
from ray_mixopt.cli.benchmark import seeds_of

OUT = Path(__file__).parent / "results"
GAINS = (0.0, 0.01, 0.03, 0.1, 0.3)


def search(gain: float, name: str, seed: int, budget: float) -> tuple[float, str, int, float, float]:
    """What a search has spent in the end, and the regret then."""
    torch.set_num_threads(1)
    problem = problems.load(name, problems.default_data())
    settings = {
        "strategy": "default",
        "min_gain_per_cost": gain * abs(problem.truth.median - problem.truth.best) / problem.space.target_cost,
    }
    last = runner.search(problem, Entry(name="default", settings=settings), seed, budget).trace[-1]
    return gain, name, seed, last.cost, last.regret


def main() -> None:
    """Runs and writes everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-101")
    parser.add_argument("--budget", type=float, default=394.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    jobs = [
        (gain, name, seed, arguments.budget)
        for gain in GAINS
        for name in problems.SUITES["headline"]
        for seed in seeds_of(arguments.seeds)
    ]
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(search, *zip(*jobs, strict=True)))
    head = ["least gain per target run", "spent, mean", "least", "most", "regret, mean", "worst search"]
    lines = []
    for gain in GAINS:
        costs, regrets = np.array([row[3:] for row in found if row[0] == gain]).T
        spent = [f"{cost:.0f}" for cost in (costs.mean(), costs.min(), costs.max())]
        lines.append([str(gain or "none"), *spent, f"{regrets.mean():.3f}", f"{regrets.max():.3f}"])
    found_table = table(head, lines)
    print(found_table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "stopping.md").write_text(found_table + "\n")
    rows = [dict(zip(("gain", "problem", "seed", "spent", "regret"), row, strict=True)) for row in found]
    (OUT / "stopping.json").write_text(json.dumps({"seeds": arguments.seeds, "found": rows}) + "\n")


if __name__ == "__main__":
    main()
