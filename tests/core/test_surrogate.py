"""The surrogate against closed forms, itself, and BoTorch."""

import math

import numpy as np
import pytest
import torch
from botorch.acquisition import (
    LogExpectedImprovement,
    qKnowledgeGradient,
    qLogExpectedImprovement,
    qLogNoisyExpectedImprovement,
    qLowerBoundMaxValueEntropy,
    qMaxValueEntropy,
)
from botorch.models import SingleTaskGP
from botorch.models.transforms.outcome import Standardize
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.means import ZeroMean

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.surrogate import kernels
from ray_mixopt.surrogate.encoding import encode, observations
from ray_mixopt.surrogate.fit import Hyperparameters, laplace_draws, map_estimate
from ray_mixopt.surrogate.gp import MixtureGP
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel
from ray_mixopt.surrogate.posterior import ObjectivePosterior
from ray_mixopt.surrogate.standardisation import Standardisation

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
def model():
    x, y = data()
    values = Standardisation.of(y)(y)
    draws = laplace_draws(x, values, map_estimate(x, values), 4, np.random.default_rng(0))
    return MixtureGP(x, y, draws)


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


def test_size_and_length_each_tell_less_of_the_target_the_further_they_are():
    hyper = Hyperparameters(D)
    hyper.unpack(hyper.prior().mean)
    mixtures, sign = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]), torch.tensor([1.0, -1.0], dtype=torch.float64)

    def told(cell):
        """Correlation of the contrast of two mixtures at a fidelity with that at the target."""
        x = torch.cat([encode(SPACE, mixtures, [f] * 2) for f in (cell, SPACE.target)])
        k = hyper.kernel.between(x, x)
        blocks = [sign @ k[i : i + 2, j : j + 2] @ sign for i, j in ((0, 2), (0, 0), (2, 2))]
        return float(blocks[0] / (blocks[1] * blocks[2]).sqrt())

    assert 0 < told(("small", 100)) < told(("large", 100)) < told(("large", 200)) < 1
    assert told(("small", 100)) < told(("small", 400)) < 1


def test_what_reports_of_one_mixture_are_off_by_together_is_no_effect_of_it():
    """A run that is off as a whole counts once, however often it reports, and other mixtures are not held to it."""
    x, _ = data(12)
    hyper = Hyperparameters(D)
    theta = hyper.prior().mean.clone()
    names = [name for name, p in hyper.named_parameters() for _ in range(p.numel())]
    theta[names.index("kernel.log_own")] = math.log(0.5)
    observed = torch.cat([x[:1].repeat(6, 1), x[1:4]])
    observed[:6, D + 1] = torch.linspace(-0.5, 0.0, 6, dtype=torch.float64)
    y = torch.tensor([0.8] * 6 + [0.0, 0.1, -0.1], dtype=torch.float64)
    unit = Standardisation(center=0.0, spread=1.0)
    often, once = (
        MixtureGP(observed[rows], y[rows], theta[None], standardise=unit) for rows in (slice(0, None), slice(5, None))
    )
    here = observed[5:6]
    means = [float(model.mean(here)) for model in (often, once)]
    theta[names.index("kernel.log_own")] = -12.0
    believed = float(MixtureGP(observed, y, theta[None], standardise=unit).mean(here))
    assert max(means) < 0.75 * believed and abs(means[0] - means[1]) < 0.1
    errors, _ = often.leave_out([5])
    assert abs(float(errors)) < 0.1  # but what the others let one expect of a report of it is like theirs


def test_a_pending_report_of_a_mixture_seen_before_changes_no_mean(model):
    x = torch.cat([model.x[:2], model.x[-1:]])
    x[:, D + 1] = 0.0
    asked = mixtures_at(("large", 400), 5, 7)
    once, twice = model.given_pending(x), model.given_pending(x[:1]).given_pending(x[1:])
    for after in (once, twice):
        assert torch.allclose(after.mean(asked), model.mean(asked), atol=1e-6)
        assert (after.solve(asked).variance < model.solve(asked).variance).all()
    assert torch.allclose(once.solve(asked).variance, twice.solve(asked).variance, atol=1e-8)


