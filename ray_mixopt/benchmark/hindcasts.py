"""What others' methods say of hidden runs, given the same smaller ones: methods for ``analysis.backtest``.

RegMix, the Gaussian process and the plain regressions look at one scale, the largest given, and know nothing of the
level of another. The laws and the paper's process take every report. All get losses, signed so that less is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from ray_mixopt.analysis.baselines import METHODS, Method, OneScale, by_cell
from ray_mixopt.analysis.scores import Hindcast
from ray_mixopt.benchmark.methods import find
from ray_mixopt.benchmark.rivals.laws import MixtureLaw
from ray_mixopt.benchmark.rivals.regressions import ExponentialLaw, boosted_trees, extrapolated, log_linear
from ray_mixopt.core.history import History
from ray_mixopt.core.problem import Problem

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP

Regression = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def of_one_scale(regression: Regression) -> Method:
    """The method that fits a regression to what the largest scale showed; None below three mixtures."""

    def method(problem: Problem, given: History, asked: np.ndarray) -> Hindcast | None:
        largest = OneScale.of(given, problem)
        if largest is None or len(largest.values) < 3:
            return None
        mixtures, values = largest.arrays()
        predicted = regression(mixtures, problem.sign * values, asked)
        return Hindcast(mean=problem.sign * predicted, has_level=False)

    return method


def regmix_lightgbm(w: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Losses ``(k,)`` by LightGBM with the settings of the search of that name."""
    return boosted_trees(w, y, asked, find("regmix-lightgbm").settings["lightgbm"])


def gaussian_process(problem: Problem, given: History, asked: np.ndarray) -> Hindcast | None:
    """BoTorch's ``SingleTaskGP`` on the shares, as it comes, of what the largest scale showed."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    largest = OneScale.of(given, problem)
    if largest is None or len(largest.values) < 3:
        return None
    mixtures, values = (torch.from_numpy(array) for array in largest.arrays())
    model = SingleTaskGP(mixtures, values[:, None])
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return replace(_posterior(model, asked), has_level=False)


def mixing_law(problem: Problem, given: History, asked: np.ndarray) -> Hindcast | None:
    """Data Mixing Laws: each mixture's losses extrapolated to the target, then a law over mixtures.

    For that a mixture must have been run at all scales given; None below three such mixtures.
    """
    cells = {cell: found for cell, found in by_cell(given, problem).items() if cell[0] != problem.space.target_scale}
    most: dict[str, int] = {}
    for (scale, _), found in cells.items():
        most[scale] = max(most.get(scale, 0), len(found))
    # Lengths that only some runs of a scale have would leave few mixtures.
    full = {cell: found for cell, found in cells.items() if len(found) >= 0.9 * most[cell[0]]}
    common = sorted(set.intersection(*(set(found) for found in full.values()))) if full else []
    if len(common) < 3:
        return None
    settings = find("mixing-law").settings
    sizes, lengths = _fidelities(problem, list(full))
    values = problem.sign * np.array([[found[mixture] for found in full.values()] for mixture in common])
    at_target = extrapolated(sizes, lengths, values, settings["exponents"])
    rng = np.random.default_rng([problem.settings.seed, 3])
    law = ExponentialLaw(np.array(common), at_target, settings["terms"], settings["starts"], rng)
    return Hindcast(mean=problem.sign * law(asked))


def mixture_law(*, joint: bool) -> Method:
    """The method that fits the additive or the joint law of arXiv 2507.09404 to every report."""

    def method(problem: Problem, given: History, asked: np.ndarray) -> Hindcast:
        rows = _reports(problem, given)
        law = MixtureLaw(*rows, joint=joint, seed=problem.settings.seed)
        return Hindcast(mean=problem.sign * law(asked))

    return method


def paper(problem: Problem, given: History, asked: np.ndarray) -> Hindcast:
    """The Gaussian process of MFMS-GP, which takes all reports of its first 20 runs and the last of every other."""
    import torch
    from gpytorch.means import LinearMean

    from ray_mixopt.strategies.paper import N_DESIGN, NOISE, fit, paper_gp, product_kernel

    runs = [trial for trial in given if any(problem.value(seen) is not None for seen in trial.observations.values())]
    rng = problem.rng()
    first = {runs[i].trial_id for i in rng.permutation(len(runs))[:N_DESIGN]}
    design = History(given.space)
    for trial in runs:
        if trial.trial_id in first:
            design.add(replace(trial))
    last = History(given.space)
    for trial in runs:
        if trial.trial_id not in first:
            last.add(replace(trial, observations={trial.reached: trial.observations[trial.reached]}))
    data = []
    for mixtures, sizes, lengths, losses in (_reports(problem, part) for part in (design, last)):
        data.append((torch.from_numpy(np.column_stack([mixtures, sizes, lengths])), torch.from_numpy(losses)))
    d = asked.shape[1]
    with torch.random.fork_rng(devices=[]):  # the linear mean starts from random weights
        torch.manual_seed(int(rng.integers(2**62)))
        mean = LinearMean(d + 2).double()
    prior = paper_gp(data[0][0], data[0][1], NOISE, mean, product_kernel(d, "rbf"))
    fit(prior)
    inputs, values = (torch.cat(parts) for parts in zip(*data, strict=True))
    model = paper_gp(inputs, values, NOISE, prior.mean_module, prior.covar_module)
    said = _posterior(model, np.column_stack([asked, np.ones((len(asked), 2))]))
    return replace(said, mean=problem.sign * said.mean)


RIVALS: Mapping[str, Method] = {
    "regmix-log-linear": of_one_scale(log_linear),
    "regmix-lightgbm": of_one_scale(regmix_lightgbm),
    "gp-one-scale": gaussian_process,
    "mixing-law": mixing_law,
    "additive-law": mixture_law(joint=False),
    "joint-law": mixture_law(joint=True),
    "paper": paper,
}
"""Others' methods by the names under which they are scored."""

