"""Limits on groups of domains: which mixtures respect them, and which is nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import Group, GroupedSimplex
from ray_mixopt.core.space import MixtureSpace

NAMES = ("web", "code", "stack", "math", "book")


def grouped(most: float = 0.3, least: float = 0.0, **bounds: float) -> GroupedSimplex:
    upper = [bounds.get(name, 1.0) for name in NAMES]
    return GroupedSimplex(np.zeros(5), upper, NAMES, [Group(domains=("code", "stack"), least=least, most=most)])


limits = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@settings(max_examples=60, deadline=None)
@given(first=limits, second=limits, seed=st.integers(0, 99), cap=st.floats(0.3, 1))
def test_projection_is_inside_and_leaves_what_is_inside_alone(first, second, seed, cap) -> None:
    groups = [
        Group(domains=("code", "stack"), least=first[0], most=first[1]),
        Group(domains=("math", "book"), least=second[0], most=second[1]),
    ]
    try:
        simplex = GroupedSimplex(np.zeros(5), np.full(5, cap), NAMES, groups)
    except ValueError:
        return  # no mixture fits
    rng = np.random.default_rng(seed)
    nearest = simplex.project(rng.normal(0.2, 1.0, (50, 5)))
    assert simplex.contains(nearest, 1e-8).all()
    assert simplex.project(nearest) == pytest.approx(nearest, abs=1e-8)
    assert simplex.contains(simplex.sample(20, rng), 1e-8).all()
    assert simplex.contains(simplex.corners(), 1e-8).all()


def test_projection_is_the_nearest_point() -> None:
    simplex = grouped(0.3, web=0.4)
    rng = np.random.default_rng(0)
    for x in rng.normal(0.2, 0.5, (10, 5)):
        result = minimize(
            lambda w, x=x: np.square(w - x).sum(),
            simplex.project(x)[0],
            method="SLSQP",
            bounds=[(0, 0.4), *[(0, 1)] * 4],
            constraints=[
                {"type": "eq", "fun": lambda w: w.sum() - 1},
                {"type": "ineq", "fun": lambda w: 0.3 - w[1] - w[2]},
            ],
        )
        assert np.square(simplex.project(x)[0] - x).sum() <= result.fun + 1e-7


@pytest.mark.parametrize("most", [0.3, 0.01])
def test_samples_are_those_of_rejection(most: float) -> None:
    """Also where nearly all proposals are rejected, and pairs are redrawn instead."""
    simplex = grouped(most)
    drawn = simplex.sample(4000, np.random.default_rng(1))
    plain = np.random.default_rng(2).dirichlet(np.ones(5), 1_000_000 if most < 0.1 else 40_000)
    kept = plain[plain[:, 1] + plain[:, 2] <= most]
    assert len(kept) > 100
    assert drawn.mean(0) == pytest.approx(kept.mean(0), abs=0.02)
    assert (drawn[:, 1] + drawn[:, 2]).mean() == pytest.approx((kept[:, 1] + kept[:, 2]).mean(), rel=0.15)


def test_a_corner_holds_as_much_as_the_limits_allow() -> None:
    corners = grouped(0.3).corners()
    assert np.diag(corners) == pytest.approx([1.0, 0.3, 0.3, 1.0, 1.0])
    assert np.diag(grouped(0.6, least=0.6).corners()) == pytest.approx([0.4, 0.6, 0.6, 0.4, 0.4])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Group(domains=("code",)), "at least two distinct domains"),
        (lambda: Group(domains=("code", "stack"), most=1.5), "most must be a share between 0 and 1, got 1.5"),
        (lambda: Group(domains=("a", "b"), least=0.5, most=0.2), "least 0.5 is above most 0.2"),
        (lambda: grouped(0.5, least=0.4, code=0.1, stack=0.1), "floors and caps allow 0 to 0.2"),
        (lambda: grouped(0.1, web=0.1, math=0.1, book=0.1), "no mixture fits"),
        (
            lambda: GroupedSimplex(
                np.zeros(5), np.ones(5), NAMES, [Group(domains=("web", "code")), Group(domains=("code", "math"))]
            ),
            "Groups must not share domains, but code",
        ),
        (lambda: GroupedSimplex(np.zeros(2), np.ones(2), ("a", "b"), [Group(domains=("a", "c"))]), "unknown domains"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_space_carries_groups_and_earlier_scales_through_json() -> None:
    space = MixtureSpace(
        domains=NAMES,
        scales=(Scale("S", 1.0, 1e6), Scale("L", 10.0, 1e9)),
        steps=(10, 100),
        groups=(Group(domains=("code", "stack"), most=0.3),),
        earlier_scales=(Scale("XS", 0.1, 1e5),),
    )
    again = MixtureSpace.from_json(space.to_json())
    assert again == space
    assert again.scale("XS").parameters == 1e5
    assert again.scale_names == ("S", "L")
    assert (space.sample(100, np.random.default_rng(0))[:, 1:3].sum(1) <= 0.3 + 1e-12).all()
    assert space.uniform()[1:3].sum() == pytest.approx(0.3)
