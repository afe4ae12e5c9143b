"""5,000 trials in one replay with four at a time, of which a tenth each go wrong in every way there is.

    python experiments/soak/soak.py [--trials 5000] [--strategy random] [--rate 0.1] [--limit SECONDS] [--no-tune]

Each trial draws, from its own name, whether it diverges (NaN), explodes (1e12), raises an error, has its process
killed, leaves its metric out, or reports twice. The driver records its memory and the time of every suggestion as the
search goes on, and checks the history in the end. Writes ``<strategy>.json`` and a figure. With ``--no-tune`` the same
goes on between ask and tell, in one process: that is the searcher's own memory and time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a missing metric would end the experiment

import numpy as np
import ray
from ray import tune
from ray.tune.experiment import Trial

from ray_mixopt import MixOptScheduler, MixOptSearcher, MixtureOptimizer, Proposal, Suggestion, simulators
from ray_mixopt.core.history import History
from ray_mixopt.testing import violations

METRIC = "val_loss/common_crawl"
KINDS = ("diverges", "explodes", "raises", "is killed", "says nothing", "repeats itself")
EVERY = 25  # suggestions between two records


def trouble(trial_id: str, rate: float) -> set[str]:
    """What goes wrong in a trial."""
    seed = int.from_bytes(hashlib.blake2b(trial_id.encode(), digest_size=8).digest(), "little")
    draws = np.random.default_rng(seed).random(len(KINDS))
    return {kind for kind, draw in zip(KINDS, draws, strict=True) if draw < rate}


def spoiled(report: dict[str, Any], kinds: set[str], *, first: bool) -> dict[str, Any]:
    """The first or a later report of a run in trouble."""
    if first:
        return {name: value for name, value in report.items() if name != METRIC or "says nothing" not in kinds}
    worst = 1e12 if "explodes" in kinds else float("nan")
    return report | ({METRIC: worst} if kinds & {"explodes", "diverges"} else {})


class Troubled(simulators.SimulatorTrainable):
    """A simulated run with its share of trouble, at its first report or after it."""

    rate = 0.1

    def step(self) -> dict[str, Any]:
        """Reports the next rung, or does not."""
        kinds = trouble(self.trial_id, self.rate)
        first = self._reached == 0
        if first and "is killed" in kinds:
            os.kill(os.getpid(), signal.SIGKILL)
        if not first and "raises" in kinds:
            raise RuntimeError("this trial was to fail")
        before = self._reached
        report = spoiled(super().step(), kinds, first=first)
        if "repeats itself" in kinds and not first and not getattr(self, "_repeated", False):
            self._reached, report["step"], report["done"] = before, before, False
            self._repeated = True
        return report

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Starts another run."""
        self._repeated = False
        return super().reset_config(new_config)


def resident_mib() -> float:
    """Memory of this process, as Linux tells it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class Recorder(tune.Callback):
    """Memory and time as the search goes on."""

    def __init__(self, searcher: MixOptSearcher | None) -> None:
        self.searcher, self.rows, self.seconds, self.start = searcher, [], [], time.perf_counter()

    def __getstate__(self) -> dict[str, Any]:
        return {"searcher": None}

    def watch(self, optimizer: MixtureOptimizer) -> None:
        """Times every proposal."""
        propose = optimizer.propose

        def timed(history: History) -> Proposal | None:
            begin = time.perf_counter()
            proposal = propose(history)
            self.seconds.append(time.perf_counter() - begin)
            if len(self.seconds) % EVERY == 0:
                self.record(history)
            return proposal

        optimizer.propose = timed  # type: ignore[method-assign]

    def record(self, history: History) -> None:
        """Adds a row."""
        self.rows.append(
            {
                "trials": len(history),
                "observations": len(history.arrivals),
                "seconds": time.perf_counter() - self.start,
                "memory_mib": resident_mib(),
                "suggestion_p50_s": float(np.median(self.seconds[-EVERY:])),
                "suggestion_p95_s": float(np.quantile(self.seconds[-EVERY:], 0.95)),
            }
        )

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Looks at the optimizer once there is one."""
        if self.searcher is not None and not self.seconds and "propose" not in vars(self.searcher.optimizer):
            self.watch(self.searcher.optimizer)


