"""MFMS-GP as printed: its surrogate, acquisition, schedule and data."""

from __future__ import annotations

import math
from dataclasses import replace

import gpytorch
import numpy as np
import pytest
import torch
from botorch.acquisition import ExpectedImprovement
from botorch.models import SingleTaskGP
from gpytorch.means import LinearMean
from scipy import integrate, stats

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import CappedSimplex
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies import paper
from ray_mixopt.strategies.paper import PaperStrategy, expected_improvement, paper_gp, product_kernel

KERNELS = ["rbf", "tv", "jsd"]


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """30 inputs of 3 domains, m and z, and values."""
    rng = np.random.default_rng(0)
    inputs = np.concatenate([rng.dirichlet(np.ones(3), 30), rng.random((30, 2))], axis=1)
    return torch.tensor(inputs), torch.tensor(2.0 + inputs[:, 0] ** 2 - inputs[:, 3] + 0.1 * rng.normal(size=30))


def unfitted(data, kernel: str) -> SingleTaskGP:
    torch.manual_seed(0)
    return paper_gp(*data, paper.NOISE, LinearMean(5).double(), product_kernel(3, kernel))


@pytest.fixture(params=KERNELS)
def fitted(request, data) -> SingleTaskGP:
    model = unfitted(data, request.param)
    paper.fit(model)
    return model


def asked_with(optimizer: MixtureOptimizer, monkeypatch) -> tuple[ExpectedImprovement, float]:
    """What the next suggestion maximises: expected improvement, and the exponent of the cost."""
    seen: list[tuple[ExpectedImprovement, float]] = []
    monkeypatch.setattr(optimizer._strategy, "_search", lambda _, *given: seen.append(given))
    assert optimizer.ask() is None
    monkeypatch.undo()
    return seen[0]


# -- surrogate


@pytest.mark.parametrize("kernel", KERNELS)
def test_covariances_are_a_product_of_three_kernels(data, kernel) -> None:
    model = unfitted(data, kernel)
    lengths = {"mixture": 0.3, "scale": 0.7, "steps": 1.9}
    for part, name in zip(model.covar_module.kernels, lengths, strict=True):
        part.lengthscale = torch.tensor(lengths[name], dtype=torch.float64)
    a, b = np.array([0.2, 0.3, 0.5, 0.1, 0.4]), np.array([0.6, 0.0, 0.4, 0.9, 1.0])
    m = np.array([0.4, 0.15, 0.45])
    kl = lambda p, q: sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)  # noqa: E731
    on_w = {
        "rbf": math.exp(-np.sum((a[:3] - b[:3]) ** 2) / (2 * 0.3**2)),
        "tv": math.exp(-0.5 * np.abs(a[:3] - b[:3]).sum() / 0.3),
        "jsd": math.exp(-0.5 * (kl(a[:3], m) + kl(b[:3], m)) / (2 * 0.3**2)),
    }[kernel]
    expected = on_w * math.exp(-(0.8**2) / (2 * 0.7**2)) * math.exp(-(0.6**2) / (2 * 1.9**2))
    pair = torch.tensor(np.stack([a, b]))
    covariance = model.covar_module(pair).to_dense().detach().numpy()
    assert 1e-4 < expected < 0.9
    np.testing.assert_allclose(covariance, [[1.0, expected], [expected, 1.0]], rtol=1e-9)
    np.testing.assert_allclose(model.covar_module(pair, diag=True).detach().numpy(), [1.0, 1.0], rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_mixture_kernels_are_positive_definite(kernel) -> None:
    rng = np.random.default_rng(0)
    mixtures = np.concatenate([rng.dirichlet(np.full(5, c), 60) for c in (0.1, 1.0, 10.0)] + [np.eye(5)])
    module = paper.MIXTURE_KERNELS[kernel]().double()
    for lengthscale in (0.05, 0.5, 5.0):
        module.lengthscale = lengthscale
        values = torch.linalg.eigvalsh(module(torch.tensor(mixtures)).to_dense().detach())
        assert values.min() > -1e-9


def test_values_are_taken_as_they_are_with_the_noise_as_given(fitted, data) -> None:
    inputs, values = data
    points = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(5), 12))
    found = fitted.posterior(points)
    with torch.no_grad():
        covariance = fitted.covar_module(torch.cat([inputs, points])).to_dense()
        mean = fitted.mean_module(torch.cat([inputs, points]))
    n = len(values)
    seen = covariance[:n, :n] + paper.NOISE * torch.eye(n, dtype=torch.float64)
    expected = mean[n:] + covariance[n:, :n] @ torch.linalg.solve(seen, values - mean[:n])
    rest = covariance[n:, n:] - covariance[n:, :n] @ torch.linalg.solve(seen, covariance[:n, n:])
    np.testing.assert_allclose(found.mean[:, 0].numpy(), expected.numpy(), rtol=1e-8)
    np.testing.assert_allclose(found.variance[:, 0].numpy(), rest.diagonal().numpy(), rtol=1e-6, atol=1e-9)


