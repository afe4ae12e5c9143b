"""How well real runs at a larger scale are predicted from those at smaller ones, over all tables and their metrics.

    python experiments/backtest.py --draws 5 --processes 2
    python experiments/backtest.py --methods 'regmix-*,linear regression' --tables dmsl
    python experiments/backtest.py --methods none        # only the tables and figures

Leaves one JSON file for a question and method in experiments/results/backtest, with the scores of each objective: what
is there is not computed again (delete a file to have it anew). Then writes all tables to
experiments/results/backtest.md, targets first, and the figures. The tables are those of ../shared/data, and mixtures
sampled from the reference network. Metrics whose names begin with a letter from N on were never looked at while the
surrogate was made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from backtest_tables import METHODS, write_tables
from harness import arguments, as_they_end

from ray_mixopt import simulators
from ray_mixopt.analysis.backtest import backtest
from ray_mixopt.analysis.baselines import Method
from ray_mixopt.benchmark.hindcasts import EVERYTHING, obstacle
from ray_mixopt.benchmark.logged import LOGS
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.core.settings import Settings
from ray_mixopt.io.runs import read_runs
from ray_mixopt.simulators.run_table import RunTable

DATA = Path("../shared/data")
NETWORK_MIXTURES = 40


@dataclass(frozen=True, kw_only=True)
class Question:
    """A table and what is hidden of it.

    Args:
        table: its name.
        hide: scale and steps that are predicted.
        given: scales whose runs are given; all smaller ones where empty.
        mixtures: how many of them; None for all.
        known: how many of the hidden mixtures are known at the hidden scale too.
        nested: whether the same mixtures are given at all scales.
    """

    table: str
    hide: tuple[str, int | None]
    given: tuple[str, ...]
    mixtures: tuple[int | None, ...]
    known: int = 0
    nested: bool = True

    @property
    def name(self) -> str:
        """Says all but the numbers of mixtures; the name of a folder, too."""
        parts = [f"{self.table}-{self.hide[0]}", f"from-{'-'.join(self.given) or 'all'}"]
        return "_".join(parts + [f"known-{self.known}"] * bool(self.known) + ["own-mixtures"] * (not self.nested))


def _asked() -> Iterator[Question]:
    """The two smallest scales first, then in what else a question can differ, one thing at a time."""
    bases = (
        Question(table="dmsl", hide=("1235M", None), given=("122M", "310M"), mixtures=(8, 16, None)),
        Question(table="dmsl", hide=("937M", None), given=("122M", "310M"), mixtures=(8, 16, None)),
        Question(table="mixinglaws", hide=("410M", 30_000), given=("70M", "160M"), mixtures=(8, 16, None)),
        Question(table="regmix", hide=("1B", 1), given=("1m", "60m"), mixtures=(64, 256)),
        Question(table="network", hide=("1B", 19_700), given=("20M", "60M"), mixtures=(16, 40)),
    )
    yield from bases
    further = {"network": ("20M", "60M", "150M", "300M", "500M")}
    for base in bases:
        fields = {field: getattr(base, field) for field in ("table", "hide", "given", "mixtures")}
        if base.table != "regmix":  # which has but two smaller scales
            yield Question(**{**fields, "given": further.get(base.table, ())})
        if base.table != "network":
            yield Question(**{**fields, "mixtures": fields["mixtures"][:2]}, nested=False)
        for known in (2, 5):
            yield Question(**fields, known=known)


QUESTIONS = {question.name: question for question in _asked()}
MEANS = {"dmsl": 7, "mixinglaws": 22, "regmix": 13}
"""Number of losses of which the mean is an objective too; each loss is one."""


@cache
def history_of(name: str) -> History:
    """The runs of a table."""
    if name == "dmsl":
        return read_runs(DATA / "dmsl" / "slimpajama_7_domains.csv")
    if name == "network":
        return _sampled()
    log = LOGS[name]
    runs = RunTable.read(DATA / log.path, scale_cost=log.scale_cost, target=log.target)
    result = History(runs.space)
    for scale in runs.space.scales:
        for i, mixture in enumerate(runs.mixtures):
            seen = {step: runs.observe(mixture, scale.name, step) for step in runs.rungs(mixture, scale.name)}
            _add(
                result,
                Trial(
                    trial_id=f"{scale.name}-{i}", mixture=tuple(mixture), scale=scale.name, steps=max(seen, default=1)
                ),
                seen,
            )
    return result


def _sampled() -> History:
    network = simulators.load("slimpajama")
    space, rng = network.space, np.random.default_rng(0)
    result = History(space)
    for scale in space.scales:
        for i, mixture in enumerate(space.sample(NETWORK_MIXTURES, rng)):
            steps = space.steps
            seen = {step: network.observe(space.named(mixture), scale.name, step) for step in steps}
            _add(
                result,
                Trial(trial_id=f"{scale.name}-{i}", mixture=tuple(mixture), scale=scale.name, steps=steps[-1]),
                seen,
            )
    return result


def _add(history: History, trial: Trial, seen: dict[int, dict[str, float]]) -> None:
    if seen:
        history.add(trial)
        for step, metrics in seen.items():
            history.observe(trial.trial_id, step, metrics)
        trial.status = "done"


def objectives(name: str, part: str) -> dict[str, dict[str, float]]:
    """Objectives by name: the mean of a table's losses, and each metric of a part of them."""
    metrics = [metric for metric in history_of(name).metrics if metric not in ("loss", "train_loss")]
    losses = [m for m in metrics if m.startswith("val_loss/")][: MEANS.get(name, 0)]
    tuning = [m for m in metrics if m.rpartition("/")[-1][0].lower() < "n"]
    chosen = {"tuning": tuning, "reporting": [m for m in metrics if m not in tuning], "all": metrics}[part]
    mean = {f"mean of {len(losses)}": {m: 1 / len(losses) for m in losses}} if losses else {}
    return mean | {m: {m: 1.0} for m in chosen}


