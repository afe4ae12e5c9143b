"""Metrics whose errors go together, against the textbook's joint Gaussian process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from offers import offer
from worlds import PAIR

from ray_mixopt import MixtureOptimizer, Objective
from ray_mixopt.surrogate.correlation import error_correlation
from ray_mixopt.surrogate.encoding import Observations, encode
from ray_mixopt.surrogate.fit import Hyperparameters
from ray_mixopt.surrogate.gp import MixtureGP, Standardisation
from ray_mixopt.surrogate.posterior import ObjectivePosterior

CELLS = [("s", 10), ("s", 20), ("l", 10), ("l", 20)]
CORRELATION = torch.tensor([[1.0, 0.8, -0.5], [0.8, 1.0, -0.2], [-0.5, -0.2, 1.0]], dtype=torch.float64)
WEIGHTS = {"x": 1.0, "y": 0.5, "z": -0.7}
UNIT = Standardisation(center=0.0, spread=1.0)


def inputs(n, seed=0):
    return encode(PAIR, np.random.default_rng(seed).dirichlet(np.ones(2), n), [CELLS[i % 4] for i in range(n)])


def draws(x, correlation, seed):
    """Values of the metrics at ``x`` from the coregionalised process, ``m x n``, and its hyper-parameters."""
    hyper = Hyperparameters(2)
    hyper.unpack(hyper.prior().mean)
    with torch.no_grad():
        root = torch.linalg.cholesky(hyper.noisy(hyper.kernel.forward(x, x), x))
    normals = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(correlation), len(x))))
    return torch.linalg.cholesky(correlation) @ normals @ root.mT, hyper.prior().mean[None]


def observed(x, y, rows=slice(None)):
    runs = tuple(str(i) for i in range(len(y)))[rows]
    return Observations(x=x[rows], y=y[rows], runs=runs)


@pytest.fixture(scope="module")
def case():
    """A posterior of three correlated metrics, and its joint covariance of the objective by the textbook formula."""
    x = inputs(9)
    values, theta = draws(x, CORRELATION, 1)
    models = [MixtureGP(x, y, theta, standardise=UNIT) for y in values]
    posterior = ObjectivePosterior(PAIR, 1.0, WEIGHTS, models, correlation=CORRELATION)
    w = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64)

    def joint(new):
        """Covariance of the metrics at new inputs given all metrics' data, ``m n x m n``."""
        s = models[0]
        prior = s.prior_covariance(torch.cat([x, new]), torch.cat([x, new]))[0]
        prior[: len(x), : len(x)] += s.hyper.nugget(s.solve(x).prior)[0].diag() + s.hyper.kernel.shared_error(x, x)[0]
        whole = torch.kron(CORRELATION, prior).reshape(3, len(prior), 3, len(prior))
        n = len(x)
        data = whole[:, :n, :, :n].reshape(3 * n, 3 * n)
        cross = whole[:, :n, :, n:].reshape(3 * n, -1)
        m = len(new)
        return (whole[:, n:, :, n:].reshape(3 * m, 3 * m) - cross.mT @ torch.linalg.solve(data, cross)).detach()

    def of_objective(new):
        return torch.einsum("i,imjn,j->mn", w, joint(new).reshape(3, len(new), 3, len(new)), w)

    return posterior, joint, of_objective


MIXTURES = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [0.3, 0.7]])


def test_marginals_and_contrasts_are_those_of_the_coregionalised_process(case):
    posterior, _, of_objective = case
    covariance = of_objective(encode(PAIR, MIXTURES, [("l", 20)]))
    assert torch.allclose(posterior.marginal(MIXTURES)[1][0], covariance.diagonal(), rtol=1e-5)
    centred = covariance - covariance.mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    assert torch.allclose(posterior.contrasts(MIXTURES)[1][0], centred, atol=1e-6)
    assert torch.allclose(posterior.marginal(MIXTURES, MIXTURES)[1][0], centred.diagonal(), rtol=1e-4)


def test_what_reports_explain_is_that_of_the_coregionalised_process(case):
    posterior, joint, _ = case
    runs = encode(PAIR, np.array([[0.2, 0.8], [0.7, 0.3]]), [("s", 20), ("l", 10)])
    partners = encode(PAIR, np.array([[0.4, 0.6], [0.4, 0.6]]), [("s", 20), ("l", 10)])
    x = encode(PAIR, MIXTURES, [("l", 20)])
    w, noise = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64), posterior.models[0].noise[0]
    found = offer(posterior, torch.cat([runs, partners]), MIXTURES, [1], [2, 3, -1, -1])
    alone, pairs = found.explained, found.explained_in_pairs
    for i in range(2):
        for bought, found in (([runs[i]], alone), ([runs[i], partners[i]], pairs)):
            q = len(bought)
            covariance = joint(torch.cat([torch.stack(bought), x])).reshape(3, q + 4, 3, q + 4)
            reports = covariance[:, :q, :, :q].reshape(3 * q, 3 * q)
            reports = reports + torch.kron(CORRELATION, noise * torch.eye(q, dtype=torch.float64))
            cross = torch.einsum("iajc,j->iac", covariance[:, :q, :, q:], w).reshape(3 * q, 4)
            cross = cross - cross[:, 1:2]
            expected = (cross * torch.linalg.solve(reports, cross)).sum(0)
            assert torch.allclose(found[0, i], expected, rtol=1e-3, atol=1e-9)


