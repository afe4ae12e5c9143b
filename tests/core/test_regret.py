"""The default strategy: its design, its candidates, and what it buys."""

import json
import math
from functools import partial

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from worlds import THREE_SCALES, Bowl, given, search, train

from ray_mixopt.acquisition.gain import RegretPerCost
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies.candidates import PoolCandidates, SimplexCandidates
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.strategies.design import corners_again, initial_design
from ray_mixopt.strategies.purchases import partners_of
from ray_mixopt.surrogate.belief import FitSettings
from ray_mixopt.surrogate.posterior import ObjectivePosterior

SPACE = THREE_SCALES
BEST = np.array([0.6, 0.3, 0.1])
loss = Bowl(space=SPACE, best=BEST, size=0.3, length=0.4, moves=0.05)  # the best mixture moves a little with the scale


def searched(optimizer, n, value=loss):
    search(optimizer, n, value)
    return optimizer


@pytest.mark.parametrize("d", [2, 5, 30, 200])
def test_the_design_varies_mixtures_at_two_fidelities_for_a_fixed_share_of_a_target_run(d):
    space = MixtureSpace(
        domains=tuple(f"d{i}" for i in range(d)),
        scales=tuple(Scale(str(i), 10.0**i) for i in range(4)),
        steps=(100, 300, 1000),
    )
    design = initial_design(space, np.random.default_rng(0))
    assert sum(space.cost(p.scale, p.steps) for p in design) <= 0.25 * space.target_cost
    assert len({(p.scale, p.steps) for p in design}) == 2
    for cell in {(p.scale, p.steps) for p in design}:
        assert len({tuple(p.mixture) for p in design if (p.scale, p.steps) == cell}) >= 3
    assert space.simplex.contains([p.mixture for p in design]).all()


def test_the_design_respects_floors_and_caps():
    space = MixtureSpace(
        domains=("a", "b", "c"), scales=SPACE.scales, steps=SPACE.steps, lower={"a": 0.1}, upper={"b": 0.4}
    )
    mixtures = [p.mixture for p in initial_design(space, np.random.default_rng(0))]
    assert space.simplex.contains(mixtures).all()
    assert max(w[1] for w in mixtures) > 0.35


def test_runs_that_were_given_take_the_place_of_the_design():
    design = DefaultStrategy(MixtureOptimizer(SPACE, seed=4).problem).design
    cells = sorted({(p.scale, p.steps) for p in design}, key=lambda cell: SPACE.cost(*cell))

    def of_the_design(*runs):
        """How many of the suggestions are the design's, when some fidelities have been given runs."""
        optimizer = MixtureOptimizer(SPACE, seed=4)
        for cell, n in runs:
            given(optimizer, n, loss, cells=[cell])
        asked = search(optimizer, len(design), loss)
        return sum(any((SPACE.mixture(run.mixture) == p.mixture).all() for p in design) for run in asked)

    many = [sum((p.scale, p.steps) == cell for p in design) for cell in cells]
    assert of_the_design() == len(design)
    assert of_the_design((cells[0], many[0])) == many[1], "cheap runs spare cheap ones"
    assert of_the_design((cells[1], max(many))) == 0, "and dear runs all"
    assert of_the_design((cells[0], many[0] - 1)) == len(design), "a few are not enough"


def test_candidates_stay_within_the_bounds_and_reach_corners_and_faces():
    space = MixtureSpace(
        domains=("a", "b", "c", "d"), scales=SPACE.scales, steps=SPACE.steps, upper={"a": 0.5}, lower={"b": 0.05}
    )
    candidates = SimplexCandidates(space)
    rng = np.random.default_rng(0)
    base = candidates.at_target(rng, 200)
    near = candidates.near(base, np.arange(len(base)), rng)
    assert space.simplex.contains(np.concatenate([base, near]), 1e-9).all()
    for corner in space.corners():
        assert (np.abs(base - corner).sum(1) < 1e-9).any()
    assert (near[:, 2] == 0).any()


