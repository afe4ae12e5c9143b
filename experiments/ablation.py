"""What each part of the default strategy is worth: the search without it, on problems of two kinds.

The ten metrics of the reference network are best near single domains; most of the synthetic problems are best inside.

    python experiments/ablation.py --seeds 100-101 --processes 2

Writes experiments/results/ablation.json and .md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt import Problem, Strategy
from ray_mixopt.acquisition.gain import RegretPerCost
from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.surrogate.belief import FitSettings
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel, Moments

SUITES = ("headline", "synthetic")


def with_settings(**changes: object) -> Callable[[Problem], Strategy]:
    """The default strategy with other constants."""
    return partial(DefaultStrategy, settings=DefaultSettings(**changes))


def with_priors(**priors: Moments) -> Callable[[Problem], Strategy]:
    """The default strategy with other priors of its kernel."""
    return partial(DefaultStrategy, kernel=partial(MixtureFidelityKernel, priors=priors))


NONE, FIXED = -12.0, 0.01  # a logarithm of nothing; the width of what is not learned
VARIANTS: dict[str, Callable[[Problem], Strategy]] = {
    "default": DefaultStrategy,
    "no pairs late in the budget": with_settings(paired_share=0.0),
    "no limit on a single run": with_settings(largest_share=math.inf),
    "regret per cost, not cost^0.3": partial(DefaultStrategy, acquisition=RegretPerCost(cost_exponent=1.0)),
    "one draw of the hyper-parameters": with_settings(fit=FitSettings(draws=1)),
    "no caution": with_settings(caution=0.0),
    "no rough effect, no level of its own": with_priors(log_own=(NONE, FIXED)),
    "no linear effect in log-shares": with_priors(log_linear=(NONE, FIXED)),
    "no linear effect in shares": with_priors(log_plain=(NONE, FIXED)),
    "shares instead of log-shares": with_priors(log_knee=(math.log(1e4), FIXED)),
    "the same effect at all fidelities": with_priors(log_fading=(NONE, FIXED)),
    "no continued runs": DefaultStrategy,
}


def search(variant: str, name: str, seed: int, target_runs: float) -> tuple[str, str, int, list[float]]:
    """Regret at the costs that the problem is scored at."""
    problem = problems.load(name, problems.default_data())
    settings = {"continuation": variant != "no continued runs"}
    entry = Entry(name=variant, strategy=VARIANTS[variant], settings=settings, domain="both")
    trace = runner.search(problem, entry, seed, target_runs * problem.space.target_cost).trace
    costs = scored(problem, target_runs)
    return variant, name, seed, [[p for p in trace if p.cost <= cost * (1 + 1e-9)][-1].regret for cost in costs]


def scored(problem: BenchmarkProblem, target_runs: float) -> list[float]:
    """The costs up to the budget at which a problem is scored, or the budget where all are larger."""
    budget = target_runs * problem.space.target_cost
    return [cost for cost in problem.score_costs if cost <= budget * (1 + 1e-9)] or [budget]


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
