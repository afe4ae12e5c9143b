"""Do the numbers mean what they say? Probabilities and the value of the next run against what happens.

    python experiments/reliability.py --seeds 115 --processes 1

The probability to be better than the uniform mixture comes from the answers in results/safety.json. The value of the
next run is asked for on the same problems after 8 to 40 runs; then that very run is made, and the answer after it is
compared with the one before. Writes results/reliability.json, .md and .png.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, side_by_side, write
from safety import RECIPES

from ray_mixopt import MixtureOptimizer
from ray_mixopt.benchmark import problems
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.problem import BenchmarkProblem
from ray_mixopt.core.history import History
from ray_mixopt.core.strategy import Proposal, Suggestion

MEMBERS = (8,)
NOISE = (0.01,)
RUNS = (8, 15, 20, 30, 40)
EDGES = (0.0, 1e-9, 0.003, 0.01, 0.03, np.inf)  # of the stated gain, in spreads
BINS = 10


def train(problem: BenchmarkProblem, optimizer: MixtureOptimizer, run: Suggestion, seed: Sequence[int]) -> None:
    """A run goes to its rung."""
    space, start = problem.space, optimizer.history[run.trial_id].reached
    for step in space.steps:
        if start < step <= run.steps:
            mixture = space.mixture(run.mixture)
            optimizer.tell(run.trial_id, step, problem.observe(mixture, run.scale, step, list(seed)))
    optimizer.finish(run.trial_id)


def gains(name: str, seed: int) -> list[dict[str, Any]]:
    """What the next run was said to be worth after so many, and what it was worth, in spreads of the objective."""
    problem = problems.load(name)
    space, found = problem.space, []
    optimizer = MixtureOptimizer(space, objective=dict(problem.objective), mode=problem.mode, seed=seed)
    for number in range(1, RUNS[-1] + 1):
        run = optimizer.ask()
        assert run is not None
        train(problem, optimizer, run, (seed, number))
        if number not in RUNS:
            continue
        before = optimizer.recommend()
        follows = before.next_run
        if follows is None or before.value_of_next_run is None:
            continue
        later = MixtureOptimizer.of_history(History.from_state_dict(optimizer.history.state_dict()), optimizer.settings)
        proposal = Proposal(
            mixture=space.mixture(follows.mixture),
            scale=follows.scale,
            steps=follows.steps,
            continues=follows.continues,
        )
        train(problem, later, later.accept(proposal), (seed, number, 1))
        pair = np.array([space.mixture(answer.mixture) for answer in (before, later.answer())])
        loss = problem.truth.losses(pair) / problem.spread[0]
        stated = before.value_of_next_run / problem.spread[0]
        found.append({"problem": name, "seed": seed, "runs": number, "stated": stated, "gained": loss[0] - loss[1]})
    return found


def stated_and_true(rows: Sequence[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """Number, mean probability stated and share that was better, for each tenth that occurs."""
    stated = [row for row in rows if row["probability"] is not None]
    where = np.array([min(int(row["probability"] * BINS), BINS - 1) for row in stated])
    found = []
    for k in np.unique(where):
        of = [row for row, place in zip(stated, where, strict=True) if place == k]
        said, was = np.mean([row["probability"] for row in of]), np.mean([row["over_uniform"] < 0 for row in of])
        found.append((len(of), float(said), float(was)))
    return found


def by_stated_gain(rows: Sequence[dict[str, Any]]) -> list[tuple[int, float, float, float]]:
    """Number, mean gain stated, mean gain and its standard error, in classes of the one stated."""
    found = []
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        of = [row for row in rows if low <= row["stated"] < high]
        if of:
            gained = np.array([row["gained"] for row in of])
            error = float(gained.std(ddof=1) / np.sqrt(len(of))) if len(of) > 1 else float("nan")
            found.append((len(of), float(np.mean([row["stated"] for row in of])), float(gained.mean()), error))
    return found


def draw(
    path: Path, better: Sequence[tuple[int, float, float]], gain: Sequence[tuple[int, float, float, float]]
) -> None:
    """The two diagrams, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for n, said, was in better:
        left.errorbar(said, was, 1.96 * max(was * (1 - was), 0.25 / n) ** 0.5 / n**0.5, fmt="o", color="C0", capsize=3)
        left.annotate(f"n = {n}", (said, was), textcoords="offset points", xytext=(6, -12))
    left.set(xlabel="stated probability to be better than uniform", ylabel="share that was better", xlim=(0.5, 1.02))
    left.set_ylim(0.5, 1.05)
    most = 1.1 * max([said for _, said, _, _ in gain] + [was for _, _, was, _ in gain])
    right.axline((0, 0), slope=1, color="0.7", linewidth=1)
    for n, said, was, error in gain:
        right.errorbar(said, was, 1.96 * error, fmt="o", color="C1", capsize=3)
        right.annotate(f"n = {n}", (said, was), textcoords="offset points", xytext=(6, -12))
    right.set(xlabel="stated value of the next run, in spreads", ylabel="what it gained", xlim=(-0.05 * most, most))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs, draws and writes everything."""
    given = arguments(__doc__, seeds="115")
    names = [f"synthetic/{r}:{k}" + (f"+noise={x:g}" if x else "") for r in RECIPES for k in MEMBERS for x in NOISE]
    found = side_by_side(gains, [(name, seed) for name in names for seed in given.seeds], given.processes)
    rows = [row for of_search in found for row in of_search]
    better = stated_and_true(json.loads((Path(__file__).parent / "results" / "safety.json").read_text()))
    gain = by_stated_gain(rows)
    parts = [
        table(
            ["answers", "stated to be better than uniform", "true"],
            [[str(n), f"{a:.1%}", f"{b:.1%}"] for n, a, b in better],
        ),
        table(
            ["next runs", "stated value, in spreads", "gained", "standard error"],
            [[str(n), f"{a:.4f}", f"{b:.4f}", f"{c:.4f}"] for n, a, b, c in gain],
        ),
    ]
    write(given.out, "reliability", "\n\n".join(parts), rows)
    draw(given.out / "reliability.png", better, gain)


if __name__ == "__main__":
    main()