def test_without_correlation_variances_add_up():
    x = inputs(9)
    values, theta = draws(x, CORRELATION, 1)
    models = [MixtureGP(x, y, theta, standardise=UNIT) for y in values]
    both = ObjectivePosterior(PAIR, 1.0, WEIGHTS, models)
    alone = [ObjectivePosterior(PAIR, 1.0, {m: w}, [s]) for (m, w), s in zip(WEIGHTS.items(), models, strict=True)]
    assert torch.allclose(both.marginal(MIXTURES)[1], sum(p.marginal(MIXTURES)[1] for p in alone))
    assert torch.allclose(both.contrasts(MIXTURES)[1], sum(p.contrasts(MIXTURES)[1] for p in alone))


def test_the_correlation_is_found_from_the_data_also_where_a_metric_has_gaps():
    x = inputs(240)
    values, theta = draws(x, CORRELATION, 2)
    whole = [observed(x, y) for y in values]
    found = error_correlation(whole, [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in whole])
    assert torch.allclose(found, CORRELATION, atol=0.15)
    gap = [*whole[:2], observed(x, values[2], slice(0, 200))]
    found = error_correlation(gap, [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in gap])
    assert torch.allclose(found, CORRELATION, atol=0.15)


@pytest.mark.parametrize(
    "objective", [WEIGHTS, Objective(weights={"x": 1.0, "y": 0.5, "z": 0.7})], ids=["weights", "objective"]
)
def test_a_belief_holds_that_errors_go_together(objective):
    x = inputs(40)
    values, _ = draws(x, torch.full((3, 3), 0.95, dtype=torch.float64).fill_diagonal_(1.0), 6)
    optimizer = MixtureOptimizer(PAIR, objective=objective)
    for row, *report in zip(x.tolist(), *values.tolist(), strict=True):
        scale, steps = CELLS[len(optimizer.history) % 4]
        optimizer.add_evaluated_point(
            PAIR.named(np.array(row[:2])), scale, steps, dict(zip(WEIGHTS, report, strict=True))
        )
    posterior = optimizer.posterior()
    found = posterior.root @ posterior.root.mT
    assert (found > 0.6).all()


def test_metrics_that_never_meet_are_independent_and_few_reports_count_for_little():
    x = inputs(20)
    values, theta = draws(x, CORRELATION, 3)
    apart = [observed(x, values[0], slice(0, 10)), observed(x, values[1], slice(10, 20))]
    models = [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in apart]
    assert torch.equal(error_correlation(apart, models), torch.eye(2, dtype=torch.float64))
    twice = [observed(x, values[0], slice(0, 2))] * 2
    same = error_correlation(twice, [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in twice])
    assert same[0, 1] == pytest.approx(2 / 7)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 8), st.integers(0, 10**6))
def test_it_is_a_correlation_whatever_was_reported(m, n, seed):
    rng = np.random.default_rng(seed)
    x, theta = inputs(n, seed), Hyperparameters(2).prior().mean[None]
    data = []
    for _ in range(m):
        rows = np.sort(rng.choice(n, rng.integers(2, n + 1), replace=False))
        runs = tuple(str(i) for i in rows)
        data.append(Observations(x=x[rows], y=torch.from_numpy(rng.standard_normal(len(rows))), runs=runs))
    found = error_correlation(data, [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in data])
    assert torch.allclose(found, found.mT)
    assert torch.allclose(found.diagonal(), torch.ones(m, dtype=torch.float64))
    assert torch.linalg.eigvalsh(found).min() > 0


def test_a_constant_metric_goes_with_none():
    x = inputs(12)
    values, theta = draws(x, CORRELATION, 4)
    data = [observed(x, values[0]), observed(x, torch.zeros(12, dtype=torch.float64))]
    found = error_correlation(data, [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in data])
    assert torch.equal(found, torch.eye(2, dtype=torch.float64))


def test_leaving_a_run_out_is_about_the_objective_where_all_metrics_were_reported(case):
    posterior, _, _ = case
    x = inputs(9)
    values, theta = draws(x, CORRELATION, 1)
    data = [observed(x, y) for y in values]
    assert posterior.calibration(data).n == 9
    partial = [*data[:2], observed(x, values[2], slice(3, 9))]
    models = [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in partial]
    kept = ObjectivePosterior(PAIR, 1.0, WEIGHTS, models, correlation=CORRELATION).calibration(partial)
    assert kept.n == 6
    # Errors that go together make a sum's larger: taken to cancel, they leave its intervals too often.
    n = 200
    x = inputs(n, 5)
    equal = torch.full((3, 3), 0.95, dtype=torch.float64).fill_diagonal_(1.0)
    values, theta = draws(x, equal, 5)
    data = [observed(x, y) for y in values]
    models = [MixtureGP(d.x, d.y, theta, standardise=UNIT) for d in data]
    weights = dict.fromkeys("xyz", 1.0)
    right = ObjectivePosterior(PAIR, 1.0, weights, models, correlation=equal).calibration(data)
    wrong = ObjectivePosterior(PAIR, 1.0, weights, models).calibration(data)
    assert right.coverage > 0.9 > wrong.coverage
