"""Acquisition maths against Monte Carlo and numerical integration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ray_mixopt.acquisition.information import log_information_gain, mean_shrinkage, sample_minima
from ray_mixopt.space import MixtureSpace, Scale
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.fit import Hyperparameters
from ray_mixopt.surrogate.model import Standardisation, Surrogate
from ray_mixopt.surrogate.objective import ObjectivePosterior


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.7, 2.0])
@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_information_gain_is_the_log_shrinkage_of_the_truncated_report(gamma, rho):
    # f standard normal, y with correlation rho; knowing f >= f* = -gamma shrinks the variance of y.
    rng = np.random.default_rng(0)
    f = stats.truncnorm.rvs(-gamma, np.inf, size=400_000, random_state=rng)
    y = rho * f + math.sqrt(1 - rho**2) * rng.standard_normal(len(f))
    expected = -0.5 * math.log(y.var())
    gain = log_information_gain(torch.tensor([rho**2]), torch.tensor([[gamma]])).exp()
    assert float(gain) == pytest.approx(expected, abs=4e-3)


def test_it_averages_over_samples_of_the_optimum():
    gamma = torch.tensor([[0.5, 1.5]], dtype=torch.float64)
    squared = torch.tensor([0.6], dtype=torch.float64)
    each = [log_information_gain(squared, gamma[:, i : i + 1]).exp() for i in range(2)]
    assert torch.allclose(log_information_gain(squared, gamma).exp(), (each[0] + each[1]) / 2)


@settings(max_examples=200, deadline=None)
@given(st.floats(-30, 40), st.floats(1e-12, 1 - 1e-6))
def test_it_is_finite_everywhere_and_grows_with_the_correlation(gamma, squared):
    g = torch.tensor([[gamma]], dtype=torch.float64)
    low, high = (log_information_gain(torch.tensor([s], dtype=torch.float64), g) for s in (squared * 0.5, squared))
    assert torch.isfinite(low).all() and torch.isfinite(high).all()
    assert float(high) > float(low)


def test_far_from_the_optimum_the_order_survives_underflow():
    gamma = torch.tensor([[38.0], [40.0], [45.0]], dtype=torch.float64)
    gain = log_information_gain(torch.full((3,), 0.5, dtype=torch.float64), gamma)
    assert torch.isfinite(gain).all()
    assert gain[0] > gain[1] > gain[2]


def test_mean_shrinkage_is_one_minus_the_truncated_variance():
    gamma = torch.tensor([[0.3, 1.1]], dtype=torch.float64)
    expected = np.mean([1 - stats.truncnorm.var(-g, np.inf) for g in (0.3, 1.1)])
    assert float(mean_shrinkage(gamma)) == pytest.approx(expected, abs=1e-9)


def test_minima_have_the_distribution_of_joint_draws():
    covariance = torch.tensor([[[1.0, 0.8], [0.8, 2.0]]], dtype=torch.float64)
    mean = torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    normals = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 100_000)))
    minima = sample_minima(mean, covariance, normals)[0].numpy()
    draws = np.random.default_rng(1).multivariate_normal(mean[0].numpy(), covariance[0].numpy(), 100_000).min(1)
    assert minima.mean() == pytest.approx(draws.mean(), abs=0.02)
    assert minima.std() == pytest.approx(draws.std(), abs=0.02)


def test_minima_survive_a_singular_covariance():
    covariance = torch.ones(1, 4, 4, dtype=torch.float64)
    normals = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 8)))
    assert torch.isfinite(sample_minima(torch.zeros(1, 4, dtype=torch.float64), covariance, normals)).all()


SPACE = MixtureSpace(domains=("a", "b"), scales=(Scale("s", 1.0, 1e6), Scale("l", 9.0, 1e7)), steps=(10, 20))


def posterior(n_metrics=2, n_draws=1):
    rng = np.random.default_rng(0)
    x = encode(SPACE, rng.dirichlet(np.ones(2), 8), [("s", 10), ("l", 20)] * 4)
    surrogates = []
    for i in range(n_metrics):
        hyper = Hyperparameters(2)
        theta = hyper.prior().mean + 0.2 * torch.from_numpy(rng.standard_normal((n_draws, len(hyper.prior().mean))))
        y = 0.05 * torch.from_numpy(rng.standard_normal(8))
        surrogates.append(Surrogate(x, y, theta, Standardisation(center=0.0, spread=1.0 + i)))
    return ObjectivePosterior(SPACE, 1.0, {str(i): 1.0 - 0.5 * i for i in range(n_metrics)}, surrogates)


def joint(surrogate, x):
    """Posterior mean and covariance of one draw by the textbook formula."""
    with torch.no_grad():
        k, kx = (
            surrogate.hyper.kernel.forward(surrogate.x, surrogate.x)[0],
            surrogate.prior_covariance(surrogate.x, x)[0],
        )
        k = k + surrogate.noise[0] * torch.eye(len(k))
        solved = torch.linalg.solve(k, torch.cat([kx, surrogate.y.mT], 1))
        return kx.mT @ solved[:, -1], surrogate.prior_covariance(x, x)[0] - kx.mT @ solved[:, :-1]


def test_correlations_equal_the_textbook_formula_for_several_metrics():
    p = posterior()
    runs = encode(SPACE, np.array([[0.2, 0.8], [0.7, 0.3]]), [("s", 20), ("l", 10)])
    w = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1]])
    x = encode(SPACE, w, [("l", 20)])
    squared, _ = p.correlations(runs, w, w)
    explained, variance = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    center = torch.eye(3, dtype=torch.float64) - 1 / 3
    for weight, s in zip(p.weights, p.surrogates, strict=True):
        _, covariance = joint(s, torch.cat([runs, x]))
        cross = covariance[:2, 2:] @ center
        own = covariance.diagonal()[:2] + s.noise[0]
        explained += weight**2 * cross.square() / own[:, None]
        variance += weight**2 * (center @ covariance[2:, 2:] @ center).diagonal()
    assert torch.allclose(squared[0], explained / variance, atol=1e-7)


def test_expected_gain_is_the_knowledge_gradient():
    p = posterior()
    w = np.stack([np.linspace(0, 1, 12), 1 - np.linspace(0, 1, 12)], axis=1)
    run = encode(SPACE, w[p.mean(w).argsort()[1:2].numpy()], [("l", 20)])
    x = encode(SPACE, w, [("l", 20)])
    rng = np.random.default_rng(4)
    after = np.zeros((20_000, 12))
    before = np.zeros(12)
    for weight, s in zip(p.weights, p.surrogates, strict=True):
        mean, covariance = joint(s, torch.cat([x, run]))
        step = (covariance[:12, 12] / (covariance[12, 12] + s.noise[0, 0]).sqrt()).numpy()
        half = rng.standard_normal(10_000)
        after += weight * (mean[:12].numpy() + np.outer(np.concatenate([half, -half]), step))
        before += weight * mean[:12].numpy()
    expected = before.min() - after.min(1).mean()
    assert expected > 0
    assert p.expected_gain(run, w, np.random.default_rng(5), n_samples=20_000) == pytest.approx(expected, rel=0.05)
    assert p.expected_gain(run, w[:1], np.random.default_rng(5)) == pytest.approx(0.0, abs=1e-9)


def test_a_pending_run_leaves_less_to_learn_there():
    p = posterior(n_draws=2)
    w = np.stack([np.linspace(0, 1, 12), 1 - np.linspace(0, 1, 12)], axis=1)
    run = encode(SPACE, w[p.mean(w).argsort()[1:2].numpy()], [("l", 20)])
    rng = np.random.default_rng
    assert p.given_pending(run).expected_gain(run, w, rng(0)) < p.expected_gain(run, w, rng(0))
