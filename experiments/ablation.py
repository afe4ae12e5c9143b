"""What each part of the default strategy is worth: the search without it, on problems of two kinds.

The ten metrics of the reference network are best near single domains; most of the synthetic problems are best inside.

    python experiments/ablation.py --seeds 100-101 --processes 2

Writes experiments/results/ablation.json and .md.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import find
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.surrogate.kernels import _matern

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
    given = arguments(__doc__, seeds="100-101", budget=2.0, suites=SUITES)
    names = {suite: problems.SUITES[suite] for suite in given.suites}
    jobs = [
        (variant, name, seed, given.budget)
        for variant in VARIANTS
        for suite in names.values()
        for name in suite
        for seed in given.seeds
    ]
    found = side_by_side(search, jobs, given.processes)
    tables = []
    for suite, members in names.items():
        costs = scored(problems.load(members[0], problems.default_data()), given.budget)
        head = ["variant", *(f"{suite}, {cost:g}" for cost in costs), "worst problem, last"]
        lines = []
        for variant in VARIANTS:
            by_problem = np.array([[row for v, n, _, row in found if (v, n) == (variant, name)] for name in members])
            means = by_problem.mean(1)
            lines.append([variant, *(f"{x:.3f}" for x in (*means.mean(0), means[:, -1].max()))])
        tables.append(table(head, lines))
    rows = [dict(zip(("variant", "problem", "seed", "regret"), row, strict=True)) for row in found]
    write(given.out, "ablation", "\n\n".join(tables), {"target_runs": given.budget, "found": rows})


if __name__ == "__main__":
    main()
