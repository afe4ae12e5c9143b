"""The capped simplex: exact sums, bounds, symmetry, and the distribution of its samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from ray_mixopt.core.simplex import CappedSimplex

settings.register_profile("core", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("core")


def simplex(lower, upper) -> CappedSimplex:
    return CappedSimplex(lower, upper, names=[f"d{i}" for i in range(len(lower))])


@st.composite
def simplices(draw, max_domains: int = 12) -> CappedSimplex:
    """A feasible capped simplex: a mixture inside it, and slack below and above each share (often none)."""
    d = draw(st.integers(2, max_domains))
    numbers = st.lists(st.floats(0, 1), min_size=d, max_size=d)
    inside = np.array(draw(numbers)) + 1e-3
    inside /= inside.sum()
    lower = inside * np.array(draw(numbers))
    upper = inside + (1 - inside) * np.array(draw(numbers))
    assume(upper.sum() > 1 + 1e-6 or draw(st.booleans()))
    return simplex(lower, upper)


def assert_inside(s: CappedSimplex, w: np.ndarray) -> None:
    assert np.abs(w.sum(1) - 1.0).max(initial=0.0) <= 1e-9
    assert (w >= s.lower - 1e-9).all()
    assert (w <= s.upper + 1e-9).all()
    assert s.contains(w).all()


# -- projection


@given(simplices(), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 100.0]))
def test_projections_are_inside_and_nearest(s: CappedSimplex, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(0.0, spread, (5, len(s.lower)))
    nearest = s.project(points)
    assert_inside(s, nearest)
    # A point of a convex set is the nearest one to x when no direction into the set has a positive component to x.
    others = s.sample(50, rng)
    for x, w in zip(points, nearest, strict=True):
        assert ((others - w) @ (x - w)).max() <= 1e-7 * max(1.0, spread)


@given(simplices(), st.integers(0, 2**32 - 1))
def test_mixtures_inside_are_their_own_projection(s: CappedSimplex, seed: int) -> None:
    w = s.sample(5, np.random.default_rng(seed))
    np.testing.assert_allclose(s.project(w), w, atol=1e-9)


@given(simplices(), st.integers(0, 2**32 - 1))
def test_projection_and_corners_do_not_depend_on_the_order_of_domains(s: CappedSimplex, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(s.lower))
    shuffled = simplex(s.lower[order], s.upper[order])
    points = rng.normal(0.0, 1.0, (5, len(order)))
    np.testing.assert_allclose(shuffled.project(points[:, order]), s.project(points)[:, order], atol=1e-9)
    np.testing.assert_allclose(shuffled.corners(), s.corners()[order][:, order], atol=1e-9)


# -- corners


@given(simplices())
def test_corners_hold_as_much_as_the_bounds_allow(s: CappedSimplex) -> None:
    corners = s.corners()
    assert_inside(s, corners)
    most = np.minimum(s.upper, 1.0 - (s.lower.sum() - s.lower))
    np.testing.assert_allclose(np.diag(corners), most, atol=1e-9)


def test_corners_of_the_plain_simplex_are_single_domains() -> None:
    assert simplex([0, 0, 0], [1, 1, 1]).corners().tolist() == np.eye(3).tolist()


# -- samples


@given(simplices(), st.sampled_from([0.1, 0.3, 1.0, 5.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_samples_are_inside(s: CappedSimplex, concentration: float, seed: int) -> None:
    w = s.sample(20, np.random.default_rng(seed), concentration)
    assert w.shape == (20, len(s.lower))
    assert_inside(s, w)


def accepted(s: CappedSimplex, alpha, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` exact draws by plain rejection."""
    rows: list[np.ndarray] = []
    while sum(map(len, rows)) < n:
        w = rng.dirichlet(alpha, 200_000)
        rows.append(w[((w >= s.lower) & (w <= s.upper)).all(1)])
    return np.concatenate(rows)[:n]


# Rejection keeps less than 1% of the draws for the first two, so that nearly all their samples are Gibbs ones.
CAPPED = {
    "uniform": ([0.0, 0.05, 0.0, 0.0, 0.1], [0.25, 0.25, 0.25, 0.2, 0.27], np.ones(5)),
    "skewed": ([0.0, 0.0, 0.05, 0.0], [0.28, 0.3, 0.35, 0.27], np.array([0.5, 1.0, 2.0, 0.7])),
    "loose": ([0.0, 0.0, 0.0], [0.7, 0.8, 0.9], np.ones(3)),
}


