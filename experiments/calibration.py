"""Do 95% intervals at the target hold the truth for mixtures that were never run? After searches of all problems.

    python experiments/calibration.py --seeds 100-101 --processes 2

Writes experiments/results/calibration.json and .md. Truth is the noise-free objective at the target of 300 Dirichlet(1)
mixtures, and its difference from that of the recommended mixture.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry, Ours
from ray_mixopt.benchmark.problem import Task
from ray_mixopt.cli.benchmark import seeds_of
from ray_mixopt.core.recommendation import NORMAL_95

OUT = Path(__file__).parent / "results"
SUITES = ("headline", "sums", "targets", "synthetic")
N_MIXTURES = 300


@dataclass(frozen=True, kw_only=True)
class Kept(Entry):
    """The default strategy, kept after the search."""

    searches: list[Ours] = field(default_factory=list)

    def start(self, task: Task) -> Ours:
        """A search that stays at hand."""
        self.searches.append(Ours(task, "default"))
        return self.searches[-1]


def coverage(name: str, seed: int, budget: float) -> dict[str, float | int | str]:
    """Shares of mixtures whose level, and whose difference from the recommended one, is inside its interval."""
    torch.set_num_threads(1)
    problem = problems.load(name, problems.default_data())
    entry = Kept(name="default", domain="both")
    record = runner.search(problem, entry, seed, budget * problem.space.target_cost)
    optimizer = entry.searches[0].optimizer
    posterior = optimizer.posterior()
    assert posterior is not None
    best = np.array(record.trace[-1].mixture)
    mixtures = problem.space.sample(N_MIXTURES, np.random.default_rng([seed, 4]))
    truth, at_best = problem.truth.losses(mixtures), problem.truth.losses(best[None])
    inside = {}
    for kind, reference, true in (("level", None, truth), ("difference", best[None], truth - at_best)):
        mean, variance = posterior.marginal(mixtures, reference)
        sd = (mean.var(0, correction=0) + variance.mean(0)).sqrt().numpy()
        inside[kind] = float((np.abs(true - mean.mean(0).numpy()) <= NORMAL_95 * sd).mean())
    loo = optimizer.recommend().calibration
    return {"problem": name, "seed": seed, **inside, "leave_one_run_out": loo.coverage if loo else float("nan")}


def main() -> None:
    """Runs and writes everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-101")
    parser.add_argument("--budget", type=float, default=2.0, help="target runs")
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    suites = arguments.suites.split(",")
    jobs = [
        (name, seed, arguments.budget)
        for suite in suites
        for name in problems.SUITES[suite]
        for seed in seeds_of(arguments.seeds)
    ]
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(coverage, *zip(*jobs, strict=True)))
    lines = []
    for suite in (*suites, "all"):
        rows = [row for row in found if suite == "all" or row["problem"] in problems.SUITES[suite]]
        means = [np.nanmean([float(row[k]) for row in rows]) for k in ("level", "difference", "leave_one_run_out")]
        lines.append([suite, str(len(rows)), *(f"{x:.3f}" for x in means)])
    found_table = table(["suite", "problems", "level", "difference", "leave one run out"], lines)
    print(found_table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "calibration.md").write_text(found_table + "\n")
    (OUT / "calibration.json").write_text(json.dumps({"budget": arguments.budget, "found": found}) + "\n")


if __name__ == "__main__":
    main()
