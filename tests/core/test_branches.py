"""Branches: runs that go on from the checkpoint of another, where their first phases, which are the same, end."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from worlds import DOMAINS, search, train, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, Phase, Proposal, Suggestion
from ray_mixopt.analysis.trajectory import costs
from ray_mixopt.benchmark.problems import load
from ray_mixopt.benchmark.runner import Bill
from ray_mixopt.core.branches import Trunks
from ray_mixopt.core.history import History
from ray_mixopt.core.merging import joined
from ray_mixopt.core.trial import Branch
from ray_mixopt.testing.history import violations

SPACE = two_scales(phases=(Phase("main", 0.8), Phase("anneal", 0.2)))
THREE = two_scales(phases=(Phase("a", 0.5), Phase("b", 0.3), Phase("c", 0.2)))
TRAINED = two_scales(phases=(Phase("a", 0.5, mixture={"web": 1}), Phase("b", 0.3), Phase("c", 0.2)))
A, B, C = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5), (0.1, 0.1, 0.8)


def run_of(*shares: tuple[float, ...], scale: str = "L", steps: int = 1000, **more) -> Proposal:
    return Proposal(mixture=np.concatenate(shares), scale=scale, steps=steps, **more)


def loss(mixture, scale: str, step: int) -> float:
    """Math is worth more late, web early."""
    main, late = (np.array([mixture[phase][name] for name in DOMAINS]) for phase in ("main", "anneal"))
    effect = np.square(0.8 * main + 0.2 * late - [0.5, 0.3, 0.2]).sum() + 0.3 * np.square(late - [0.1, 0.3, 0.6]).sum()
    return float(2 + 0.3 * (scale == "S") + 0.2 * (step == 100) + effect)


def made(optimizer: MixtureOptimizer, proposal: Proposal) -> Suggestion:
    """A run that was asked for and has done it."""
    run = optimizer.accept(proposal)
    train(optimizer, run, lambda *_: 2.0)
    return run


@pytest.fixture
def optimizer() -> MixtureOptimizer:
    """Has one run of two phases, to the last rung."""
    optimizer = MixtureOptimizer(SPACE, seed=1)
    assert made(optimizer, run_of(A, A)).cost == pytest.approx(800 + 20 + 200)
    return optimizer


# -- what is paid


def test_a_branch_costs_no_more_than_it_trains(optimizer: MixtureOptimizer) -> None:
    whole, history = optimizer.history["trial_00000"], optimizer.history
    for late in (B, C):
        run = optimizer.accept(run_of(A, late))
        assert (run.parent, run.from_step, run.cost, run.continues) == (whole.trial_id, 800, pytest.approx(200), None)
        assert history.committed == pytest.approx(history.spent + 200)
        train(optimizer, run, lambda *_: 2.0)
        assert list(history[run.trial_id].observations) == [1000], "it passes no other rung"
    assert history.spent == history.committed == pytest.approx(1020 + 400)
    assert history.spent_by_scale() == {"S": 0.0, "L": pytest.approx(1420)}
    np.testing.assert_allclose(costs(history), [20 + 80, 1020, 1220, 1420])
    assert list(violations(history)) == []


def test_a_branch_goes_on_as_any_run_does() -> None:
    optimizer = MixtureOptimizer(SPACE, seed=1)
    first = made(optimizer, run_of(A, A, steps=100))
    branch = made(optimizer, run_of(A, B, steps=100))
    assert (branch.parent, branch.from_step, branch.cost) == (first.trial_id, 80, pytest.approx(20))
    further = made(optimizer, run_of(A, B, continues=branch.trial_id))
    assert (further.parent, further.from_step, further.cost) == (None, 0, pytest.approx(720 + 200))
    assert optimizer.history.spent == pytest.approx(100 + 20 + 920)
    again = made(optimizer, run_of(A, C))
    assert (again.parent, again.from_step) == (branch.trial_id, 800), "it has a checkpoint of its own there"


def test_a_branch_shares_as_many_phases_as_it_can() -> None:
    optimizer = MixtureOptimizer(THREE, seed=1)
    first, second = made(optimizer, run_of(A, A, A)), made(optimizer, run_of(A, B, B))
    assert (second.parent, second.from_step, second.cost) == (first.trial_id, 500, pytest.approx(500))
    third = made(optimizer, run_of(A, B, C))
    assert (third.parent, third.from_step, third.cost) == (second.trial_id, 800, pytest.approx(200))
    assert made(optimizer, run_of(B, A, A)).parent is None
    trained = MixtureOptimizer(TRAINED, seed=1)
    assert made(trained, run_of(A, A)).cost == pytest.approx(50 + 500)
    run = made(trained, run_of(A, B))
    assert (run.from_step, run.cost) == (800, pytest.approx(200))


def test_a_repeat_begins_at_its_start_and_its_branches_have_its_seed(optimizer: MixtureOptimizer) -> None:
    """What branches from the first is repeated from nothing; what branches from a repeat is trained as that was."""
    branch = made(optimizer, run_of(A, B))
    again = made(optimizer, run_of(A, B))
    assert (again.parent, again.repeat, again.cost) == (None, 1, pytest.approx(1020))
    optimizer.history["trial_00000"].status = "done"
    optimizer.history[branch.trial_id].status = "done"
    of_repeat = made(optimizer, run_of(A, C))
    assert (of_repeat.parent, of_repeat.repeat) == (again.trial_id, 1)
    kept = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    assert [trial.repeat for trial in kept.history] == [0, 0, 1, 1]


def test_what_shares_nothing_or_all_starts_anew(optimizer: MixtureOptimizer) -> None:
    nearly, again = (0.6001, 0.2999, 0.1), (0.6, 0.3001, 0.0999)
    for other in (
        *(run_of(B, A), run_of(A, A), run_of(A, B, scale="S"), run_of(A, B, steps=100)),
        *(run_of(nearly, B), run_of(A, again)),
    ):
        assert optimizer.problem.branch(other, optimizer.history) is None
        assert optimizer.problem.price(other, optimizer.history) == SPACE.cost(other.scale, other.steps)
    assert MixtureOptimizer.of_history(optimizer.history, replace(optimizer.settings, branches=False)).problem.price(
        run_of(A, B), optimizer.history
    ) == pytest.approx(1020)
    one = MixtureOptimizer(two_scales(), seed=1)
    made(one, run_of(A))
    assert one.problem.branch(run_of(B), one.history) is None


@pytest.mark.parametrize("end", [{"failed": True}, {"lost": True}, {"continuable": False}])
def test_nothing_branches_from_a_run_without_a_checkpoint(end) -> None:
    optimizer = MixtureOptimizer(SPACE, seed=1)
    run = optimizer.accept(run_of(A, A))
    assert optimizer.problem.branch(run_of(A, B), optimizer.history) is None, "it is on its way"
    optimizer.tell(run.trial_id, 1000, 2.0)
    optimizer.finish(run.trial_id, **end)
    assert optimizer.problem.branch(run_of(A, B), optimizer.history) is None


REFUSED = {
    "another main mixture": (run_of(B, A), "'trial_00000' has another mixture in the phase main"),
    "a repeat": (run_of(A, A), "A run of L with this mixture has reported already: one that repeats it begins at its"),
    "another scale": (run_of(A, B, scale="S"), "'trial_00000' is of scale L: a run of S cannot go on"),
    "a shorter one": (run_of(A, B, steps=100), "has reached step 1000: in a run to step 100 the phase main is of ano"),
    "unknown": (run_of(A, B, parent="x"), "Unknown trial 'x'"),
}


@pytest.mark.parametrize(("run", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_a_run_that_its_parent_cannot_have_begun_is_refused(optimizer: MixtureOptimizer, run, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        optimizer.accept(replace(run, parent=run.parent or "trial_00000"))
    assert len(optimizer.history) == 1


def test_a_longer_run_than_its_trunk_is_refused_and_so_is_one_before_its_border() -> None:
    optimizer = MixtureOptimizer(SPACE, seed=1)
    made(optimizer, run_of(A, A, steps=100))
    with pytest.raises(ValueError, match="has reached step 100: in a run to step 1000 the phase main is of another le"):
        optimizer.accept(run_of(A, B, parent="trial_00000"))
    optimizer.accept(run_of(A, A, continues="trial_00000"))
    with pytest.raises(ValueError, match="is running at step 100: a run can branch only from one that is paused"):
        optimizer.accept(run_of(A, B, parent="trial_00000"))
    with pytest.raises(ValueError, match="has one mixture that is searched"):
        Trunks(two_scales(), ()).branch_of(optimizer.history["trial_00000"], np.array(A), "L", 100)


def test_a_branch_that_begins_anew_is_paid_for_so(optimizer: MixtureOptimizer, caplog) -> None:
    run = optimizer.accept(run_of(A, B))
    optimizer.tell(run.trial_id, 100, 2.0)
    assert "'trial_00001' was to begin at step 800 of trial 'trial_00000' and reports step 100" in caplog.text
    assert optimizer.history.committed == pytest.approx(1020 + 1020)


# -- what is kept


def test_the_tree_survives_its_state_and_older_states_have_none(optimizer: MixtureOptimizer) -> None:
    made(optimizer, run_of(A, B))
    state = json.loads(json.dumps(optimizer.state_dict()))
    again = MixtureOptimizer.from_state_dict(state)
    assert again.history["trial_00001"].branch == Branch(parent="trial_00000", from_step=800, steps=1000)
    assert again.history.spent == optimizer.history.spent == pytest.approx(1220)
    assert again.state_dict() == state
    first, second = state["history"]["trials"]
    assert "branch" not in first, "as older states are"
    for wrong, sentence in (
        ({"parent": "x", "from_step": 800, "steps": 1000}, "is a branch of 'x', which is not here"),
        ({"parent": "trial_00000", "from_step": 1000, "steps": 1000}, "cannot have begun at step 1000 on its way to"),
        ({"parent": "trial_00000"}, "description of where trial 'trial_00001' began: from_step is missing"),
        ([1], "not a JSON object"),
    ):
        second["branch"] = wrong
        with pytest.raises(ValueError, match=sentence):
            MixtureOptimizer.from_state_dict(state)
    assert MixtureOptimizer.from_state_dict({**state, "history": History(SPACE).state_dict()}).settings.branches
    without = MixtureOptimizer(SPACE, branches=False)
    assert MixtureOptimizer.from_state_dict(without.state_dict()).settings == without.settings
    with pytest.raises(ValueError, match="branches must be True or False, got 1"):
        MixtureOptimizer(SPACE, branches=1)


def test_a_lost_branch_is_made_again_as_a_branch(optimizer: MixtureOptimizer) -> None:
    run = optimizer.accept(run_of(A, B))
    optimizer.finish(run.trial_id, lost=True)
    again = optimizer.ask()
    assert again.mixture == run.mixture and again.trial_id != run.trial_id
    assert (again.parent, again.from_step, again.cost) == (run.parent, 800, run.cost)


def test_what_was_meant_as_a_branch_is_thought_over_once_its_parent_has_gone_on() -> None:
    optimizer = MixtureOptimizer(SPACE, seed=1)
    made(optimizer, run_of(A, A, steps=100))
    branch = run_of(A, B, steps=100, parent="trial_00000")
    assert optimizer.still_possible(branch)
    optimizer.accept(run_of(A, A, continues="trial_00000"))
    assert not optimizer.still_possible(branch)


def test_runs_that_are_taken_in_keep_their_tree(optimizer: MixtureOptimizer) -> None:
    made(optimizer, run_of(A, B))
    both = joined({"x": optimizer.history, "y": optimizer.history}, SPACE)
    assert [trial.branch and trial.branch.parent for trial in both] == [None, "x:trial_00000", None, "y:trial_00000"]
    assert both.spent_elsewhere == pytest.approx(2 * 1220)


def test_a_benchmark_bills_what_a_branch_trains() -> None:
    problem = load("synthetic/5_order:3")
    space, bill = problem.space, Bill(problem)
    early, late = (np.tile(w, 2) for w in np.eye(5)[:2] * 0.9 + 0.02)
    other = np.concatenate([early[:5], late[5:]])

    def suggested(name: str, w: np.ndarray, parent: str | None = None, steps: int = 2000) -> Suggestion:
        about = {"scale": "30M", "steps": steps, "continues": None, "cost": 0.0, "parent": parent}
        return Suggestion(trial_id=name, mixture=space.named(w), **about)

    bill.pay("a", bill.run(suggested("a", early)), 2000)
    whole = bill.spent
    branch = bill.run(suggested("b", other, "a"))
    assert bill.cost(branch, 2000) == pytest.approx(0.2 * whole)
    for wrong, sentence in (
        (suggested("c", late, "a"), "has another mixture in the phase"),
        (suggested("c", other, "a", 6000), "has reached step 2000"),
        (suggested("c", other, "x"), "branched from trial 'x', which was not run"),
    ):
        with pytest.raises(ValueError, match=sentence):
            bill.run(wrong)


# -- what a search makes of it


def test_a_search_makes_main_runs_and_branches_and_goes_on_after_its_state() -> None:
    optimizer = MixtureOptimizer(SPACE, budget=3 * SPACE.target_cost, seed=1)
    runs = search(optimizer, 22, loss)
    history = optimizer.history
    branches = [run for run in runs if run.parent]
    assert len(branches) >= 4
    for run in branches:
        parent = history[run.parent]
        assert parent.scale == run.scale and run.steps in parent.observations
        assert run.mixture["main"] == SPACE.named(parent.mixture)["main"], "to the last digit"
        assert run.cost == pytest.approx(0.2 * run.steps * SPACE.scale(run.scale).cost_per_step)
    assert history.spent == pytest.approx(sum(run.cost for run in runs))
    assert list(violations(history)) == []
    again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
    for _ in range(3):
        one, other = optimizer.ask(), again.ask()
        assert one == other
        train(optimizer, one, loss)
        train(again, other, loss)
    assert again.recommend().next_run.cost > 0


def test_crossed_runs_have_the_main_phase_of_one_and_the_later_ones_of_another(optimizer: MixtureOptimizer) -> None:
    made(optimizer, run_of(C, C))
    trunks = Trunks(SPACE, optimizer.history)
    found = list(trunks.crossed(np.array([[*B, *B], [*A, *A]])))
    assert {(scale, steps) for _, scale, steps in found} == {("L", 1000)}
    np.testing.assert_allclose(sorted(w.tolist() for w, *_ in found), sorted([[*C, *B], [*A, *A]]))
    scarce: MixtureSpace = replace(SPACE, token_supply={"math": 20.0}, target_tokens=100.0)
    assert not list(Trunks(scarce, optimizer.history).crossed(np.array([[*C, *C]]))), "beyond what there is of math"