@hypothesis.given(st.integers(2, 5000))
def test_refit_sizes_are_a_coarse_staircase_below_n(n):
    refit_size = FitSettings().refit_size
    assert 2 <= refit_size(n) <= n
    assert refit_size(refit_size(n)) == refit_size(n)
    assert n < refit_size(n) * 1.1 + 2


def test_the_more_is_known_the_fewer_draws():
    draws = [FitSettings().draws_of(n) for n in (0, 2, 500, 1000, 10_000)]
    assert draws == [8, 8, 8, 2, 1]


def test_what_the_model_has_no_room_for_is_counted():
    optimizer = searched(MixtureOptimizer(SPACE, seed=0), 8)
    assert optimizer.recommend().left_out == 0
    n = len(optimizer.history.arrivals)
    small = DefaultSettings(fit=FitSettings(most_used=n - 3))
    recommendation = DefaultStrategy(optimizer.problem, settings=small).recommend(optimizer.history)
    assert recommendation.left_out == 3
    assert recommendation.calibration.n == n - 3
    assert "which is full: 3 values" in str(recommendation)


def test_it_finds_the_optimum_for_less_than_a_random_target_run_costs():
    optimizer = searched(MixtureOptimizer(SPACE, budget=SPACE.target_cost / 2, seed=1), 60)
    answer = optimizer.recommend()
    assert optimizer.history.spent <= SPACE.target_cost / 2
    assert loss(answer.mixture, "large", 400) - loss(SPACE.named(BEST), "large", 400) < 0.02
    assert answer.predicted is not None and answer.predicted.low < answer.predicted.high
    assert answer.predicted.mean < answer.uniform.mean
    assert answer.value_of_next_run >= 0
    assert answer.calibration.n >= 20


def test_it_ends_when_no_run_is_worth_its_cost():
    spent = {}
    for gain in (0.0, 1e-6, 1e-3):
        optimizer = MixtureOptimizer(SPACE, budget=2 * SPACE.target_cost, seed=0, min_gain_per_cost=gain)
        spent[gain] = searched(optimizer, 200).history.spent
        recommendation = optimizer.recommend()
        assert recommendation.value_of_next_run is not None and recommendation.next_run is not None
        restored = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
        assert restored.settings.min_gain_per_cost == gain and restored.ask() is None
    assert 0 < spent[1e-3] < spent[1e-6] <= spent[0.0]


@pytest.mark.parametrize("gain", [-1.0, math.nan, math.inf, "a lot", True])
def test_a_gain_that_is_none_is_refused(gain):
    with pytest.raises(ValueError, match="min_gain_per_cost must be a number that is not negative"):
        MixtureOptimizer(SPACE, min_gain_per_cost=gain)


def test_only_the_default_strategy_predicts_gains():
    with pytest.raises(ValueError, match="Strategy 'random' does not predict gains"):
        MixtureOptimizer(SPACE, strategy="random", min_gain_per_cost=0.1)


def test_no_run_costs_more_than_half_of_all_before_it():
    optimizer = MixtureOptimizer(SPACE, budget=2 * SPACE.target_cost, seed=1)
    n_design = len(initial_design(SPACE, np.random.default_rng(0)))
    largest = 0.0
    while (suggestion := optimizer.ask()) is not None:
        before = optimizer.history.spent
        if optimizer.history.n_asked > n_design:
            assert suggestion.cost <= 0.5 * before
            largest = max(largest, suggestion.cost)
        train(optimizer, suggestion, loss)
    assert largest > 0.05 * SPACE.target_cost


def test_a_mixture_is_not_trained_twice_at_the_same_fidelity():
    optimizer = searched(MixtureOptimizer(SPACE, budget=SPACE.target_cost, seed=2), 60)
    n_design = len(initial_design(SPACE, np.random.default_rng(0)))
    cells = [(t.mixture, t.scale) for t in optimizer.history]
    assert len(cells) > n_design + 10
    assert not set(cells[n_design:]) & set(cells[:n_design])
    assert len(set(cells[n_design:])) == len(cells) - n_design