class Cells:
    """The scores that are there, in a file for each question and method.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, question: str, method: str) -> dict[str, Any]:
        """By objective, its ``draws`` and ``commit``, and the scores of each ``given`` number of mixtures."""
        path = self._path(question, method)
        return json.loads(path.read_text())["objectives"] if path.exists() else {}

    def add(self, question: Question, method: str, objective: str, found: dict[str, Any]) -> None:
        """Keeps the scores of an objective."""
        both = {**self.of(question.name, method), objective: found}
        path = self._path(question.name, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"question": asdict(question), "method": method, "objectives": both}) + "\n")

    def _path(self, question: str, method: str) -> Path:
        return self.folder / question / f"{method.replace(' ', '-')}.json"


def answer(
    question: Question,
    objective: str,
    weights: dict[str, float],
    names: Sequence[str],
    draws: int,
    methods: Mapping[str, Method] = EVERYTHING,
) -> tuple[Question, str, dict[str, Any]]:
    """The scores of some methods for an objective."""
    found = backtest(
        history_of(question.table),
        Settings(objective=weights, mode="max" if "acc" in objective else "min"),
        hide=question.hide,
        given=question.given,
        mixtures=question.mixtures,
        known=question.known,
        nested=question.nested,
        draws=draws,
        methods={name: methods[name] for name in names},
    )
    numbers = ["all" if size is None else size for size in question.mixtures]
    kept = {}
    for name in names:
        cases = [
            {"given": number, "mixtures": case.mixtures, **asdict(case.scores[name])}
            for number, case in zip(numbers, found.cases, strict=True)
            if name in case.scores
        ]
        kept[name] = {"draws": draws, "hidden": found.n_hidden - found.known, "cases": cases}
    return question, objective, kept


def fill(
    cells: Cells,
    questions: Sequence[Question],
    names: Sequence[str],
    given: argparse.Namespace,
    answer: Callable[..., tuple[Question, str, dict[str, Any]]] = answer,
) -> None:
    """Answers what is not there yet, the first objective of each question first, and keeps each as soon as it is there.

    Args:
        cells: what is there.
        questions: all that are asked.
        names: of the methods.
        given: what the command line says of draws, part and processes.
        answer: like the function above.
    """
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    jobs = []
    for question in questions if names else ():
        there = {name: cells.of(question.name, name) for name in names}
        for place, (objective, weights) in enumerate(objectives(question.table, given.part).items()):
            left = [name for name in names if there[name].get(objective, {}).get("draws") != given.draws]
            if left:
                jobs.append((place, (question, objective, weights, left, given.draws)))
    jobs = [job for _, job in sorted(jobs, key=itemgetter(0))]
    for number, (question, objective, found) in enumerate(as_they_end(answer, jobs, given.processes), start=1):
        for name, scores in found.items():
            cells.add(question, name, objective, {"commit": git.stdout.strip(), **scores})
        print(f"{number} of {len(jobs)}: {question.name}, {objective}", flush=True)


def chosen(given: argparse.Namespace, names: Iterable[str]) -> tuple[list[Question], list[str]]:
    """The questions and methods whose names match what the command line says."""

    def matching(name: str, field: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in getattr(given, field).split(","))

    questions = [q for q in QUESTIONS.values() if matching(q.table, "tables") and matching(q.name, "questions")]
    return questions, [name for name in names if matching(name, "methods")]


def main() -> None:
    """Answers what is not answered yet, and writes the tables and figures."""
    given = arguments(__doc__, processes=2, draws=5, part="all", tables="*", questions="*", methods="*")
    questions, names = chosen(given, EVERYTHING)
    for name in [name for name in names if obstacle(name)]:
        print(f"{name} is left out: {obstacle(name)}")
        names.remove(name)
    fill(Cells(given.out / "backtest"), questions, names, given)
    write_all(given.out)


def write_all(out: Path) -> None:
    """Writes the tables and figures of what is there."""
    cells = Cells(out / "backtest")
    write_tables({name: {method: cells.of(name, method) for method in METHODS} for name in QUESTIONS}, out)


if __name__ == "__main__":
    main()
