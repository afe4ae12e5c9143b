"""MixtureOptimizer: ask, tell, finish, budget, state, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_mixopt.core.history import Trial
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies import STRATEGIES
from ray_mixopt.testing import check_history

ROOT = Path(__file__).parents[2]


# -- bad input: each with the sentence it gets


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "minimum"}, "mode must be 'min' or 'max', got 'minimum'"),
        ({"mode": None}, "mode must be 'min' or 'max', got None"),
        ({"strategy": "magic"}, "Unknown strategy 'magic': choose one of default, paper"),
        ({"budget": 0}, "budget must be a positive finite cost or None, got 0"),
        ({"budget": -5.0}, "budget must be a positive finite cost or None, got -5.0"),
        ({"budget": math.nan}, "budget must be a positive finite cost or None, got nan"),
        ({"budget": math.inf}, "budget must be a positive finite cost or None, got inf"),
        ({"budget": "394"}, "budget must be a positive finite cost or None, got '394'"),
        ({"seed": -1}, "seed must be a non-negative integer, got -1"),
        ({"seed": 0.5}, "seed must be a non-negative integer, got 0.5"),
        ({"seed": True}, "seed must be a non-negative integer, got True"),
        ({"objective": {}}, r"objective must map metric names to weights, got \{\}"),
        ({"objective": "loss"}, "objective must map metric names to weights, got 'loss'"),
        ({"objective": {"loss": 0.0}}, "weight of metric 'loss' must be a finite number other than 0, got 0.0"),
        ({"objective": {"loss": math.nan}}, "weight of metric 'loss' must be a finite number other than 0, got nan"),
        ({"objective": {"loss": "1"}}, "weight of metric 'loss' must be a finite number other than 0, got '1'"),
    ],
)
def test_bad_settings_are_refused(space, settings, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        MixtureOptimizer(space, **{"strategy": "random", **settings})


def test_the_space_must_be_a_space() -> None:
    with pytest.raises(ValueError, match="MixtureOptimizer needs a MixtureSpace, got dict"):
        MixtureOptimizer({"mixture": {}})  # type: ignore[arg-type]


def test_pools_must_fit_the_space(space) -> None:
    with pytest.raises(ValueError, match="The pool has 2 domains, the space 3"):
        pool = Pool(mixtures=np.full((4, 2), 0.5), available=np.ones((4, 3, 8), dtype=bool))
        MixtureOptimizer(space, strategy="random", pool=pool)
    with pytest.raises(ValueError, match="The pool has 3 scales and 2 rungs, the space 3 and 8"):
        pool = Pool(mixtures=np.full((4, 3), 1 / 3), available=np.ones((4, 3, 2), dtype=bool))
        MixtureOptimizer(space, strategy="random", pool=pool)
    with pytest.raises(ValueError, match="A pool in which no run is available has nothing to search"):
        Pool(mixtures=np.full((4, 3), 1 / 3), available=np.zeros((4, 3, 8), dtype=bool))
    with pytest.raises(ValueError, match=r"A pool needs mixtures \(n, d\) and available"):
        Pool(mixtures=np.full((4, 3), 1 / 3), available=np.ones((5, 3, 8), dtype=bool))


@pytest.fixture
def random(space) -> MixtureOptimizer:
    return MixtureOptimizer(space, strategy="random")


def test_unknown_trials_are_refused(random) -> None:
    for call in (lambda: random.tell("ghost", 100, 1.0), lambda: random.finish("ghost")):
        with pytest.raises(ValueError, match="Unknown trial 'ghost': ask for it, or add it as an evaluated point"):
            call()


def test_trial_names_are_used_once(random) -> None:
    assert random.ask("mine").trial_id == "mine"
    with pytest.raises(ValueError, match="Trial 'mine' exists already: every run needs an id of its own"):
        random.ask("mine")
    assert (len(random.history), random.history.n_asked) == (1, 1)


@pytest.mark.parametrize("step", [0, -1, 1.5])
def test_bad_steps_are_refused(random, step) -> None:
    name = random.ask().trial_id
    with pytest.raises(ValueError, match="steps are whole numbers, counted from 1"):
        random.tell(name, step, 1.0)


def test_a_step_far_beyond_all_rungs_is_refused_and_costs_nothing(random) -> None:
    suggestion = random.ask()
    with pytest.raises(ValueError, match=r"reported step 1,000,000,000,000, far beyond the last rung"):
        random.tell(suggestion.trial_id, 10**12, 1.0)
    assert random.history.spent == 0 and random.ask() is not None
    mixture = suggestion.mixture
    random.add_evaluated_point(mixture, suggestion.scale, 10**12, 1.0)  # of somebody else, who trains for longer
    assert random.history.spent == 0


@pytest.mark.parametrize("value", [None, "low", [1.0]])
def test_values_must_be_numbers(random, value) -> None:
    name = random.ask().trial_id
    with pytest.raises(ValueError, match="The value of the objective must be a number, got "):
        random.tell(name, 100, value)
    assert random.history.arrivals == []


def test_one_value_or_several_metrics_but_not_both(space, random) -> None:
    with pytest.raises(ValueError, match=r"told one number a report, got .*objective=\{"):
        random.tell(random.ask().trial_id, 100, {"loss": 1.0})
    several = MixtureOptimizer(space, strategy="random", objective={"loss": 1.0, "piqa": -2.0})
    name = several.ask().trial_id
    with pytest.raises(ValueError, match=r"The metrics \['loss', 'piqa'\] are needed by name, got 1.0"):
        several.tell(name, 100, 1.0)
    with pytest.raises(ValueError, match="The value of piqa must be a number, got 'high'"):
        several.tell(name, 100, {"loss": 1.0, "piqa": "high"})


# -- reports


def test_metrics_are_combined_and_missing_ones_are_unknown(space) -> None:
    optimizer = MixtureOptimizer(space, strategy="random", mode="max", objective={"a": 2.0, "b": -1.0})
    names = [optimizer.ask().trial_id for _ in range(3)]
    optimizer.tell(names[0], 19700, {"a": 1.0, "b": 0.5, "other": 9.0})  # 1.5
    optimizer.tell(names[1], 19700, {"a": 100.0})  # unknown: b is missing
    optimizer.tell(names[2], 19700, {"a": 1.0, "b": 1.0})  # 1.0
    assert optimizer.history[names[0]].observations == {19700: {"a": 1.0, "b": 0.5, "other": 9.0}}
    best = optimizer.history[names[0]].mixture
    assert optimizer.recommend().mixture == space.named(best)
    optimizer.tell(names[1], 6000, {"other": 1.0})
    assert optimizer.history.n_missing == 1


def test_repeated_reports_change_nothing(random) -> None:
    name = random.ask().trial_id
    random.tell(name, 100, 1.0)
    random.tell(name, 100, 5.0)
    assert random.history[name].observations == {100: {"value": 1.0}}
    assert random.history.n_duplicates == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_run_is_priced_and_stays_diverged(random, value) -> None:
    name = random.ask().trial_id
    random.tell(name, 100, value)
    random.finish(name)
    assert random.history[name].status == "diverged"
    assert random.history.spent == pytest.approx(random.space.cost("1B", 100))
    assert random.history.committed == random.history.spent  # nothing more will be paid for it
    recommendation = random.recommend()
    assert recommendation.diverged == 1
    assert recommendation.mixture == random.space.named(random.space.uniform())


def test_reports_after_the_end_are_kept(random) -> None:
    name = random.ask().trial_id
    random.tell(name, 100, 2.0)
    random.finish(name, failed=True)
    assert random.history[name].status == "failed"
    random.tell(name, 19700, 1.0)
    assert random.history[name].status == "failed"
    assert random.history[name].reached == 19700
    assert random.recommend().mixture == random.space.named(random.history[name].mixture)


def test_how_runs_end(random) -> None:
    names = [random.ask().trial_id for _ in range(4)]
    for name in names[:3]:
        random.tell(name, 100, 1.0)
    random.finish(names[0])
    random.finish(names[1], failed=True)
    random.finish(names[2], continuable=False)
    random.finish(names[3])  # nothing was ever seen of it
    assert [random.history[name].status for name in names] == ["paused", "failed", "done", "done"]


def test_points_given_to_the_search(random) -> None:
    mixture = {"wikipedia": 2.0, "github": 1.0, "book": 1.0}
    random.add_evaluated_point(mixture, "1B", 12000, 1.5, trial_id="old")
    random.add_evaluated_point(mixture, "1B", 19700, 1.0, trial_id="old")
    random.add_evaluated_point({"wikipedia": 1.0, "github": 1.0, "book": 2.0}, "1B", 19700, 2.0)
    assert random.history.spent == 0
    assert len(random.history) == 2
    assert random.recommend().mixture == {"wikipedia": 0.5, "github": 0.25, "book": 0.25}
    suggestion = random.ask()
    assert suggestion.trial_id not in ("old", "evaluated_00001")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scale": "7B"}, "Unknown scale '7B'"),
        ({"step": 0}, "steps are whole numbers, counted from 1"),
        ({"mixture": {"wikipedia": 1.0}}, "A mixture must name every domain once"),
        ({"mixture": {"wikipedia": 1.0, "github": -1.0, "book": 1.0}}, "Shares must be finite, non-negative"),
        ({"value": "low"}, "The value of the objective must be a number, got 'low'"),
    ],
)
def test_bad_points_leave_no_trace(random, changes, sentence) -> None:
    point = {"mixture": {"wikipedia": 1.0, "github": 1.0, "book": 1.0}, "scale": "1B", "step": 100, "value": 1.0}
    with pytest.raises(ValueError, match=sentence):
        random.add_evaluated_point(**{**point, **changes})
    assert len(random.history) == 0


def test_a_given_run_has_one_mixture(random) -> None:
    random.add_evaluated_point({"wikipedia": 1.0, "github": 1.0, "book": 1.0}, "1B", 100, 1.0, trial_id="old")
    with pytest.raises(ValueError, match="Trial 'old' has another mixture or scale"):
        random.add_evaluated_point({"wikipedia": 1.0, "github": 1.0, "book": 2.0}, "1B", 300, 1.0, trial_id="old")


# -- asking

STRATEGIES_HERE = ["random", "paper"]


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_suggestions_fit_the_space(space, drive, strategy) -> None:
    optimizer = MixtureOptimizer(space, strategy=strategy)
    for i, suggestion in enumerate(drive(optimizer, 23)):
        assert suggestion.trial_id == f"trial_{i:05d}"
        assert abs(math.fsum(suggestion.mixture.values()) - 1) <= 1e-9
        assert min(suggestion.mixture.values()) >= 0
        assert list(suggestion.mixture) == list(space.domains)
        assert suggestion.steps in space.steps
        assert suggestion.continues is None
        assert suggestion.cost == space.cost(suggestion.scale, suggestion.steps)


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
@pytest.mark.parametrize("before", [0, 18, 22])
def test_asks_before_any_tell_are_distinct(space, drive, strategy, before) -> None:
    optimizer = MixtureOptimizer(space, strategy=strategy)
    drive(optimizer, before)
    runs = [optimizer.ask() for _ in range(6)]
    assert len({run.trial_id for run in runs}) == 6
    for i, first in enumerate(runs):
        for second in runs[:i]:
            gap = max(abs(first.mixture[d] - second.mixture[d]) for d in space.domains)
            assert gap > 1e-3 or (first.scale, first.steps) != (second.scale, second.steps)


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_the_budget_is_never_exceeded(space, drive, strategy) -> None:
    budget = 1.6 * space.target_cost
    optimizer = MixtureOptimizer(space, strategy=strategy, budget=budget)
    suggestions = drive(optimizer, 2000)
    assert optimizer.ask() is None
    assert optimizer.history.spent == pytest.approx(math.fsum(s.cost for s in suggestions))
    assert optimizer.history.spent <= budget
    left = budget - optimizer.history.spent
    cheapest = space.target_cost if strategy == "random" else space.cost("20M", 6000)
    assert left < cheapest


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_running_trials_are_reserved_in_the_budget(space, strategy) -> None:
    budget = 2.5 * space.target_cost
    optimizer = MixtureOptimizer(space, strategy=strategy, budget=budget)
    asked = 0
    while asked < 3000 and optimizer.ask() is not None:
        asked += 1
    assert 0 < asked < 3000
    assert optimizer.history.spent == 0
    assert budget - space.target_cost < optimizer.history.committed <= budget


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_a_budget_below_the_cheapest_run_gives_nothing(space, strategy) -> None:
    assert MixtureOptimizer(space, strategy=strategy, budget=0.5).ask() is None


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_seeds_matter(space, strategy) -> None:
    first, again, other = (MixtureOptimizer(space, strategy=strategy, seed=seed).ask() for seed in (1, 1, 2))
    assert first == again
    assert first.mixture != other.mixture


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_floors_and_caps_hold(drive, strategy) -> None:
    space = MixtureSpace(
        domains=("wikipedia", "github", "book"),
        scales=(Scale("20M", 0.01, 20e6), Scale("1B", 1.0, 1e9)),
        steps=(100, 500, 900, 6000, 19700),
        lower={"wikipedia": 0.05},
        upper={"book": 0.6, "github": 0.5},
    )
    suggestions = drive(MixtureOptimizer(space, strategy=strategy), 23)
    mixtures = [space.mixture(s.mixture) for s in suggestions]
    assert space.simplex.contains(mixtures, tolerance=1e-12).all()


def pool_of(space: MixtureSpace, n: int) -> Pool:
    mixtures = space.sample(n, np.random.default_rng(5))
    available = np.zeros((n, len(space.scales), len(space.steps)), dtype=bool)
    available[:, 0, :] = True  # all at 20M; a third of them at 1B, without the last rung for one
    available[: n // 3, -1, :] = True
    available[0, -1, -1] = False
    return Pool(mixtures=mixtures, available=available)


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_only_runs_of_the_pool_are_suggested_and_each_once(space, drive, strategy) -> None:
    pool = pool_of(space, 12)
    optimizer = MixtureOptimizer(space, strategy=strategy, pool=pool)
    suggestions = drive(optimizer, 500)
    assert optimizer.ask() is None
    rows = {tuple(w): i for i, w in enumerate(pool.mixtures.tolist())}
    runs = [(rows[tuple(s.mixture.values())], s.scale, s.steps) for s in suggestions]
    assert len(set(runs)) == len(runs)
    for i, scale, steps in runs:
        assert pool.available[i, space.scale_names.index(scale), space.steps.index(steps)]
    at_target = {i for i, scale, steps in runs if (scale, steps) == ("1B", 19700)}
    assert at_target == {1, 2, 3}  # everything there is at the target


# -- state


@pytest.mark.parametrize("change", [{"version": 7}, {"version": None}])
def test_states_of_other_versions_are_refused(random, change) -> None:
    with pytest.raises(ValueError, match=r"Cannot read an optimizer of version .*: this release reads 1"):
        MixtureOptimizer.from_state_dict({**random.state_dict(), **change})


def test_malformed_states_are_refused(random) -> None:
    state = random.state_dict()
    with pytest.raises(ValueError, match="Malformed settings of a search: 'seed' is missing"):
        MixtureOptimizer.from_state_dict({k: v for k, v in state.items() if k != "seed"})
    with pytest.raises(ValueError, match="Cannot read a history of version None"):
        MixtureOptimizer.from_state_dict({k: v for k, v in state.items() if k != "history"})
    with pytest.raises(ValueError, match="Unknown strategy 'magic'"):
        MixtureOptimizer.from_state_dict({**state, "strategy": "magic"})


def test_the_state_is_plain_json_and_exact(space, drive) -> None:
    optimizer = MixtureOptimizer(space, mode="max", strategy="random", budget=1e5, seed=3)
    drive(optimizer, 3)
    optimizer.ask()
    state = json.loads(json.dumps(optimizer.state_dict(), allow_nan=False))
    again = MixtureOptimizer.from_state_dict(state)
    assert again.state_dict() == optimizer.state_dict()
    assert again.problem == optimizer.problem
    several = MixtureOptimizer(space, strategy="random", objective={"a": 1.0, "b": -2.0})
    assert MixtureOptimizer.from_state_dict(several.state_dict()).problem.weights == {"a": 1.0, "b": -2.0}
    assert MixtureOptimizer.from_state_dict(random_state := several.state_dict()).state_dict() == random_state


CONTINUE = """
import json, sys
from dataclasses import asdict
from ray_mixopt.core.history import Trial
from ray_mixopt.optimizer import MixtureOptimizer

