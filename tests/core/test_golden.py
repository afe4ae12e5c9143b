"""Suggestions of three searches, kept: what only moves code must not move them.

``PYTHONPATH=tests python tests/core/test_golden.py`` writes them anew, for a change that is meant to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import SMALL_MEDIUM_LARGE

from ray_mixopt import MixtureOptimizer, MixtureSpace, simulators
from ray_mixopt.core.objective import Guardrail, Objective
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.simplex import Group

GOLDEN = Path(__file__).with_name("golden.json")


def formula(mixture, scale: str, steps: int) -> dict[str, float]:
    """Three metrics of a mixture that falls off from an optimum which moves with the scale."""
    w = np.array(list(mixture.values()))
    size = {"small": 1.0, "medium": 0.6, "large": 0.4}[scale]
    best = np.linspace(1, 2, len(w)) / np.linspace(1, 2, len(w)).sum() + 0.1 * size * np.cos(np.arange(len(w)))
    distance = float(np.square(w - best).sum())
    loss = 2 + size * (100 / steps) ** 0.3 + distance
    return {"loss": loss, "accuracy": 0.3 + 0.2 * math.exp(-distance) / loss, "other": 3 + float(w[0]) - distance}


def several_at_a_time(optimizer: MixtureOptimizer, n: int, workers: int, observe: Any) -> Iterator[dict[str, Any]]:
    """Runs ``workers`` trials side by side; each tells its rungs when the next one is asked for."""
    going: list[tuple[Any, int]] = []
    for number in range(n):
        while len(going) >= workers:
            run, start = going.pop(0)
            for step in optimizer.space.steps:
                if start < step <= run.steps:
                    values = observe(number, run, step)
                    if values is not None:
                        optimizer.tell(run.trial_id, step, values)
            optimizer.finish(run.trial_id, failed=number % 17 == 16)
        run = optimizer.ask()
        if run is None:
            return
        going.append((run, optimizer.history[run.trial_id].reached))
        yield {
            "mixture": list(run.mixture.values()),
            "scale": run.scale,
            "steps": run.steps,
            "continues": run.continues,
        }


def simulated() -> tuple[MixtureOptimizer, Iterator[dict[str, Any]]]:
    """The reference network, two runs at a time, to the end of a budget."""
    source = simulators.load("slimpajama", noise=0.02, seed=5)
    optimizer = MixtureOptimizer(source.space, objective={"val_loss/common_crawl": 1.0}, budget=150, seed=3)
    return optimizer, several_at_a_time(
        optimizer, 60, 2, lambda number, run, step: source.observe(run.mixture, run.scale, step)
    )


def several_metrics() -> tuple[MixtureOptimizer, Iterator[dict[str, Any]]]:
    """A guardrail, limits, earlier runs, diverged and failed ones, and metrics that some reports lack."""
    space = MixtureSpace(
        domains=("web", "code", "math", "books"),
        scales=SMALL_MEDIUM_LARGE,
        steps=(100, 400),
        lower={"web": 0.1},
        token_supply={"web": 4.0, "code": 2.0, "math": 1.0, "books": 1.0},
        groups=(Group(domains=("code", "math"), most=0.7),),
    )
    objective = Objective(
        weights={"loss": 1.0, "accuracy": 0.5},
        directions={"accuracy": "max"},
        relative_to="proportional",
        guardrails=(Guardrail(metric="other", tolerance=0.05),),
        closeness=0.01,
    )
    optimizer = MixtureOptimizer(space, objective=objective, budget=600.0, seed=11)
    for i, mixture in enumerate(space.sample(5, np.random.default_rng(2))):
        named = space.named(mixture)
        optimizer.add_evaluated_point(named, "small", 400, formula(named, "small", 400), trial_id=f"given_{i}")

    def observe(number: int, run: Any, step: int) -> dict[str, float] | None:
        values = formula(run.mixture, run.scale, step)
        if number % 13 == 12:
            values["loss"] = math.nan
        if number % 5 == 4:
            del values["accuracy"]
        return values

    return optimizer, several_at_a_time(optimizer, 25, 3, observe)


def logged() -> tuple[MixtureOptimizer, Iterator[dict[str, Any]]]:
    """A table of logged runs, maximised, one at a time."""
    space = MixtureSpace(domains=("a", "b", "c"), scales=SMALL_MEDIUM_LARGE, steps=(100, 200, 400))
    rng = np.random.default_rng(4)
    mixtures = space.sample(40, rng)
    pool = Pool(mixtures=mixtures, available=rng.random((40, 3, 3)) < 0.8)
    optimizer = MixtureOptimizer(space, mode="max", objective={"accuracy": 1.0}, seed=7, pool=pool)
    return optimizer, several_at_a_time(
        optimizer, 50, 1, lambda number, run, step: formula(run.mixture, run.scale, step)
    )


SEARCHES = {"simulated": simulated, "several metrics": several_metrics, "logged": logged}


def played(name: str) -> dict[str, Any]:
    optimizer, suggestions = SEARCHES[name]()
    asked = list(suggestions)
    answer = optimizer.recommend()
    assert answer.predicted is not None
    return {"asked": asked, "answer": list(answer.mixture.values()), "predicted": answer.predicted.mean}


@pytest.mark.parametrize("name", SEARCHES)
def test_suggestions_stay_the_same(name: str) -> None:
    found, golden = played(name), json.loads(GOLDEN.read_text())[name]
    assert len(found["asked"]) == len(golden["asked"])
    for number, (run, wanted) in enumerate(zip(found["asked"], golden["asked"], strict=True)):
        where = {key: run[key] for key in ("scale", "steps", "continues")}
        assert where == {key: wanted[key] for key in where}, f"suggestion {number}"
        assert np.abs(np.subtract(run["mixture"], wanted["mixture"])).max() < 1e-6, f"suggestion {number}"
    assert np.abs(np.subtract(found["answer"], golden["answer"])).max() < 1e-6
    assert found["predicted"] == pytest.approx(golden["predicted"], abs=1e-4)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: played(name) for name in SEARCHES}, indent=1) + "\n")
