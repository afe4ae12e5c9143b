"""Objectives beyond a weighted sum: directions, normalisation, guardrails and closeness to a prior."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from worlds import DOMAINS, given, search, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.core.objective import Guardrail, Objective, divergence, is_score

SUPPLY = {"web": 80e9, "code": 15e9, "math": 5e9}


@pytest.fixture
def space() -> MixtureSpace:
    return two_scales(token_supply=SUPPLY)


def metrics(mixture, scale: str, step: int) -> dict[str, float]:
    """A loss that wants code, a loss that wants web, and an accuracy that wants math in another unit."""
    web, code, math = (mixture[name] for name in DOMAINS)
    size = (scale == "S") * 0.4 + (step == 100) * 0.3
    return {
        "loss/code": 2.0 + size + 1.5 * (code - 0.8) ** 2,
        "loss/web": 3.0 + size + 2.0 * (web - 0.9) ** 2,
        "acc": 100 * (0.5 - size / 10 - 0.4 * (math - 0.5) ** 2),
    }


def learned(space: MixtureSpace, objective, n: int = 40, seed: int = 0, **options) -> MixtureOptimizer:
    """An optimizer with ``n`` runs made elsewhere."""
    return given(MixtureOptimizer(space, objective=objective, seed=seed, **options), n, metrics)


def test_directions_are_signs_relative_to_the_mode() -> None:
    objective = Objective(weights={"a": 1.0, "b": 2.0}, directions={"b": "max"})
    assert objective.signed("min") == {"a": 1.0, "b": -2.0}
    assert objective.signed("max") == {"a": -0.0 + 1.0, "b": 2.0}


def test_a_relative_objective_does_not_depend_on_the_unit_of_a_metric(space) -> None:
    objective = Objective(weights={"loss/code": 1.0, "acc": 1.0}, directions={"acc": "max"}, relative_to="proportional")
    answer = learned(space, objective).recommend()
    # At the reference itself each metric is 1: a loss counts +1, an accuracy -1.
    assert answer.proportional.mean == pytest.approx(0.0, abs=1e-9)
    assert answer.mixture["code"] > 0.3
    assert answer.mixture["math"] > 0.2  # a hundredth of the accuracy counts like a hundredth of the loss


@pytest.mark.parametrize("offset", [0.0, 1e-4], ids=["0 there", "hardly more"])
def test_what_is_too_near_zero_to_divide_by_counts_in_standard_deviations(space, offset: float, caplog) -> None:
    level = metrics(space.named(space.proportional()), "L", 1000)["acc"] - offset

    def shifted(*run: object) -> dict[str, float]:
        return {"lead": metrics(*run)["acc"] - level}

    def answers(goal: Objective | dict[str, float]) -> MixtureOptimizer:
        return given(MixtureOptimizer(space, objective=goal, mode="max"), 40, shifted)

    relative, plain = (
        answers(goal) for goal in (Objective(weights={"lead": 1.0}, relative_to="proportional"), {"lead": 1.0})
    )
    with caplog.at_level(logging.WARNING):
        found, own = relative.recommend(), plain.recommend()
        relative.recommend()
    spread = relative.model("lead").standardise.spread
    assert found.difference.mean == pytest.approx(own.difference.mean / spread, rel=1e-6)
    assert abs(found.difference.mean) < 10, "and not thousands of times what it was there"
    assert caplog.text.count("for which lead is predicted as ") == 1
    assert f"too near 0 to divide by: it counts in standard deviations of its reports, of {spread:.2g}" in caplog.text


def test_a_guardrail_moves_the_answer_to_where_it_holds(space) -> None:
    free = learned(space, {"loss/code": 1.0}).recommend()
    assert free.mixture["code"] > 0.7
    rail = Guardrail(metric="loss/web", tolerance=0.1, baseline="proportional")
    guarded = learned(space, Objective(weights={"loss/code": 1.0}, guardrails=(rail,))).recommend()
    limit = 1.1 * metrics(space.named(space.proportional()), "L", 1000)["loss/web"]
    assert metrics(free.mixture, "L", 1000)["loss/web"] > limit
    assert metrics(guarded.mixture, "L", 1000)["loss/web"] <= limit
    assert guarded.mixture["code"] > 0.3  # and not further than it must


def test_a_search_with_a_guardrail_spends_where_it_holds(space) -> None:
    """With the guardrail, mixtures that break it are tried less than without; noise and all else the same."""
    rail = Guardrail(metric="loss/web", tolerance=0.05)
    limit = 1.05 * metrics(space.named(space.proportional()), "L", 1000)["loss/web"]
    broken = {}
    for name, objective in {
        "with": Objective(weights={"loss/code": 1.0}, guardrails=(rail,)),
        "without": {"loss/code": 1.0},
    }.items():
        optimizer = MixtureOptimizer(space, objective=objective, seed=1, budget=4 * space.target_cost)
        tried = []
        for run in search(optimizer, 22, metrics):
            tried.append(metrics(run.mixture, "L", 1000)["loss/web"] > limit)
        broken[name] = np.mean(tried[len(optimizer._strategy.design) :])
    assert broken["with"] < 0.75 * broken["without"]


def test_a_guardrail_that_no_mixture_meets_gives_what_comes_closest(space) -> None:
    rail = Guardrail(
        metric="loss/web", tolerance=0.0, baseline={"web": 0.9, "code": 0.05, "math": 0.05}, confidence=0.99
    )
    answer = learned(space, Objective(weights={"loss/code": 1.0}, guardrails=(rail,))).recommend()
    assert answer.mixture["web"] > 0.6


def test_a_guardrail_on_a_metric_never_seen_is_no_obstacle(space) -> None:
    objective = Objective(weights={"loss/code": 1.0}, guardrails=(Guardrail(metric="nonesuch"),))
    assert learned(space, objective).recommend().mixture["code"] > 0.7


def test_closeness_pulls_towards_the_prior(space) -> None:
    prior = space.proportional()
    distances = []
    for closeness in (0.0, 0.3, 100.0):
        objective = Objective(weights={"loss/code": 1.0}, closeness=closeness)
        answer = learned(space, objective).recommend()
        distances.append(divergence(space.mixture(answer.mixture)[None], prior)[0])
        # Predictions are of the metric itself, without the penalty.
        truth = metrics(answer.mixture, "L", 1000)["loss/code"]
        assert answer.predicted.mean == pytest.approx(truth, abs=0.1)
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.01


def test_a_run_that_reports_only_some_metrics_counts(space) -> None:
    rng = np.random.default_rng(0)
    parts = {}
    for name, keep in {"both": ("loss/code", "loss/web"), "halves": None}.items():
        optimizer = MixtureOptimizer(space, objective={"loss/code": 1.0, "loss/web": 1.0})
        for i, w in enumerate(space.sample(60, np.random.default_rng(3))):
            mixture = space.named(w)
            seen = metrics(mixture, "L", 1000)
            names = keep or (("loss/code", "loss/web")[i % 2],)
            optimizer.add_evaluated_point(mixture, "L", 1000, {m: seen[m] + rng.normal(0, 1e-3) for m in names})
        parts[name] = optimizer.recommend()
    for domain in DOMAINS:
        assert parts["halves"].mixture[domain] == pytest.approx(parts["both"].mixture[domain], abs=0.06)


def test_another_objective_is_answered_from_the_same_runs(space) -> None:
    """Also one of metrics that the search did not optimise: reports are kept whole."""
    first = learned(space, {"loss/code": 1.0})
    state = json.loads(json.dumps(first.state_dict()))
    state["objective"] = Objective(weights={"loss/web": 1.0}).to_dict()
    second = MixtureOptimizer.from_state_dict(state)
    assert second.recommend().mixture["web"] > 0.7
    assert second.history.spent == first.history.spent


def test_a_nan_outside_the_objective_is_no_divergence(space) -> None:
    optimizer = MixtureOptimizer(space, objective={"loss/code": 1.0}, strategy="random")
    run = optimizer.ask()
    optimizer.tell(run.trial_id, 1000, {"loss/code": 2.0, "acc": float("nan"), "lr": True})
    assert optimizer.history[run.trial_id].status == "running"
    assert optimizer.history[run.trial_id].observations == {1000: {"loss/code": 2.0}}


def test_a_nan_in_a_guardrail_is_a_divergence(space) -> None:
    objective = Objective(weights={"loss/code": 1.0}, guardrails=(Guardrail(metric="acc", mode="max"),))
    optimizer = MixtureOptimizer(space, objective=objective)
    run = optimizer.ask()
    optimizer.tell(run.trial_id, 100, {"loss/code": 2.0, "acc": float("nan")})
    assert optimizer.history[run.trial_id].status == "diverged"


def test_the_state_goes_on_in_another_process(space) -> None:
    objective = Objective(
        weights={"loss/code": 1.0, "acc": 0.5},
        directions={"acc": "max"},
        relative_to="uniform",
        guardrails=(Guardrail(metric="loss/web", tolerance=0.1, baseline={"web": 1, "code": 1, "math": 2}),),
        closeness=0.01,
    )
    optimizer = learned(space, objective, reference={"web": 2, "code": 1, "math": 1})
    state = json.dumps(optimizer.state_dict())
    code = (
        "import sys, json; from ray_mixopt import MixtureOptimizer; o = MixtureOptimizer.from_state_dict("
        "json.load(sys.stdin)); print(json.dumps([o.recommend().to_dict(), o.ask().mixture]))"
    )
    child = subprocess.run([sys.executable, "-c", code], input=state, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == json.loads(
        json.dumps([optimizer.recommend().to_dict(), optimizer.ask().mixture])
    )


def test_answers_are_compared_with_the_reference(space) -> None:
    answer = learned(space, {"loss/code": 1.0}, reference={"web": 8, "code": 1, "math": 1}).recommend()
    assert set(answer.probability_better) == {"uniform", "proportional", "reference"}
    assert answer.probability_better["reference"] > 0.99
    assert answer.reference.mean > answer.predicted.mean
    assert "Better than the reference mixture with probability" in str(answer)
    assert answer.next_run is not None and answer.next_run.cost > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective(weights={}), "objective must map metric names to weights"),
        (lambda: Objective(weights={"a": -1.0}), "must be above 0, got -1.0: use directions"),
        (lambda: Objective(weights={"a": 1}, directions={"b": "min"}), "directions names 'b', which has no weight"),
        (lambda: Objective(weights={"a": 1}, directions={"a": "up"}), "must be 'min' or 'max'"),
        (lambda: Objective(weights={"a": 1}, closeness=-1), "closeness must be a number from 0"),
        (lambda: Guardrail(metric="a", tolerance=-0.1), "tolerance must be >= 0"),
        (lambda: Guardrail(metric="a", confidence=1.0), "confidence must be between 0 and 1"),
        (lambda: Objective.from_dict({"weights": {"a": 1}, "nonesuch": 1}), "Malformed description of an objective"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_space_or_the_strategy_is_refused(space) -> None:
    bare = MixtureSpace(domains=DOMAINS, scales=(Scale("S", 1.0),), steps=(10,))
    railed = Objective(weights={"a": 1.0}, guardrails=(Guardrail(metric="a"),))
    with pytest.raises(ValueError, match="proportional mixture is not known: give the space a token_supply"):
        MixtureOptimizer(bare, objective=railed)
    with pytest.raises(ValueError, match="A baseline is 'uniform', 'proportional' or shares"):
        MixtureOptimizer(bare, objective=Objective(weights={"a": 1.0}, relative_to="best"))
    with pytest.raises(ValueError, match="'paper' knows only weighted sums"):
        MixtureOptimizer(space, objective=railed, strategy="paper")


def test_a_weight_beyond_all_floats_is_no_number() -> None:
    with pytest.raises(ValueError, match="weight of metric 'a' must be a finite number"):
        Objective(weights={"a": 10**400})
    with pytest.raises(ValueError, match="weights cannot be"):
        Objective.from_dict({"weights": {"a": 10**400}})


def test_metrics_of_which_more_is_better_are_known_by_a_word_of_their_name() -> None:
    scores = ["acc", "accuracy/arc", "eval/acc_norm", "acc,none", "hellaswag_acc", "F1", "score", "squad/em", "bleu4"]
    scores += ["exact_match", "exact_match,strict", "rougeL", "rouge1", "win_rate", "win rate"]
    losses = [
        "loss",
        "val_loss/web",
        "accumulated",
        "memory",
        "acc_loss",
        "accuracy/bpb",
        "emb",
        "scored",
        "val_loss/em",
    ]
    assert [name for name in scores + losses if is_score(name)] == scores