def test_kernel_follows_a_permutation_of_the_domains():
    x, _ = data(10)
    order = [2, 0, 1]
    one, other = MixtureFidelityKernel(D).double(), MixtureFidelityKernel(D).double()
    linear = torch.tensor([0.3, 0.6, 1.2], dtype=torch.float64)
    for kernel, weights in ((one, linear), (other, linear[order])):
        kernel.log_linear.data = weights
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
    mode = map_estimate(x, values)
    hyper = Hyperparameters(D)
    prior = hyper.prior()

    def density(theta):
        hyper.unpack(theta)
        return float((hyper.log_likelihood(x, values) + prior.log_density(theta)).detach())

    best = density(mode)
    for i in range(len(mode)):
        for step in (-0.2, 0.2):
            moved = mode.clone()
            moved[i] += step
            assert density(moved) < best + 1e-6


def log_posterior(x, values, theta):
    hyper = Hyperparameters(D)
    hyper.unpack(theta)
    with torch.no_grad():
        return float(hyper.log_likelihood(x, values) + hyper.prior().log_density(theta))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_what_repeats_is_computed_once_and_alike(batch):
    x, y = data()
    x = torch.cat([x, x])  # every mixture at another fidelity, too
    x[len(y) :, D] -= 1.0
    y = torch.cat([y, 1.1 * y])
    values = Standardisation.of(y)(y)
    torch.manual_seed(0)
    prior = Hyperparameters(D).prior()
    theta = prior.mean + prior.std * torch.randn(*batch, len(prior.mean), dtype=torch.float64)
    found = []
    for plain in (False, True):
        hyper = Hyperparameters(D, torch.Size(batch))
        hyper.unpack(theta)
        if plain:
            covariance = hyper.noisy(hyper.kernel.forward(x, x), x)
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(values), covariance)
            density = normal.log_prob(values)
        else:
            density = hyper.log_likelihood(x, values)
        density.sum().backward()
        found.append((density.detach(), hyper.pack_grad()))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-9)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-7)


