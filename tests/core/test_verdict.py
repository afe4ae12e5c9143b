"""Whether an answer is to be trained, in words that are true: limits, checks that failed, gains, what is not known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from worlds import SMALL_LARGE, Bowl, two_scales

from ray_mixopt import Group, Guardrail, MixtureOptimizer, MixtureSpace, Objective, Recommendation
from ray_mixopt.core.baselines import broken, moved
from ray_mixopt.core.details import Agreement
from ray_mixopt.core.forecast import Calibration, Hindsight, Prediction
from ray_mixopt.core.recommendation import NextRun
from ray_mixopt.core.words import amount

SURE = Recommendation(
    mixture={"web": 0.6, "code": 0.3, "math": 0.1},
    scale="L",
    steps=20000,
    predicted=Prediction.of(2.0, 0.01),
    uniform=Prediction.of(2.2, 0.01),
    probability_better={"uniform": 0.999},
    difference=Prediction.of(-0.2, 0.01),
    sure=True,
    furthest=("L", 20000),
    nearest=("L", 20000),
    spent=12345.6,
    target_runs=0.5,
    target_cost=24691.2,
    value_of_next_run=0.0,
    next_run=NextRun(mixture={"web": 1.0, "code": 0.0, "math": 0.0}, scale="S", steps=2000, cost=10000.0),
)
TOO_SURE = Hindsight(scale="L", steps=2000, n=8, coverage=0.25, rank=0.5)


def test_a_sure_answer_is_to_be_trained() -> None:
    assert SURE.verdict.ready and SURE.verdict.text.startswith("Train it: -0.2000")
    held = replace(SURE, hindsight=replace(TOO_SURE, coverage=1.0), calibration=Calibration(coverage=0.95, n=100))
    assert held.verdict == SURE.verdict


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ({"hindsight": TOO_SURE}, "25% of the differences of 8 mixtures at L x 2,000 steps"),
        ({"calibration": Calibration(coverage=0.6, n=50)}, "60% of 50 left-out observations"),
    ],
)
def test_a_check_that_failed_softens_the_verdict(failed, said) -> None:
    answer = replace(SURE, **failed)
    assert not answer.verdict.ready
    assert answer.verdict.text.startswith("Not yet: -0.2000")
    assert f"But such intervals were too sure: {said}" in answer.verdict.text
    assert f"Verdict: {answer.verdict.text}" in str(answer)
    assert answer.to_dict()["verdict"] == {"ready": False, "text": answer.verdict.text}


def test_what_smaller_scales_predicted_counts_more_than_neighbours() -> None:
    held, failed = replace(TOO_SURE, coverage=1.0), Calibration(coverage=0.6, n=50)
    answer = replace(SURE, hindsight=held, calibration=failed)
    assert answer.verdict.ready and "too sure" not in answer.verdict.text
    assert "60% of 50 left-out observations" in str(answer)


def test_a_high_probability_that_is_not_enough_is_explained() -> None:
    few = replace(SURE, sure=False).verdict
    assert not few.ready and few.text.startswith("Not yet: -0.2000")
    assert "better with probability 100%. For as few mixtures as were seen that is not sure enough." in few.text
    assert "as few mixtures" not in SURE.verdict.text
    assert "as few mixtures" not in replace(SURE, sure=False, probability_better={"uniform": 0.9}).verdict.text


def test_a_check_of_few_runs_has_not_failed() -> None:
    assert replace(SURE, calibration=Calibration(coverage=1.0, n=6)).verdict.ready
    assert not Calibration(coverage=float("nan"), n=0).failed


def test_no_gain_of_one_run_is_not_an_end() -> None:
    text = str(SURE)
    dear = "S to step 2,000 for 0.41 full runs (cost 10,000)"
    assert f"No single run would move the answer yet, not even the next one, {dear}" in text
    assert "Expected gain" not in text and "Spent: 0.50 full runs (cost 12,346)" in text
    assert f"Expected gain of the next run, {dear}: 0.012" in str(replace(SURE, value_of_next_run=0.0123))


def test_a_run_that_tells_most_and_moves_nothing_is_one_sentence() -> None:
    unsure = replace(SURE, probability_better={"uniform": 0.7}, sure=False)
    dear = "S to step 2,000, for 0.41 full runs (cost 10,000)"
    assert f"What would tell most is {dear}, though no report of it alone would move the answer yet." in str(unsure)
    assert "No single run" not in str(unsure) and "Expected gain" not in str(unsure)
    moved = str(replace(unsure, value_of_next_run=0.01))
    assert f"What would tell most is {dear}." in moved and "Expected gain of the next run" in moved


def test_the_evidence_names_the_dearest_run_and_the_nearest_to_the_target() -> None:
    assert "It rests on runs of up to L x 20,000 steps." in SURE.verdict.text
    both = replace(SURE, furthest=("S", 900000), nearest=("L", 100)).verdict.text
    assert "up to S x 900,000 steps, the dearest, and L x 100 steps, the nearest to the target." in both
    assert "none of them at the target's scale" not in both
    assert "S x 100 steps, none of them at" in replace(SURE, furthest=("S", 100), nearest=("S", 100)).verdict.text


def test_the_nearest_run_is_of_the_targets_scale_then_of_the_largest() -> None:
    space = replace(two_scales(), target=("S", 1000))
    optimizer = MixtureOptimizer(space)
    assert optimizer.history.nearest is None
    optimizer.add_evaluated_point(space.named(space.uniform()), "L", 100, 1.0)
    assert optimizer.history.nearest == ("L", 100)
    optimizer.add_evaluated_point(space.named(space.uniform()), "S", 100, 1.0)
    assert optimizer.history.nearest == ("S", 100) and optimizer.history.furthest == ("L", 100)


def learned(space: MixtureSpace, objective=None, **settings) -> MixtureOptimizer:
    """A search that knows twelve mixtures at both scales, most of which the limits may exclude."""
    bowl = Bowl(space=space, best=(0.2, 0.6, 0.2))
    optimizer = MixtureOptimizer(space, objective=objective or {"loss": 1.0}, seed=0, **settings)
    free = replace(space, lower={}, upper={}, groups=())
    for mixture in free.sample(12, np.random.default_rng(0)):
        named = space.named(mixture)
        for scale in space.scale_names:
            values = {"loss": bowl(named, scale, 1000), "other": named["code"]}
            optimizer.add_evaluated_point(named, scale, 1000, values)
    return optimizer


def test_a_better_reference_that_breaks_a_limit_is_said_so() -> None:
    reference = {"web": 0.2, "code": 0.6, "math": 0.2}
    answer = learned(two_scales(upper={"code": 0.1}), reference=reference).recommend()
    text = answer.verdict.text
    assert text.startswith("No: the reference mixture is better with probability 100%, but breaks the cap on code. ")
    assert "Of what the limits allow, it is better than the uniform mixture within the limits with prob" in text
    assert "What would tell most" not in text and not answer.verdict.ready
    assert answer.breaks == {"reference": ("the cap on code",)}
    plain = json.loads(json.dumps(answer.to_dict()))
    assert plain["breaks"] == {"reference": ["the cap on code"]} and plain["moved"] == ["uniform"]
    assert "Predicted, uniform within the limits: " in str(answer)
    assert "Better than the uniform mixture within the limits with probability" in str(answer)


def test_a_reference_that_breaks_a_guardrail_is_said_so() -> None:
    rail = Guardrail(metric="other", baseline="uniform")  # no more code than a third
    objective = Objective(weights={"loss": 1.0}, guardrails=(rail,))
    answer = learned(two_scales(), objective, reference={"web": 0.2, "code": 0.6, "math": 0.2}).recommend()
    assert answer.breaks == {"reference": ("the guardrail on other",)}
    assert answer.verdict.text.startswith("No: the reference mixture is better with probability")
    assert "but breaks the guardrail on other" in answer.verdict.text


def test_limits_that_exclude_a_baseline_or_are_broken_are_found() -> None:
    assert moved(two_scales()) == ()
    supply = {"web": 8.0, "code": 1.0, "math": 1.0}
    capped = two_scales(upper={"web": 0.5}, token_supply=supply)
    assert moved(capped) == ("proportional",)
    grouped = two_scales(groups=(Group(domains=("code", "math"), most=0.4),), lower={"web": 0.1}, token_supply=supply)
    assert moved(grouped) == ("uniform",)
    assert broken(grouped, np.array([0.05, 0.5, 0.45])) == ("the floor on web", "the limit on code+math")
    assert broken(grouped, grouped.uniform()) == () == broken(capped, capped.proportional())
    rail = Guardrail(metric="loss", tolerance=0.05, baseline="uniform")
    assert str(rail) == "loss no worse than the uniform mixture's by more than 0.05 of its value"
    assert rail.named(("uniform",)).startswith("loss no worse than that of the uniform mixture within the limits by")


def test_the_gain_of_a_run_is_that_of_the_answer_among_all_that_may_be_best() -> None:
    space = MixtureSpace(domains=("web", "code", "math"), scales=SMALL_LARGE, steps=(100, 1000))
    bowl = Bowl(space=space, best=(0.2, 0.6, 0.2))
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0}, seed=0)
    for mixture in space.sample(6, np.random.default_rng(1)):
        named = space.named(mixture)
        optimizer.add_evaluated_point(named, "S", 100, {"loss": bowl(named, "S", 100)})
    answer = optimizer.recommend()
    assert not answer.verdict.ready
    lost = bowl(answer.mixture, "L", 1000) - bowl(space.named(np.array(bowl.best)), "L", 1000)
    assert lost > 0.01, "much is still to gain"
    assert answer.value_of_next_run > 0.01 * lost


@pytest.mark.parametrize("strategy", ["default", "random", "paper"])
def test_nothing_is_presented_while_nothing_is_known(strategy) -> None:
    optimizer = MixtureOptimizer(two_scales(), objective={"loss": 1.0}, strategy=strategy)
    said = "Nothing is known yet: no run has reported, so that there is no mixture to recommend."
    for details in (False, True):
        answer = optimizer.recommend(details=details)
        assert str(answer) == f"{said}\nSpent: 0.00 full runs (cost 0)" and answer.verdict is None
        assert answer.to_dict()["nothing_known"] == said
    optimizer.add_evaluated_point({"web": 1, "code": 1, "math": 2}, "L", 1000, {"other": 2.0})
    assert "no report has a number for loss" in str(optimizer.recommend())
    optimizer.add_evaluated_point({"web": 1, "code": 1, "math": 2}, "L", 1000, {"loss": 2.0})
    known = optimizer.recommend()
    assert known.nothing_known == "" or "fewer than two reports have loss" in known.nothing_known
    assert ("Recommended mixture" in str(known)) == (known.nothing_known == "")


def test_an_agreement_says_what_it_rests_on() -> None:
    alone = Agreement(scale="S", steps=10, cost=1.0, runs=5, expected=0.93, common=0, observed=None)
    assert alone.grounds == "untested, since no mixture ran at both; rank correlation 0.93 by the model alone"
    assert replace(alone, common=2).grounds.startswith("untested, since only 2 ran at both; rank correlation")
    seen = replace(alone, common=4, observed=0.8)
    assert seen.grounds == "rank correlation 0.93 by the model, 0.80 of the 4 mixtures that ran at both"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.03, "0.03"), (12.345, "12.35"), (999.96, "1,000"), (1e4, "10,000"), (123456.7, "123,457")],
)
def test_amounts_are_written_out(value, text) -> None:
    assert amount(value) == text and (not value or amount(-value) == f"-{text}")


def test_amounts_that_are_hard_to_read_keep_their_exponent() -> None:
    assert amount(2.5e21) == "2.5e+21" and amount(float("inf")) == "inf" and amount(1e-9) == "1e-09"


def test_a_run_that_repeats_another_is_announced_as_one() -> None:
    unsure = replace(SURE, probability_better={"uniform": 0.7}, sure=False)
    assert "another seed" not in str(unsure)
    again = replace(unsure, value_of_next_run=0.01, next_run=replace(unsure.next_run, repeat=1))
    said = "for 0.41 full runs (cost 10,000), of a mixture that has run there, with another seed."
    assert said in again.verdict.text