def test_a_mixture_that_differs_by_rounding_is_the_same_run():
    optimizer = searched(MixtureOptimizer(SPACE, seed=3), 14)
    optimizer.accept(
        Proposal(mixture=np.array([1e-17, 1.0, 4e-5]) / (1 + 4e-5), scale="medium", steps=400)
    )  # in flight
    strategy = optimizer._strategy
    runs, _ = strategy._purchases(np.array([[0.0, 1.0, 0.0], [0.0, 0.9, 0.1]]), optimizer.history, math.inf)
    cells = [
        {(run.scale, run.steps) for run in runs if run.mixture[1] == share and not run.continues} for share in (1, 0.9)
    ]
    assert cells[1] - cells[0] == {("medium", 100), ("medium", 400)}


def test_runs_are_valued_in_pairs_in_the_second_half_of_the_budget_only():
    paired, alone = [], []

    class Watched(RegretPerCost):
        def __call__(self, offer):
            (paired if len(offer.paired) else alone).append(optimizer.history.committed)
            return super().__call__(offer)

    strategy = partial(DefaultStrategy, acquisition=Watched())
    optimizer = MixtureOptimizer(SPACE, strategy=strategy, budget=SPACE.target_cost, seed=3)
    searched(optimizer, 60)
    assert optimizer.history.committed > 0.9 * SPACE.target_cost
    assert paired and min(paired) >= 0.5 * SPACE.target_cost
    assert alone and min(alone) < 0.5 * SPACE.target_cost


def test_a_pair_is_a_run_and_one_of_the_incumbent_at_its_fidelity_that_can_be_paid():
    incumbent, other = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.3, 0.2])
    runs = [
        Proposal(mixture=incumbent, scale="small", steps=100),
        Proposal(mixture=other, scale="small", steps=100),
        Proposal(mixture=other, scale="small", steps=400, continues="a"),
        Proposal(mixture=incumbent, scale="small", steps=400),
        Proposal(mixture=other, scale="large", steps=100),
        Proposal(mixture=incumbent, scale="large", steps=100, continues="b"),
    ]
    costs = [1.0, 1.0, 3.0, 4.0, 9.0, 5.0]
    assert partners_of(runs, costs, incumbent, 100.0).tolist() == [-1, 0, 3, -1, -1, -1]
    assert partners_of(runs, costs, incumbent, 6.9).tolist() == [-1, 0, -1, -1, -1, -1]
    assert partners_of(runs, costs, other, 100.0).tolist() == [1, -1, -1, -1, -1, 4]


TALL = MixtureSpace(
    domains=("web", "code", "math"),
    scales=tuple(Scale(f"{m}M", m / 300, m * 1e6) for m in (20, 60, 150, 300)),
    steps=(2000, 6000, 12000, 20000),
)


def reversed_loss(mixture, scale, steps):
    """Math is the worst domain for small models and short runs, and the best for others."""
    late = TALL.scale(scale).parameters >= 1.5e8 and steps >= 6000
    return 3 - 0.2 * mixture["web"] + (-1.0 if late else 0.3) * mixture["math"] + 10 * steps**-0.5


def test_where_the_bridge_is_short_the_corners_are_run_again_further_up_late_in_the_budget():
    assert not corners_again(TALL, 0.3 * TALL.target_cost)  # not enough for three runs further up
    again = corners_again(TALL, 4 * TALL.target_cost)
    assert len(again) == 3
    assert {(run.scale, run.steps) for run in again} == {("150M", 12000)}
    assert sum(TALL.cost(run.scale, run.steps) for run in again) <= TALL.target_cost
    assert [run.mixture.argmax() for run in again] == [0, 1, 2]

    optimizer = MixtureOptimizer(TALL, budget=4 * TALL.target_cost, seed=1)
    spent = {}
    for _ in range(140):
        suggestion = optimizer.ask()
        if suggestion is None:
            break
        train(optimizer, suggestion, reversed_loss)
        spent.setdefault(suggestion.trial_id, optimizer.history.committed)
    asked = [t for t in optimizer.history if t.scale == "150M" and max(t.mixture) == pytest.approx(0.95 + 0.05 / 3)]
    largest = [np.argmax(t.mixture) for t in asked if t.steps >= 12000]
    assert sorted(largest) == [0, 1, 2, 2]  # each once, and that with a curve that nobody believes once more
    assert min(spent[t.trial_id] for t in asked) > 0.4 * 4 * TALL.target_cost
    assert optimizer.recommend().mixture["math"] > 0.9


