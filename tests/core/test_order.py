"""What the order of the same data does, as a report shows it: what is moved, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import DOMAINS, search, two_scales

from ray_mixopt import MixtureOptimizer, Phase
from ray_mixopt.analysis.landscape import half_widths
from ray_mixopt.analysis.order import moves
from ray_mixopt.analysis.study import Study
from ray_mixopt.core.phased import phased
from ray_mixopt.strategies.order import reordered

FRACTIONS = {"main": 0.5, "mid": 0.3, "anneal": 0.2}
PHASES = tuple(Phase(name, fraction) for name, fraction in FRACTIONS.items())
LATE = {
    "main": {"web": 0.7, "code": 0.2, "math": 0.1},
    "mid": {"web": 0.5, "code": 0.3, "math": 0.2},
    "anneal": {"web": 0.2, "code": 0.3, "math": 0.5},
}


def known(strength: float, **limits) -> Study:
    """A search of three phases whose loss is best with much math late, as far as that matters."""
    space = two_scales(phases=PHASES, **limits)
    optimizer = MixtureOptimizer(space, budget=4 * space.target_cost, seed=1, objective={"loss": 1.0})

    def loss(mixture, scale: str, step: int) -> dict[str, float]:
        w = space.mixture(mixture)
        mean, last = space.simplex.mean(w[None])[0], space.simplex.apart(w[None])[0, -1]
        effect = np.square(np.log(mean + 0.05) - np.log([0.55, 0.3, 0.25])).sum()
        return {"loss": float(2 + 0.3 * (scale == "S") + 0.2 * (step == 100) + 0.2 * effect - strength * last[2])}

    search(optimizer, 25, loss)
    return Study(optimizer, "a search")


@pytest.fixture(scope="module")
def study() -> Study:
    return known(0.5)


def test_only_the_order_differs_along_a_move(study: Study) -> None:
    assert study.posterior is not None
    simplex, best = phased(study.space.simplex), study.space.mixture(LATE)
    found = moves(study.posterior, best)
    assert {(move.phase, move.domain) for move in found} == {(p, d) for p in ("mid", "anneal") for d in DOMAINS}
    assert [move.effect for move in found] == sorted((move.effect for move in found), reverse=True)
    for move in found:
        np.testing.assert_allclose(simplex.mean(move.mixtures), simplex.mean(best[None]).repeat(len(move.shares), 0))
        each = simplex.apart(move.mixtures)
        np.testing.assert_allclose(each.sum(-1), 1)
        assert each.min() >= 0
        place = study.space.phase_names.index(move.phase), DOMAINS.index(move.domain)
        np.testing.assert_allclose(each[:, place[0], place[1]], move.shares, atol=1e-12)
        here = int(np.abs(move.shares - move.recommended).argmin())
        np.testing.assert_allclose(move.mixtures[here], best, atol=1e-9)
        assert move.recommended == LATE[move.phase][move.domain] and abs(move.change[here]) < 1e-9
        _, apart = half_widths(study.posterior, best, move.mixtures)
        assert apart[here] < 1e-3 * apart.max()
    late = next(move for move in found if (move.phase, move.domain) == ("anneal", "math"))
    assert late is found[0] and late.best_share == late.shares[-1] and late.change[0] > 0.1


def test_a_move_keeps_to_the_limits() -> None:
    study = known(0.5, token_supply={"math": 0.2}, target_tokens=1.0, upper={"math": 0.6})
    assert study.posterior is not None
    best = study.space.simplex.project(study.space.mixture(LATE)[None])[0]
    (late,) = (m for m in moves(study.posterior, best) if (m.phase, m.domain) == ("anneal", "math"))
    assert late.limits[1] == pytest.approx(0.6) and late.best_share < 0.6001 < late.shares.max()
    assert study.space.simplex.mean_bounds[1][2] == pytest.approx(0.2)


def test_the_opposite_order_has_late_what_came_early(study: Study) -> None:
    assert study.posterior is not None
    best = study.space.mixture(LATE)
    mean = study.space.simplex.mean(best[None])[0]
    turned, even = reordered(study.posterior, best)
    # Of math there are 21% in all and 50% late: 72% of the way the opposite has none late.
    assert turned.name == "the opposite order of the same data, as far as shares allow (72%)"
    assert even.name == "the same mixture in all phases"
    assert turned.change.mean > even.change.mean > 0 and turned.probability is not None and turned.probability > 0.95
    value = study.posterior.prediction(np.tile(mean, 3))
    assert even.predicted == value
    assert even.change.mean == pytest.approx(value.mean - study.posterior.prediction(best).mean)
    near = 0.9 * np.tile(mean, 3) + 0.1 * best
    whole, _ = reordered(study.posterior, near)
    assert whole.name == "the opposite order of the same data"
    assert whole.predicted == study.posterior.prediction(2 * np.tile(mean, 3) - near)
    assert list(reordered(study.posterior, np.tile(mean, 3))) == []


def test_an_answer_says_what_another_order_would_do(study: Study) -> None:
    answer = study.recommendation
    first = study.reordered[0]
    better = f"better as recommended with probability {first.probability:.1%}"
    assert f"Order: {first.name} changes it by {first.change} (95%); {better}" in str(answer).splitlines()
    assert f'<th scope="row">{first.name}</th><td>{first.predicted}</td>' in answer._repr_html_()
    assert answer.to_dict()["details"]["reordered"][0]["change"]["mean"] == first.change.mean


def test_slices_are_of_all_tokens_and_go_through_the_answer(study: Study) -> None:
    mean = study.space.simplex.mean(study.best[None])[0]
    for line, share in zip(study.slices, mean, strict=True):
        assert line.recommended == pytest.approx(share)
        of_all = study.space.simplex.mean(line.mixtures)
        np.testing.assert_allclose(of_all[:, DOMAINS.index(line.domain)], line.shares, atol=1e-12)
        at = np.searchsorted(line.shares, share)
        for end in (line.mixtures[at - 1], line.mixtures[at]):  # a step of the slice on either side
            assert np.abs(end - study.best).max() < 0.1
    assert all(surface.recommended.sum() == pytest.approx(1) for surface in study.surfaces)


def test_without_phases_there_is_no_order() -> None:
    optimizer = MixtureOptimizer(two_scales(), seed=1)
    search(optimizer, 4, lambda w, scale, step: float(2 + w["web"]))
    study = Study(optimizer, "a search")
    assert study.posterior is not None and study.moves == [] and study.reordered == ()
    assert study.is_tied(study.best)
