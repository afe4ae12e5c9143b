"""The surrogate against closed forms, itself, and BoTorch."""

import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.optim import optimize_acqf

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.space import MixtureSpace, Scale
from ray_mixopt.surrogate import kernels
from ray_mixopt.surrogate.encoding import encode, observations
from ray_mixopt.surrogate.fit import Hyperparameters, laplace_draws, map_estimate
from ray_mixopt.surrogate.gp import Standardisation, Surrogate
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.surrogate.posterior import ObjectivePosterior

D = 3
SPACE = MixtureSpace(
    domains=("web", "code", "math"),
    scales=(Scale("small", 1.0, 1e7), Scale("large", 10.0, 1e8)),
    steps=(100, 200, 400),
)


def data(n=24, seed=0):
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.ones(D), n)
    cells = [(("small", "large")[i % 2], SPACE.steps[i % 3]) for i in range(n)]
    x = encode(SPACE, w, cells)
    y = (x[:, :D] * torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)).sum(1) - 0.4 * x[:, D] - 0.2 * x[:, D + 1]
    return x, y + 0.01 * torch.from_numpy(rng.standard_normal(n))


@pytest.fixture(scope="module")
def surrogate():
    x, y = data()
    standardise = Standardisation.of(y)
    values = standardise(y)
    mode = map_estimate(x, values, D)
    draws = laplace_draws(x, values, D, mode, 4, np.random.default_rng(0))
    return Surrogate(x, values, draws, standardise)


@pytest.mark.parametrize("batch", [(), (4,)])
def test_kernel_is_symmetric_positive_and_agrees_with_its_diagonal(batch, monkeypatch):
    kernel = MixtureFidelityKernel(D, torch.Size(batch)).double()
    x, _ = data(12)
    with torch.no_grad():
        full = kernel.forward(x, x)
        diagonal = kernel.forward(x, x, diag=True)
    assert full.shape == (*batch, 12, 12)
    assert torch.allclose(full, full.mT)
    assert torch.linalg.eigvalsh(full).min() > -1e-9
    assert torch.allclose(full.diagonal(dim1=-2, dim2=-1), diagonal)
    repeated = torch.cat([x, x[:5]])
    assert torch.allclose(kernel.between(repeated, x), kernel.forward(repeated, x).detach())
    for n_rows in (1, 6, 7):  # at a time; six are as many as there are fidelities
        monkeypatch.setattr(kernels, "_CACHED", n_rows * math.prod(batch) * len(x))
        shuffled = repeated[torch.randperm(len(repeated), generator=torch.Generator().manual_seed(n_rows))]
        assert torch.allclose(kernel.between(shuffled, x), kernel.forward(shuffled, x).detach())


def test_the_finer_the_structure_the_less_other_fidelities_tell_of_it():
    hyper = Hyperparameters(D)
    hyper.unpack(hyper.prior().mean)
    coarse = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]])
    fine = np.array([[0.40, 0.35, 0.25], [0.38, 0.37, 0.25]])

    def told(mixtures, cell):
        """Correlation of the contrast of two mixtures at a fidelity with that at the target."""
        here, target = (encode(SPACE, mixtures, [f] * 2) for f in (cell, SPACE.target))
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
        k = hyper.kernel.between(torch.cat([here, target]), torch.cat([here, target]))
        blocks = [sign @ k[i : i + 2, j : j + 2] @ sign for i, j in ((0, 2), (0, 0), (2, 2))]
        return float(blocks[0] / (blocks[1] * blocks[2]).sqrt())

    for cell in (("large", 200), ("small", 400), ("small", 100)):
        assert 0 < told(fine, cell) < told(coarse, cell) < 1
    assert told(coarse, ("small", 100)) < told(coarse, ("large", 200))


def test_kernel_follows_a_permutation_of_the_domains():
    x, _ = data(10)
    order = [2, 0, 1]
    one, other = MixtureFidelityKernel(D).double(), MixtureFidelityKernel(D).double()
    lengthscale = torch.tensor([[0.3, 0.6, 1.2]], dtype=torch.float64)
    for kernel, scales in ((one, lengthscale), (other, lengthscale[:, order])):
        kernel.mixture.lengthscale = scales
    moved = x[:, [*order, D, D + 1]]
    with torch.no_grad():
        assert torch.allclose(one.forward(x, x), other.forward(moved, moved))


def test_fidelity_coordinates_vanish_at_the_target():
    x = encode(SPACE, np.eye(D), [("large", 400)])
    assert torch.equal(x[:, D:], torch.zeros(D, 2, dtype=torch.float64))
    low = encode(SPACE, np.eye(D), [("small", 100)])
    assert torch.allclose(low[0, D:], torch.tensor([np.log(0.1), np.log(0.25)]))