answers = []
for state in json.load(sys.stdin):
    optimizer = MixtureOptimizer.from_state_dict(state)
    answers.append([asdict(optimizer.ask()), asdict(optimizer.ask()), optimizer.recommend().to_dict()])
json.dump(answers, sys.stdout)
"""


def test_a_new_process_goes_on_bit_for_bit(space, drive, loss) -> None:
    """Two more suggestions and the answer, from states within and after the initial design."""
    here, states = [], []
    for strategy in STRATEGIES:
        for n in (0, 22) if strategy == "default" else (0, 7, 20, 24):  # each of its answers takes a fit
            optimizer = MixtureOptimizer(space, strategy=strategy, seed=11, budget=1e6)
            drive(optimizer, n)
            if n == 24:  # one run half-way, one not started
                half = optimizer.ask()
                optimizer.ask()
                optimizer.tell(half.trial_id, 100, loss(half.mixture, half.scale, 100))
                # Enough suggestions of little promise to shrink the paper's lengthscales.
                for trial in list(optimizer.history)[20:23]:
                    trial.acquisition = 1e-6 / 3
            states.append(json.loads(json.dumps(optimizer.state_dict())))
            here.append((optimizer, n))
    child = subprocess.run(
        [sys.executable, "-c", CONTINUE],
        input=json.dumps(states),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.returncode == 0, child.stderr
    for (optimizer, n), (first, second, recommended) in zip(here, json.loads(child.stdout), strict=True):
        note = f"{optimizer.settings.strategy} after {n} runs"
        for there in (first, second):
            assert vars(optimizer.ask()) == there, note
        assert optimizer.recommend().to_dict() == recommended, note


# -- several at a time


def test_a_batch_is_what_asking_one_by_one_gives(space) -> None:
    together, apart = (MixtureOptimizer(space, seed=3, budget=3 * space.target_cost) for _ in range(2))
    batch = together.ask(8)
    assert [vars(run) for run in batch] == [vars(apart.ask()) for _ in range(8)]
    assert len({(*run.mixture.values(), run.scale) for run in batch}) == 8
    for wrong in (0, -1, True):
        with pytest.raises(ValueError, match="number of runs from 1 on"):
            together.ask(wrong)


def test_a_batch_ends_with_the_money(space) -> None:
    optimizer = MixtureOptimizer(space, strategy="random", budget=2.5 * space.target_cost)
    assert len(optimizer.ask(8)) == 2
    assert optimizer.ask(8) == []


# -- lost runs


@pytest.mark.parametrize("strategy", STRATEGIES_HERE)
def test_a_run_lost_before_it_showed_anything_is_asked_for_again(space, drive, strategy) -> None:
    undisturbed, disturbed = (MixtureOptimizer(space, strategy=strategy, seed=3) for _ in range(2))
    first = disturbed.ask()
    disturbed.finish(first.trial_id, lost=True)
    again = disturbed.ask()
    assert again.trial_id != first.trial_id and again.continues is None
    assert (again.mixture, again.scale, again.steps) == (first.mixture, first.scale, first.steps)
    assert disturbed.history.spent == 0 and disturbed.history.committed == again.cost
    # The strategy goes on as if nothing had been.
    drive(undisturbed, 1)
    for step in space.steps:
        if step <= again.steps:
            value = undisturbed.history["trial_00000"].observations[step]["value"]
            disturbed.tell(again.trial_id, step, value)
    disturbed.finish(again.trial_id)
    one, two = undisturbed.ask(), disturbed.ask()
    assert (one.mixture, one.scale, one.steps) == (two.mixture, two.scale, two.steps)
    check_history(disturbed.history)


def test_a_run_is_lost_only_so_often(random) -> None:
    asked = []
    for _ in range(5):
        asked.append(random.ask())
        random.finish(asked[-1].trial_id, lost=True)
    mixtures = [tuple(run.mixture.values()) for run in asked]
    assert len(set(mixtures[:3])) == 1 and mixtures[3] != mixtures[0] and mixtures[4] == mixtures[3]


def test_what_a_lost_run_showed_is_kept_and_it_is_not_repeated(random) -> None:
    lost, failed = random.ask(), random.ask()
    random.tell(lost.trial_id, 100, 2.0)
    random.finish(lost.trial_id, lost=True)
    random.finish(failed.trial_id, failed=True)
    assert [random.history[run.trial_id].status for run in (lost, failed)] == ["lost", "failed"]
    assert random.history.spent == random.space.cost(lost.scale, 100)
    assert random.ask().mixture not in (lost.mixture, failed.mixture)


def test_a_lost_run_that_cannot_be_paid_any_more_is_left(space) -> None:
    optimizer = MixtureOptimizer(space, strategy="random", budget=1.5 * space.target_cost)
    lost = optimizer.ask()
    optimizer.finish(lost.trial_id, lost=True)
    optimizer.history.add(Trial(trial_id="other", mixture=(1.0, 0.0, 0.0), scale="1B", steps=19700))
    assert optimizer.ask() is None
    optimizer.finish("other", failed=True)
    assert optimizer.ask().mixture == lost.mixture


def test_a_proposal_made_for_an_earlier_history(space) -> None:
    optimizer = MixtureOptimizer(space, strategy="random", budget=1.5 * space.target_cost)
    before = optimizer.history.copy()
    proposal = optimizer.propose(before)
    assert optimizer.still_possible(proposal) and len(optimizer.history) == 0
    optimizer.accept(proposal)
    assert not optimizer.still_possible(proposal) and len(before) == 0
    assert before.fingerprint() != optimizer.history.fingerprint()
    (run,) = optimizer.history
    copy = optimizer.history.copy()
    optimizer.tell(run.trial_id, 100, 1.0)
    assert copy.trials[run.trial_id].observations == {} and copy.fingerprint() != optimizer.history.fingerprint()
    going_on = Proposal(mixture=proposal.mixture, scale=run.scale, steps=19700, continues=run.trial_id)
    assert not optimizer.still_possible(going_on), "it runs"
    optimizer.finish(run.trial_id)
    assert optimizer.still_possible(going_on)


# -- what is said


def test_a_report_without_the_metrics_that_count_is_said_once(space, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = MixtureOptimizer(space, strategy="random", objective={"val_loss": 1.0, "acc": 0.5})
    name = optimizer.ask().trial_id
    first, second, *_ = space.steps
    optimizer.tell(name, first, {"val_los": 2.5, "tokens": 7})
    optimizer.tell(name, second, {"val_los": 2.5})
    said = (
        f"Trial {name} reported no number for val_loss, acc, but for val_los, tokens: nothing is learned from such a "
        "report. Is 'val_los' to be 'val_loss'? Give both one name."
    )
    assert [record.message for record in caplog.records] == [said]


@pytest.mark.parametrize("report", [{"val_loss": 2.5, "tokens": 7}, {"acc": math.inf, "tokens": 7}, {}])
def test_a_report_with_some_of_them_or_of_nothing_is_not(report: dict, space, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = MixtureOptimizer(space, strategy="random", objective={"val_loss": 1.0, "acc": 0.5})
    optimizer.tell(optimizer.ask().trial_id, space.steps[0], report)
    assert not caplog.records


def test_a_budget_that_buys_nothing_is_said_once(space, caplog: pytest.LogCaptureFixture) -> None:
    poor = MixtureOptimizer(space, strategy="random", budget=space.target_cost / 2)
    assert [poor.ask(), poor.ask(3), poor.ask()] == [None, [], None]
    assert [record.message for record in caplog.records] == [poor.problem.too_poor]
    spent = MixtureOptimizer(space, strategy="random", budget=space.target_cost)
    assert len(spent.ask(2)) == 1 and len(caplog.records) == 1, "what is spent is no want of money"