def test_a_bridge_that_reaches_far_is_enough():
    close = MixtureSpace(
        domains=("a", "b"), scales=(Scale("s", 0.001), Scale("m", 0.05), Scale("l", 1.0)), steps=(100, 400)
    )
    assert corners_again(close, 10 * close.target_cost) == []


def test_maximising_the_negative_is_the_same_search():
    down = searched(MixtureOptimizer(SPACE, seed=2), 16)
    up = searched(MixtureOptimizer(SPACE, seed=2, mode="max"), 16, lambda *at: -loss(*at))
    assert [t.mixture for t in down.history] == [t.mixture for t in up.history]
    assert down.recommend().predicted.mean == pytest.approx(-up.recommend().predicted.mean)


def test_runs_in_flight_are_distinct_and_inform_each_other(monkeypatch):
    optimizer, unaware = (searched(MixtureOptimizer(SPACE, seed=3), 14) for _ in range(2))
    asked = [optimizer.ask() for _ in range(5)]
    assert len({(tuple(s.mixture.values()), s.scale, s.steps) for s in asked}) == 5
    monkeypatch.setattr(ObjectivePosterior, "given_pending", lambda self, runs: self)
    others = [unaware.ask() for _ in range(5)]
    assert others[0] == asked[0] and others[1:] != asked[1:], "the others know what the first will tell"


def test_a_restored_optimizer_goes_on_bit_for_bit():
    optimizer = searched(MixtureOptimizer(SPACE, seed=4), 15)
    optimizer.ask()  # in flight
    restored = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    for _ in range(3):
        one, other = optimizer.ask(), restored.ask()
        assert one == other
        train(optimizer, one, loss)
        train(restored, other, loss)
    assert optimizer.recommend() == restored.recommend()


def test_it_continues_paused_runs_at_marginal_cost():
    optimizer = searched(MixtureOptimizer(SPACE, seed=5), 10)
    continued = []
    for _ in range(30):
        suggestion = optimizer.ask()
        if suggestion.continues:
            assert suggestion.trial_id == suggestion.continues
            assert suggestion.cost < SPACE.cost(suggestion.scale, suggestion.steps)
            continued.append(suggestion)
        train(optimizer, suggestion, loss)
    assert continued


def test_several_metrics_are_modelled_and_combined():
    def metrics(mixture, scale, steps):
        value = loss(mixture, scale, steps)
        return {"loss": value, "accuracy": 0.5 - 0.1 * value}

    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0, "accuracy": -2.0}, seed=6, budget=SPACE.target_cost)
    searched(optimizer, 30, metrics)
    trial = next(iter(optimizer.history))
    optimizer.history.observe(trial.trial_id, 200, {"loss": 2.5})  # a report that lacks the other metric
    answer = optimizer.recommend()
    best = metrics(SPACE.named(BEST), "large", 400)
    assert answer.predicted.low < best["loss"] - 2 * best["accuracy"] < answer.predicted.high
    assert loss(answer.mixture, "large", 400) - best["loss"] < 0.02


