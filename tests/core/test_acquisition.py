"""Acquisition maths against Monte Carlo and numerical integration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from offers import offer
from scipy import stats
from worlds import PAIR

from ray_mixopt.acquisition.gain import ExpectedGain
from ray_mixopt.acquisition.regret import Regret
from ray_mixopt.surrogate.correlation import square_root
from ray_mixopt.surrogate.encoding import encode
from ray_mixopt.surrogate.fit import Hyperparameters
from ray_mixopt.surrogate.gp import MixtureGP, Standardisation
from ray_mixopt.surrogate.posterior import ObjectivePosterior


def normals(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_regret_within_a_draw_is_that_of_its_base():
    mean = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64)
    covariance = torch.tensor([[[0.5, 0.2, 0.0], [0.2, 1.0, 0.1], [0.0, 0.1, 2.0]]], dtype=torch.float64)
    regret = Regret.sampled(mean, covariance, normals(1, 3, 200_000))
    draws = np.random.default_rng(1).multivariate_normal(mean[0].numpy(), covariance[0].numpy(), 200_000)
    lost = draws[:, 0] - draws.min(1)
    assert float(regret.within.sum()) == pytest.approx(lost.mean(), rel=0.01)
    assert float(regret.within[0, 1]) == pytest.approx((lost * (draws.argmin(1) == 1)).mean(), rel=0.02)
    assert regret.within[0, 0] == 0
    assert regret.variance[0].tolist() == pytest.approx([0.0, 0.5 + 1.0 - 0.4, 0.5 + 2.0])


def test_regret_between_draws_is_what_one_recommendation_for_all_loses():
    mean = torch.tensor([[0.0, 1.0, 0.4], [1.0, 0.0, 0.4]], dtype=torch.float64)
    regret = Regret.sampled(mean, 1e-12 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3), normals(2, 3, 8))
    assert regret.bases.tolist() == [0, 1]
    assert regret.between.tolist() == pytest.approx([0.4, 0.4])
    assert float(regret.within.abs().max()) < 1e-5


def test_two_candidates_lose_what_a_gaussian_contrast_says():
    # E max(0, -(d + s e)) for a contrast with mean d and standard deviation s
    mean = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    covariance = torch.tensor([[[0.3, 0.1], [0.1, 0.9]]], dtype=torch.float64)
    spread = math.sqrt(0.3 + 0.9 - 0.2)
    gamma = 0.5 / spread
    expected = spread * stats.norm.pdf(gamma) - 0.5 * stats.norm.sf(gamma)
    regret = Regret.sampled(mean, covariance, normals(1, 2, 400_000))
    assert float(regret.within.sum()) == pytest.approx(expected, rel=0.01)


def test_what_is_removed_goes_from_nothing_to_all():
    mean = torch.tensor([[0.0, 0.2, 0.1], [0.3, 0.0, 0.2]], dtype=torch.float64)
    covariance = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    regret = Regret.sampled(mean, covariance, normals(2, 3, 500))
    total = float(regret.within.sum(-1).mean() + regret.between.mean())
    shares = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    explained = shares[:, None] * regret.variance.unsqueeze(-2)
    removed = regret.removed(explained, math.log(2) * shares)
    assert removed[0] == 0
    assert float(removed[2]) == pytest.approx(total)
    assert removed[0] < removed[1] < removed[2]
    assert regret.removed(explained, 10 * shares)[2] == pytest.approx(total)  # no more than all of it


def test_one_draw_has_nothing_to_learn_about_draws():
    regret = Regret.sampled(torch.zeros(1, 2, dtype=torch.float64), torch.eye(2).double()[None], normals(1, 2, 50))
    nothing = regret.removed(torch.zeros(1, 3, 2, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    assert nothing.tolist() == [0.0] * 3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_contenders_are_few_and_hold_every_base(seed, n):
    rng = np.random.default_rng(seed)
    mean = torch.from_numpy(rng.standard_normal((3, 8)))
    root = torch.from_numpy(rng.standard_normal((3, 8, 8)))
    regret = Regret.sampled(mean, root @ root.mT, normals(3, 8, 16, seed=seed))
    contenders = regret.contenders(n).tolist()
    assert {*regret.bases.tolist(), int(regret.best)} <= set(contenders)
    assert len(contenders) <= 3 * (n + 1) + 1


def test_a_singular_covariance_is_no_obstacle():
    regret = Regret.sampled(torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, 4).double(), normals(1, 4, 8))
    assert torch.allclose(regret.within, torch.zeros(1, 4, dtype=torch.float64), atol=1e-3), "all are equally good"
    assert regret.between.tolist() == [0.0]


def posterior(n_metrics=2, n_draws=1):
    rng = np.random.default_rng(0)
    x = encode(PAIR, rng.dirichlet(np.ones(2), 8), [("s", 10), ("l", 20)] * 4)
    models = []
    for i in range(n_metrics):
        hyper = Hyperparameters(2)
        theta = hyper.prior().mean + 0.2 * torch.from_numpy(rng.standard_normal((n_draws, len(hyper.prior().mean))))
        y = 0.05 * torch.from_numpy(rng.standard_normal(8))
        unit = Standardisation(center=0.0, spread=1.0 + i)
        models.append(MixtureGP(x, unit.undone(y), theta, standardise=unit))
    return ObjectivePosterior(PAIR, 1.0, {str(i): 1.0 - 0.5 * i for i in range(n_metrics)}, models)


def joint(model, x):
    """Standardised posterior mean and covariance of one draw by the textbook formula."""
    with torch.no_grad():
        k, kx = model.hyper.kernel.forward(model.x, model.x)[0], model.prior_covariance(model.x, x)[0]
        k = k + model.noise[0] * torch.eye(len(k))
        solved = torch.linalg.solve(k, torch.cat([kx, model.standardise(model.train_targets)[:, None]], 1))
        return kx.mT @ solved[:, -1], model.prior_covariance(x, x)[0] - kx.mT @ solved[:, :-1]


def test_explained_variance_equals_the_textbook_formula_for_several_metrics():
    p = posterior()
    runs = encode(PAIR, np.array([[0.2, 0.8], [0.7, 0.3]]), [("s", 20), ("l", 10)])
    w = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1]])
    x = encode(PAIR, w, [("l", 20)])
    found = offer(p, runs, w, [1]).explained
    explained = torch.zeros(2, 3, dtype=torch.float64)
    for weight, s in zip(p.weights, p.models, strict=True):
        _, covariance = joint(s, torch.cat([runs, x]))
        cross = covariance[:2, 2:] - covariance[:2, 3:4]
        own = covariance.diagonal()[:2] + s.noise[0]
        explained += weight**2 * cross.square() / own[:, None]
    assert torch.allclose(found[0], explained, atol=1e-7)


def test_a_pair_explains_what_its_two_reports_explain_together():
    p = posterior()
    runs = encode(PAIR, np.array([[0.2, 0.8], [0.7, 0.3], [0.3, 0.7]]), [("s", 20), ("l", 10), ("l", 10)])
    partners = encode(PAIR, np.array([[0.4, 0.6], [0.4, 0.6]]), [("s", 20), ("l", 10)])
    partner = torch.tensor([0, 1, 1])
    w = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1]])
    x = encode(PAIR, w, [("l", 20)])
    found = offer(p, torch.cat([runs, partners]), w, [1], [3, 4, 4, -1, -1])
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for weight, s in zip(p.weights, p.models, strict=True):
        for i, j in enumerate(partner.tolist()):
            _, covariance = joint(s, torch.cat([runs[i : i + 1], partners[j : j + 1], x]))
            cross = covariance[:2, 2:] - covariance[:2, 3:4]
            own = covariance[:2, :2] + s.noise[0] * torch.eye(2, dtype=torch.float64)
            expected[i] += weight**2 * (cross * torch.linalg.solve(own, cross)).sum(0)
    assert found.paired.tolist() == [0, 1, 2] and found.costs_in_pairs.tolist() == [2.0] * 3
    assert torch.allclose(found.explained_in_pairs[0], expected, rtol=1e-3)
    assert (found.explained_in_pairs >= found.explained[:, :3] - 1e-9).all()


def test_information_about_the_draws_is_that_of_a_gaussian_with_the_mixtures_moments():
    p = posterior(n_metrics=1, n_draws=3)
    runs = encode(PAIR, np.array([[0.2, 0.8], [0.7, 0.3]]), [("s", 20), ("l", 10)])
    information = offer(p, runs, np.array([[0.5, 0.5]]), [0, 0, 0]).information
    model = p.models[0]
    variance = model.solve(runs).variance + model.noise
    total = variance.mean(0) + model.mean(runs).var(0, correction=0)
    assert torch.allclose(information, 0.5 * (total.log() - variance.log().mean(0)), atol=1e-7)
    assert (information >= 0).all()


def test_expected_gain_is_the_knowledge_gradient():
    p = posterior()
    p.caution = -p.fewness  # answers of lowest mean
    w = np.stack([np.linspace(0, 1, 12), 1 - np.linspace(0, 1, 12)], axis=1)
    w = w[p.mean(w).argsort().numpy()]  # the answer comes first
    run = encode(PAIR, w[1:2], [("l", 20)])
    x = encode(PAIR, w, [("l", 20)])
    rng = np.random.default_rng(4)
    after = np.zeros((20_000, 12))
    before = np.zeros(12)
    for weight, s in zip(p.weights, p.models, strict=True):
        mean, covariance = joint(s, torch.cat([x, run]))
        step = (covariance[:12, 12] / (covariance[12, 12] + s.noise[0, 0]).sqrt()).numpy()
        half = rng.standard_normal(10_000)
        after += weight * (mean[:12].numpy() + np.outer(np.concatenate([half, -half]), step))
        before += weight * mean[:12].numpy()
    expected = before.min() - after.min(1).mean()
    assert expected > 0
    many, run = ExpectedGain(n_samples=20_000), p.solve(run)
    assert many(p, run, w, np.random.default_rng(5)) == pytest.approx(expected, rel=0.05)
    assert ExpectedGain()(p, run, w[:1], np.random.default_rng(5)) == pytest.approx(0.0, abs=1e-9)


def test_a_pending_run_leaves_less_to_learn_there():
    p = posterior(n_draws=2)
    w = np.stack([np.linspace(0, 1, 12), 1 - np.linspace(0, 1, 12)], axis=1)
    run = encode(PAIR, w[p.mean(w).argsort()[1:2].numpy()], [("l", 20)])
    after = p.given_pending(run)
    gains = [ExpectedGain()(q, q.solve(run), w, np.random.default_rng(0)) for q in (after, p)]
    assert gains[0] < 0.5 * gains[1]


def test_a_covariance_that_rounding_made_indefinite_has_a_root() -> None:
    v = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    covariance = (v.mT @ v - 1e-6 * torch.eye(3, dtype=torch.float64))[None]
    root = square_root(covariance)
    assert torch.allclose(root @ root.mT, covariance, atol=2e-6)