@pytest.mark.parametrize(("lower", "upper", "alpha"), CAPPED.values(), ids=CAPPED.keys())
def test_samples_follow_the_conditioned_dirichlet(lower, upper, alpha) -> None:
    s, n = simplex(lower, upper), 20_000
    drawn = s.sample(n, np.random.default_rng(1), alpha)
    exact = accepted(s, alpha, n, np.random.default_rng(2))
    error = 5 * exact.std(0) / np.sqrt(n / 2)
    assert (np.abs(drawn.mean(0) - exact.mean(0)) < error).all()
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(exact.T), atol=6 * exact.var(0).max() * np.sqrt(2 / n))
    for i in range(len(lower)):
        assert stats.ks_2samp(drawn[:, i], exact[:, i]).pvalue > 1e-4


@pytest.mark.parametrize("name", ["uniform", "skewed"])
def test_those_caps_do_reach_the_gibbs_sampler(name) -> None:
    lower, upper, alpha = CAPPED[name]
    w = np.random.default_rng(0).dirichlet(alpha, 100_000)
    if name == "uniform":
        w = np.array(lower) + (1 - sum(lower)) * w
    assert ((w >= lower) & (w <= upper)).all(1).mean() < 0.01


def test_plain_samples_are_dirichlet() -> None:
    alpha = np.array([0.3, 1.0, 4.0])
    w = simplex([0, 0, 0], [1, 1, 1]).sample(20_000, np.random.default_rng(0), alpha)
    for i in range(3):
        marginal = stats.beta(alpha[i], alpha.sum() - alpha[i])
        assert stats.kstest(w[:, i], marginal.cdf).pvalue > 1e-4


def test_samples_depend_on_the_seed_only() -> None:
    s = simplex([0.1, 0, 0], [1, 0.4, 0.5])
    first, second = (s.sample(10, np.random.default_rng(3)).tolist() for _ in range(2))
    assert first == second
    assert first != s.sample(10, np.random.default_rng(4)).tolist()


def test_a_single_mixture_is_sampled_again_and_again() -> None:
    w = simplex([0, 0, 0], [0.2, 0.3, 0.5]).sample(3, np.random.default_rng(0))
    np.testing.assert_allclose(w, [[0.2, 0.3, 0.5]] * 3, atol=1e-12)
    w = simplex([0.2, 0.3, 0.5], [1, 1, 1]).sample(3, np.random.default_rng(0))
    np.testing.assert_allclose(w, [[0.2, 0.3, 0.5]] * 3, atol=1e-12)


@pytest.mark.parametrize("upper", [np.ones(3), np.array([0.5, 0.4, 0.3])])
def test_no_samples(upper) -> None:
    assert simplex(np.zeros(3), upper).sample(0, np.random.default_rng(0)).shape == (0, 3)


def test_two_hundred_domains() -> None:
    rng = np.random.default_rng(0)
    s = simplex(np.full(200, 0.001), np.where(np.arange(200) < 100, 0.006, 0.05))
    for concentration in (0.3, 1.0):
        w = s.sample(100, rng, concentration)
        assert_inside(s, w)
        assert len(np.unique(w, axis=0)) == 100
    assert_inside(s, s.project(rng.normal(size=(10, 200))))
    assert_inside(s, s.corners())


@pytest.mark.parametrize(
    ("n", "concentration"), [(-1, 1.0), (5, 0.0), (5, -1.0), (5, float("nan")), (5, float("inf")), (5, [1.0, 0.0])]
)
def test_bad_requests_are_refused(n, concentration) -> None:
    with pytest.raises(ValueError, match=r"sample needs n >= 0 and positive concentrations, got n="):
        simplex([0, 0], [1, 1]).sample(n, np.random.default_rng(0), concentration)


# -- what counts as feasible


def test_caps_that_miss_one_by_rounding_are_accepted() -> None:
    s = simplex([0, 0, 0], [1 / 3 - 1e-12] * 3)
    assert_inside(s, s.sample(3, np.random.default_rng(0)))
    assert_inside(s, s.corners())
    assert_inside(s, s.project(np.array([[5.0, 0.0, 0.0]])))


def test_contains_says_which() -> None:
    s = simplex([0.1, 0, 0], [1, 0.5, 1])
    w = [[0.2, 0.5, 0.3], [0.05, 0.5, 0.45], [0.2, 0.6, 0.2], [0.2, 0.2, 0.2]]
    assert s.contains(w).tolist() == [True, False, False, False]
    assert s.bounded
    assert not simplex([0, 0], [1, 1]).bounded
