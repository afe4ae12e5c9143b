"""Pools of logged runs, and what makes two mixtures the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ray_mixopt.core.pool import Pool
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import SAME_SHARE, same_mixture
from ray_mixopt.core.space import MixtureSpace

SPACE = MixtureSpace(domains=("web", "code"), scales=(Scale("S", 1.0), Scale("L", 10.0)), steps=(100, 200, 400))
MIXTURES = np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
AVAILABLE = np.array([[[1, 1, 0], [1, 0, 1]], [[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]], dtype=bool)


@pytest.fixture
def pool() -> Pool:
    return Pool(mixtures=MIXTURES, available=AVAILABLE).of(SPACE)


def test_mixtures_are_the_same_within_a_thousandth_of_each_share() -> None:
    mixture = np.array([0.2, 0.3, 0.5])
    near, far = mixture + [0.9e-3, 0, -0.9e-3], mixture + [1.1e-3, -0.6e-3, -0.5e-3]
    np.testing.assert_array_equal(same_mixture([mixture, near, far], mixture), [True, True, False])
    np.testing.assert_array_equal(same_mixture(np.stack([[near, far]] * 4), mixture), [[True, False]] * 4)
    assert same_mixture(near, mixture) and SAME_SHARE == 1e-3


def test_a_pool_answers_by_name(pool: Pool) -> None:
    assert [pool.row(w) for w in ([0.5, 0.5], [0.2505, 0.7495], [0.26, 0.74], [0.0, 1.0])] == [0, 2, None, None]
    np.testing.assert_array_equal(pool.rows([[0.9995, 0.0005], [0.4, 0.6], [0.5, 0.5]]), [1, -1, 0])
    np.testing.assert_array_equal(pool.logged_at("L", 400), MIXTURES[[0, 2]])
    assert pool.logged_at("S", 300).shape == pool.logged_at("M", 100).shape == (0, 2)
    assert pool.has([0.5, 0.5], "L", 400) and pool.has([0.5005, 0.4995], "S", 200)
    assert not any(pool.has(*run) for run in (([0.5, 0.5], "L", 200), ([0.4, 0.6], "L", 400), ([0.5, 0.5], "L", 300)))
    assert pool.rungs([0.5, 0.5], "L") == (100, 400)
    assert pool.rungs([0.4, 0.6], "L") == pool.rungs([1.0, 0.0], "L") == pool.rungs([1.0, 0.0], "M") == ()


def test_a_pool_is_of_a_space(pool: Pool) -> None:
    assert (pool.scales, pool.steps) == (("S", "L"), (100, 200, 400))
    assert pool.of(SPACE).scales == pool.scales
    other = MixtureSpace(domains=("web", "code"), scales=(Scale("S", 1.0), Scale("XL", 10.0)), steps=(100, 200, 400))
    with pytest.raises(ValueError, match=r"The pool has the scales \('S', 'L'\), the space \('S', 'XL'\)"):
        pool.of(other)
    with pytest.raises(ValueError, match="have 2 scales and 3 rungs, but 2 and 1 are named"):
        Pool(mixtures=MIXTURES, available=AVAILABLE, scales=("S", "L"), steps=(100,))
    with pytest.raises(ValueError, match=r"use pool\.of\(space\)"):
        Pool(mixtures=MIXTURES, available=AVAILABLE).has([0.5, 0.5], "S", 100)


def test_a_pool_goes_by_the_names_of_its_scales() -> None:
    turned = MixtureSpace(domains=("web", "code"), scales=SPACE.scales[::-1], steps=SPACE.steps)
    assert turned == SPACE
    pools = [
        Pool(mixtures=MIXTURES, available=AVAILABLE, scales=("S", "L")).of(turned),
        Pool(mixtures=MIXTURES, available=AVAILABLE[:, ::-1], scales=("L", "S")).of(SPACE),
        Pool(mixtures=MIXTURES, available=AVAILABLE[:, ::-1]).of(turned),  # in the order in which the space has them
        Pool(mixtures=MIXTURES, available=AVAILABLE[:, :, ::-1], steps=SPACE.steps[::-1]).of(SPACE),
        Pool(mixtures=MIXTURES, available=AVAILABLE[:, ::-1]).of(MixtureSpace.from_dict(as_0_1_wrote_it(turned))),
    ]
    for pool in pools:
        assert pool.scales == ("S", "L") and pool.steps == SPACE.steps
        np.testing.assert_array_equal(pool.available, AVAILABLE)


def as_0_1_wrote_it(space: MixtureSpace) -> dict[str, Any]:
    """Scales as they were listed, and the last of them the target."""
    state = space.to_dict()
    state["scales"] = [next(s for s in state["scales"] if s["name"] == name) for name in space.listed_scales]
    return state | {"target": [space.listed_scales[-1], space.steps[-1]]}


def test_pools_are_written_and_read(pool: Pool) -> None:
    again = Pool.from_dict(json.loads(json.dumps(pool.to_dict())))
    np.testing.assert_array_equal(again.mixtures, pool.mixtures)
    np.testing.assert_array_equal(again.available, pool.available)
    assert (again.scales, again.steps) == (pool.scales, pool.steps)
    old = Pool.from_dict({"mixtures": MIXTURES.tolist(), "available": AVAILABLE.tolist()})  # as version 0.1 wrote it
    assert old.scales is None and old.of(SPACE).has([0.5, 0.5], "L", 400)
    with pytest.raises(ValueError, match="Malformed pool of logged runs"):
        Pool.from_dict({"mixtures": MIXTURES.tolist()})
