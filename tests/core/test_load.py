"""Large searches: many metrics, many domains and many reports take other ways, which must lead to the same place."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from worlds import SMALL_LARGE, given, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace
from ray_mixopt.analysis.study import Study
from ray_mixopt.analysis.trajectory import sensible_points
from ray_mixopt.core.objective import Objective
from ray_mixopt.strategies.candidates import SimplexCandidates
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.surrogate import fit, kernels, posterior
from ray_mixopt.surrogate.belief import Belief, FitSettings
from ray_mixopt.surrogate.bundles import bundled
from ray_mixopt.surrogate.fit import laplace_draws, map_estimate

SPACE = two_scales("a", "b", "c")
METRICS = [f"m{i}" for i in range(12)]


def metrics(mixture: dict[str, float], scale: str, step: int) -> dict[str, float]:
    """Twelve of two kinds: one kind wants the first domain, the other the second."""
    level = {"S": 1.0, "L": 0.5}[scale] + 10 / step
    a, b, _ = mixture.values()
    return {
        m: level + (a - 0.7) ** 2 * (i % 2) + (b - 0.6) ** 2 * (1 - i % 2) + 0.01 * i * a for i, m in enumerate(METRICS)
    }


def told(weights: dict[str, float] | Objective, n: int = 24, **fits: object) -> MixtureOptimizer:
    """An optimizer that was given runs of the twelve metrics."""
    settings = DefaultSettings(fit=FitSettings(**fits))
    optimizer = MixtureOptimizer(
        SPACE, objective=weights, strategy=lambda problem: DefaultStrategy(problem, settings=settings)
    )
    return given(optimizer, n, metrics)


def test_many_metrics_are_a_few_sums_of_like_ones() -> None:
    optimizer = told(dict.fromkeys(METRICS, 1.0))
    data = optimizer.belief.data(optimizer.problem, optimizer.history)
    assert len(data) == 4
    total = torch.stack([values.y for values in data.values()]).sum(0)
    runs = next(iter(data.values())).runs
    seen = [sum(next(iter(optimizer.history[run].observations.values())).values()) for run in runs]
    assert total.numpy() == pytest.approx(np.array(seen))
    parts = {
        name: optimizer.belief.data(replace_objective(optimizer, name), optimizer.history)[name] for name in METRICS
    }
    bundles = bundled(parts, dict.fromkeys(METRICS, 1.0), 2, lambda n: n)
    assert sorted(bundle.metrics for bundle in bundles) == [tuple(METRICS[0::2]), tuple(METRICS[1::2])]
    assert [bundle.name for bundle in bundles] in (["m0 + 5 more", "m1 + 5 more"], ["m1 + 5 more", "m0 + 5 more"])


def replace_objective(optimizer: MixtureOptimizer, name: str):
    return optimizer.problem.asking({name: 1.0})


def test_a_sum_is_predicted_as_its_metrics_are() -> None:
    """A model for each of four, or one for two of a kind: the same answers, give or take a little."""
    mixtures = SPACE.sample(20, np.random.default_rng(0))
    some = dict.fromkeys(METRICS[:4], 1.0)
    apart = told(some).predict(mixtures)
    together = told(some, most_models=3, bundles=2).predict(mixtures)
    spread = apart.mean.std()
    assert np.abs(apart.mean - together.mean).max() < 0.2 * spread
    assert np.corrcoef(apart.mean, together.mean)[0, 1] > 0.99


def test_ten_metrics_have_a_model_each() -> None:
    optimizer = told(dict.fromkeys(METRICS[:10], 1.0))
    assert list(optimizer.belief.data(optimizer.problem, optimizer.history)) == METRICS[:10]


def test_what_makes_it_slow_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = told(Objective(weights=dict.fromkeys(METRICS, 1.0), relative_to="uniform"), n=4)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(optimizer.belief.data(optimizer.problem, optimizer.history)) == 12
    assert caplog.text.count("12 metrics, and relative_to needs 12 models") == 1
    caplog.clear()
    apart = MixtureOptimizer(SPACE, objective=dict.fromkeys(METRICS, 1.0))
    for i, name in enumerate(METRICS):  # every run reports another one
        for mixture in SPACE.sample(2, np.random.default_rng(i)):
            apart.add_evaluated_point(SPACE.named(mixture), "S", 100, {name: 1.0})
    with caplog.at_level(logging.WARNING):
        assert len(apart.belief.data(apart.problem, apart.history)) == 12
    assert "runs that report different ones need 12 models" in caplog.text and "all metrics" in caplog.text


def test_a_report_shows_models_that_are_sums_or_full() -> None:
    """Beyond what a model holds, and with fewer models than metrics."""
    some = dict.fromkeys(METRICS[:4], 1.0)
    optimizer = told(some, n=30, most_used=20, fewer_draws=5, most_models=3, bundles=2)
    study = Study(optimizer, "large")
    assert [len(part.observed) for part in study.left_out] == [20] * 2
    assert study.recommendation.left_out == 2 * 10
    assert study.recommendation.calibration.n == 20
    assert len(study.slices) == 3 and study.front is not None


def test_in_pieces_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is solved for at a time decides about memory and nothing else."""
    suggestions, answers = [], []
    for entries in (2**24, 2**12):
        monkeypatch.setattr(posterior, "_MOST_ENTRIES", entries)
        optimizer = told({"m0": 1.0, "m1": 0.5}, n=12)
        answers.append(optimizer.recommend())
        optimizer.history.n_asked = 99  # the design is done
        suggestions.append(optimizer.ask("next"))
        mean, variance = optimizer.posterior().marginal(SPACE.sample(50, np.random.default_rng(0)))
        assert mean.shape == variance.shape == (8, 50)
    assert [(s.scale, s.steps) for s in suggestions] == [(suggestions[0].scale, suggestions[0].steps)] * 2
    assert list(suggestions[1].mixture.values()) == pytest.approx(list(suggestions[0].mixture.values()), abs=1e-6)
    assert list(answers[1].mixture.values()) == pytest.approx(list(answers[0].mixture.values()), abs=1e-6)