def four_at_once(
    folder: str,
    trainable: type[tune.Trainable],
    simulator: simulators.Simulator,
    searcher: MixOptSearcher,
    watch: tune.Callback,
    n_trials: int,
    limit_s: float | None = None,
) -> tune.Tuner:
    """A search of four trials at once, in the folder "soak" of ``folder``."""
    return tune.Tuner(
        trainable,
        param_space=simulator.space.param_space(),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=searcher,
            scheduler=MixOptScheduler(),
            num_samples=n_trials,
            max_concurrent_trials=4,
            reuse_actors=True,
            time_budget_s=limit_s,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name="soak",
            verbose=0,
            callbacks=[watch],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def soak(n_trials: int, strategy: str, rate: float, limit_s: float | None) -> dict[str, Any]:
    """Runs the search; gives what was recorded."""
    simulator = simulators.load("slimpajama", steps=(2000, 6000, 19700))
    searcher = MixOptSearcher(strategy=strategy, seed=100)
    recorder = Recorder(searcher)
    Troubled.rate = rate
    # Processes that were killed late may still be writing: what was measured is not to be lost for that.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trainable = tune.with_resources(tune.with_parameters(Troubled, simulator=simulator), {"CPU": 1})
        results = four_at_once(folder, trainable, simulator, searcher, recorder, n_trials, limit_s).fit()
        size = max(file.stat().st_size for file in Path(folder, "soak").glob("searcher-state-*.json"))
    return report(searcher.optimizer.history, strategy, rate, recorder) | {
        "errors": len(results.errors),
        "state_mib": size / 2**20,
    }


def ask_and_tell(n_trials: int, strategy: str, rate: float, limit_s: float | None) -> dict[str, Any]:
    """The same without Tune: four runs in flight, of which the oldest reports next."""
    simulator = simulators.load("slimpajama", steps=(2000, 6000, 19700))
    optimizer = MixtureOptimizer(simulator.space, objective={METRIC: 1.0}, strategy=strategy, seed=100)
    recorder = Recorder(None)
    recorder.watch(optimizer)
    flying: deque[Suggestion] = deque()
    while len(optimizer.history) < n_trials or flying:
        late = limit_s is not None and time.perf_counter() - recorder.start > limit_s
        if late or len(optimizer.history) >= n_trials:
            if not flying:
                break
        else:
            while len(flying) < 4:
                suggestion = optimizer.ask()
                assert suggestion is not None
                flying.append(suggestion)
        land(optimizer, simulator, flying.popleft(), rate)
    return report(optimizer.history, strategy, rate, recorder)


def land(optimizer: MixtureOptimizer, simulator: simulators.Simulator, run: Suggestion, rate: float) -> None:
    """A run reports, with its share of trouble."""
    kinds = trouble(run.trial_id, rate)
    begun = optimizer.history[run.trial_id].reached
    if not begun and "is killed" in kinds:
        optimizer.finish(run.trial_id, lost=True)
        return
    for step in (step for step in simulator.space.steps if begun < step <= run.steps):
        first = step == simulator.space.steps[0]
        if not first and "raises" in kinds:
            optimizer.finish(run.trial_id, failed=True)
            return
        report = spoiled(simulator.observe(run.mixture, run.scale, step), kinds, first=first)
        for _ in range(2 if "repeats itself" in kinds and not first else 1):
            optimizer.tell(run.trial_id, step, report)
    optimizer.finish(run.trial_id)


def report(history: History, strategy: str, rate: float, recorder: Recorder) -> dict[str, Any]:
    """What is written down in the end."""
    planned = {kind: sum(kind in trouble(run.trial_id, rate) for run in history) for kind in KINDS}
    statuses = {status: sum(run.status == status for run in history) for status in sorted({r.status for r in history})}
    return {
        "strategy": strategy,
        "trials": len(history),
        "planned": planned,
        "statuses": statuses,
        "observations": len(history.arrivals),
        "duplicates": history.n_duplicates,
        "missing": history.n_missing,
        "violations": violations(history),
        "seconds": time.perf_counter() - recorder.start,
        "rows": recorder.rows,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Memory and time per suggestion against the number of trials."""
    from matplotlib.figure import Figure

    rows = found["rows"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    memory, seconds = figure.subplots(1, 2)
    trials = [row["trials"] for row in rows]
    memory.plot(trials, [row["memory_mib"] for row in rows])
    memory.set(xlabel="trials", ylabel="memory of the driver (MiB)", ylim=(0, None))
    for key, label in (("suggestion_p50_s", "median"), ("suggestion_p95_s", "95th percentile")):
        seconds.plot(trials, [row[key] for row in rows], label=f"{label} of {EVERY}")
    seconds.set(xlabel="trials", ylabel="time per suggestion (s)", yscale="log")
    seconds.legend(fontsize="small")
    for ax in (memory, seconds):
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _trial_id(trial: Trial) -> str:
    return trial.trial_id


def main() -> None:
    """Runs the soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--strategy", default="random")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--no-tune", action="store_true", help="between ask and tell, in one process")
    parser.add_argument("--limit", type=float, help="end after so many seconds")
    parser.add_argument("--out", type=Path, default=Path("experiments/results/soak"))
    arguments = parser.parse_args()
    settings = arguments.trials, arguments.strategy, arguments.rate, arguments.limit
    if arguments.no_tune:
        found = ask_and_tell(*settings)
    else:
        ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        found = soak(*settings)
        ray.shutdown()
    name = arguments.strategy + ("-no-tune" if arguments.no_tune else "")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(found) + "\n")
    draw(found, arguments.out / f"{name}.png")
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))
    if found["violations"]:
        raise SystemExit("The history is inconsistent.")


if __name__ == "__main__":
    main()
