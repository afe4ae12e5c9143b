"""What it saves and loses to end a search when no run is worth its cost: the ten metrics of the reference network.

    python experiments/stopping.py --seeds 100-101 --processes 2

The least gain is a share of the gap between the median random mixture and the best, per target run's cost. Each search
goes on to the budget if nothing ends it. Writes experiments/results/stopping.json and .md.
"""

from __future__ import annotations

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry

GAINS = (0.0, 0.01, 0.03, 0.1, 0.3)


def search(gain: float, name: str, seed: int, budget: float) -> tuple[float, str, int, float, float]:
    """What a search has spent in the end, and the regret then."""
    problem = problems.load(name, problems.default_data())
    settings = {
        "strategy": "default",
        "min_gain_per_cost": gain * abs(problem.truth.median - problem.truth.best) / problem.space.target_cost,
    }
    last = runner.search(problem, Entry(name="default", settings=settings), seed, budget).trace[-1]
    return gain, name, seed, last.cost, last.regret


def main() -> None:
    """Runs and writes everything."""
    given = arguments(__doc__, seeds="100-101", budget=394.0)
    jobs = [
        (gain, name, seed, given.budget)
        for gain in GAINS
        for name in problems.SUITES["headline"]
        for seed in given.seeds
    ]
    found = side_by_side(search, jobs, given.processes)
    head = ["least gain per target run", "spent, mean", "least", "most", "regret, mean", "worst search"]
    lines = []
    for gain in GAINS:
        costs, regrets = np.array([row[3:] for row in found if row[0] == gain]).T
        spent = [f"{cost:.0f}" for cost in (costs.mean(), costs.min(), costs.max())]
        lines.append([str(gain or "none"), *spent, f"{regrets.mean():.3f}", f"{regrets.max():.3f}"])
    rows = [dict(zip(("gain", "problem", "seed", "spent", "regret"), row, strict=True)) for row in found]
    write(given.out, "stopping", table(head, lines), {"seeds": [*given.seeds], "found": rows})


if __name__ == "__main__":
    main()