def test_map_estimate_is_a_stationary_point():
    x, y = data()
    values = Standardisation.of(y)(y)
    mode = map_estimate(x, values, D)
    model = Hyperparameters(D)
    prior = model.prior()

    def density(theta):
        model.unpack(theta)
        return float((model.log_likelihood(x, values) + prior.log_density(theta)).detach())

    best = density(mode)
    for i in range(len(mode)):
        for step in (-0.2, 0.2):
            moved = mode.clone()
            moved[i] += step
            assert density(moved) < best + 1e-6


def test_draws_start_at_the_mode_and_repeat_with_the_seed():
    x, y = data()
    values = Standardisation.of(y)(y)
    mode = map_estimate(x, values, D)
    first, second = (laplace_draws(x, values, D, mode, 5, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[0], mode)
    assert (first[1:] - mode).abs().max() > 1e-3


def test_posterior_equals_botorch(surrogate):
    model = surrogate.botorch_model()
    test = encode(SPACE, np.random.default_rng(1).dirichlet(np.ones(D), 7), [("large", 400)])
    posterior = model.posterior(test)
    spread, center = surrogate.standardisation.spread, surrogate.standardisation.center
    assert torch.allclose(posterior.mean.squeeze(-1), surrogate.mean(test) * spread + center, atol=1e-6)
    variance = surrogate.prior_variance(test) - surrogate.whitened(test).square().sum(-2)
    assert torch.allclose(posterior.variance.squeeze(-1), variance * spread**2, atol=1e-6)


def test_botorch_acquisitions_run_on_it_unchanged(surrogate):
    model = surrogate.botorch_model()
    bounds = torch.tensor([[0.0] * D + [0.0, 0.0], [1.0] * D + [0.0, 0.0]], dtype=torch.float64)
    for acquisition in (
        LogExpectedImprovement(model, best_f=-1.0, maximize=False),
        qLogExpectedImprovement(model, best_f=0.0),
    ):
        candidate, value = optimize_acqf(
            acquisition,
            bounds=bounds,
            q=1,
            num_restarts=2,
            raw_samples=16,
            equality_constraints=[(torch.arange(D), torch.ones(D, dtype=torch.float64), 1.0)],
            options={"maxiter": 20},
        )
        assert torch.isfinite(value).all()
        assert abs(float(candidate[0, :D].sum()) - 1) < 1e-6


def test_noise_that_is_known_moves_the_posterior_less():
    x, y = data()
    standardise = Standardisation.of(y)
    values = standardise(y)
    theta = map_estimate(x, values, D)[None]
    noisy = torch.arange(len(y)) >= 12
    test = encode(SPACE, np.random.default_rng(1).dirichlet(np.ones(D), 7), [("large", 400)])

    def asked(known, rows=slice(None), shift=0.0):
        shifted = values + shift * noisy
        return Surrogate(x[rows], shifted[rows], theta, standardise, None if known is None else known[rows])

    exact, zero = asked(None), asked(torch.zeros(len(y), dtype=torch.float64))
    assert torch.equal(exact.mean(test), zero.mean(test))
    without = asked(None, ~noisy)
    moves, variances = [], []
    for known in (0.0, 0.1, 10.0, 1e8):
        model = asked(known * noisy.double(), shift=1.0)
        moves.append(float((model.mean(test) - without.mean(test)).abs().mean()))
        variances.append(float((model.prior_variance(test) - model.whitened(test).square().sum(-2)).mean()))
    assert moves == sorted(moves, reverse=True) and moves[0] > 1.3 * moves[1] > 1.3**2 * moves[2]
    assert variances == sorted(variances)
    assert moves[3] < 1e-6  # as if these runs had not been made
    model = asked(0.1 * noisy.double())
    posterior = model.botorch_model().posterior(test)
    expected = model.mean(test) * standardise.spread + standardise.center
    assert torch.allclose(posterior.mean.squeeze(-1), expected, atol=1e-6)
    assert torch.allclose(model.given_pending(test[:2]).mean(test), model.mean(test), atol=1e-6)


def test_leaving_out_equals_refitting_without(surrogate):
    rows = [3, 4, 5]
    keep = [i for i in range(len(surrogate.x)) if i not in rows]
    other = Surrogate(surrogate.x[keep], surrogate.y[0, keep], surrogate.theta, surrogate.standardisation)
    mean = other.mean(surrogate.x[rows])
    variance = (
        other.prior_variance(surrogate.x[rows]) - other.whitened(surrogate.x[rows]).square().sum(-2) + other.noise
    )
    error, spread = surrogate.leave_out(rows)
    assert torch.allclose(error, surrogate.y[0, rows] - mean.mean(0), atol=1e-7)
    assert torch.allclose(spread, variance.mean(0) + mean.var(0, correction=0), atol=1e-7)


def test_pending_runs_keep_the_mean_and_shrink_the_variance(surrogate):
    pending = encode(SPACE, np.array([[0.2, 0.3, 0.5]]), [("large", 400)])
    test = encode(SPACE, np.random.default_rng(2).dirichlet(np.ones(D), 20), [("large", 400)])
    after = surrogate.given_pending(pending)
    assert torch.allclose(after.mean(test), surrogate.mean(test), atol=1e-6)
    before_variance = surrogate.prior_variance(pending) - surrogate.whitened(pending).square().sum(-2)
    after_variance = after.prior_variance(pending) - after.whitened(pending).square().sum(-2)
    assert (after_variance < before_variance).all()
    values = torch.cat([surrogate.y, surrogate.mean(pending)], -1)
    afresh = Surrogate(torch.cat([surrogate.x, pending]), values, surrogate.theta, surrogate.standardisation)
    assert torch.allclose(after.factor, afresh.factor, atol=1e-9)
    assert torch.allclose(after.white, afresh.white, atol=1e-6)
    with pytest.raises(ValueError, match="pending runs has no BoTorch model"):
        after.botorch_model()


def test_contrasts_and_marginals_agree_with_the_joint(surrogate):
    posterior = ObjectivePosterior(SPACE, -1.0, {"accuracy": 2.0}, [surrogate])
    w = np.random.default_rng(5).dirichlet(np.ones(D), 9)
    mean, covariance = posterior.contrasts(w)
    against_mean, against_variance = posterior.marginal(w, w)
    assert torch.allclose(mean, against_mean, atol=1e-8)
    assert torch.allclose(covariance.diagonal(dim1=-2, dim2=-1), against_variance, atol=1e-8)
    plain, _ = posterior.marginal(w)
    assert torch.allclose(plain - plain.mean(-1, keepdim=True), mean, atol=1e-8)
    assert torch.allclose(plain.mean(0), posterior.mean(w), atol=1e-8)


def test_prediction_is_in_the_objectives_own_direction(surrogate):
    up = ObjectivePosterior(SPACE, -1.0, {"accuracy": 2.0}, [surrogate])
    down = ObjectivePosterior(SPACE, 1.0, {"accuracy": 2.0}, [surrogate])
    w = np.array([0.2, 0.3, 0.5])
    assert up.prediction(w).mean == pytest.approx(down.prediction(w).mean)
    assert up.prediction(w).low < up.prediction(w).mean < up.prediction(w).high


def test_observations_price_divergence_thin_curves_and_skip_unknown_metrics():
    history = History(SPACE)
    for name in ("a", "b"):
        history.add(Trial(trial_id=name, mixture=(0.2, 0.3, 0.5), scale="small", steps=400))
    history.observe("a", 100, {"loss": 3.0, "other": 1.0})
    history.observe("a", 110, {"loss": 2.95})
    history.observe("a", 200, {"other": 1.5})
    history.observe("a", 390, {"loss": 2.0})
    history.observe("a", 400, {"loss": 1.9})
    history.observe("b", 100, {"loss": float("nan")})
    found = observations(SPACE, history, "loss", worst=1.0)
    assert found.y.tolist() == [3.0, 2.0, 1.9, 3.0]  # 110 is thinned, 400 is the target's, the last is the worst seen
    assert found.runs == ("a", "a", "a", "b")
    assert observations(SPACE, history, "loss", worst=-1.0).y.tolist()[-1] == 1.9
    assert observations(SPACE, history, "other", worst=1.0).y.tolist() == [1.0, 1.5, 1.5]


def test_the_largest_observations_keep_their_order():
    history = History(SPACE)
    for i, (scale, steps) in enumerate([("small", 400), ("large", 100), ("large", 400), ("small", 400)]):
        history.add(Trial(trial_id=str(i), mixture=(0.2, 0.3, 0.5), scale=scale, steps=steps, noise={"loss": 0.1 * i}))
        history.observe(str(i), steps, {"loss": float(i)})
    every = observations(SPACE, history, "loss", worst=1.0)
    assert every.largest(4) is every
    found = every.largest(3)
    assert (found.y.tolist(), found.runs) == ([0.0, 1.0, 2.0], ("0", "1", "2"))
    assert found.noise.tolist() == pytest.approx([0.0, 0.01, 0.04])


def test_a_constant_metric_is_standardised_without_dividing_by_zero():
    standardise = Standardisation.of(torch.full((5,), 7.0, dtype=torch.float64))
    assert standardise(torch.tensor([7.0, 8.0])).tolist() == [0.0, 1.0]
