"""How well real runs at a larger scale are predicted from those at smaller ones, over all tables and their metrics.

    python experiments/backtest.py --draws 5 --processes 2

Writes experiments/results/backtest.json and .md. The tables are those of ../shared/data, and mixtures sampled from the
reference network. Metrics whose names begin with a letter from N on were never looked at while the surrogate was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from harness import arguments, side_by_side, write

from ray_mixopt import simulators
from ray_mixopt.analysis.backtest import backtest
from ray_mixopt.benchmark.logged import LOGS
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Settings
from ray_mixopt.io.runs import read_runs
from ray_mixopt.simulators.run_table import RunTable

DATA = Path("../shared/data")
NETWORK_MIXTURES = 40


@dataclass(frozen=True, kw_only=True)
class Question:
    """A table and what is hidden of it.

    Args:
        hide: scale and steps that are predicted.
        given: scales whose runs are given.
        mixtures: how many of them; None for all.
        known: how many of the hidden mixtures are known at the hidden scale too.
    """

    table: str
    hide: tuple[str, int | None]
    given: tuple[str, ...]
    mixtures: tuple[int | None, ...]
    known: int = 0


QUESTIONS = (
    Question(table="dmsl", hide=("1235M", None), given=("122M", "310M"), mixtures=(8, 16, None)),
    Question(table="dmsl", hide=("937M", None), given=("122M", "310M"), mixtures=(8, 16, None)),
    Question(table="mixinglaws", hide=("410M", 30_000), given=("70M", "160M"), mixtures=(8, 16, None)),
    Question(table="regmix", hide=("1B", 1), given=("1m", "60m"), mixtures=(64, 256)),
    Question(table="network", hide=("1B", 19_700), given=("20M", "60M"), mixtures=(16, 40)),
)
MEANS = {"dmsl": 7, "mixinglaws": 22, "regmix": 13}
"""Number of losses of which the mean is an objective too; each loss is one."""


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


def objectives(name: str, history: History, part: str) -> dict[str, dict[str, float]]:
    """Objectives by name: the mean of a table's losses, and each metric of a part of them."""
    metrics = [metric for metric in history.metrics if metric not in ("loss", "train_loss")]
    losses = [m for m in metrics if m.startswith("val_loss/")][: MEANS.get(name, 0)]
    tuning = [m for m in metrics if m.rpartition("/")[-1][0].lower() < "n"]
    chosen = {"tuning": tuning, "reporting": [m for m in metrics if m not in tuning], "all": metrics}[part]
    found = {m: {m: 1.0} for m in chosen}
    return found | ({f"mean of {len(losses)}": {m: 1 / len(losses) for m in losses}} if losses else {})


def answer(question: Question, objective: str, weights: dict[str, float], draws: int) -> list[dict[str, object]]:
    """The scores of each method, a row a number of mixtures given."""
    mode = "max" if "acc" in objective else "min"
    found = backtest(
        history_of(question.table),
        Settings(objective=weights, mode=mode),
        hide=question.hide,
        given=question.given,
        mixtures=question.mixtures,
        known=question.known,
        draws=draws,
    )
    where = {"table": question.table, "hidden": question.hide[0], "known": question.known, "objective": objective}
    sizes = list(question.mixtures)
    return [
        where | {"given": "all" if size is None else size, "method": method, **asdict(scores)}
        for size, case in zip(sizes, found.cases, strict=True)
        for method, scores in case.scores.items()
    ]


def summary(rows: Sequence[dict[str, object]]) -> str:
    """Means over the objectives of a table, and the worst coverage of any."""
    lines = []
    keys = dict.fromkeys((r["table"], r["hidden"], r["known"], r["given"], _method(str(r["method"]))) for r in rows)
    for key in keys:
        of = [r for r in rows if (r["table"], r["hidden"], r["known"], r["given"], _method(str(r["method"]))) == key]
        mean = {
            k: _mean([r[k] for r in of]) for k in ("rank", "error", "covered", "stated", "level", "regret", "seconds")
        }
        worst = min((float(str(r["covered"])) for r in of if r["covered"] is not None), default=None)
        overall = next((r["rank"] for r in of if str(r["objective"]).startswith("mean")), None)
        cells = [
            mean["rank"],
            overall,
            mean["error"],
            mean["covered"],
            worst,
            mean["stated"],
            mean["level"],
            mean["regret"],
            mean["seconds"],
        ]
        lines.append(
            [f"{key[0]} {key[1]}", str(key[3]), key[4], *("-" if x is None else f"{float(str(x)):.3f}" for x in cells)]
        )
    head = [
        "table",
        "given",
        "method",
        "rank",
        "rank, mean",
        "error / spread",
        "covered",
        "worst",
        "stated / true",
        "level",
        "regret",
        "s",
    ]
    return table(head, lines)


def _method(name: str) -> str:
    return name.partition(" of ")[0].partition(" as at ")[0]


def _mean(values: Sequence[object]) -> float | None:
    known = [float(str(v)) for v in values if v is not None]
    return float(np.mean(known)) if known else None


def main() -> None:
    """Runs and writes everything."""
    given = arguments(__doc__, seeds="0-0", draws=5, part="all", tables=",".join({q.table: 0 for q in QUESTIONS}))
    jobs = [
        (question, name, weights, given.draws)
        for question in QUESTIONS
        if question.table in given.tables.split(",")
        for name, weights in objectives(question.table, history_of(question.table), given.part).items()
    ]
    rows = [row for found in side_by_side(answer, jobs, given.processes) for row in found]
    write(given.out, "backtest", summary(rows), rows)


if __name__ == "__main__":
    main()
