"""What each part of the default strategy is worth: the search without it, on problems of two kinds.

The ten metrics of the reference network are best near single domains; most of the synthetic problems are best inside.

    python experiments/ablation.py --seeds 100-101 --processes 2

Writes experiments/results/ablation.json and .md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import find
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.cli.benchmark import seeds_of
from ray_mixopt.surrogate.kernels import _matern

OUT = Path(__file__).parent / "results"
SUITES = ("headline", "synthetic")
REGRET, FIT, KERNELS = (f"ray_mixopt.{name}" for name in ("strategies.regret", "surrogate.fit", "surrogate.kernels"))
# What is replaced by what: an attribute of a module, or an entry of a mapping that is one.
VARIANTS: dict[str, dict[tuple[str, ...], Any]] = {
    "default": {},
    "no pairs late in the budget": {(REGRET, "PAIRED_SHARE"): 0.0},
    "no limit on a single run": {(REGRET, "LARGEST_SHARE"): math.inf},
    "regret per cost, not cost^0.3": {(REGRET, "COST_EXPONENT"): 1.0},
    "one draw of the hyper-parameters": {(REGRET, "N_DRAWS"): 1},
    "no rough effect": {(FIT, "_PRIORS", "kernel.logit_rough"): (-7.0, 0.01)},
    "no linear effect": {(FIT, "_PRIORS", "kernel.log_linear"): (-12.0, 0.01)},
    "shares instead of log-shares": {(KERNELS, "_SMALL_SHARE"): 1e4},
    "fidelities share smoothly (Matérn 5/2)": {
        (KERNELS, "_exponential"): _matern,
        (FIT, "_PRIORS", "kernel.scale.raw_lengthscale"): (math.log(1.5), 0.4),
        (FIT, "_PRIORS", "kernel.steps.raw_lengthscale"): (math.log(1.5), 0.4),
    },
    "no continued runs": {},
}


def replace(changes: Mapping[tuple[str, ...], Any]) -> None:
    """Changes constants of the package, in this process."""
    for (module, name, *key), value in changes.items():
        place = importlib.import_module(module)
        assert hasattr(place, name), (module, name)
        if key:
            getattr(place, name)[key[0]] = value
        else:
            setattr(place, name, value)


def search(variant: str, name: str, seed: int, target_runs: float) -> tuple[str, str, int, list[float]]:
    """Regret at the costs that the problem is scored at, in a process of its own."""
    torch.set_num_threads(1)
    replace(VARIANTS[variant])
    problem = problems.load(name, problems.default_data())
    method = "default-afresh" if variant == "no continued runs" else "default"
    trace = runner.search(problem, find(method), seed, target_runs * problem.space.target_cost).trace
    costs = scored(problem, target_runs)
    return variant, name, seed, [[p for p in trace if p.cost <= cost * (1 + 1e-9)][-1].regret for cost in costs]


def scored(problem: BenchmarkProblem, target_runs: float) -> list[float]:
    """The costs up to the budget at which a problem is scored."""
    return [cost for cost in problem.score_costs if cost <= target_runs * problem.space.target_cost * (1 + 1e-9)]


def main() -> None:
    """Runs and writes everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-101")
    parser.add_argument("--budget", type=float, default=2.0, help="in target runs")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    jobs = [
        (variant, name, seed, arguments.budget)
        for variant in VARIANTS
        for suite in SUITES
        for name in problems.SUITES[suite]
        for seed in seeds_of(arguments.seeds)
    ]
    context = multiprocessing.get_context("spawn")  # and one search a process: constants are changed for good
    with context.Pool(arguments.processes, maxtasksperchild=1) as pool:
        found = pool.starmap(search, jobs, chunksize=1)
    tables = []
    for suite in SUITES:
        names = problems.SUITES[suite]
        problem = problems.load(names[0], problems.default_data())
        head = ["variant", *(f"{suite}, {cost:g}" for cost in scored(problem, arguments.budget)), "worst problem, last"]
        lines = []
        for variant in VARIANTS:
            by_problem = np.array(
                [[row for v, n, _, row in found if (v, n) == (variant, name)] for name in names]
            ).mean(1)
            lines.append([variant, *(f"{x:.3f}" for x in (*by_problem.mean(0), by_problem[:, -1].max()))])
        tables.append(table(head, lines))
    print("\n\n".join(tables))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "ablation.md").write_text("\n\n".join(tables) + "\n")
    rows = [dict(zip(("variant", "problem", "seed", "regret"), row, strict=True)) for row in found]
    (OUT / "ablation.json").write_text(json.dumps({"target_runs": arguments.budget, "found": rows}) + "\n")


if __name__ == "__main__":
    main()
