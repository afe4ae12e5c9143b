"""What old small runs save: the regret of a search that starts from none, 20, 100 or 500 of them.

The old runs are random mixtures on the two smallest scales of the SlimPajama simulator at their first two rungs, with
the noise of the search. Writes experiments/results/warm_start.json and .md.

    python experiments/warm_start.py --seeds 100-102
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt import MixtureOptimizer, simulators
from ray_mixopt.analysis.truth import Truth
from ray_mixopt.benchmark.markdown import table

METRICS = ("val_loss/common_crawl", "loss", "accuracy/hellaswag")
OLD = (0, 20, 100, 500)
COSTS = (0.0, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0)
NOISE = 0.02


@cache
def truth(metric: str) -> Truth:
    """Regrets without noise, worked out once in each process."""
    simulator = simulators.load("slimpajama")
    return Truth(simulator, metric, simulator.modes[metric])


def search(metric: str, n_old: int, seed: int, costs: Sequence[float]) -> list[float | None]:
    """Regret of the recommendation once each of ``costs``, ascending, is spent."""
    simulator = simulators.load("slimpajama", noise=NOISE, seed=seed)
    space = simulator.space
    optimizer = MixtureOptimizer(
        space, mode=simulator.modes[metric], objective={metric: 1.0}, budget=costs[-1], seed=seed
    )
    rng = np.random.default_rng([seed, 77])
    for i, w in enumerate(space.sample(n_old, rng)):
        scale, step = space.scale_names[i % 2], space.steps[i // 2 % 2]
        mixture = space.named(w)
        optimizer.add_evaluated_point(mixture, scale, step, simulator.observe(mixture, scale, step))
    found: list[float | None] = []
    while len(found) < len(costs):
        run = optimizer.ask()
        # The answer before the run that would go beyond the cost, or the last one.
        committed = optimizer.history.committed if run is not None else np.inf
        while len(found) < len(costs) and committed > costs[len(found)]:
            found.append(truth(metric).regret(space.mixture(optimizer.recommend().mixture)))
        if run is not None:
            for step in (s for s in space.steps if s <= run.steps):
                optimizer.tell(run.trial_id, step, simulator.observe(run.mixture, run.scale, step))
            optimizer.finish(run.trial_id)
    return found


def main() -> None:
    """Runs all searches, and writes the table anew after each seed."""
    given = arguments(__doc__, seeds="100-102", old=max(OLD), budget=max(COSTS))
    costs = [cost for cost in COSTS if cost <= given.budget]
    seeds: list[int] = []
    found: dict[tuple[str, int], list[list[float]]] = {
        (metric, n_old): [] for metric in METRICS for n_old in OLD if n_old <= given.old
    }
    for seed in given.seeds:
        jobs = [(metric, n_old, seed, costs) for metric, n_old in found]
        for values, regrets in zip(found.values(), side_by_side(search, jobs, given.processes), strict=True):
            values.append(regrets)
        seeds.append(seed)
        rows = [{"metric": metric, "old": n_old, "regret": values} for (metric, n_old), values in found.items()]
        state = {"costs": costs, "noise": NOISE, "seeds": seeds, "rows": rows}
        write(given.out, "warm_start", rendered(costs, seeds, found), state)


def rendered(costs: Sequence[float], seeds: Sequence[int], found: Mapping[tuple[str, int], list[list[float]]]) -> str:
    """The table of means."""
    lines = []
    for (metric, n_old), values in found.items():
        regrets = np.array(values)
        cells = [f"{mean:.3f} ({worst:.3f})" for mean, worst in zip(regrets.mean(0), regrets.max(0), strict=True)]
        lines.append([metric, str(n_old), *cells])
    return (
        f"Mean normalised regret over the seeds {', '.join(map(str, seeds))}, by what the search has spent; a full run "
        "costs 197.\nThe worst seed in brackets.\n\n"
        + table(["metric", "old runs", *(f"at {cost:g}" for cost in costs)], lines)
    )


if __name__ == "__main__":
    main()
