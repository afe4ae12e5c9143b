"""Is a small budget dangerous? Answers after few runs, beside what one would have trained without a search.

    python experiments/safety.py --seeds 100-102 --processes 2

Writes experiments/results/safety.json and .md. Problems have interior optima and gains that diminish, with noise of 0,
1 and 5% of the spread of random mixtures. Without a budget an answer after ten runs of a search is that of a search of
ten runs, so that each search gives one answer for each number of runs. Seeds 0 to 9 served for tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt import MixtureOptimizer
from ray_mixopt.benchmark import problems
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.problem import BenchmarkProblem

RECIPES = ("3_domains", "8_domains", "20_domains", "3_powers", "8_powers", "20_powers")
MEMBERS = (8, 9, 10)  # of each recipe; smaller ones served for tuning
NOISE = (0.0, 0.01, 0.05)
RUNS = (4, 6, 8, 10, 15, 20, 40)
TOLERANCE = 0.02  # of the spread: worse by less is not worse
BINS = 10


def answers(name: str, seed: int) -> list[dict[str, Any]]:
    """What a search of one problem would answer after so many runs."""
    problem = problems.load(name)
    space = problem.space
    optimizer = MixtureOptimizer(space, objective=dict(problem.objective), mode=problem.mode, seed=seed)
    found = []
    for number in range(1, RUNS[-1] + 1):
        run = optimizer.ask()
        assert run is not None
        start = optimizer.history[run.trial_id].reached
        for step in space.steps:
            if start < step <= run.steps:
                report = problem.observe(space.mixture(run.mixture), run.scale, step, [seed, number])
                optimizer.tell(run.trial_id, step, report)
        optimizer.finish(run.trial_id)
        if number in RUNS:
            found.append({"problem": name, "seed": seed, "runs": number} | judged(problem, optimizer))
    return found


def judged(problem: BenchmarkProblem, optimizer: MixtureOptimizer) -> dict[str, Any]:
    """The answer against the truth, in spreads of the objective over random mixtures at the target."""
    space, answer, history = problem.space, optimizer.recommend(), optimizer.history
    furthest = history.furthest
    tried = [t.mixture for t in history if (t.scale, t.reached) == furthest]
    mixtures = np.array([space.mixture(answer.mixture), space.uniform(), problem.optimum, *tried])
    loss = problem.truth.losses(mixtures) / problem.spread[0]
    return {
        "over_uniform": loss[0] - loss[1],
        "over_tried": loss[0] - loss[3:].min(),
        "regret": loss[0] - loss[2],
        "uniform": loss[1] - loss[2],
        "probability": answer.probability_better.get("uniform"),
        "ready": answer.verdict is not None and answer.verdict.ready,
        "target_runs": answer.target_runs,
    }


def summary(found: Sequence[dict[str, Any]]) -> str:
    """How often an answer was worse, and whether probabilities were right."""

    def line(head: str, of: Sequence[dict[str, Any]]) -> list[str]:
        worse = [np.mean([row[key] > TOLERANCE for row in of]) for key in ("over_uniform", "over_tried")]
        means = [np.mean([row[key] for row in of]) for key in ("regret", "uniform", "target_runs")]
        ready = [row for row in of if row["ready"]]
        wrong = f"{np.mean([row['over_uniform'] > 0 for row in ready]):.1%}" if ready else "-"
        return [head, str(len(of)), *(f"{x:.1%}" for x in worse), *(f"{x:.3f}" for x in means), str(len(ready)), wrong]

    head = ["answers", "n", "worse than uniform", "worse than the best tried", "regret", "of uniform", "target runs"]
    head += ["said to train it", "wrongly"]
    lines = [line("all", found)]
    lines += [line(f"after {n} runs", [row for row in found if row["runs"] == n]) for n in RUNS]
    lines += [line(f"noise {x:g}", [row for row in found if noise_of(row) == x]) for x in NOISE]
    lines += [line(recipe, [row for row in found if f"/{recipe}:" in row["problem"]]) for recipe in RECIPES]
    stated = [row for row in found if row["probability"] is not None]
    bins = [min(int(row["probability"] * BINS), BINS - 1) for row in stated]
    reliable = []
    for k in sorted(set(bins)):
        of = [row for row, where in zip(stated, bins, strict=True) if where == k]
        said, was = np.mean([row["probability"] for row in of]), np.mean([row["over_uniform"] < 0 for row in of])
        reliable.append([f"{k / BINS:.0%} to {(k + 1) / BINS:.0%}", str(len(of)), f"{said:.1%}", f"{was:.1%}"])
    return "\n\n".join([table(head, lines), table(["better than uniform", "n", "stated", "true"], reliable)])


def noise_of(row: dict[str, Any]) -> float:
    """The noise of a row's problem."""
    return float(str(row["problem"]).partition("+noise=")[2] or 0)


def main() -> None:
    """Runs and writes everything."""
    given = arguments(__doc__, seeds="100-102")
    names = [f"synthetic/{r}:{k}" + (f"+noise={x:g}" if x else "") for r in RECIPES for k in MEMBERS for x in NOISE]
    found = side_by_side(answers, [(name, seed) for name in names for seed in given.seeds], given.processes)
    rows = [row for of_search in found for row in of_search]
    write(given.out, "safety", summary(rows), rows)


if __name__ == "__main__":
    main()
