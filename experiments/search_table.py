"""The search table: normalised regret of the recommended mixture against cost, by strategy and metric.

Each run is one (strategy, metric, seed) on the ask/tell core with an instant simulator, in a process with a single
thread, and leaves one JSON file; runs whose file is there already are skipped. The table is printed from the files.

    python experiments/search_table.py --strategies default paper random --seeds 5 --budget 394

Cost is in units of 100 steps of the 1B model, counted from the first run on. Regret is that of the recommended mixture
at the target, without noise: ``(mu(w) - mu_best) / (median of mu over Dirichlet(1) - mu_best)``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt import simulators
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.simulators import Simulator
from ray_mixopt.simulators.fit import load_reference
from ray_mixopt.strategies import STRATEGIES

FORMAT_VERSION = 1
ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "data" / "slimpajama" / "reference_mlp.npz"
RESULTS = ROOT / "experiments" / "results" / "search"
DOMAINS = ("common_crawl", "c4", "wikipedia", "stackexchange", "github", "arxiv", "book")
TASKS = ("hellaswag", "piqa", "arc_easy")
METRICS = (*(f"val_loss/{domain}" for domain in DOMAINS), *(f"accuracy/{task}" for task in TASKS))
PAPER_RUNGS = (*range(100, 1000, 100), 6000, 12000, 19700)
CHECKPOINTS = (5, 7, 10, 14, 20, 28, 40, 50, 70, 100, 140, 197, 280, 394, 560, 788, 1100, 1576, 2200, 3152, 3940)
TABLE_COSTS = (50, 100, 197, 394, 788)


# -- the problem


def load_problem(strategy: str) -> Simulator:
    """The reference network where it is at hand, else the simulator of the package, with the rungs of the strategy."""
    simulator = load_reference(REFERENCE) if REFERENCE.is_file() else simulators.load("slimpajama")
    if not strategy.startswith("paper"):
        return simulator
    return replace(simulator, space=replace(simulator.space, steps=PAPER_RUNGS, target=None))


def problem_name() -> str:
    """What the results are about: the reference network or the package's own simulator."""
    return "slimpajama-reference" if REFERENCE.is_file() else "slimpajama-embedded"


class Regret:
    """Normalised regret of mixtures at the target of a simulator.

    Args:
        simulator: the problem.
        metric: the name of the metric.
    """

    def __init__(self, simulator: Simulator, metric: str) -> None:
        self.simulator, self.column = simulator, simulator.metrics.index(metric)
        self.sign = 1.0 if simulator.modes[metric] == "min" else -1.0
        self.best, self.median = self._landmarks()

    def __call__(self, mixtures: np.ndarray) -> np.ndarray:
        """Regret of ``n x d`` mixtures, ``(n,)``; 0 is the optimum, 1 a random mixture."""
        return (self.value(mixtures) - self.best) / (self.median - self.best)

    def value(self, mixtures: np.ndarray) -> np.ndarray:
        """The metric at the target, signed so that less is better, ``(n,)``."""
        space = self.simulator.space
        return self.sign * self.simulator.evaluate(mixtures, space.target_scale, space.target_steps)[:, self.column]

    def _landmarks(self) -> tuple[float, float]:
        """The optimum, by dense then local search, and the median over Dirichlet(1)."""
        rng = np.random.default_rng(0)
        simplex, d = self.simulator.space.simplex, self.simulator.space.n_domains
        uniform, skewed = (rng.dirichlet(np.full(d, c), 250_000) for c in (1.0, 0.3))
        values = self.value(uniform)
        points = np.concatenate([uniform, skewed, simplex.corners()])
        order = np.argsort(self.value(points), kind="stable")[:50]
        best = points[order]
        for spread in np.geomspace(0.1, 1e-5, 60):
            near = simplex.project(np.repeat(best, 40, axis=0) + rng.normal(0, spread, (40 * len(best), d)))
            best = np.concatenate([best, near])
            best = best[np.argsort(self.value(best), kind="stable")[:50]]
        return float(self.value(best[:1])[0]), float(np.median(values))


@cache
def _regret(metric: str) -> Regret:
    return Regret(load_problem("random"), metric)


# -- one run


