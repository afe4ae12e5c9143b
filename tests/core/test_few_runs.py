"""Searches of which it is known that they are short, and those that end once they are sure."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from worlds import THREE_SCALES, Bowl, search

from ray_mixopt import MixOptSearcher, MixtureOptimizer, MixtureSpace, Scale, simulators
from ray_mixopt.core.settings import Settings
from ray_mixopt.strategies.design import initial_design

TALL = MixtureSpace(
    domains=("web", "code", "math", "wiki"),
    scales=(Scale("60M", 0.03, 60e6), Scale("300M", 0.15, 300e6), Scale("1B", 1.0, 1e9)),
    steps=(1000, 3000, 9000, 20000),
    token_supply={"web": 4e11, "code": 6e10, "math": 5e9, "wiki": 4e9},
)


# -- how many runs there will be


@pytest.mark.parametrize("n", [4, 6, 8, 10])
def test_a_short_search_runs_the_same_mixtures_at_two_scales_for_long(n) -> None:
    baselines = [TALL.uniform(), TALL.proportional()]
    design = initial_design(TALL, np.random.default_rng(0), baselines, n)[:n]
    at = {scale: [run.mixture.tolist() for run in design if run.scale == scale] for scale in TALL.scale_names}
    (low, small), (high, large) = ((name, mixtures) for name, mixtures in at.items() if mixtures)
    assert len(small) + len(large) == n and len(large) >= 2
    assert all(mixture in small for mixture in large)
    assert all(baseline.tolist() in large for baseline in baselines)
    lengths = {run.scale: run.steps for run in design}
    usual = {run.scale: run.steps for run in initial_design(TALL, np.random.default_rng(0), baselines)}
    assert lengths[low] >= usual[low] and (n > 4 or lengths[low] > usual[low])
    assert sum(TALL.cost(run.scale, run.steps) for run in design) <= 0.2 * TALL.target_cost
    assert TALL.scale(high).cost_per_step > TALL.scale(low).cost_per_step


@pytest.mark.parametrize("n", [2, 4, 6, 10])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_a_budget_pays_for_all_runs_of_the_plan(n, share) -> None:
    budget = share * TALL.target_cost
    design = initial_design(TALL, np.random.default_rng(0), [TALL.uniform()], n, budget)[:n]
    assert sum(TALL.cost(run.scale, run.steps) for run in design) <= budget


@pytest.mark.parametrize(("share", "n"), [(0.02, 5), (0.05, 14)])
def test_a_small_budget_alone_is_planned_as_the_runs_that_it_pays_for(share, n) -> None:
    budget = share * TALL.target_cost
    design, said, more = (
        initial_design(TALL, np.random.default_rng(0), [TALL.uniform()], number, budget) for number in (None, n, 99)
    )
    assert len(design) == n and sum(TALL.cost(run.scale, run.steps) for run in design) <= budget
    low, high = ({tuple(run.mixture) for run in design if run.scale == scale} for scale in ("60M", "300M"))
    assert len(high) >= 2 and high <= low
    for other in (said, more):
        assert [(run.mixture.tolist(), run.scale, run.steps) for run in design] == [
            (run.mixture.tolist(), run.scale, run.steps) for run in other
        ]
    optimizer = MixtureOptimizer(TALL, budget=budget, seed=0)
    search(optimizer, 99, Bowl(space=TALL, best=(0.4, 0.3, 0.2, 0.1)))
    assert {run.scale for run in optimizer.history} == {"60M", "300M"} and optimizer.history.spent <= budget


@pytest.mark.parametrize("costs", [(0.01, 0.1, 1.0), (0.03, 1.0), (0.1, 1.0), (1.0,)])
@pytest.mark.parametrize("steps", [(500,), (500, 1000), (500, 2000, 20000)])
def test_no_plan_costs_more_than_the_budget_and_none_is_empty(costs, steps) -> None:
    scales = tuple(Scale(f"{cost:g}", cost_per_step=cost) for cost in costs)
    space = MixtureSpace(domains=("web", "code", "math"), scales=scales, steps=steps)
    cheapest = min(space.cost(*cell) for cell in space.fidelities)
    for share in (0.01, 0.03, 0.1, 0.2, 0.5, 2.0):
        for n in (None, 1, 2, 4, 8, 15):
            budget = max(share * space.target_cost, cheapest)
            plan = initial_design(space, np.random.default_rng(0), [space.uniform()], n, budget)
            assert plan and sum(space.cost(run.scale, run.steps) for run in plan[:n]) <= budget * (1 + 1e-9)
            assert n is None or n >= 15 or len(plan) <= n
            high = {tuple(run.mixture) for run in plan if run.scale != scales[0].name}
            assert high <= {tuple(run.mixture) for run in plan if run.scale == scales[0].name}
    assert initial_design(space, np.random.default_rng(0), [space.uniform()], 1)


def test_where_a_budget_pays_for_no_pairs_all_of_it_is_there_for_the_smallest_scale() -> None:
    scales = (Scale("S", cost_per_step=0.1), Scale("L", cost_per_step=1.0))
    space = MixtureSpace(domains=("web", "code", "math"), scales=scales, steps=(500, 1000))
    alone, pairs = (
        [(run.scale, run.steps) for run in initial_design(space, np.random.default_rng(0), (), n, budget)]
        for n, budget in ((None, 550), (5, 2000))
    )
    assert alone == [("S", 1000)] * 4
    assert len(initial_design(space, np.random.default_rng(0), (), 2, 120)) == 2  # not one that takes all
    assert sorted(pairs) == [("L", 500)] * 2 + [("S", 500)] * 3


def test_a_long_search_begins_as_one_of_unknown_length() -> None:
    usual, long = (initial_design(TALL, np.random.default_rng(0), (), n) for n in (None, 100))
    assert [(run.mixture.tolist(), run.scale, run.steps) for run in usual] == [
        (run.mixture.tolist(), run.scale, run.steps) for run in long
    ]


@pytest.mark.parametrize("wrong", [0, -3, 2.5, True, "6"])
def test_a_number_of_runs_that_is_none_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="expected_runs must be a number of runs from 1 on, or None, got"):
        MixtureOptimizer(TALL, expected_runs=wrong)


def test_the_searcher_hears_it_from_tune() -> None:
    def heard(number: int, **settings: int) -> int | None:
        searcher = MixOptSearcher(**settings)
        searcher.set_search_properties("loss", "min", TALL.param_space(), num_samples=number)
        assert MixtureOptimizer.from_state_dict(json.loads(json.dumps(searcher.optimizer.state_dict()))).settings == (
            searcher.optimizer.settings
        )
        return searcher.optimizer.settings.expected_runs

    assert heard(6) == 6
    assert heard(6, expected_runs=9) == 9
    assert heard(sys.maxsize, budget=100) is None  # num_samples=-1


def test_six_runs_of_readmes_own_example_are_no_worse_than_the_uniform_mixture() -> None:
    simulator, metric = simulators.load("slimpajama"), "val_loss/github"
    space = simulator.space

    def loss(mixture: dict[str, float], scale: str, step: int) -> float:
        return simulator.observe(space.mixture(mixture), scale, step)[metric]

    uniform = loss(space.named(space.uniform()), space.target_scale, space.target_steps)
    for seed in range(4):
        optimizer = MixtureOptimizer(space, seed=seed, expected_runs=6)
        assert len(search(optimizer, 6, loss)) == 6
        assert loss(optimizer.recommend().mixture, space.target_scale, space.target_steps) <= uniform


# -- an end once it is sure


def test_a_search_ends_once_its_verdict_is_to_train_the_answer() -> None:
    loss, budget = Bowl(space=THREE_SCALES, best=(0.6, 0.3, 0.1)), 3 * THREE_SCALES.target_cost
    optimizer = MixtureOptimizer(THREE_SCALES, budget=budget, seed=0, stop_when_sure=True)
    search(optimizer, 80, loss)
    assert optimizer.recommend().verdict.ready and optimizer.ask() is None
    assert optimizer.history.spent < 0.7 * budget
    again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    assert again.settings.stop_when_sure and again.ask() is None
    # Runs that were given make it sure at once.
    warm = MixtureOptimizer(THREE_SCALES, budget=0.5 * THREE_SCALES.target_cost, stop_when_sure=True)
    warm.absorb(optimizer.history)
    assert warm.ask() is None
    warm.problem.check_budget(warm.history)  # it is not for want of money


def test_a_wish_to_stop_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="stop_when_sure must be True or False, got 1"):
        Settings(stop_when_sure=1)
    with pytest.raises(ValueError, match="Strategy 'random' is never sure: stop_when_sure needs strategy='default'"):
        MixtureOptimizer(TALL, strategy="random", stop_when_sure=True)