EVERYTHING: Mapping[str, Method] = {**METHODS, **RIVALS}
"""The surrogate, what needs no model, and others' methods."""


def obstacle(name: str) -> str:
    """Why a method cannot be asked in this environment; "" where it can."""
    return find(name).obstacle if name == "regmix-lightgbm" else ""


def _reports(problem: Problem, given: History) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of ``n`` reports of the objective: mixtures ``n x d``, sizes and lengths relative to the target, and losses."""
    rows = [
        (trial.mixture, (trial.scale, step), problem.sign * value)
        for trial in given
        for step, metrics in trial.observations.items()
        if (value := problem.value(metrics)) is not None
    ]
    mixtures = np.array([mixture for mixture, _, _ in rows]).reshape(len(rows), problem.space.n_domains)
    sizes, lengths = _fidelities(problem, [cell for _, cell, _ in rows])
    return mixtures, sizes, lengths, np.array([loss for _, _, loss in rows])


def _fidelities(problem: Problem, cells: list[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (costs of a step where those are not known) and steps of each, relative to the target's."""
    space = problem.space
    known = all(scale.parameters is not None for scale in space.scales)
    sizes = {s.name: float(s.parameters or 0) if known else s.cost_per_step for s in space.scales}
    of = [(sizes[scale] / sizes[space.target_scale], step / space.target_steps) for scale, step in cells]
    both = np.array(of, dtype=float).reshape(len(of), 2)
    return both[:, 0], both[:, 1]


def _posterior(model: SingleTaskGP, at: np.ndarray) -> Hindcast:
    """The joint posterior of the values without noise at ``n`` rows of inputs."""
    import torch
    from botorch.posteriors import GPyTorchPosterior

    with torch.no_grad():
        normal = cast(GPyTorchPosterior, model.posterior(torch.from_numpy(at))).distribution
        return Hindcast(mean=normal.mean.numpy(), covariance=normal.covariance_matrix.numpy())