def test_runs_that_diverge_are_not_bought_again_and_again_nor_recommended():
    space = MixtureSpace(
        domains=("web", "code", "math"),
        scales=(Scale("small", 0.05, 6e7), Scale("large", 1.0, 1e9)),
        steps=(100, 1000),
    )
    optimizer = MixtureOptimizer(space, seed=0, budget=12 * space.target_cost)

    def value(mixture, scale, step):
        diverges = scale == "large" and mixture["web"] > 0.6
        return math.nan if diverges else 3 - 0.9 * mixture["web"] + 10 / step

    search(optimizer, 45, value)
    large = [trial for trial in optimizer.history if trial.scale == "large"]
    diverged = [trial for trial in large if trial.status == "diverged"]
    assert 1 <= len(diverged) <= 8, "the cheap runs say that all web is best"
    answer = optimizer.recommend()
    assert 0.4 < answer.mixture["web"] < 0.62
    assert answer.diverged == len(diverged)


def test_divergence_teaches_the_same_whatever_the_order():
    def answer(*kinds):
        optimizer = MixtureOptimizer(SPACE, seed=0)
        given(optimizer, 16, loss, cells=[("small", 400)])
        for kind in kinds:
            near, far = SPACE.named(BEST), SPACE.named([0.2, 0.2, 0.6])
            for number in range(2):
                value = math.nan if kind == "diverged" else loss(far, "large", 400)
                mixture = near if kind == "diverged" else far
                optimizer.add_evaluated_point(mixture, "large", 400, value, trial_id=f"{kind} {number}")
        return optimizer.recommend()

    first, second = answer("sound", "diverged"), answer("diverged", "sound")
    assert first.mixture == pytest.approx(second.mixture)
    assert np.abs(SPACE.mixture(first.mixture) - BEST).sum() > 0.05, "not what diverged"
    assert first.diverged == second.diverged == 2


def test_calibration_is_that_of_the_largest_runs_predicted_from_the_smaller_ones():
    optimizer = given(MixtureOptimizer(SPACE, seed=0), 24, loss, cells=[("small", 400), ("medium", 400)])
    given(optimizer, 4, loss, cells=[("large", 400)])  # too few mixtures
    answer = optimizer.recommend()
    found = answer.hindsight
    assert (found.scale, found.steps, found.n) == ("medium", 400, 12)
    assert found.rank > 0.9 and 0.7 <= found.coverage <= 1
    assert f"Calibration: {found}" in str(answer)
    alone = given(MixtureOptimizer(SPACE, seed=0), 8, loss, cells=[("small", 400)]).recommend()
    assert alone.hindsight is None
    assert "Calibration: not known" in str(alone)


def test_the_order_in_which_old_runs_are_given_does_not_matter():
    rows = [
        (w, cell)
        for cell in (("small", 200), ("small", 400), ("medium", 400))
        for w in SPACE.sample(12, np.random.default_rng(1))
    ]

    def answer(order):
        optimizer = MixtureOptimizer(SPACE, seed=0)
        for i in order:
            mixture, (scale, step) = SPACE.named(rows[i][0]), rows[i][1]
            optimizer.add_evaluated_point(mixture, scale, step, loss(mixture, scale, step))
        return optimizer.recommend()

    first, *others = (
        answer(order) for order in (range(36), reversed(range(36)), np.random.default_rng(2).permutation(36))
    )
    for other in others:
        assert other.mixture == pytest.approx(first.mixture, abs=1e-6)
        assert other.difference.mean == pytest.approx(first.difference.mean, rel=1e-5)
        assert other.difference.low == pytest.approx(first.difference.low, rel=1e-5)


@pytest.mark.parametrize("spike", [10.0, 1e4, 9e9, -50.0])
def test_one_absurd_report_counts_for_nothing_and_is_said(spike):
    def answer(value):
        optimizer = MixtureOptimizer(SPACE, seed=0)
        given(optimizer, 30, loss, cells=[("small", 400), ("large", 400)])
        if value is not None:
            optimizer.add_evaluated_point(SPACE.named([0.3, 0.4, 0.3]), "small", 400, value, trial_id="odd")
        return optimizer.recommend()

    without, with_it = answer(None), answer(spike)
    assert with_it.mixture == pytest.approx(without.mixture, abs=1e-3)
    assert without.absurd == ()
    assert with_it.absurd == (f"value = {spike:.4g} of odd",)
    assert "Left out as absurd, 1: value" in str(with_it)


