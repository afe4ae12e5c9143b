"""A search whose processes are killed at random moments, and what each kill cost.

    python experiments/soak/kills.py [--kills 20] [--budget 400] [--seed 7] [--out experiments/results/kills.md]

Simulated runs that take a moment, two at a time, are searched with ``default`` in a process of its own. In turn its
driver, the process of a trial, the raylet and the GCS are killed (SIGKILL) at moments drawn from the seed; where the
search ends, ``ray_mixopt.restore`` goes on in the next process. A witness in the driver writes down every report as
Tune hears of it, so that what the search knows can be held against it. Writes one row a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.experiment import Trial

import ray_mixopt
from ray_mixopt import MixOptScheduler, MixOptSearcher, simulators
from ray_mixopt.core.history import History
from ray_mixopt.testing import check_history
from ray_mixopt.tune.session import trial_name

METRIC, NAME, WITNESS = "loss", "search", "witness.jsonl"
VICTIMS = {"driver": "", "trial": "ray::Paced", "raylet": "raylet/raylet", "gcs": "gcs/gcs_server"}
PATIENCE_S = 120.0  # for a search to end after the loss of its cluster
PROGRESS_S = 600.0  # for a search to get as far as its next kill


class Paced(simulators.SimulatorTrainable):
    """A simulated run that takes a moment."""

    def step(self) -> dict[str, Any]:
        """Reports the next rung."""
        time.sleep(0.2)
        return super().step()


class Witness(tune.Callback):
    """Writes down every report, at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Adds a line."""
        with self.path.open("a") as file:
            file.write(json.dumps([trial.trial_id, result["step"], result[METRIC]]) + "\n")


def drive(folder: Path, budget: float, seed: int) -> None:
    """Begins a search, or goes on with it; in a process to be killed."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    simulator = simulators.load("slimpajama")
    trainable = tune.with_parameters(Paced, simulator=simulator)
    if (folder / NAME / "tuner.pkl").exists():
        tuner = ray_mixopt.restore(folder / NAME, trainable)
    else:
        space = replace(simulator.space, scales=simulator.space.scales[:3], target=None)
        searcher = MixOptSearcher(space, METRIC, "min", strategy="default", budget=budget, seed=seed)
        tuner = tune.Tuner(
            trainable,
            param_space=space.param_space(),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=MixOptScheduler(),
                num_samples=-1,
                max_concurrent_trials=2,
                reuse_actors=True,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                name=NAME,
                verbose=0,
                callbacks=[Witness(folder / WITNESS)],
                failure_config=tune.FailureConfig(max_failures=3),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
    print("errors:", len(tuner.fit().errors))


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below one, by number."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found, new = {}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        for child in new:
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def kill(pid: int) -> None:
    """Kills a process, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass
class Search:
    """The search in its folder, with the process that drives it, if one does."""

    folder: Path
    budget: float
    seed: int
    driver: subprocess.Popen[bytes] | None = None
    n_heard: int = 0  # lines of the witness at the last kill

    def start(self) -> subprocess.Popen[bytes]:
        """The process that drives the search; a new one if the last has ended."""
        if self.driver is None:
            arguments = ["--drive", self.folder, "--budget", self.budget, "--seed", self.seed]
            with (self.folder / "driver.log").open("ab") as log:
                self.driver = subprocess.Popen(
                    [sys.executable, __file__, *map(str, arguments)], stdout=log, stderr=log, cwd=self.folder
                )
        return self.driver

    def reports(self) -> list[tuple[str, int, float]]:
        """What the witness has written down, repeats included."""
        path = self.folder / WITNESS
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]

    def history(self) -> History | None:
        """What the newest state in the storage knows; None before there is one."""
        try:
            return MixOptSearcher.load(self.folder / NAME).optimizer.history
        except (ValueError, RuntimeError):
            return None

    def said(self) -> str:
        """The last line that the driver wrote about its end."""
        lines = (self.folder / "driver.log").read_text(errors="replace").splitlines()
        telling = [line for line in lines[-400:] if "Error:" in line or "GCS" in line]
        return telling[-1][:160] if telling else ""


def strike(search: Search, victim: str, draws: random.Random) -> dict[str, Any]:
    """Kills one process of a search at a random moment; gives what came of it."""
    known, begun = len(search.reports()), time.monotonic()
    driver = search.start()
    wanted = known + draws.choice([0, 1, 2, 4])
    while True:
        below = descendants(driver.pid)
        targets = (
            [pid for pid, line in below.items() if VICTIMS[victim] in line] if victim != "driver" else [driver.pid]
        )
        # Now and then a new driver is killed before it has done anything but start Ray.
        if targets and below and len(search.reports()) >= wanted:
            break
        if driver.poll() is not None:
            raise SystemExit(f"The search has ended before the kill: give it more --budget. {search.said()}")
        if time.monotonic() - begun > PROGRESS_S:
            raise SystemExit(f"The search makes no progress. {search.said()}")
        time.sleep(0.05)
    time.sleep(draws.uniform(0, 1.5))
    heard, begun = search.reports(), time.monotonic()
    since, search.n_heard = set(heard[search.n_heard :]), len(heard)
    kill(draws.choice(targets))
    ended: float | None = None
    if victim == "trial":
        time.sleep(3)  # the search goes on, and its state follows within a second
    else:
        try:
            driver.wait(PATIENCE_S)
            ended = time.monotonic() - begun
        except subprocess.TimeoutExpired:
            ended = float("inf")
    said = search.said() if victim in ("raylet", "gcs") else ""
    if victim != "trial" or driver.poll() is not None:
        for pid in (driver.pid, *below):
            kill(pid)
        driver.wait()
        search.driver = None
    history = search.history()
    seen = {} if history is None else {(t.trial_id, s): v[METRIC] for t in history for s, v in t.observations.items()}
    if history is not None:
        check_history(history, budget=search.budget)
    return {
        "victim": victim,
        "ended_s": ended,
        "said": said,
        "heard": len(since),
        "known": len(seen),
        "lost": len([1 for name, step, _ in since if (name, step) not in seen]),
        "changed": len([1 for name, step, value in heard if seen.get((name, step), value) != value]),
        "repeats": len(search.reports()) - len({report[:2] for report in search.reports()}),
        "spent": 0.0 if history is None else history.spent,
        "unkept": 0.0 if history is None else history.unkept,
    }


COLUMNS = ("kill", "victim", "search ended", "new reports", "of them not saved", "saved in all", "changed")
COLUMNS += ("repeats so far", "spent", "trained and not kept")
HEAD = f"| {' | '.join(COLUMNS)} |\n| ---: | --- | ---: {'| ---: ' * 7}|"


def line(number: int, row: dict[str, Any]) -> str:
    """A row of the table."""
    ended = row["ended_s"]
    after = "goes on" if ended is None else "never" if ended == float("inf") else f"{ended:.0f} s"
    counts = [row[key] for key in ("heard", "lost", "known", "changed", "repeats")]
    cells = [number, row["victim"], after, *counts, f"{row['spent']:.4g}", f"{row['unkept']:.3g}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Runs the kills from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--budget", type=float, default=400.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/kills.md"))
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive is not None:
        drive(arguments.drive, arguments.budget, arguments.seed)
        return
    draws, text = random.Random(arguments.seed), [HEAD]
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder), arguments.budget, arguments.seed)
        for number in range(arguments.kills):
            row = strike(search, list(VICTIMS)[number % len(VICTIMS)], draws)
            text.append(line(number + 1, row))
            print(text[-1], row["said"], flush=True)
            arguments.out.write_text("\n".join(text) + "\n")
        search.start().wait()
        history, reports = search.history(), search.reports()
        assert history is not None
        check_history(history, budget=search.budget)
        seen = {(t.trial_id, step): values[METRIC] for t in history for step, values in t.observations.items()}
        lost = {report[:2] for report in reports} - seen.keys()
        changed = [report for report in reports if seen.get(report[:2], report[2]) != report[2]]
        statuses = {status: sum(run.status == status for run in history) for status in {run.status for run in history}}
        text.append(
            f"\nIn the end {len(history)} trials ({json.dumps(statuses, sort_keys=True)}), {len(seen)} observations, "
            f"{len(lost)} lost, {len(changed)} changed, {len(reports) - len({r[:2] for r in reports})} reported twice; "
            f"spent {history.spent:.6g} of {search.budget:g}, trained and not kept {history.unkept:.4g}."
        )
        print(text[-1])
    arguments.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
