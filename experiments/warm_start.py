"""What old small runs save: the regret of a search that starts from none, 20, 100 or 500 of them.

The old runs are random mixtures on the two smallest scales of the SlimPajama simulator at their first two rungs, with
the noise of the search. Writes experiments/results/warm_start.json and .md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from ray_mixopt import MixtureOptimizer, simulators
from ray_mixopt.report.regret import Regret

METRICS = ("val_loss/common_crawl", "accuracy/hellaswag")
OLD = (0, 20, 100, 500)
COSTS = (0.0, 10.0, 25.0, 50.0)
NOISE = 0.02
OUT = Path(__file__).parent / "results"


def search(metric: str, n_old: int, seed: int, regret: Regret) -> list[float | None]:
    """Regret of the recommendation once each of ``COSTS`` is spent."""
    simulator = simulators.load("slimpajama", noise=NOISE, seed=seed)
    space = simulator.space
    optimizer = MixtureOptimizer(
        space, mode=simulator.modes[metric], objective={metric: 1.0}, budget=COSTS[-1], seed=seed
    )
    rng = np.random.default_rng([seed, 77])
    for i, w in enumerate(space.sample(n_old, rng)):
        scale, step = space.scale_names[i % 2], space.steps[i // 2 % 2]
        mixture = space.named(w)
        optimizer.add_evaluated_point(mixture, scale, step, simulator.observe(mixture, scale, step))
    found: list[float | None] = []
    while len(found) < len(COSTS):
        run = optimizer.ask()
        # The answer before the run that would go beyond the cost, or the last one.
        committed = optimizer.history.committed if run is not None else np.inf
        while len(found) < len(COSTS) and committed > COSTS[len(found)]:
            found.append(regret(space.mixture(optimizer.recommend().mixture)))
        if run is not None:
            for step in (s for s in space.steps if s <= run.steps):
                optimizer.tell(run.trial_id, step, simulator.observe(run.mixture, run.scale, step))
            optimizer.finish(run.trial_id)
    return found


def main(seeds: int) -> None:
    """Runs all searches and writes the table."""
    torch.set_num_threads(1)
    rows = []
    for metric in METRICS:
        simulator = simulators.load("slimpajama")
        regret = Regret(simulator, metric, simulator.modes[metric])
        for n_old in OLD:
            values = [search(metric, n_old, seed, regret) for seed in range(seeds)]
            rows.append({"metric": metric, "old": n_old, "regret": values})
            print(json.dumps(rows[-1]), flush=True)
    (OUT / "warm_start.json").write_text(json.dumps({"costs": COSTS, "noise": NOISE, "rows": rows}, indent=1))
    lines = [
        f"Mean normalised regret over {seeds} seeds, by what the search has spent (a full run costs 197).",
        "",
        "| metric | old runs | " + " | ".join(f"at {cost:g}" for cost in COSTS) + " |",
        "|---" * (2 + len(COSTS)) + "|",
    ]
    for row in rows:
        means = np.mean(np.array(row["regret"], dtype=float), axis=0)
        lines.append(f"| {row['metric']} | {row['old']} | " + " | ".join(f"{value:.3f}" for value in means) + " |")
    (OUT / "warm_start.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