def test_of_very_many_mixtures_tried_the_dearest_are_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = told({"m0": 1.0}, n=40)
    rng = np.random.default_rng
    every = SimplexCandidates(SPACE).at_target(rng(0), 8, optimizer.history)
    monkeypatch.setattr("ray_mixopt.strategies.candidates._MOST_TRIED", 10)
    fewer = SimplexCandidates(SPACE).at_target(rng(0), 8, optimizer.history)
    assert len(every) - len(fewer) == 30
    kept = {tuple(w) for w in fewer[-10:]}
    assert all(run.scale == "L" and run.reached == 1000 for run in optimizer.history if run.mixture in kept)


def test_gradients_of_many_domains_are_torchs_own() -> None:
    u1 = torch.rand(7, 40, dtype=torch.float64, requires_grad=True)
    u2 = torch.cat([u1.detach()[:2], torch.rand(3, 40, dtype=torch.float64)]).requires_grad_()
    weights = torch.rand(7, 5, dtype=torch.float64)
    found = []
    for distance in (kernels._distance(u1, u2), torch.cdist(u1, u2, compute_mode="donot_use_mm_for_euclid_dist")):
        value = (weights * kernels.matern(distance)).sum()
        found.append((value.detach(), *torch.autograd.grad(value, (u1, u2))))
    for ours, torchs in zip(*found, strict=True):
        assert torch.allclose(ours, torchs, atol=1e-6)


