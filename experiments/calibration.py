"""Do 95% intervals at the target hold the truth for mixtures that were never run? After searches of all problems.

    python experiments/calibration.py --seeds 100-101 --processes 2

Writes experiments/results/calibration.json and .md. Truth is the noise-free objective at the target of 300 Dirichlet(1)
mixtures, and its difference from that of the recommended mixture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt.benchmark import problems, runner
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.benchmark.methods import Entry, Ours
from ray_mixopt.benchmark.problem import Task
from ray_mixopt.core.forecast import NORMAL_95

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
    given = arguments(__doc__, seeds="100-101", budget=2.0, suites=SUITES)
    names = {suite: problems.SUITES[suite] for suite in given.suites}
    jobs = [(name, seed, given.budget) for suite in names.values() for name in suite for seed in given.seeds]
    found = side_by_side(coverage, jobs, given.processes)
    lines = []
    for suite in (*names, "all"):
        rows = [row for row in found if suite == "all" or row["problem"] in names[suite]]
        means = [np.nanmean([float(row[k]) for row in rows]) for k in ("level", "difference", "leave_one_run_out")]
        lines.append([suite, str(len(rows)), *(f"{x:.3f}" for x in means)])
    text = table(["suite", "problems", "level", "difference", "leave one run out"], lines)
    write(given.out, "calibration", text, {"budget": given.budget, "found": found})


if __name__ == "__main__":
    main()
