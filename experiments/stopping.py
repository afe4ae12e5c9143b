"""What it saves and loses to end a search when it is sure, or when no run is worth its cost.

    python experiments/stopping.py --seeds 100-101 --processes 2

Of suites whose optimum is known: the ten metrics of the reference network, and landscapes with interior optima. The
least gain is a share of the gap between the median random mixture and the best, per target run's cost. Each search goes
on to the budget, two target runs, if nothing ends it. Writes experiments/results/stopping.json and .md.
"""

from __future__ import annotations

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry

NOTHING, SURE = "the budget", "the verdict to train it"
ENDS = (NOTHING, SURE, 0.03)  # a number is the least gain per target run
TARGET_RUNS = 2.0
INTERIOR = tuple(f"synthetic/{recipe}:8+noise=0.01" for recipe in ("3_domains", "8_domains", "3_powers", "8_powers"))


def search(end: str | float, suite: str, name: str, seed: int) -> tuple[str | float, str, str, int, float, float]:
    """What a search has spent in the end, in target runs, and the regret then."""
    problem = problems.load(name, problems.default_data())
    gap = abs(problem.truth.median - problem.truth.best) / problem.space.target_cost
    settings = {"strategy": "default", "stop_when_sure": end == SURE}
    settings |= {"min_gain_per_cost": end * gap} if isinstance(end, float) else {}
    budget = TARGET_RUNS * problem.space.target_cost
    last = runner.search(problem, Entry(name="default", settings=settings), seed, budget).trace[-1]
    return end, suite, name, seed, last.cost / problem.space.target_cost, last.regret


def main() -> None:
    """Runs and writes everything."""
    given = arguments(__doc__, seeds="100-101", suites=("headline", "interior"))
    jobs = [
        (end, suite, name, seed)
        for suite in given.suites
        for end in ENDS
        for name in (INTERIOR if suite == "interior" else problems.SUITES[suite])
        for seed in given.seeds
    ]
    found = side_by_side(search, jobs, given.processes)
    head = ["suite", "what ends it", "target runs, mean", "least", "most", "regret, mean", "worst search"]
    lines = []
    for suite in given.suites:
        for end in ENDS:
            costs, regrets = np.array([row[4:] for row in found if row[:2] == (end, suite)]).T
            spent = [f"{cost:.2f}" for cost in (costs.mean(), costs.min(), costs.max())]
            named = f"gains below {end:g} a target run" if isinstance(end, float) else end
            lines.append([suite, named, *spent, f"{regrets.mean():.3f}", f"{regrets.max():.3f}"])
    rows = [dict(zip(("end", "suite", "problem", "seed", "spent", "regret"), row, strict=True)) for row in found]
    write(given.out, "stopping", table(head, lines), {"seeds": [*given.seeds], "found": rows})


if __name__ == "__main__":
    main()
