"""How flat the optimum is, what limits cost, and which fidelities rank like the target, against a known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from worlds import DOMAINS, given, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace
from ray_mixopt.core.objective import Guardrail, Objective
from ray_mixopt.core.simplex import Group
from ray_mixopt.strategies.details import rank_correlation

BEST = np.array([0.2, 0.5, 0.3])


@pytest.fixture
def space() -> MixtureSpace:
    return two_scales(
        token_supply={"web": 80e9, "code": 30e9, "math": 5e9},
    )


def loss(mixture, scale: str, step: int) -> float:
    """Steep in code, flat between web and math. Small models rank the other way round."""
    w = np.array([mixture[name] for name in DOMAINS]) - BEST
    effect = 4.0 * w[1] ** 2 + 0.2 * (w[0] - w[2]) ** 2
    return 2.0 + 0.3 * (step == 100) + (1.0 - 0.5 * effect if scale == "S" else effect)


def learned(space: MixtureSpace, *, objective=None, mode="min", n: int = 80, **options) -> MixtureOptimizer:
    optimizer = MixtureOptimizer(space, objective=objective or {"loss": 1.0}, mode=mode, **options)
    everywhere = replace(space, lower={}, upper={}, groups=(), target_tokens=None, max_epochs=1.0)

    def metrics(mixture, scale: str, step: int) -> dict[str, float]:
        value = loss(mixture, scale, step)
        return {"loss": value, "gain": -value, "web": mixture["web"]}

    cells = [("S", 100), ("L", 100), ("L", 100), ("S", 1000), ("L", 1000), ("L", 1000)]
    return given(optimizer, n, metrics, cells=cells, among=everywhere)


def test_a_flat_direction_has_a_wide_range(space) -> None:
    details = learned(space).recommend(details=True).details
    width = {name: high - low for name, (low, high) in details.ranges.items()}
    # Half the width in code is sqrt(tolerance / 4), in web, with code kept, sqrt(tolerance / 0.8).
    assert width["code"] == pytest.approx(2 * (details.tolerance / 4.0) ** 0.5, rel=0.2)
    assert width["web"] == pytest.approx(2 * (details.tolerance / 0.8) ** 0.5, rel=0.2)
    for name, (low, high) in details.ranges.items():
        assert low <= BEST[DOMAINS.index(name)] <= high


def test_a_binding_cap_has_its_price_and_a_slack_one_none(space) -> None:
    capped = replace(space, upper={"code": 0.25, "web": 0.9})
    answer = learned(capped).recommend(details=True)
    (price,) = answer.details.limits
    assert price.name == "code at most 25.00%"
    truth = loss(answer.mixture, "L", 1000) - 2.0
    assert price.cost.low <= truth <= price.cost.high
    assert price.cost.mean == pytest.approx(truth, abs=0.03)
    assert price.mixture["code"] == pytest.approx(0.5, abs=0.05)
    assert answer.details.unconstrained.mixture["code"] == pytest.approx(0.5, abs=0.05)
    assert "Limit: code at most 25.00% costs 0." in str(answer)


def test_costs_are_positive_when_maximising_too(space) -> None:
    capped = replace(space, upper={"code": 0.25})
    answer = learned(capped, objective={"gain": 1.0}, mode="max").recommend(details=True)
    assert answer.details.limits[0].cost.mean > 0.1
    assert answer.predicted.mean == pytest.approx(-loss(answer.mixture, "L", 1000), abs=0.05)


def test_supply_floor_and_group_are_named_as_such(space) -> None:
    limited = replace(
        space,
        target_tokens=100e9,
        max_epochs=3.0,
        lower={"web": 0.45},
        groups=(Group(domains=("code", "math"), most=0.4),),
    )
    details = learned(limited).recommend(details=True).details
    names = [price.name for price in details.limits]
    assert names == ["code+math at most 40.00%"]
    # At most 3 epochs of 5e9 tokens of math in 100e9: a cap of 15%.
    supply = replace(space, target_tokens=100e9, max_epochs=3.0)
    names = [price.name for price in learned(supply).recommend(details=True).details.limits]
    assert names == ["math at most 15.00% (at most 3 epochs)"]
    floor = replace(space, lower={"web": 0.45})
    names = [price.name for price in learned(floor).recommend(details=True).details.limits]
    assert names == ["web at least 45.00%"]


def test_guardrail_and_prior_have_a_price(space) -> None:
    rail = Guardrail(metric="web", mode="max", baseline={"web": 0.6, "code": 0.2, "math": 0.2})
    objective = Objective(weights={"loss": 1.0}, guardrails=(rail,), closeness=0.01)
    answer = learned(space, objective=objective).recommend(details=True)
    names = {price.name: price.cost.mean for price in answer.details.limits}
    assert set(names) == {str(rail), "closeness to the prior"}
    assert names[str(rail)] > 0.02
    (check,) = answer.details.guardrails
    assert check.probability >= 0.9
    assert answer.mixture["web"] > 0.55


def test_the_fidelity_that_misleads_does_not_agree(space) -> None:
    details = learned(space).recommend(details=True).details
    expected = {(a.scale, a.steps): a.expected for a in details.agreement}
    assert expected["S", 100] < -0.5
    assert expected["L", 100] > 0.9
    assert (details.shortest_agreeing.scale, details.shortest_agreeing.steps) == ("L", 100)


def test_agreement_is_also_that_of_mixtures_run_at_both(space) -> None:
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    for w in space.sample(8, np.random.default_rng(0)):
        for scale in ("S", "L"):
            mixture = space.named(w)
            optimizer.add_evaluated_point(mixture, scale, 1000, {"loss": loss(mixture, scale, 1000)})
    agreement = {(a.scale, a.steps): a for a in optimizer.recommend(details=True).details.agreement}
    assert agreement["S", 1000].observed == pytest.approx(-1.0)
    assert agreement["S", 1000].common == 8
    assert agreement["S", 100].observed is None


def test_a_mixture_that_was_rounded_at_the_target_is_the_same_mixture(space) -> None:
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0})
    for w in space.sample(8, np.random.default_rng(0)):
        for scale, digits in (("S", 12), ("L", 3)):
            mixture = dict(zip(DOMAINS, np.round(w, digits).tolist(), strict=True))
            optimizer.add_evaluated_point(mixture, scale, 1000, {"loss": loss(mixture, scale, 1000)})
    agreement = {(a.scale, a.steps): a for a in optimizer.recommend(details=True).details.agreement}
    assert agreement["S", 1000].common == 8
    assert agreement["S", 1000].observed == pytest.approx(-1.0)


def test_another_strategy_is_told_what_the_surrogate_expects(space) -> None:
    optimizer = MixtureOptimizer(space, objective={"loss": 1.0}, strategy="random")
    for _ in range(6):
        run = optimizer.ask()
        optimizer.tell(run.trial_id, run.steps, {"loss": loss(run.mixture, run.scale, run.steps)})
    plain, full = optimizer.recommend(), optimizer.recommend(details=True)
    assert plain.predicted is None and plain.details is None
    assert full.mixture == plain.mixture
    assert full.predicted.low <= loss(full.mixture, "L", 1000) <= full.predicted.high
    assert full.details is not None


def test_nothing_is_known_of_nothing(space) -> None:
    answer = MixtureOptimizer(space).recommend(details=True)
    assert answer.details is None and answer.predicted is None


def test_details_are_the_same_every_time(space) -> None:
    optimizer = learned(space, n=20)
    assert optimizer.recommend(details=True) == optimizer.recommend(details=True)


def test_rank_correlation() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([0.0, 5.0, 6.0])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.ones(3)) == 0.0
