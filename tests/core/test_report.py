"""Regret, the way a recommendation went, and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ray_mixopt import MixtureOptimizer, simulators
from ray_mixopt.analysis.result import saving
from ray_mixopt.analysis.trajectory import costs, prefix, trajectory
from ray_mixopt.analysis.truth import Truth, dense_minimiser
from ray_mixopt.core.history import History
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.strategy import Callback, Proposal, Suggestion
from ray_mixopt.report.replay import draw_replay
from ray_mixopt.simulators import RunTable, Simulator
from ray_mixopt.strategies.random import RandomStrategy

RUNS = """scale,cost_per_step,step,mixture/web,mixture/code,loss,acc
S,1,100,0.5,0.5,4.0,0.1
S,1,100,1,0,3.9,0.2
L,10,100,0.5,0.5,3.0,0.5
L,10,100,0.25,0.75,2.0,0.3
L,10,100,0,1,5.0,0.9
"""


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return simulators.load("slimpajama")


@pytest.fixture
def table(tmp_path: Path) -> RunTable:
    path = tmp_path / "runs.csv"
    path.write_text(RUNS)
    return RunTable.read(path)


@pytest.fixture
def searched(simulator: Simulator) -> MixtureOptimizer:
    """Four random full runs, told rung by rung, the last one not to its end."""
    optimizer = MixtureOptimizer(simulator.space, objective={"loss": 1.0}, strategy="random", budget=1000.0)
    for i in range(4):
        run = optimizer.ask()
        assert run is not None
        for step in simulator.space.steps[: 2 if i == 3 else None]:
            optimizer.tell(run.trial_id, step, simulator.observe(run.mixture, run.scale, step))
        if i < 3:
            optimizer.finish(run.trial_id)
    return optimizer


# -- regret


@pytest.mark.parametrize("metric", ["loss", "accuracy/hellaswag"])
def test_regret_is_0_at_the_best_and_1_at_a_random_mixture(simulator: Simulator, metric: str) -> None:
    truth = Truth(simulator, metric, simulator.modes[metric])
    mixtures = simulator.space.sample(2000, np.random.default_rng(5), 0.5)
    values = [truth.regret(mixture) for mixture in mixtures]
    assert min(values) >= 0
    uniform = [truth.regret(mixture) for mixture in simulator.space.sample(2000, np.random.default_rng(6))]
    assert np.median(uniform) == pytest.approx(1.0, abs=0.05)
    assert sum(value < 0.2 for value in values) > 0


def test_regret_follows_the_direction(simulator: Simulator) -> None:
    least, most = (Truth(simulator, "loss", mode) for mode in ("min", "max"))
    assert least.best < least.median < most.best
    assert least.median == most.median


@pytest.mark.parametrize(
    ("metric", "mode", "expected"), [("loss", "min", (1.0, 0.0, 3.0)), ("acc", "max", (1.0, 1.5, 0.0))]
)
def test_regret_among_logged_runs(table: RunTable, metric: str, mode: str, expected: tuple[float, ...]) -> None:
    truth = Truth(table, metric, mode)
    assert [truth.regret(np.array(w)) for w in ([0.5, 0.5], [0.25, 0.75], [0.0, 1.0])] == pytest.approx(expected)


def test_regret_is_unknown_where_nothing_was_logged_at_the_target(table: RunTable) -> None:
    truth = Truth(table, "loss", "min")
    for mixture in ([1.0, 0.0], [0.4, 0.6]):
        assert truth.value(np.array(mixture)) is None
        assert truth.regret(np.array(mixture)) is None


def test_what_a_search_saved_is_said_in_numbers(table: RunTable, simulator: Simulator) -> None:
    optimizer = MixtureOptimizer(table.space, objective={"loss": 1.0}, strategy="random", pool=table.pool)
    run = optimizer.accept(Proposal(mixture=np.array([0.25, 0.75]), scale="L", steps=100))
    optimizer.tell(run.trial_id, 100, {"loss": 2.0})
    text = saving(optimizer, Truth(table, "loss", "min"), optimizer.recommend())
    # Three whole runs at the target, two at a tenth of its cost.
    assert "number 1 of the 3 logged at the target" in text
    assert "All 5 logged runs cost 3.2 full runs, of which the search paid 1: 68.8% saved." in text
    assert table.pool.full_runs(table.space) == (5, pytest.approx(3.2))

    truth = Truth(simulator, "loss", "min")
    best = simulator.space.mixture(dense_minimiser(truth.losses, simulator.space, samples=2000))
    uniform = truth.value(simulator.space.uniform())
    steps = truth.steps_to(best, uniform)
    at = [
        float(simulator.evaluate(best[None], "1B", z)[0, simulator.metrics.index("loss")]) for z in (steps, steps - 1)
    ]
    assert at[0] <= uniform < at[1] and steps < 19700
    assert truth.steps_to(simulator.space.uniform(), truth.best) is None
    assert Truth(table, "loss", "min").steps_to(np.array([0.25, 0.75]), 9.0) is None


# -- the way there


def test_costs_end_at_what_was_spent(searched: MixtureOptimizer) -> None:
    spent = costs(searched.history)
    assert len(spent) == len(searched.history.arrivals)
    assert (np.diff(spent) > 0).all()
    assert spent[-1] == pytest.approx(searched.history.spent)


def test_costs_of_a_report_out_of_turn_and_of_a_given_run_are_0(simulator: Simulator) -> None:
    optimizer = MixtureOptimizer(simulator.space, strategy="random")
    run = optimizer.ask()
    for step in (6000, 2000, 12000):
        optimizer.tell(run.trial_id, step, 1.0)
    optimizer.add_evaluated_point(run.mixture, "20M", 19700, 2.0)
    assert costs(optimizer.history) == pytest.approx([60.0, 60.0, 120.0, 120.0])


def test_a_prefix_is_the_history_as_it_was(searched: MixtureOptimizer) -> None:
    history = searched.history
    for n in range(len(history.arrivals) + 1):
        part = prefix(history, n)
        assert part.arrivals == history.arrivals[:n]
        assert part.spent == pytest.approx(([0.0, *costs(history)])[n])
        assert {t.trial_id for t in part} == {trial_id for trial_id, _ in history.arrivals[:n]}
        type(history).from_state_dict(part.state_dict())  # it is consistent


def test_the_trajectory_ends_at_the_answer_and_leaves_the_search_alone(searched: MixtureOptimizer) -> None:
    before = json.dumps(searched.state_dict())
    points = trajectory(searched, 8)
    assert json.dumps(searched.state_dict()) == before
    assert points[-1] == searched.recommend()
    spent = [point.spent for point in points]
    assert spent == sorted(set(spent))
    assert 2 < len(points) <= 8


def test_a_strategy_of_ones_own_has_a_trajectory_too(simulator: Simulator) -> None:
    asked: list[str] = []

    class Own(RandomStrategy):
        def recommend(self, history: History) -> Recommendation:
            asked.append(type(self).__name__)
            return super().recommend(history)

    heard: list[Suggestion] = []

    class Listener(Callback):
        def on_suggestion(self, suggestion: Suggestion) -> None:
            heard.append(suggestion)

    optimizer = MixtureOptimizer(simulator.space, strategy=Own, callbacks=[Listener()])
    run = optimizer.ask()
    for step in simulator.space.steps:
        optimizer.tell(run.trial_id, step, 1.0)
    points = trajectory(optimizer, 4)
    assert 2 <= len(points) == len(asked) <= 4
    assert points[-1] == optimizer.recommend()
    assert heard == [run]


def test_the_trajectory_of_nothing_is_empty(simulator: Simulator) -> None:
    assert trajectory(MixtureOptimizer(simulator.space, strategy="random")) == []


# -- the picture


def summary(points: list[dict], **changes: object) -> dict:
    scales = [{"scale": "20M", "runs": 1, "full_runs": 0.2}, {"scale": "1B", "runs": 0, "full_runs": 0.0}]
    basic = {"source": "s", "metric": "loss", "strategy": "default", "by_scale": scales, "trajectory": points}
    return basic | {"target": {"scale": "1B", "steps": 100}, "uniform": {"regret": 0.9}, "logged": None} | changes


INTERVAL = {"mean": 2.0, "low": 1.9, "high": 2.1}


@pytest.mark.parametrize(
    "points",
    [
        [],
        [
            {"full_runs": 0.1, "regret": 0.0, "predicted": None},
            {"full_runs": 0.2, "regret": None, "predicted": INTERVAL},
        ],
        [
            {"full_runs": 0.1, "regret": None, "predicted": None},
            {"full_runs": 0.2, "regret": None, "predicted": INTERVAL},
        ],
    ],
    ids=["nothing", "regret", "prediction"],
)
def test_the_picture_is_a_png(tmp_path: Path, points: list[dict]) -> None:
    from matplotlib.image import imread

    draw_replay(summary(points), tmp_path / "replay.png")
    pixels = imread(tmp_path / "replay.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels[..., :3].std() > 0