def test_draws_start_at_the_mode_and_repeat_with_the_seed():
    x, y = data()
    values = Standardisation.of(y)(y)
    mode = map_estimate(x, values)
    first, second = (laplace_draws(x, values, mode, 5, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert (first[0] - mode).abs().max() < 0.1 and log_posterior(x, values, first[0]) >= log_posterior(x, values, mode)
    assert (first[1:] - mode).abs().max() > 1e-3


def gpytorchs(model):
    """The same posterior by GPyTorch's exact inference: a batch of models, one a draw, in the metric's own unit."""
    batch, x = model.theta.shape[:1], model.x
    hyper = Hyperparameters(D, batch)
    hyper.unpack(model.theta)
    with torch.no_grad():
        nugget = hyper.nugget(hyper.kernel.forward(x, x, diag=True))  # (s, n)
        nugget = nugget + hyper.kernel.shared_error(x, x).diagonal(dim1=-2, dim2=-1)  # no mixture is there twice
    reference = SingleTaskGP(
        x.expand(*batch, *x.shape),
        model.train_targets.unsqueeze(-1).expand(*batch, -1, 1),
        nugget.unsqueeze(-1) * model.train_targets.var(),
        covar_module=hyper.kernel,
        mean_module=ZeroMean(batch_shape=batch),
        outcome_transform=Standardize(m=1, batch_shape=batch),
    )
    return reference.eval()


def mixtures_at(cell, n, seed):
    return encode(SPACE, np.random.default_rng(seed).dirichlet(np.ones(D), n), [cell])


def test_posterior_equals_gpytorchs(model):
    test = mixtures_at(("large", 400), 7, 1)
    reference = gpytorchs(model).posterior(test.unsqueeze(-3))
    for shape in ((), (2, 3)):  # a q-batch, and q-batches of any batch shape
        x = test.expand(*shape, *test.shape)
        posterior = model.posterior(x)
        assert posterior.mean.shape == (*shape, 4, 7, 1)
        assert torch.allclose(posterior.mean, reference.mean.expand_as(posterior.mean), atol=1e-6)
        covariance = posterior.distribution.covariance_matrix
        assert torch.allclose(covariance, reference.distribution.covariance_matrix.expand_as(covariance), atol=1e-8)
    assert torch.allclose(posterior.mixture_mean[0, 0, :, 0], model.standardise.undone(model.mean(test)).mean(0))
    noisy = model.posterior(test, observation_noise=True)
    added = (noisy.variance - model.posterior(test).variance).squeeze(-1)
    assert torch.allclose(added, model.likelihood.noise.expand_as(added), rtol=1e-6)
    solved = model.solve(test)
    assert torch.allclose(solved.mean, model.mean(test), atol=1e-8)
    assert torch.allclose(solved.covariance().diagonal(dim1=-2, dim2=-1), solved.variance, atol=1e-9)


def test_solved_inputs_are_taken_joined_and_compared_without_solving_again(model):
    test = mixtures_at(("large", 400), 9, 3)
    whole = model.solve(test)
    assert whole.mean.shape == whole.prior.shape == (4, 9)
    rows = torch.tensor([7, 0, 3])
    afresh = model.solve(test[rows])
    for found in (whole.take(rows), model.solve(test[rows[:1]]).joined(model.solve(test[rows[1:]]))):
        for name in ("mean", "prior", "variance"):
            assert torch.allclose(getattr(found, name), getattr(afresh, name), atol=1e-9)
        assert torch.allclose(found.covariance(), afresh.covariance(), atol=1e-9)
    mean, variance = whole.against(afresh)
    joint = whole.joined(afresh).covariance()
    contrast = torch.cat([torch.eye(9), torch.full((9, 3), -1 / 3)], -1).double()
    assert torch.allclose(mean, whole.mean - afresh.mean.mean(-1, keepdim=True), atol=1e-9)
    assert torch.allclose(variance, (contrast @ joint @ contrast.mT).diagonal(dim1=-2, dim2=-1), atol=1e-9)


def test_conditioning_on_observations_equals_being_given_them(model):
    x = mixtures_at(("large", 200), 3, 5)
    y = model.posterior(x).mixture_mean + 0.1
    test = mixtures_at(("large", 400), 6, 6)
    after = model.condition_on_observations(x, y)
    values = torch.cat([model.train_targets, y.squeeze(-1)])
    afresh = MixtureGP(torch.cat([model.x, x]), values, model.theta, standardise=model.standardise)
    assert after.train_inputs[0].shape == (27, D + 2)
    assert torch.allclose(after.train_targets, values.expand(4, -1), atol=1e-8)
    for one, other in ((after.posterior(test), afresh.posterior(test)),):
        assert torch.allclose(one.mean, other.mean, atol=1e-7)
        assert torch.allclose(one.variance, other.variance, atol=1e-9)
    assert (after.posterior(test).variance < model.posterior(test).variance).all()
    certain = model.condition_on_observations(x, y, noise=torch.full_like(y, 1e-8))
    vague = model.condition_on_observations(x, y, noise=torch.full_like(y, 1e8))
    off = (certain.posterior(x).mean - y).abs().amax((-2, -1)), (model.posterior(x).mean - y).abs().amax((-2, -1))
    assert (off[0] < 0.5 * off[1]).all()  # what the reports of a mixture are off by together remains
    assert torch.allclose(vague.posterior(test).mean, model.posterior(test).mean, atol=1e-3)


def test_batches_of_as_many_points_as_there_are_draws_are_not_taken_for_draws(model):
    n_draws = len(model.theta)
    x = mixtures_at(("large", 200), n_draws, 5)
    apart = model.condition_on_observations(x.unsqueeze(-2), torch.full((16, n_draws, 1, 1), 2.0).double())
    test = mixtures_at(("large", 400), 3, 6)
    assert apart.posterior(test).mean.shape == (16, n_draws, n_draws, 3, 1)
    fantasies = model.condition_on_observations(x[:2], torch.full((n_draws, 2, 1), 2.0).double())
    one = model.condition_on_observations(x[:2], torch.full((2, 1), 2.0).double())
    assert torch.allclose(fantasies.posterior(test).mean[1], one.posterior(test).mean)


def test_what_was_conditioned_on_a_batch_can_be_conditioned_on_more(model):
    x, y = mixtures_at(("large", 200), 5, 5), torch.full((5, 1, 1), 2.0).double()
    more, test = mixtures_at(("small", 400), 1, 7), mixtures_at(("large", 400), 3, 6)
    batch = model.condition_on_observations(x.unsqueeze(-2), y)
    after = batch.condition_on_observations(more, torch.full((1, 1), 2.2).double())
    for i in range(5):
        both = torch.cat([x[i : i + 1], more])
        one = model.condition_on_observations(both, torch.tensor([[2.0], [2.2]]).double())
        assert torch.allclose(after.posterior(test).mean[i], one.posterior(test).mean, atol=1e-8)
    pending = batch.given_pending(more)
    assert torch.allclose(pending.posterior(test).mean, batch.posterior(test).mean, atol=1e-6)
    assert (pending.posterior(more).variance < batch.posterior(more).variance).all()


def test_fantasies_keep_the_mean_on_average_and_know_more(model):
    x, test = mixtures_at(("large", 200), 2, 7).unsqueeze(-2), mixtures_at(("large", 400), 5, 8)
    fantasies = model.fantasize(x, SobolQMCNormalSampler(torch.Size([512]), seed=0))  # at two points, apart
    posterior = fantasies.posterior(test)
    assert fantasies.train_inputs[0].shape == (2, 25, D + 2) and posterior.mean.shape == (512, 2, 4, 5, 1)
    before = model.posterior(test)
    spread = before.variance.sqrt()
    assert ((posterior.mean.mean(0) - before.mean).abs() < 0.05 * spread).all()
    assert (posterior.variance[0] < before.variance + 1e-12).all()
    total = posterior.mean.var(0) + posterior.variance[0]
    assert torch.allclose(total, before.variance.expand_as(total), rtol=0.05)


ACQUISITIONS = {
    "LogEI": lambda model, known: LogExpectedImprovement(model, best_f=-1.0, maximize=False),
    "qLogEI": lambda model, known: qLogExpectedImprovement(model, best_f=0.0),
    "qLogNEI": lambda model, known: qLogNoisyExpectedImprovement(model, known, prune_baseline=True),
    "MES": lambda model, known: qMaxValueEntropy(model.averaged(), candidate_set=known),
    "GIBBON": lambda model, known: qLowerBoundMaxValueEntropy(model.averaged(), candidate_set=known),
    "qKG": lambda model, known: qKnowledgeGradient(model.averaged(), num_fantasies=4),
}


def optimised(acquisition, q=1):
    """Optimised over mixtures at the target."""
    return optimize_acqf(
        acquisition,
        bounds=torch.tensor([[0.0] * D + [0.0, 0.0], [1.0] * D + [0.0, 0.0]], dtype=torch.float64),
        q=q,
        num_restarts=2,
        raw_samples=16,
        equality_constraints=[(torch.arange(D), torch.ones(D, dtype=torch.float64), 1.0)],
        options={"maxiter": 20},
    )


def is_better_than_most(acquisition, candidate, value):
    some = mixtures_at(("large", 400), 64, 9)
    with torch.no_grad():
        return float(value) >= float(acquisition(some.unsqueeze(-2)).quantile(0.9)) - 1e-9


@pytest.mark.filterwarnings("ignore:.*cache_root.*")
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_botorch_acquisitions_run_on_it_unchanged(model, name):
    torch.manual_seed(0)
    acquisition = ACQUISITIONS[name](model, mixtures_at(("large", 400), 12, 4))
    candidate, value = optimised(acquisition)
    assert candidate.shape == (1, D + 2) and torch.isfinite(value).all()
    assert abs(float(candidate[0, :D].sum()) - 1) < 1e-6
    if name != "qKG":  # which is optimised together with its fantasies' optima
        assert is_better_than_most(acquisition, candidate, value)


def test_max_value_entropy_and_gibbon_take_runs_on_their_way_into_account(model):
    known = mixtures_at(("small", 100), 200, 4)  # where little is known
    best = (model.mean(known) + 2 * model.solve(known).variance.sqrt()).mean(0).argmax()
    pending = known[best : best + 1]
    for make in (qMaxValueEntropy, qLowerBoundMaxValueEntropy):
        values = []
        for on_their_way in (None, pending):
            torch.manual_seed(0)
            acquisition = make(model.averaged(), candidate_set=known, X_pending=on_their_way)
            values.append(acquisition(torch.stack([pending, known[:1]])).detach())
        alone, beside = values
        assert beside[0] - beside[1] < alone[0] - alone[1], make.__name__


@pytest.mark.filterwarnings("ignore:.*cache_root.*")
@pytest.mark.parametrize("name", ["LogEI", "qLogNEI", "MES", "GIBBON"])
def test_botorch_acquisitions_run_on_an_objective_of_several_metrics(model, name):
    x, y = data()
    other = MixtureGP(x, y - x[:, 1], model.theta)
    correlation = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    objective = ObjectivePosterior(SPACE, 1.0, {"a": 1.0, "b": -0.5}, [model, other], correlation=correlation)
    pending = mixtures_at(("large", 400), 1, 2)
    objective = objective.given_pending(pending)
    torch.manual_seed(0)
    acquisition = ACQUISITIONS[name](objective, mixtures_at(("large", 400), 12, 4))
    candidate, value = optimised(acquisition)
    assert torch.isfinite(value).all() and is_better_than_most(acquisition, candidate, value)


def test_the_objective_has_a_botorch_posterior_that_agrees_with_its_answers(model):
    x, y = data()
    other = MixtureGP(x, y - x[:, 1], model.theta)
    correlation = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    for sign in (1.0, -1.0):
        objective = ObjectivePosterior(SPACE, sign, {"a": 1.0, "b": -0.5}, [model, other], correlation=correlation)
        w = np.random.default_rng(3).dirichlet(np.ones(D), 6)
        posterior = objective.posterior(encode(SPACE, w, [("large", 400)]))
        mean, covariance = objective.joint(w)
        assert torch.allclose(posterior.mean.squeeze(-1), mean, atol=1e-8)
        assert torch.allclose(posterior.distribution.covariance_matrix, covariance, atol=1e-8)
        assert torch.allclose(covariance.diagonal(dim1=-2, dim2=-1), objective.marginal(w)[1], atol=1e-8)
        added = torch.full((6, 1), 0.25, dtype=torch.float64)
        noisy = objective.posterior(encode(SPACE, w, [("large", 400)]), observation_noise=added)
        assert torch.allclose(noisy.variance - posterior.variance, added.expand_as(noisy.variance))
        forecast = objective.forecast(w)
        assert forecast.mean == pytest.approx(sign * posterior.mixture_mean.squeeze(-1).numpy())
        assert forecast.covariance == pytest.approx(posterior.mixture_covariance_matrix.to_dense().numpy(), abs=1e-9)
        for i in range(5):
            one, other_way = forecast.difference(i, i + 1), objective.prediction(w[i], w[i + 1])
            assert one.mean == pytest.approx(other_way.mean, abs=1e-9)
            assert one.high - one.low == pytest.approx(other_way.high - other_way.low, rel=1e-4)


def test_noise_that_is_known_moves_the_posterior_less():
    x, y = data()
    standardise = Standardisation.of(y)
    values = standardise(y)
    theta = map_estimate(x, values)[None]
    noisy = torch.arange(len(y)) >= 12
    test = encode(SPACE, np.random.default_rng(1).dirichlet(np.ones(D), 7), [("large", 400)])

    def asked(known, rows=slice(None), shift=0.0):
        shifted = standardise.undone(values + shift * noisy)
        known = None if known is None else known[rows] * standardise.spread**2
        return MixtureGP(x[rows], shifted[rows], theta, known, standardise=standardise)

    exact, zero = asked(None), asked(torch.zeros(len(y), dtype=torch.float64))
    assert torch.equal(exact.mean(test), zero.mean(test))
    without = asked(None, ~noisy)
    moves, variances = [], []
    for known in (0.0, 0.1, 10.0, 1e8):
        model = asked(known * noisy.double(), shift=1.0)
        moves.append(float((model.mean(test) - without.mean(test)).abs().mean()))
        variances.append(float(model.solve(test).variance.mean()))
    assert moves == sorted(moves, reverse=True) and moves[0] > 1.3 * moves[1] > 1.3**2 * moves[2]
    assert variances == sorted(variances)
    assert moves[3] < 1e-6  # as if these runs had not been made
    model = asked(0.1 * noisy.double())
    expected = standardise.undone(model.mean(test))
    assert torch.allclose(model.posterior(test).mean.squeeze(-1), expected, atol=1e-6)
    assert torch.allclose(model.given_pending(test[:2]).mean(test), model.mean(test), atol=1e-6)


def test_leaving_out_equals_refitting_without(model):
    rows = [3, 4, 5]
    keep = [i for i in range(len(model.x)) if i not in rows]
    other = MixtureGP(model.x[keep], model.train_targets[keep], model.theta, standardise=model.standardise)
    mean, variance = other.mean(model.x[rows]), other.solve(model.x[rows]).variance + other.noise
    error, spread = model.leave_out(rows)
    assert torch.allclose(error, model.standardise(model.train_targets)[rows] - mean.mean(0), atol=1e-7)
    assert torch.allclose(spread, variance.mean(0) + mean.var(0, correction=0), atol=1e-7)


def test_pending_runs_keep_the_mean_and_shrink_the_variance(model):
    pending, test = mixtures_at(("large", 400), 1, 1), mixtures_at(("large", 400), 20, 2)
    after = model.given_pending(pending)
    assert torch.allclose(after.mean(test), model.mean(test), atol=1e-6)
    assert (after.solve(pending).variance < model.solve(pending).variance).all()
    assert torch.allclose(after.posterior(test).mean, model.posterior(test).mean, atol=1e-6)
    given = model.posterior(pending).mean  # each draw is told what it expects
    afresh = model.condition_on_observations(pending, given, per_draw=True)
    assert torch.allclose(after.factor, afresh.factor, atol=1e-9)
    assert torch.allclose(after.white, afresh.white, atol=1e-6)


def test_contrasts_and_marginals_agree_with_the_joint(model):
    posterior = ObjectivePosterior(SPACE, -1.0, {"accuracy": 2.0}, [model])
    w = np.random.default_rng(5).dirichlet(np.ones(D), 9)
    mean, covariance = posterior.contrasts(w)
    against_mean, against_variance = posterior.marginal(w, w)
    assert torch.allclose(mean, against_mean, atol=1e-8)
    assert torch.allclose(covariance.diagonal(dim1=-2, dim2=-1), against_variance, atol=1e-8)
    plain, _ = posterior.marginal(w)
    assert torch.allclose(plain - plain.mean(-1, keepdim=True), mean, atol=1e-8)
    assert torch.allclose(plain.mean(0), posterior.mean(w), atol=1e-8)


def test_prediction_is_in_the_objectives_own_direction(model):
    up = ObjectivePosterior(SPACE, -1.0, {"accuracy": 2.0}, [model])
    down = ObjectivePosterior(SPACE, 1.0, {"accuracy": 2.0}, [model])
    w = np.array([0.2, 0.3, 0.5])
    assert up.prediction(w).mean == pytest.approx(down.prediction(w).mean)
    assert up.prediction(w).low < up.prediction(w).mean < up.prediction(w).high


def test_observations_thin_curves_keep_the_last_report_and_skip_unknown_metrics():
    history = History(SPACE)
    for name in ("a", "b"):
        history.add(Trial(trial_id=name, mixture=(0.2, 0.3, 0.5), scale="small", steps=400))
    history.observe("a", 100, {"loss": 3.0, "other": 1.0})
    history.observe("a", 110, {"loss": 2.95})
    history.observe("a", 200, {"other": 1.5})
    history.observe("a", 390, {"loss": 2.0})
    history.observe("a", 400, {"loss": 1.9})
    history.observe("b", 100, {"loss": 2.5, "other": float("nan")})
    history.observe("b", 110, {"loss": 2.4})
    found = observations(SPACE, history, "loss")
    assert found.y.tolist() == [3.0, 2.0, 1.9, 2.5, 2.4], "110 is thinned of a run that goes on"
    assert found.runs == ("a", "a", "a", "b", "b")
    assert observations(SPACE, history, "other").y.tolist() == [1.0, 1.5]


def test_the_largest_observations_keep_their_order():
    history = History(SPACE)
    for i, (scale, steps) in enumerate([("small", 400), ("large", 100), ("large", 400), ("small", 400)]):
        history.add(Trial(trial_id=str(i), mixture=(0.2, 0.3, 0.5), scale=scale, steps=steps, noise={"loss": 0.1 * i}))
        history.observe(str(i), steps, {"loss": float(i)})
    every = observations(SPACE, history, "loss")
    assert every.largest(4) is every
    found = every.largest(3)
    assert (found.y.tolist(), found.runs) == ([0.0, 1.0, 2.0], ("0", "1", "2"))
    assert found.noise.tolist() == pytest.approx([0.0, 0.01, 0.04])


def test_a_constant_metric_is_standardised_without_dividing_by_zero():
    standardise = Standardisation.of(torch.full((5,), 7.0, dtype=torch.float64))
    assert standardise(torch.tensor([7.0, 8.0])).tolist() == [0.0, 1.0]
