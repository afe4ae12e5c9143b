"""What asking for eight runs at once costs: 28 runs of problems of three domains, one at a time and in rounds.

    python experiments/batches.py --seeds 100-109 --processes 2

Writes experiments/results/batches.json and .md. Runs are told when all of a round are over. Without a budget, noise of
1% of the spread of random mixtures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt import MixtureOptimizer
from ray_mixopt.benchmark import problems
from ray_mixopt.benchmark.markdown import table

PROBLEMS = ("synthetic/3_domains:9+noise=0.01", "synthetic/3_powers:9+noise=0.01")
ROUNDS = (1, 4, 8)
RUNS = 28


def search(name: str, at_once: int, seed: int) -> dict[str, Any]:
    """What a search of so many runs at a time answers."""
    problem = problems.load(name)
    space = problem.space
    optimizer = MixtureOptimizer(space, objective=dict(problem.objective), mode=problem.mode, seed=seed)
    made = 0
    while made < RUNS:
        for run in optimizer.ask(min(at_once, RUNS - made)):
            made += 1
            for step in space.steps:
                if optimizer.history[run.trial_id].reached < step <= run.steps:
                    report = problem.observe(space.mixture(run.mixture), run.scale, step, [seed, made])
                    optimizer.tell(run.trial_id, step, report)
            optimizer.finish(run.trial_id)
    answer = optimizer.recommend()
    loss = problem.truth.losses(np.array([space.mixture(answer.mixture), space.uniform(), problem.optimum]))
    regret, uniform, _ = (loss - loss[2]) / problem.spread[0]
    spent = optimizer.history.spent / space.target_cost
    return {"problem": name, "at_once": at_once, "seed": seed, "regret": regret, "uniform": uniform, "spent": spent}


def main() -> None:
    """Runs and writes everything."""
    given = arguments(__doc__, seeds="100-109")
    jobs = [(name, n, seed) for name in PROBLEMS for n in ROUNDS for seed in given.seeds]
    found = side_by_side(search, jobs, given.processes)
    head = ["problem", "runs at a time", "regret, mean", "median", "worst", "of uniform", "target runs"]
    lines = []
    for name in PROBLEMS:
        for n in ROUNDS:
            of = [row for row in found if (row["problem"], row["at_once"]) == (name, n)]
            regret = np.array([row["regret"] for row in of])
            values = [regret.mean(), np.median(regret), regret.max(), of[0]["uniform"]]
            values.append(np.mean([row["spent"] for row in of]))
            lines.append([name.partition("/")[2], str(n), *(f"{value:.4f}" for value in values)])
    write(given.out, "batches", table(head, lines), found)


if __name__ == "__main__":
    main()