def search(strategy: str, metric: str, seed: int, budget: float) -> dict[str, Any]:
    """One search from nothing to its budget, as the JSON that is kept of it.

    ``trace`` holds (cost, regret) of the recommendations that count at the checkpoints: at any checkpoint, the last
    entry with a cost not above it.
    """
    simulator, regret = load_problem(strategy), _regret(metric)
    space, column = simulator.space, simulator.metrics.index(metric)
    mode = "min" if regret.sign > 0 else "max"
    optimizer = MixtureOptimizer(space, mode=mode, strategy=strategy, budget=budget, seed=seed)  # type: ignore[arg-type]
    trace: list[tuple[float, float]] = []
    seconds: list[float] = []

    def record() -> None:
        mixture = space.mixture(optimizer.recommend().mixture)
        trace.append((optimizer.history.spent, float(regret(mixture[None])[0])))

    record()
    while True:
        start = time.perf_counter()
        suggestion = optimizer.ask()
        seconds.append(time.perf_counter() - start)
        if suggestion is None:
            break
        spent = optimizer.history.spent
        if spent > 0 and any(spent <= cost < spent + suggestion.cost for cost in CHECKPOINTS):
            record()
        reached = optimizer.history[suggestion.trial_id].reached
        mixture = space.mixture(suggestion.mixture)[None]
        for step in space.steps:
            if reached < step <= suggestion.steps:
                value = simulator.evaluate(mixture, suggestion.scale, step)[0, column]
                optimizer.tell(suggestion.trial_id, step, float(value))
        optimizer.finish(suggestion.trial_id)
    record()
    return {
        "version": FORMAT_VERSION,
        "problem": problem_name(),
        "strategy": strategy,
        "metric": metric,
        "seed": seed,
        "budget": budget,
        "rungs": list(space.steps),
        "trace": trace,
        "recommended": space.named(space.mixture(optimizer.recommend().mixture)),
        "spent_by_scale": optimizer.history.spent_by_scale(),
        "suggestions": optimizer.history.n_asked,
        "seconds_per_suggestion": {"mean": float(np.mean(seconds)), "p95": float(np.quantile(seconds, 0.95))},
        "mu_best": regret.sign * regret.best,
        "mu_median": regret.sign * regret.median,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What the numbers were measured with."""
    found = {"python": platform.python_version()}
    for package in ("ray-mixopt", "numpy", "scipy", "torch", "gpytorch", "botorch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found["commit"] = git.stdout.strip() or "unknown"
    return found


def result_path(out: Path, strategy: str, metric: str, seed: int) -> Path:
    """Where the run is kept."""
    return out / f"{strategy}--{metric.replace('/', '-')}--{seed}.json"


def run(out: Path, strategy: str, metric: str, seed: int, budget: float) -> dict[str, Any]:
    """``search``, written to its file at once."""
    result = search(strategy, metric, seed, budget)
    path = result_path(out, strategy, metric, seed)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(result, allow_nan=False) + "\n")
    os.replace(draft, path)
    return result


def is_done(out: Path, strategy: str, metric: str, seed: int, budget: float) -> bool:
    """Whether the run is there already, on the same problem and to the same budget."""
    path = result_path(out, strategy, metric, seed)
    if not path.is_file():
        return False
    result = json.loads(path.read_text())
    return (result["version"], result["problem"], result["budget"]) == (FORMAT_VERSION, problem_name(), budget)


# -- the table


def regret_at(trace: list[list[float]], cost: float) -> float:
    """Regret of the last recommendation made with no more than ``cost`` spent."""
    return [regret for spent, regret in trace if spent <= cost * (1 + 1e-12)][-1]


def table(out: Path) -> str:
    """Mean regret by metric and strategy at fixed costs, from the files alone, in Markdown."""
    groups: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for path in sorted(out.glob("*.json")):
        result = json.loads(path.read_text())
        groups[result["problem"]][result["strategy"]][result["metric"]].append(result)
    lines = []
    for problem, strategies in groups.items():
        for strategy, by_metric in strategies.items():
            runs = [result for results in by_metric.values() for result in results]
            costs = [cost for cost in TABLE_COSTS if cost <= min(result["budget"] for result in runs)]
            seeds = sorted({len(results) for results in by_metric.values()})
            lines += [
                "",
                f"**{strategy}** on {problem}: {len(by_metric)} metrics x {'-'.join(map(str, seeds))} seeds, "
                f"{np.mean([r['suggestions'] for r in runs]):.0f} suggestions a run, "
                f"{np.mean([r['seconds_per_suggestion']['mean'] for r in runs]):.2f} s each",
                "",
                "| mean regret at | " + " | ".join(map(str, costs)) + " |",
                "|---|" + "---|" * len(costs),
            ]
            means = {
                metric: [float(np.mean([regret_at(r["trace"], cost) for r in by_metric[metric]])) for cost in costs]
                for metric in METRICS
                if metric in by_metric
            }
            columns = list(zip(*means.values(), strict=True))
            means["**mean**"] = [float(np.mean(column)) for column in columns]
            means["**worst metric**"] = [max(column) for column in columns]
            lines += ["| " + " | ".join([name, *(f"{v:.3f}" for v in row)]) + " |" for name, row in means.items()]
    return "\n".join(lines).strip() or f"No results in {out}."


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Regret against cost, by strategy and metric.")
    parser.add_argument("--strategies", nargs="*", default=["default", "paper", "random"], choices=list(STRATEGIES))
    parser.add_argument("--metrics", nargs="*", default=list(METRICS), choices=METRICS)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 on; 0 only prints the table")
    parser.add_argument("--budget", type=float, default=394.0, help="units of 100 steps of the 1B model")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = REFERENCE if REFERENCE.is_file() else "the embedded simulator, since there is no reference network beside"
    print(f"Problem: {problem_name()} ({source})", flush=True)
    jobs = [
        (strategy, metric, seed, args.budget)
        for seed, strategy, metric in product(range(args.seeds), args.strategies, args.metrics)
    ]
    missing = [job for job in jobs if not is_done(args.out, *job)]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there, {len(missing)} to do", flush=True)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # one thread a process: the new processes read it when they load numpy and torch
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, args.processes), mp_context=spawn) as pool:
        waiting = {pool.submit(run, args.out, *job): job for job in missing}
        for i, future in enumerate(as_completed(waiting), start=1):
            strategy, metric, seed, _ = waiting[future]
            final = future.result()["trace"][-1]
            print(
                f"[{i}/{len(missing)}] {strategy} {metric} seed {seed}: regret {final[1]:.3f} at {final[0]:.0f}",
                flush=True,
            )
    print(table(args.out))


if __name__ == "__main__":
    main()