def test_reports_of_one_mixture_are_known_to_be_among_many_domains() -> None:
    mixtures = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(40), 20))
    moved = mixtures[0] + 1e-6 * (mixtures[1] - mixtures[0])
    x = torch.cat([torch.cat([mixtures, mixtures[:3], moved[None]]), torch.zeros(24, 2)], 1)
    found = kernels.MixtureFidelityKernel(40).double().shared_error(x, x) > 0
    rows, columns = (found & ~torch.eye(24, dtype=torch.bool)).nonzero(as_tuple=True)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (0, 20),
        (1, 21),
        (2, 22),
        (20, 0),
        (21, 1),
        (22, 2),
    ]


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("at_one", [True, False])
def test_covariances_of_many_points_are_those_of_each(d: int, at_one: bool) -> None:
    """Whether the points lie at one fidelity, as mixtures at the target do, or at several, and in any order."""
    rng = np.random.default_rng(1)
    mixtures, fidelities = torch.from_numpy(rng.dirichlet(np.ones(d), 9)), torch.from_numpy(-rng.random((4, 2)))
    here = fidelities[:1].expand(12, 2) if at_one else fidelities[torch.from_numpy(rng.integers(0, 4, 12))]
    x1 = torch.cat([mixtures[torch.from_numpy(rng.integers(0, 9, 12))], here], 1)
    grid = torch.cat([mixtures.repeat_interleave(4, 0), fidelities.repeat(9, 1)], 1)
    kernel = kernels.MixtureFidelityKernel(d, torch.Size([2])).double()
    for x2 in (grid, grid[torch.from_numpy(rng.permutation(36)[:9])]):
        expected = kernel(x1, x2).to_dense().detach()
        assert torch.allclose(kernel.between(x1, x2), expected, rtol=1e-12, atol=1e-9)


def test_the_directions_that_data_tell_about_are_found() -> None:
    p = 80
    basis = torch.linalg.qr(torch.randn(p, p, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    values = torch.ones(p, dtype=torch.float64)
    values[:6] = torch.tensor([1e4, 3e3, 500.0, 90.0, 20.0, 5.0])
    matrix = (basis * values) @ basis.T
    found, vectors = fit._lanczos(lambda v: matrix @ v, torch.ones(p, dtype=torch.float64), 16)
    assert found.sort(descending=True).values[:6].numpy() == pytest.approx(values[:6].numpy(), rel=1e-6)
    assert torch.allclose(vectors.T @ vectors, torch.eye(len(found), dtype=torch.float64), atol=1e-8)
    assert len(found) == 7, "there are no more different ones"


def test_draws_of_many_hyper_parameters_are_those_of_the_whole_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both can be had, their scatter is the same, in units of the prior, but for the random numbers."""
    space = MixtureSpace(domains=tuple("abcdefgh"), scales=SMALL_LARGE, steps=(100, 1000))
    rng = np.random.default_rng(0)
    w = space.sample(60, rng)
    x = torch.from_numpy(np.concatenate([w, -2 * rng.random((60, 2))], axis=1))
    y = torch.from_numpy(np.square(w[:, 0] - 0.4) * 8 - x[:, -1].numpy() + 0.01 * rng.standard_normal(60))
    y = (y - y.mean()) / y.std()
    mode, scale = map_estimate(x, y), fit.Hyperparameters(8).prior().std
    modes, scatter = [], []
    for many in (64, 8):
        monkeypatch.setattr(fit, "_MANY", many)
        draws = laplace_draws(x, y, mode, 400, np.random.default_rng(1)) / scale
        modes.append(draws[0])
        scatter.append((draws - draws[0])[1:].std(0))
    assert torch.allclose(*modes, atol=0.05)
    assert torch.allclose(*scatter, atol=0.15)


def test_large_searches_are_followed_at_fewer_points() -> None:
    small, large = told({"m0": 1.0}), told({"m0": 1.0}, n=30)
    assert sensible_points(small, 16) == 16
    large._belief = Belief(0, settings=FitSettings(most_fitted=320))
    assert sensible_points(large, 16) == 16
    for w in SPACE.sample(400, np.random.default_rng(5)):
        large.add_evaluated_point(SPACE.named(w), "S", 100, metrics(SPACE.named(w), "S", 100))
    assert 4 <= sensible_points(large, 16) < 8
    assert sensible_points(large, 4) >= 1