def test_the_fit_raises_the_likelihood(data) -> None:
    model = unfitted(data, "rbf")
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)

    def value() -> float:
        model.train()
        with torch.no_grad():
            return float(likelihood(model(data[0]), data[1]))

    before = value()
    paper.fit(model)
    assert value() > before
    assert model.likelihood.noise.flatten().tolist() == [0.1] * 30  # noise is given, not fitted
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())


# -- acquisition


def test_expected_improvement_is_the_integral(fitted, data) -> None:
    improvement = expected_improvement(fitted)
    points = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(5), 6))
    posterior = fitted.posterior(points)
    means, variances = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].numpy()
    best = float(data[1].min())
    for value, mean, variance in zip(improvement(points.unsqueeze(1)).numpy(), means, variances, strict=True):
        density = stats.norm(mean, math.sqrt(variance)).pdf
        exact, _ = integrate.quad(lambda f, p=density: (best - f) * p(f), best - 12, best, epsabs=1e-12)
        assert value == pytest.approx(exact, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("upper", [[1.0, 1.0, 1.0], [0.7, 0.6, 0.8]])
def test_the_gradient_is_with_respect_to_the_logits(fitted, data, upper) -> None:
    improvement = expected_improvement(fitted)
    simplex = CappedSimplex([0.05, 0.0, 0.0] if upper[0] < 1 else [0.0] * 3, upper, names="abc")
    fidelities = torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(16, 2)
    logits = torch.tensor(np.random.default_rng(3).uniform(-3, 3, (16, 3)), requires_grad=True)
    mixtures = paper._mixtures(logits, simplex).detach().numpy()
    assert simplex.contains(mixtures, tolerance=1e-12).all()
    if upper[0] < 1:  # some of the rows must lie on a bound, some must not
        at_bound = (np.isclose(mixtures, simplex.upper) | np.isclose(mixtures, simplex.lower)).any(1)
        assert 0 < at_bound.sum() < 16

    def objective(x: torch.Tensor) -> torch.Tensor:
        return improvement(torch.cat([paper._mixtures(x, simplex), fidelities], 1).unsqueeze(1))

    assert torch.autograd.gradcheck(objective, (logits,), eps=1e-6, atol=1e-6)


def test_the_best_cell_and_mixture_are_found(space, drive, monkeypatch) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper", seed=2)
    drive(optimizer, 26)
    improvement, exponent = asked_with(optimizer, monkeypatch)
    suggestion = optimizer.ask()
    chosen = optimizer.history[suggestion.trial_id].acquisition / suggestion.cost**exponent
    # Softmax of logits in [-3, 3] cannot reach the corners: neither may the rivals.
    logits = np.random.default_rng(0).uniform(-3, 3, (2000, 3))
    mixtures = torch.softmax(torch.tensor(logits), 1)
    best = 0.0
    for scale in space.scales:
        for steps in (6000, 12000, 19700):
            fidelity = torch.tensor([[scale.parameters / 1e9, steps / 19700]], dtype=torch.float64).expand(2000, 2)
            value = float(improvement(torch.cat([mixtures, fidelity], 1).unsqueeze(1)).max())
            best = max(best, value / space.cost(scale.name, steps) ** exponent)
    assert chosen >= 0.999 * best > 0


# -- schedule and data


def test_twenty_short_runs_come_first(space, drive) -> None:
    scales: list[str] = []
    for seed in range(5):
        runs = drive(MixtureOptimizer(space, strategy="paper", seed=seed), 22)
        assert all(run.steps <= 900 for run in runs[:20])
        assert all(run.steps in (6000, 12000, 19700) for run in runs[20:])
        scales += [run.scale for run in runs[:20]]
    counts = np.array([scales.count(name) for name in space.scale_names])
    assert stats.chisquare(counts).pvalue > 1e-3


def test_design_runs_enter_at_every_rung_and_later_ones_at_their_last(space, drive, monkeypatch) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper")
    runs = drive(optimizer, 23)
    improvement, exponent = asked_with(optimizer, monkeypatch)
    in_design = sum(sum(step <= run.steps for step in space.steps) for run in runs[:20])
    assert len(improvement.model.train_inputs[0]) == in_design + 3
    assert improvement.model.train_inputs[0][in_design:, 4].tolist() == [run.steps / 19700 for run in runs[20:]]
    assert exponent == 0.99**3
    seen = [trial.observations[step]["value"] for trial in optimizer.history for step in trial.observations]
    entered = [optimizer.history[name].observations[step] for name, step in optimizer.history.arrivals]
    assert len(entered) > len(improvement.model.train_inputs[0])
    assert float(improvement.best_f) >= min(seen)
    first = improvement.model.train_inputs[0][0].tolist()
    scale = space.scale(runs[0].scale)
    assert first == [*runs[0].mixture.values(), scale.parameters / 1e9, 100 / 19700]


def test_hyperparameters_are_fitted_once_and_lengthscales_shrink_with_low_improvement(
    space, drive, monkeypatch
) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper")
    drive(optimizer, 22)
    before, _ = asked_with(optimizer, monkeypatch)
    fits = []
    monkeypatch.setattr(paper, "fit", fits.append)
    drive(optimizer, 2)
    assert fits == []
    monkeypatch.undo()
    trials = list(optimizer.history)
    assert all(trial.acquisition is None for trial in trials[:20])
    assert all(trial.acquisition > 1e-4 for trial in trials[20:])
    trials[20].acquisition, trials[21].acquisition = 0.99e-4, 0.0
    after, _ = asked_with(optimizer, monkeypatch)
    lengths = [[float(part.lengthscale) for part in i.model.covar_module.kernels] for i in (before, after)]
    assert lengths[0][0] == lengths[1][0]
    assert np.divide(lengths[1][1:], lengths[0][1:]) == pytest.approx(0.95**2)
    assert torch.equal(before.model.mean_module.weights, after.model.mean_module.weights)


@pytest.mark.parametrize(("strategy", "later"), [("paper", 0.1), ("paper:noise=script", 1e-8)])
def test_noise_as_printed_and_as_in_the_script(space, drive, monkeypatch, strategy, later) -> None:
    optimizer = MixtureOptimizer(space, strategy=strategy)
    drive(optimizer, 20)
    noises = []
    for _ in range(2):
        improvement, _ = asked_with(optimizer, monkeypatch)
        noises.append(improvement.model.likelihood.noise.flatten().numpy())
        drive(optimizer, 1)
    np.testing.assert_allclose(noises[0], 0.1, rtol=1e-6)
    np.testing.assert_allclose(noises[1], later, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["paper", "paper:kernel=tv", "paper:kernel=jsd", "paper:noise=script"])
def test_variants_are_chosen_by_name_and_search(space, drive, loss, strategy) -> None:
    optimizer = MixtureOptimizer(space, strategy=strategy, seed=1)
    assert isinstance(optimizer._strategy, PaperStrategy)
    assert optimizer._strategy.kernel == {"paper:kernel=tv": "tv", "paper:kernel=jsd": "jsd"}.get(strategy, "rbf")
    assert optimizer._strategy.noise == ("script" if strategy.endswith("script") else "printed")
    drive(optimizer, 23)
    found = loss(optimizer.recommend().mixture, "1B", 19700)
    assert found < loss(space.named(space.uniform()), "1B", 19700)


def test_maximising_is_minimising_the_negative(space, loss) -> None:
    optimizers = [MixtureOptimizer(space, strategy="paper", mode=mode) for mode in ("min", "max")]
    for _ in range(23):
        runs = [optimizer.ask() for optimizer in optimizers]
        assert runs[0] == runs[1]
        for optimizer, run, sign in zip(optimizers, runs, (1, -1), strict=True):
            for step in [step for step in space.steps if step <= run.steps]:
                optimizer.tell(run.trial_id, step, sign * loss(run.mixture, run.scale, step))
            optimizer.finish(run.trial_id)
    assert optimizers[0].recommend() == optimizers[1].recommend()


def test_the_answer_is_the_best_observation_at_any_fidelity(space) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper")
    first, second = optimizer.ask(), optimizer.ask()
    optimizer.tell(first.trial_id, 100, 1.0)
    optimizer.tell(second.trial_id, 100, 0.5)
    optimizer.add_evaluated_point({"wikipedia": 1, "github": 1, "book": 2}, "1B", 19700, 0.7)
    assert optimizer.recommend().mixture == second.mixture
    assert optimizer.recommend().predicted is None


def test_runs_given_to_the_search_inform_it_but_are_no_design(space, drive, monkeypatch) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper")
    optimizer.add_evaluated_point({"wikipedia": 0, "github": 0, "book": 1}, "1B", 19700, -5.0)
    runs = drive(optimizer, 20)
    assert all(run.steps <= 900 for run in runs)
    improvement, _ = asked_with(optimizer, monkeypatch)
    assert float(improvement.best_f) == -5.0
    assert improvement.model.train_inputs[0][-1].tolist() == [0, 0, 1, 1, 1]


def test_without_reports_the_design_goes_on(space) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper")
    runs = [optimizer.ask() for _ in range(30)]
    assert all(run.steps <= 900 for run in runs)
    assert len({tuple(run.mixture.values()) for run in runs}) == 30


def test_diverged_and_failed_runs_do_not_stop_the_search(space, drive) -> None:
    optimizer = MixtureOptimizer(space, strategy="paper")
    drive(optimizer, 18)
    diverged, failed = optimizer.ask(), optimizer.ask()
    optimizer.tell(diverged.trial_id, 100, math.nan)
    for run in (diverged, failed):
        optimizer.finish(run.trial_id, failed=True)
    (after,) = drive(optimizer, 1)
    assert after.steps >= 6000
    assert optimizer.history[after.trial_id].acquisition > 0


def test_spaces_without_short_rungs_or_parameters(drive) -> None:
    fields = {"domains": ("wikipedia", "github", "book"), "scales": (Scale("20M", 0.01), Scale("1B", 1.0))}
    space = MixtureSpace(**fields, steps=(2000, 6000, 19700))
    strategy = MixtureOptimizer(space, strategy="paper")._strategy
    assert (strategy.design_steps, strategy.search_steps) == ([2000], [6000, 19700])
    assert strategy._relative_size == {"20M": 0.01, "1B": 1.0}  # costs stand in for unknown parameters
    single = MixtureSpace(**fields, steps=(19700,))
    runs = drive(MixtureOptimizer(single, strategy="paper"), 22)
    assert {run.steps for run in runs} == {19700}


def test_unknown_options_are_refused(space) -> None:
    problem = replace(MixtureOptimizer(space, strategy="random").problem)
    with pytest.raises(ValueError, match="kernel must be one of rbf, tv, jsd, got 'matern'"):
        PaperStrategy(problem, kernel="matern")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise must be one of printed, script, got 'none'"):
        PaperStrategy(problem, noise="none")  # type: ignore[arg-type]


def test_the_users_random_state_is_left_alone(space, drive) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drive(MixtureOptimizer(space, strategy="paper"), 21)
    assert torch.equal(torch.get_rng_state(), before)
