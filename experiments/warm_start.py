"""What old small runs save: the regret of a search that starts from none, 20, 100 or 500 of them.

The old runs are random mixtures on the two smallest scales of the SlimPajama simulator at their first two rungs, with
the noise of the search. ``python experiments/warm_start.py 100-102`` names the seeds. Writes
experiments/results/warm_start.json and .md.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ray_mixopt import MixtureOptimizer, simulators
from ray_mixopt.analysis.truth import Truth

METRICS = ("val_loss/common_crawl", "loss", "accuracy/hellaswag")
OLD = (0, 20, 100, 500)
COSTS = (0.0, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0)
NOISE = 0.02
OUT = Path(__file__).parent / "results"


def search(metric: str, n_old: int, seed: int, truth: Truth) -> list[float]:
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
    found: list[float] = []
    while len(found) < len(COSTS):
        run = optimizer.ask()
        # The answer before the run that would go beyond the cost, or the last one.
        committed = optimizer.history.committed if run is not None else np.inf
        while len(found) < len(COSTS) and committed > COSTS[len(found)]:
            found.append(truth.regret(space.mixture(optimizer.recommend().mixture)))
        if run is not None:
            for step in (s for s in space.steps if s <= run.steps):
                optimizer.tell(run.trial_id, step, simulator.observe(run.mixture, run.scale, step))
            optimizer.finish(run.trial_id)
    return found


def main(seeds: Sequence[int]) -> None:
    """Runs all searches, and writes the table anew after each seed."""
    torch.set_num_threads(1)
    sources = {metric: simulators.load("slimpajama") for metric in METRICS}
    truths = {metric: Truth(source, metric, source.modes[metric]) for metric, source in sources.items()}
    found: dict[tuple[str, int], list[list[float]]] = {(metric, n_old): [] for metric in METRICS for n_old in OLD}
    for k, seed in enumerate(seeds):
        for (metric, n_old), values in found.items():
            started = time.perf_counter()
            values.append(search(metric, n_old, seed, truths[metric]))
            print(metric, n_old, seed, values[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
        write(seeds[: k + 1], found)


def write(seeds: Sequence[int], found: Mapping[tuple[str, int], list[list[float]]]) -> None:
    """Writes the raw values and the table of means."""
    rows = [{"metric": metric, "old": n_old, "regret": values} for (metric, n_old), values in found.items()]
    state = {"costs": COSTS, "noise": NOISE, "seeds": list(seeds), "rows": rows}
    (OUT / "warm_start.json").write_text(json.dumps(state, indent=1) + "\n")
    named = ", ".join(map(str, seeds))
    lines = [
        f"Mean normalised regret over the seeds {named}, by what the search has spent; a full run costs 197.",
        "The worst seed in brackets.",
        "",
        "| metric | old runs | " + " | ".join(f"at {cost:g}" for cost in COSTS) + " |",
        "|---" * (2 + len(COSTS)) + "|",
    ]
    for (metric, n_old), values in found.items():
        table = np.array(values)
        cells = [f"{mean:.3f} ({worst:.3f})" for mean, worst in zip(table.mean(0), table.max(0), strict=True)]
        lines.append(f"| {metric} | {n_old} | {' | '.join(cells)} |")
    (OUT / "warm_start.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    first, _, last = (sys.argv[1] if len(sys.argv) > 1 else "100-102").partition("-")
    main(range(int(first), int(last or first) + 1))
