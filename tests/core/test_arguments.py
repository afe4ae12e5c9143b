"""What is given in Python: numbers of any library, lists that have an order, and settings that stay as they were."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from worlds import DOMAINS, THREE_SCALES, two_scales

from ray_mixopt import Callback, DomainMap, Group, Guardrail, MixtureOptimizer, MixtureSpace, Objective, Proposal, Scale
from ray_mixopt.core.arguments import FrozenDict
from ray_mixopt.core.settings import Settings
from ray_mixopt.testing.history import violations

SPACE = two_scales()
EVEN = dict.fromkeys(DOMAINS, 1.0)
THIRDS = np.full(3, 1 / 3)


def reread(optimizer: MixtureOptimizer, **given: Any) -> MixtureOptimizer:
    """The search after its state went through JSON, which must not change it."""
    assert not list(violations(optimizer.history))
    state = optimizer.state_dict()
    again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(state)), **given)
    assert again.state_dict() == json.loads(json.dumps(state))
    return again


# -- whole numbers and names


@pytest.mark.parametrize("step", [100, 100.0, np.int64(100), np.float32(100)])
def test_whole_steps_of_any_library_are_kept_as_json_has_them(step: Any) -> None:
    class Own:
        def __init__(self, problem: object) -> None:
            pass

        def propose(self, history: object) -> Proposal:
            return Proposal(mixture=THIRDS, scale="S", steps=step)

        def recommend(self, history: object) -> None:
            raise NotImplementedError

    optimizer = MixtureOptimizer(SPACE, strategy=Own)
    optimizer.add_evaluated_point(EVEN, "S", step, 3.0)
    run = optimizer.ask()
    assert type(run.steps) is int
    optimizer.tell(run.trial_id, step, 3.0)
    optimizer.finish(run.trial_id)
    optimizer.accept(Proposal(mixture=THIRDS, scale="S", steps=10 * step, continues=run.trial_id))
    assert reread(optimizer, strategy=Own).history[run.trial_id].observations == {100: {"value": 3.0}}


@pytest.mark.parametrize("step", ["100", None, np.array(100), 10**400, float("nan"), True])
def test_what_is_no_step_is_said(step: Any) -> None:
    optimizer = MixtureOptimizer(SPACE)
    name = optimizer.ask().trial_id
    with pytest.raises(ValueError, match="reported step .*: steps are whole numbers, counted from 1"):
        optimizer.tell(name, step, 3.0)
    with pytest.raises(ValueError, match="is to reach step .*: steps are whole numbers, counted from 1"):
        optimizer.add_evaluated_point(EVEN, "S", step, 3.0)
    assert list(optimizer.history.trials) == [name]


def test_asking_for_a_number_of_runs_or_by_name() -> None:
    optimizer = MixtureOptimizer(SPACE)
    assert len(optimizer.ask(np.int64(3))) == 3
    for wrong in (2.0, True, 0, [], b"a"):
        with pytest.raises(ValueError, match="ask takes a number of runs from 1 on, or a name, got"):
            optimizer.ask(wrong)
    assert len(reread(optimizer).history) == 3


@pytest.mark.parametrize("name", [5, [], b"a"])
def test_names_are_text(name: Any) -> None:
    optimizer = MixtureOptimizer(SPACE)
    with pytest.raises(ValueError, match="The name of a trial must be text, got"):
        optimizer.add_evaluated_point(EVEN, "S", 100, 3.0, trial_id=name)
    with pytest.raises(ValueError, match="Unknown trial"):
        optimizer.tell(name, 100, 3.0)
    assert not len(optimizer.history)


def test_a_name_that_is_taken_is_not_made_up_again() -> None:
    optimizer = MixtureOptimizer(SPACE)
    optimizer.ask("trial_00001")
    assert [run.trial_id for run in optimizer.ask(2)] == ["trial_00002", "trial_00003"]
    optimizer.add_evaluated_point(EVEN, "S", 100, 3.0, trial_id="evaluated_00004")
    optimizer.add_evaluated_point(EVEN, "S", 100, 3.0)
    assert list(optimizer.history.trials)[-2:] == ["evaluated_00004", "evaluated_00005"]


def test_names_go_on_after_old_runs_of_which_some_were_left_out() -> None:
    old = MixtureOptimizer(two_scales(*DOMAINS, "books"), strategy="random")
    for mixture in ([0.4, 0.3, 0.1, 0.2], [0.5, 0.3, 0.2, 0.0]):
        run = old.accept(Proposal(mixture=np.array(mixture), scale="S", steps=100))
        old.tell(run.trial_id, 100, 3.0)
    optimizer = MixtureOptimizer(SPACE)
    optimizer.absorb(old.history, DomainMap(dropped=("books",)))
    assert optimizer.ask().trial_id == "trial_00002"


def test_values_are_numbers_that_a_float_holds() -> None:
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0})
    name = optimizer.ask().trial_id
    with pytest.raises(ValueError, match="The value of loss must be a number that a float can hold"):
        optimizer.tell(name, 100, {"loss": 10**400})
    optimizer.tell(name, 100, {"loss": np.float32(2), "other": 10**400, "more": np.int64(1)})
    assert optimizer.history[name].observations == {100: {"loss": 2.0, "more": 1.0}}
    with pytest.raises(ValueError, match="steps must be a number of training steps above 0"):
        optimizer.add_evaluated_point(EVEN, "S", 1000, {"loss": 3.0})
        optimizer.predict([THIRDS], steps=10**400)


def test_settings_take_numbers_of_any_library() -> None:
    settings = Settings(
        seed=np.int64(3), budget=np.float32(1000), min_gain_per_cost=np.float64(0), objective={"a": np.float32(1)}
    )
    plain = Settings(seed=3, budget=1000.0, objective={"a": 1.0})
    assert settings == plain and hash(settings) == hash(plain)
    assert json.dumps(settings.to_dict()) == json.dumps(plain.to_dict())
    rail = Guardrail(metric="g", tolerance=np.float32(0), confidence=np.float64(0.5))
    assert json.dumps(Objective(weights={"a": 1}, guardrails=[rail], closeness=np.int64(1)).to_dict())
    assert Group(domains=("web", "code"), least=np.float32(0), most=np.int64(1)).most == 1.0
    for wrong in (True, "1", 1.5, -1):
        with pytest.raises(ValueError, match="seed must be a non-negative integer"):
            Settings(seed=wrong)


# -- what is given stays


def test_settings_do_not_change_with_what_they_were_made_of() -> None:
    base, directions, weights, point = dict(EVEN), {"acc": "max"}, {"acc": 1.0}, {"mixture": dict(EVEN)}
    point |= {"scale": "S", "steps": 100}
    rail = Guardrail(metric="g", baseline=base)
    goal = Objective(weights=weights, directions=directions, relative_to=base, prior=base, guardrails=[rail])
    optimizer = MixtureOptimizer(SPACE, objective=goal, reference=base, points_to_evaluate=[point])
    before = json.dumps(optimizer.state_dict())
    directions["acc"], base["web"], base["oops"], weights["acc"], point["steps"] = "min", 77, 1, 5.0, 1000
    point["mixture"]["web"] = 9.0
    assert json.dumps(optimizer.state_dict()) == before
    settings = reread(optimizer).settings
    assert settings == optimizer.settings and hash(settings) == hash(optimizer.settings)
    for kept in (goal.weights, goal.directions, goal.prior, rail.baseline, settings.points_to_evaluate[0]):
        with pytest.raises(TypeError, match="cannot be changed: make others"):
            kept["web"] = 1.0


def test_spaces_do_not_change_either_and_can_be_keys() -> None:
    upper = {"web": 0.5}
    space = two_scales(upper=upper)
    assert {space: 1}[two_scales(upper={"web": 0.5})] == 1
    upper["web"] = 0.1
    assert space.upper == {"web": 0.5} and replace(space, lower={}) == space
    with pytest.raises(TypeError, match="cannot be changed"):
        space.upper.update(web=0.1)
    for made in (copy.deepcopy(space), pickle.loads(pickle.dumps(space)), copy.copy(space)):
        assert made == space and hash(made) == hash(space) and isinstance(made.upper, FrozenDict)


@pytest.mark.parametrize("shares", [[1, 1, 2], np.array([1, 1, 2])])
def test_baselines_may_be_in_the_order_of_the_domains(shares: Any) -> None:
    rail = Guardrail(metric="g", baseline=shares)
    goal = Objective(weights={"a": 1.0}, relative_to=shares, prior=shares, guardrails=[rail])
    optimizer = MixtureOptimizer(SPACE, objective=goal, reference=shares)
    assert reread(optimizer).settings == optimizer.settings


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"guardrails": Guardrail(metric="g")}, "guardrails must be a list, got Guardrail"),
        ({"guardrails": ["g"]}, "guardrails must be a list of Guardrail, got 'g' in it"),
        ({"guardrails": {Guardrail(metric="g")}}, "guardrails must be a list: a set has no order"),
        ({"directions": None}, "directions must be 'min' or 'max' by metric, got None"),
        ({"relative_to": 5}, "relative_to must be weights by domain, 'uniform' or 'proportional', got 5"),
        ({"relative_to": {"web", "code"}}, "relative_to must be weights by domain"),
        ({"prior": None}, "prior must be weights by domain"),
        ({"closeness": 1e300}, "closeness must be a number from 0 to 1e.100"),
        ({"weights": {"a": 1e300}}, "must be between 1e-100 and 1e.100 in size, got 1e.300: only the ratios"),
        ({"weights": {"a": 1e-300}}, "must be between 1e-100 and 1e.100 in size"),
        ({"weights": {1: 1.0, "1": 2.0}}, "objective must map metric names to weights, got the name 1"),
    ],
)
def test_objectives_that_make_no_sense(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Objective(**{"weights": {"a": 1.0}} | given)


# -- lists and sizes of a space


@pytest.mark.parametrize(
    "given",
    [
        {"domains": {"web", "code"}},
        {"domains": frozenset(DOMAINS)},
        {"scales": {Scale("S", 1.0)}},
        {"steps": {10, 20}},
        {"earlier_scales": {Scale("E", 1.0)}},
        {"groups": {Group(domains=("web", "code"))}},
    ],
)
def test_what_has_no_order_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be a list: a set has no order"):
        MixtureSpace(**{"domains": DOMAINS, "scales": (Scale("S", 1.0),), "steps": (10, 20)} | given)
    assert MixtureSpace(domains=dict.fromkeys(DOMAINS).keys(), scales=[Scale("S", 1.0)], steps=[1]).domains == DOMAINS


def test_the_domains_of_a_group_have_an_order() -> None:
    with pytest.raises(ValueError, match="The domains of a group must be a list: a set has no order"):
        Group(domains={"web", "code"})


@pytest.mark.parametrize(
    ("supply", "match"),
    [
        (dict.fromkeys(DOMAINS, 0), "token_supply is 0 for every domain"),
        (dict.fromkeys(DOMAINS, 1e308), "token_supply sums to inf: count the tokens of all domains in a larger unit"),
    ],
)
def test_supplies_that_no_mixture_can_follow(supply: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        two_scales(token_supply=supply)
    one = dict.fromkeys(DOMAINS[1:], 0) | {"web": 1e-300}
    assert two_scales(token_supply=one).proportional() == pytest.approx([1.0, 0.0, 0.0])


# -- what was asked for and nobody heard of


class Failing(Callback):
    """Fails at one of the suggestions, after whatever is done ``before``."""

    def __init__(self, at: int, before: Callable[[Any], None] = lambda suggestion: None) -> None:
        self.at, self.before, self.n = at, before, 0

    def on_suggestion(self, suggestion: Any) -> None:
        """Fails, at the right one."""
        self.n += 1
        if self.n == self.at:
            self.before(suggestion)
            raise RuntimeError("tracker down")


def test_a_batch_is_asked_for_as_a_whole_or_not_at_all() -> None:
    optimizer = MixtureOptimizer(THREE_SCALES, callbacks=[Failing(4)], budget=1000.0)
    before = optimizer.history.state_dict()
    with pytest.raises(RuntimeError, match="tracker down"):
        optimizer.ask(6)
    assert optimizer.history.state_dict() == before
    assert optimizer.ask(3) == MixtureOptimizer(THREE_SCALES, budget=1000.0).ask(3)


def test_what_a_callback_told_before_it_failed_is_kept() -> None:
    failing = Failing(1, lambda run: optimizer.tell(run.trial_id, run.steps, 1.0))
    optimizer = MixtureOptimizer(THREE_SCALES, callbacks=[failing])
    with pytest.raises(RuntimeError, match="tracker down"):
        optimizer.ask()
    assert [(run.status, run.reached > 0) for run in optimizer.history] == [("lost", True)]
    assert reread(optimizer).ask() == optimizer.ask()


def test_other_threads_may_ask_while_a_callback_fails() -> None:
    asked, waiting = threading.Event(), threading.Event()

    def wait(run: Any) -> None:
        waiting.set()
        assert asked.wait(30)

    optimizer = MixtureOptimizer(THREE_SCALES, callbacks=[Failing(2, wait)])
    optimizer.ask()

    def fail() -> None:
        with pytest.raises(RuntimeError, match="tracker down"):
            optimizer.ask()

    thread = threading.Thread(target=fail)
    thread.start()
    assert waiting.wait(30)
    between = optimizer.ask()
    asked.set()
    thread.join()
    again, following = optimizer.ask(2)
    lost = optimizer.history["trial_00001"]
    assert lost.status == "lost" and between.trial_id == "trial_00002"
    assert tuple(again.mixture.values()) == lost.mixture and again.trial_id == "trial_00003"
    runs = [(run.mixture, run.scale, run.steps) for run in optimizer.history if run.status != "lost"]
    assert len(set(runs)) == 4 and following.trial_id == "trial_00004"
    assert len(reread(optimizer).history) == 5