def test_news_too_good_to_be_true_is_asked_for_again_before_anything_is_sure():
    def seen(again=None):
        optimizer = MixtureOptimizer(SPACE, seed=0)
        given(optimizer, 30, loss, cells=[("small", 400), ("large", 400)])
        sure = optimizer.recommend()
        assert sure.verdict.ready and sure.unconfirmed == ()
        optimizer.add_evaluated_point(SPACE.named([0.05, 0.05, 0.9]), "large", 400, -9.0, trial_id="odd")
        doubtful = optimizer.recommend()
        assert not doubtful.verdict.ready and doubtful.absurd == ("value = -9 of odd",)
        assert doubtful.unconfirmed == ("odd (large to step 400)",)
        assert "run that mixture again" in str(doubtful)
        assert json.loads(json.dumps(doubtful.to_dict()))["unconfirmed"] == list(doubtful.unconfirmed)
        assert (doubtful.next_run.scale, doubtful.next_run.steps) == ("large", 400)
        suggestion = optimizer.ask()
        assert suggestion.mixture == pytest.approx(SPACE.named([0.05, 0.05, 0.9]), abs=1e-9)
        assert (suggestion.scale, suggestion.steps) == ("large", 400)
        following = optimizer.ask()  # once is enough
        assert following.mixture != pytest.approx(suggestion.mixture, abs=1e-3)
        optimizer.tell(suggestion.trial_id, 400, again(suggestion))
        optimizer.finish(suggestion.trial_id)
        return optimizer.recommend(), sure

    refuted, sure = seen(lambda s: loss(s.mixture, s.scale, s.steps))
    assert refuted.absurd == ("value = -9 of odd",) and refuted.unconfirmed == ()
    assert refuted.mixture == pytest.approx(sure.mixture, abs=0.02)
    confirmed, _ = seen(lambda s: -8.99)
    assert confirmed.absurd == () == confirmed.unconfirmed
    assert confirmed.mixture["math"] > 0.5


def test_a_constant_metric_and_an_empty_history_still_get_answers():
    optimizer = MixtureOptimizer(SPACE, seed=8)
    assert optimizer.recommend().predicted is None
    searched(optimizer, 14, lambda *_: 1.0)
    assert optimizer.recommend().predicted.mean == pytest.approx(1.0, abs=1e-3)


def pool():
    rng = np.random.default_rng(0)
    available = np.ones((12, 3, 2), dtype=bool)
    available[4:, 2] = False  # only four mixtures were trained at the large scale
    available[0, 0, 1] = False
    return Pool(mixtures=rng.dirichlet(np.ones(3), 12), available=available)


def test_a_pool_is_searched_without_leaving_it_until_it_is_used_up():
    logged = pool()
    optimizer = MixtureOptimizer(SPACE, pool=logged, seed=0)
    rows = {tuple(w): i for i, w in enumerate(logged.mixtures.tolist())}
    taken = set()
    while (s := optimizer.ask()) is not None:
        row, scale, steps = (
            rows[tuple(s.mixture.values())],
            SPACE.scale_names.index(s.scale),
            SPACE.steps.index(s.steps),
        )
        assert logged.available[row, scale, steps]
        assert (row, scale, steps) not in taken
        taken.add((row, scale, steps))
        train(optimizer, s, loss)
    answer = optimizer.recommend()
    values = [loss(SPACE.named(w), "large", 400) for w in logged.mixtures[:4]]
    assert loss(answer.mixture, "large", 400) == min(values)


def test_a_pool_without_the_target_is_refused():
    logged = pool()
    logged.available[:, 2] = False
    with pytest.raises(ValueError, match="No logged run reaches the target large x 400 steps"):
        PoolCandidates(SPACE, logged)
