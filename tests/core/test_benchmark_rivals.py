"""Every rival completes a tiny search, or says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ray_mixopt.benchmark import methods, problems
from ray_mixopt.benchmark.methods import Entry
from ray_mixopt.benchmark.record import Record
from ray_mixopt.benchmark.rivals.base import RandomLogits, geometric_rungs
from ray_mixopt.benchmark.runner import search

DATA = Path(__file__).parents[3] / "shared" / "data"
RIVALS = [entry for entry in methods.registry().values() if entry.implementation]
PROBLEM = "synthetic/mixing_law+noise+failures=0.05"
# Enough for a few suggestions beyond the initial design, in target runs.
BUDGETS = {"random-logits": 2.0, "smac-scale": 0.6, "botorch-gibbon": 0.1, "regmix-lightgbm": 0.15, "mixing-law": 0.5}


def named(entries: list[Entry]) -> list[object]:
    return [pytest.param(entry, id=entry.name) for entry in entries]


def run(entry: Entry, problem: str, budget: float, data: Path | None = None) -> Record:
    if entry.obstacle:
        pytest.skip(entry.obstacle)
    return search(problems.load(problem, data), entry, 0, budget)


@pytest.mark.parametrize("entry", named([entry for entry in RIVALS if entry.domain == "simplex"]))
def test_a_rival_completes_a_tiny_search(entry: Entry) -> None:
    budget = BUDGETS.get(entry.name, 1.0)
    record = run(entry, PROBLEM, budget)
    assert record.runs > 0 and 0.25 * budget < record.spent <= budget * (1 + 1e-9)
    regrets = np.array([point.regret for point in record.trace])
    assert np.isfinite(regrets).all() and (regrets >= -1e-9).all()
    assert record.trace[-1].mixture != record.trace[0].mixture
    assert dict(record.settings) == dict(entry.settings)


@pytest.mark.parametrize("name", ["smac-hyperband", "bohb", "optuna-tpe", "mixing-law"])
def test_the_same_seed_gives_the_same_search(name: str) -> None:
    entry = methods.find(name)
    assert run(entry, PROBLEM, 0.4).trace == run(entry, PROBLEM, 0.4).trace


def taught(name: str, loss: Callable[[np.ndarray, str, int], float], n: int, budget: float = 1.0) -> np.ndarray:
    """What a rival recommends after up to ``n`` runs with a loss of one's own, ``(d,)``."""
    entry = methods.find(name)
    if entry.obstacle:
        pytest.skip(entry.obstacle)
    method = entry.start(problems.load("synthetic/mixing_law").task(budget, 0))
    for _ in range(n):
        run = method.ask()
        assert run is not None
        for step in (step for step in method.space.steps if step <= run.steps):
            method.tell(run.trial_id, step, {"loss": loss(method.space.mixture(run.mixture), run.scale, step)})
        method.finish(run.trial_id)
    return method.space.mixture(method.recommend())


@pytest.mark.parametrize(("name", "budget"), [("regmix-log-linear", 1.0), ("regmix-lightgbm", 0.15)])
def test_regmix_recommends_what_its_regression_ranks_first(name: str, budget: float) -> None:
    slopes = np.array([-1.0, -3.0, 0.5, 0.0, 1.0])
    found = taught(name, lambda w, scale, step: 2 + math.exp(w @ slopes), 150, budget)
    assert found.argmax() == 1 and found[1] > 0.7


def test_the_mixing_law_is_fitted_and_minimised_at_the_target() -> None:
    def loss(w: np.ndarray, scale: str, step: int) -> float:
        """Two domains are worth the same; what size and length leave to gain does not depend on the mixture."""
        size = {"30M": 0.3, "100M": 0.2, "300M": 0.1}[scale]
        return 2 + size + 10 / step + 0.3 * math.exp(-4 * w[0]) + 0.3 * math.exp(-4 * w[1])

    assert np.abs(taught("mixing-law", loss, 90) - [0.5, 0.5, 0, 0, 0]).max() < 0.1


def test_a_rival_recommends_the_best_of_its_dearest_runs() -> None:
    rival = RandomLogits(problems.load("synthetic/mixing_law").task(10.0, 0), bound=3.0)
    for (scale, steps), loss in (("30M", 20000), 0.1), (("1B", 20000), 0.5), (("1B", 20000), 0.4), (("1B", 2000), 0.2):
        run = rival.start(rival.space.sample(1, rival.rng)[0], scale, steps)
        rival.tell(run.trial_id, steps, {"loss": loss})
    assert rival.recommend() == rival.space.named(rival.runs["run_00002"].mixture)


@pytest.mark.parametrize(("name", "n"), [("bohb", 100), ("optuna-gp", 60)])
def test_most_runs_end_at_a_low_rung_and_some_go_on(name: str, n: int) -> None:
    entry = methods.find(name)
    if entry.obstacle:
        pytest.skip(entry.obstacle)
    method = entry.start(problems.load("synthetic/mixing_law").task(10.0, 0))
    steps: dict[str, int] = {}
    for number in range(n):
        run = method.ask()
        assert run is not None and run.scale == "1B"
        assert (run.continues is None) == (run.trial_id not in steps)
        steps[run.trial_id] = run.steps
        method.tell(run.trial_id, run.steps, {"loss": 1 + number * 37 % 100 / 100})
        method.finish(run.trial_id)
    by_rung = [sum(reached == rung for reached in steps.values()) for rung in method.space.steps]
    assert by_rung[0] == max(by_rung) and sum(by_rung[1:]) > 0


@pytest.mark.skipif(not DATA.is_dir(), reason="the reference data are not at ../shared/data")
@pytest.mark.parametrize("problem", ["mixinglaws/loss", "regmix/val_loss/github"])
@pytest.mark.parametrize("entry", named([entry for entry in RIVALS if entry.domain == "pool"]))
def test_a_rival_completes_a_search_of_a_pool(entry: Entry, problem: str) -> None:
    record = run(entry, problem, 3.0, DATA)
    assert record.trace[-1].regret < 1.0 and record.trace[-1].trained


def test_small_runs_that_rank_perfectly_find_the_best_at_once() -> None:
    entry = methods.find("ranking")
    if not DATA.is_dir() or entry.obstacle:
        pytest.skip("needs the reference data at ../shared/data and LightGBM")
    problem = problems.load("mixinglaws/loss", DATA)
    record = search(problem, entry, 0, 30.0)
    # All 20 candidates are run at the smallest scale, and then all at the target.
    assert record.runs == 40 and record.trace[-1].regret == 0.0


def test_what_cannot_run_has_a_reason() -> None:
    assert "see botorch-gibbon" in methods.find("botorch-mfkg").obstacle
    missing = Entry(name="x", packages=("no_such_package",))
    assert missing.obstacle == "it needs no_such_package: pip install 'ray-mixopt[benchmark]'"
    with pytest.raises(ValueError, match="Unknown method 'y': choose one of default"):
        methods.find("y")
    assert [entry.name for entry in methods.expand(["optuna-*", "optuna-gp"])] == ["optuna-tpe", "optuna-gp"]
    with pytest.raises(ValueError, match="No method matches 'y\\*'"):
        methods.expand(["y*"])


def test_rungs_are_powers_of_eta_below_the_target() -> None:
    task = problems.load("slimpajama/val_loss/c4", None).task(100.0, 0)
    assert geometric_rungs(task, 3, 0.012 * 19700) == (243, 730, 2189, 6567, 19700)
