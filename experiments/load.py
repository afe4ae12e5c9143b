"""What a large search costs: the first suggestion, the answer, the report, and writing and reading its state.

    python experiments/load.py

Each row is a process of its own with one thread; seconds are processor time, memory is the peak of the process, imports
included. The searches are made up: paid runs of random mixtures, losses that fall off from an optimum.

========================  =============================================================================================
20000 reports             4,000 runs of 5 domains that report at each of 5 rungs
200 domains x 500 runs    one report each, at 3 scales and 3 rungs
50 metrics x 300 runs     one report each, of all metrics, which go together in groups of ten
25 runs x 2000 reports    21 metrics each, at every tenth step
========================  =============================================================================================

Writes experiments/results/load.json and .md.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import arguments, write

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.analysis.study import Study
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.core.history import Trial
from ray_mixopt.io import searches, snapshots
from ray_mixopt.report.page import write_report

SCALES = (Scale("20M", 0.01, 2e7), Scale("150M", 0.1, 1.5e8), Scale("1B", 1.0, 1e9))
RUNGS = (1000, 2000, 5000, 10000, 20000)


def search(n_domains: int, n_runs: int, n_metrics: int, *, curves: bool = False, every: int = 0) -> MixtureOptimizer:
    """An optimizer whose runs are all done.

    Args:
        n_domains: number of domains.
        n_runs: number of runs, at all scales and rungs in turn, more of them at the small ones.
        n_metrics: metrics of the objective.
        curves: whether a run reports at all rungs that it passes.
        every: steps between reports, in place of the rungs.
    """
    space = MixtureSpace(domains=tuple(f"domain_{i}" for i in range(n_domains)), scales=SCALES, steps=RUNGS)
    weights = {f"val_loss/set_{i}": 1.0 for i in range(n_metrics)}
    optimizer = MixtureOptimizer(space, objective=weights)
    rng = np.random.default_rng(0)
    # Metrics of a group of ten have neighbouring optima.
    centers = rng.dirichlet(np.full(n_domains, 0.7), -(-n_metrics // 10))[np.arange(n_metrics) // 10]
    best = 0.9 * centers + 0.1 * rng.dirichlet(np.ones(n_domains), n_metrics)
    cells = [(scale, last) for scale in (0, 0, 0, 1, 1, 2) for last in range(len(RUNGS) if not curves else 1)]
    for k, w in enumerate(space.sample(n_runs, rng)):
        scale, last = cells[k % len(cells)]
        steps = RUNGS[-1] if curves or every else RUNGS[last]
        trial = Trial(trial_id=f"trial_{k:05d}", mixture=tuple(w.tolist()), scale=SCALES[scale].name, steps=steps)
        optimizer.history.add(trial)
        optimizer.history.n_asked += 1
        level = 2 + 0.3 * (2 - scale) + n_domains * np.square(w - best).sum(1) / 5
        for step in range(every, steps + 1, every) if every else (RUNGS if curves else (steps,)):
            values = level + 3 / math.sqrt(step) + 0.005 * rng.standard_normal(n_metrics)
            optimizer.tell(trial.trial_id, step, dict(zip(weights, values.tolist(), strict=True)))
        optimizer.finish(trial.trial_id, continuable=False)
    return optimizer


CASES: dict[str, dict[str, Any]] = {
    "20000 reports": {"n_domains": 5, "n_runs": 4000, "n_metrics": 1, "curves": True},
    "200 domains x 500 runs": {"n_domains": 200, "n_runs": 500, "n_metrics": 1},
    "50 metrics x 300 runs": {"n_domains": 5, "n_runs": 300, "n_metrics": 50},
    "25 runs x 2000 reports": {"n_domains": 5, "n_runs": 25, "n_metrics": 21, "every": 10},
}


def asked(optimizer: MixtureOptimizer) -> None:
    """The first suggestion."""
    assert optimizer.ask() is not None


def answered(optimizer: MixtureOptimizer) -> None:
    """A recommendation."""
    assert optimizer.recommend().predicted is not None


def reported(optimizer: MixtureOptimizer) -> None:
    """The report."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(Study(optimizer, "load"), Path(folder))


def written(optimizer: MixtureOptimizer) -> None:
    """The state, written a second time, as it is once a second."""
    with tempfile.TemporaryDirectory() as folder:
        snapshots.write(Path(folder, "state.json"), optimizer.state_dict())


def read_back(optimizer: MixtureOptimizer) -> None:
    """The state, written and read."""
    with tempfile.TemporaryDirectory() as folder:
        searches.save(optimizer, Path(folder, "history.json"))
        assert len(searches.load(folder).history) == len(optimizer.history)


ACTIONS: dict[str, Callable[[MixtureOptimizer], None]] = {
    "first ask": asked,
    "recommend": answered,
    "report": reported,
    "write": written,
    "write and read": read_back,
}


def measured(case: str, action: str) -> dict[str, float]:
    """Seconds of processor time and of the clock, peak memory in MiB, and the size of the state in MiB."""
    torch.set_num_threads(1)
    optimizer = search(**CASES[case])
    if action == "write":
        written(optimizer)
    clock, start = time.perf_counter(), time.process_time()
    ACTIONS[action](optimizer)
    seconds, clock = time.process_time() - start, time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    size = len(json.dumps(optimizer.state_dict())) / 2**20
    return {"seconds": seconds, "clock": clock, "MiB": peak, "state": size}


def main() -> None:
    """Measures and writes everything."""
    given = arguments(__doc__, cases=",".join(CASES), actions=",".join(ACTIONS))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for case in given.cases.split(","):
        for action in given.actions.split(","):
            with get_context("spawn").Pool(1) as pool:
                found.setdefault(case, {})[action] = pool.apply(measured, (case, action))
                print(case, action, found[case][action], flush=True)
    rows = [
        [case, *(f"{cell['seconds']:.1f} s, {cell['MiB']:.0f} MiB" for cell in cells.values()), f"{size:.1f}"]
        for case, cells in found.items()
        for size in [next(iter(cells.values()))["state"]]
    ]
    write(given.out, "load", table(["search", *given.actions.split(","), "state (MiB)"], rows), found)


if __name__ == "__main__":
    main()
