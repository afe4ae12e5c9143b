"""What each part of the default strategy is worth: the search without it, on the ten metrics of the reference network.

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
from ray_mixopt.benchmark.command import seeds_of
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import find
from ray_mixopt.surrogate.kernels import _matern

OUT = Path(__file__).parent / "results"
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


def search(variant: str, problem_name: str, seed: int, budget: float) -> tuple[str, str, int, list[float]]:
    """Regret at the costs that the problem is scored at, in a process of its own."""
    torch.set_num_threads(1)
    replace(VARIANTS[variant])
    problem = problems.load(problem_name, problems.default_data())
    method = "default-afresh" if variant == "no continued runs" else "default"
    trace = runner.search(problem, find(method), seed, budget).trace
    costs = [cost for cost in problem.score_costs if cost <= budget]
    return variant, problem_name, seed, [[p for p in trace if p.cost <= cost * (1 + 1e-9)][-1].regret for cost in costs]


def main() -> None:
    """Runs and writes everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-101")
    parser.add_argument("--budget", type=float, default=394.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    names = problems.SUITES["headline"]
    jobs = [
        (variant, name, seed, arguments.budget)
        for variant in VARIANTS
        for name in names
        for seed in seeds_of(arguments.seeds)
    ]
    context = multiprocessing.get_context("spawn")  # and one search a process: constants are changed for good
    with context.Pool(arguments.processes, maxtasksperchild=1) as pool:
        found = pool.starmap(search, jobs, chunksize=1)
    costs = [c for c in problems.load(names[0], problems.default_data()).score_costs if c <= arguments.budget]
    head = ["variant", *(f"{cost:g}" for cost in costs), "worst metric, last"]
    lines = []
    for variant in VARIANTS:
        by_metric = np.array([[row for v, n, _, row in found if (v, n) == (variant, name)] for name in names]).mean(1)
        numbers = [*by_metric.mean(0), by_metric[:, -1].max()]
        lines.append([variant, *(f"{x:.3f}" for x in numbers)])
    found_table = table(head, lines)
    print(found_table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "ablation.md").write_text(found_table + "\n")
    rows = [dict(zip(("variant", "problem", "seed", "regret"), row, strict=True)) for row in found]
    (OUT / "ablation.json").write_text(json.dumps({"costs": costs, "seeds": arguments.seeds, "found": rows}) + "\n")


if __name__ == "__main__":
    main()
