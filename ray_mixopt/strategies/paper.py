"""MFMS-GP, the paper's algorithm as printed (arXiv 2503.21023, Algorithm 1 and appendix C).

Notation: ``d`` domains, ``n`` observations, ``k`` points in a batch. A row of the surrogate's inputs is
``(w_1 .. w_d, m, z)``: shares, model scale and training steps, the last two relative to the target.

It is kept as a preset to compare against, with its weaknesses: raw inputs and outputs, hyper-parameters that are never
refitted, one incumbent for all fidelities, and no regard for runs still on their way.
"""

from __future__ import annotations

import copy
import warnings
from typing import Literal, get_args

import botorch.settings
import gpytorch
import numpy as np
import torch
from botorch.acquisition import ExpectedImprovement
from botorch.exceptions.warnings import NumericsWarning
from botorch.models import SingleTaskGP
from botorch.optim.batched_lbfgs_b import fmin_l_bfgs_b_batched
from gpytorch.kernels import Kernel, RBFKernel
from gpytorch.means import LinearMean, Mean
from torch.special import entr

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.simplex import CappedSimplex, same_mixture
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.strategies.random import best_observed

KernelName = Literal["rbf", "tv", "jsd"]
NoiseName = Literal["printed", "script"]

N_DESIGN = 20
DESIGN_LENGTH = 900 / 19700  # longest initial run, as a share of the target's steps
NOISE = 0.1  # variance
JITTER = 1e-8  # variance in place of none
ADAM_STEPS, ADAM_RATE = 50, 0.1
N_STARTS = 5
LOGIT_BOUND = 3.0
COST_EXPONENT_DECAY = 0.99
LOW_IMPROVEMENT, SHRINKAGE = 1e-4, 0.95

PAPER_RUNGS = (*range(100, 1000, 100), 6000, 12000, 19700)  # short ones for the initial design, three to search over


def paper_rungs(target_steps: int) -> tuple[int, ...]:
    """The paper's rungs, in proportion to the training steps of the target."""
    return tuple(sorted({max(1, round(rung * target_steps / PAPER_RUNGS[-1])) for rung in PAPER_RUNGS}))


class TotalVariationKernel(Kernel):
    """``exp(-TV(w, w') / l)`` with ``TV = |w - w'|_1 / 2``: a Laplacian kernel, hence positive definite."""

    has_lengthscale = True

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params: object) -> torch.Tensor:
        """Covariances of ``n1 x d`` and ``n2 x d`` mixtures, ``n1 x n2`` (or the diagonal)."""
        p, q = _pairs(x1, x2, diag)
        return torch.exp(-0.5 * (p - q).abs().sum(-1) / self.lengthscale.squeeze())


class JensenShannonKernel(Kernel):
    """``exp(-JSD(w, w') / (2 l^2))``, the RBF kernel of the Jensen-Shannon distance ``sqrt(JSD)`` (in nats).

    ``sqrt(JSD)`` embeds isometrically in a Hilbert space (Fuglede & Topsoe, 2004), so the kernel is positive definite.
    """

    has_lengthscale = True

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params: object) -> torch.Tensor:
        """Covariances of ``n1 x d`` and ``n2 x d`` mixtures, ``n1 x n2`` (or the diagonal)."""
        p, q = _pairs(x1, x2, diag)
        divergence = (entr(0.5 * (p + q)) - 0.5 * (entr(p) + entr(q))).sum(-1)
        return torch.exp(-0.5 * divergence.clamp_min(0.0) / self.lengthscale.squeeze() ** 2)


MIXTURE_KERNELS: dict[KernelName, type[Kernel]] = {
    "rbf": RBFKernel,
    "tv": TotalVariationKernel,
    "jsd": JensenShannonKernel,
}


def paper_gp(
    inputs: torch.Tensor, values: torch.Tensor, variance: float, mean: Mean, covariance: Kernel
) -> SingleTaskGP:
    """The paper's Gaussian process: values as they are, with noise of a given variance.

    Args:
        inputs: ``n x (d + 2)``.
        values: ``(n,)``, minimised.
        variance: of the noise of every value.
        mean: prior mean.
        covariance: kernel.
    """
    noise = torch.full_like(values, variance)[:, None]
    # Raw inputs and next to no noise are the algorithm's own.
    with botorch.settings.validate_input_scaling(False), gpytorch.settings.min_fixed_noise(double_value=JITTER):
        model = SingleTaskGP(inputs, values[:, None], noise, None, covariance, mean, outcome_transform=None)
    return model.eval()


def product_kernel(d: int, kernel: KernelName) -> Kernel:
    """Product of three kernels: one on w, one on m, one on z, in this order."""
    on_mixture = MIXTURE_KERNELS[kernel](active_dims=tuple(range(d)))
    return (on_mixture * RBFKernel(active_dims=(d,)) * RBFKernel(active_dims=(d + 1,))).double()


def fit(model: SingleTaskGP) -> None:
    """50 steps of Adam on the exact log marginal likelihood; the hyper-parameters are fixed after that."""
    model.train()
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM_RATE)
    for _ in range(ADAM_STEPS):
        optimizer.zero_grad()
        loss = -likelihood(model(*model.train_inputs), model.train_targets)
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)
    model.eval()


def expected_improvement(model: SingleTaskGP) -> ExpectedImprovement:
    """Expected improvement on the lowest value observed at any fidelity, one incumbent for all (as printed)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericsWarning)  # its logarithm would behave better, and is not the paper's
        return ExpectedImprovement(model, best_f=model.train_targets.min(), maximize=False)


class PaperStrategy:
    """MFMS-GP: expected improvement per cost^alpha over mixtures, scales and steps.

    Chosen as ``strategy="paper"``; ``"paper:kernel=tv"`` and ``"paper:kernel=jsd"`` put another kernel on the mixture.
    The paper's public script differs from its text in the noise: once the first suggestion is evaluated, GPyTorch drops
    it there from all observations. The text is the default, ``"paper:noise=script"`` is the script.

    What the paper leaves open: with floors and caps, mixtures are projected onto them; with a pool of logged runs,
    expected improvement is maximised over the pool; only runs that fit the budget are considered; runs on their way
    are ignored, except that none of them is suggested a second time. The lengthscales of m and z have shrunk by 5% for
    every earlier suggestion whose own expected improvement was below 1e-4.

    Args:
        problem: what is searched.
        kernel: on the mixture: "rbf", "tv" (total variation) or "jsd" (Jensen-Shannon).
        noise: "printed": variance 0.1 for every observation; "script": none after the first suggestion.

    Raises:
        ValueError: for an unknown kernel or noise.
    """

    def __init__(self, problem: Problem, *, kernel: KernelName = "rbf", noise: NoiseName = "printed") -> None:
        if kernel not in get_args(KernelName):
            raise ValueError(f"kernel must be one of {', '.join(get_args(KernelName))}, got {kernel!r}.")
        if noise not in get_args(NoiseName):
            raise ValueError(f"noise must be one of {', '.join(get_args(NoiseName))}, got {noise!r}.")
        self.problem, self.kernel, self.noise = problem, kernel, noise
        space = problem.space
        short = [step for step in space.steps if step <= DESIGN_LENGTH * space.target_steps]
        self.design_steps = short or [space.steps[0]]
        self.search_steps = [step for step in space.steps if step > self.design_steps[-1]] or list(space.steps)
        known = all(scale.parameters is not None for scale in space.scales)
        sizes = {s.name: float(s.parameters or 0) if known else s.cost_per_step for s in space.scales}
        self._relative_size = {name: size / sizes[space.target_scale] for name, size in sizes.items()}
        self._fitted: tuple[bytes, SingleTaskGP] | None = None

    # -- Strategy

    def propose(self, history: History) -> Proposal | None:
        """The initial design first, then the largest expected improvement per cost^alpha."""
        asked = [trial for trial in history if not trial.evaluated]
        first = [trial for trial in asked[:N_DESIGN] if trial.steps in self.design_steps]
        if len(asked) < N_DESIGN and (run := self._random_run(history)) is not None:
            return run
        design = self._data([(trial, step) for trial in first for step in sorted(trial.observations)])
        if not len(design[1]):  # nothing to fit the hyper-parameters to, yet
            return self._random_run(history)
        initial = {trial.trial_id for trial in first}
        later = self._data([(t, t.reached) for t in history if t.trial_id not in initial and t.observations])
        inputs, values = torch.cat([design[0], later[0]]), torch.cat([design[1], later[1]])
        variance = JITTER if self.noise == "script" and len(later[1]) else NOISE
        shrinks = sum(t.acquisition is not None and t.acquisition < LOW_IMPROVEMENT for t in asked)
        prior = self._prior(*design, shrinks)
        improvement = expected_improvement(paper_gp(inputs, values, variance, prior.mean_module, prior.covar_module))
        exponent = COST_EXPONENT_DECAY ** (len(asked) - len(first))
        best = self._search if self.problem.pool is None else self._search_pool
        return best(history, improvement, exponent)

    def recommend(self, history: History) -> Recommendation:
        """The mixture of the best observation so far, whatever its fidelity."""
        return best_observed(self.problem, history, target_only=False)

    # -- the initial design

    def _random_run(self, history: History) -> Proposal | None:
        """A Dirichlet(1) mixture at a random scale and short rung; with a pool, one of its short runs."""
        rng = self.problem.rng(history.n_asked)
        if self.problem.pool is not None:
            runs = self._untried(history, self.design_steps)
            if not runs:
                return None
            mixture, scale, steps = runs[rng.integers(len(runs))]
            return Proposal(mixture=mixture, scale=scale, steps=steps)
        cells = self._cells(history, self.design_steps)
        if not cells:
            return None
        scale, steps = cells[rng.integers(len(cells))]
        return Proposal(mixture=self.problem.space.sample(1, rng)[0], scale=scale, steps=steps)

    def _prior(self, inputs: torch.Tensor, values: torch.Tensor, shrinks: int) -> SingleTaskGP:
        """Fitted to the initial design, m and z lengthscales shrunk; the fit is done once a process."""
        key = inputs.numpy().tobytes() + values.numpy().tobytes()
        if self._fitted is None or self._fitted[0] != key:
            d = inputs.shape[1] - 2
            with torch.random.fork_rng(devices=[]):  # the linear mean starts from random weights
                torch.manual_seed(int(self.problem.rng().integers(2**62)))
                mean = LinearMean(d + 2).double()
            model = paper_gp(inputs, values, NOISE, mean, product_kernel(d, self.kernel))
            fit(model)
            self._fitted = key, model
        model = copy.deepcopy(self._fitted[1])
        for kernel in model.covar_module.kernels[1:]:
            kernel.lengthscale = kernel.lengthscale * SHRINKAGE**shrinks
        return model

    # -- the search

    def _search(self, history: History, improvement: ExpectedImprovement, exponent: float) -> Proposal | None:
        """Maximises expected improvement over w in every (m, z) and picks the best per cost^exponent."""
        space, rng = self.problem.space, self.problem.rng(history.n_asked)
        cells = self._cells(history, self.search_steps)
        if not cells:
            return None
        rows = [cell for cell in cells for _ in range(N_STARTS)]
        fidelities = self._fidelities(rows)  # (k, 2)
        starts = np.log(np.maximum(rng.dirichlet(np.ones(space.n_domains), len(rows)), 1e-300))
        starts -= starts.mean(1, keepdims=True)

        def descend(logits: np.ndarray, batch_indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            x = torch.from_numpy(logits).requires_grad_(True)
            negative = -improvement(torch.cat([_mixtures(x, space.simplex), fidelities[batch_indices]], 1).unsqueeze(1))
            (gradient,) = torch.autograd.grad(negative.sum(), x)
            return negative.detach().numpy(), gradient.numpy()

        bounds = [(-LOGIT_BOUND, LOGIT_BOUND)] * space.n_domains
        logits, negative, _ = fmin_l_bfgs_b_batched(descend, starts, bounds=bounds, pass_batch_indices=True)
        mixtures = space.simplex.project(_mixtures(torch.from_numpy(logits), space.simplex).numpy())
        score = -negative / np.array([space.cost(*row) for row in rows]) ** exponent
        for i in np.argsort(-score, kind="stable"):
            scale, steps = rows[i]
            if not _on_its_way(history, mixtures[i], scale, steps):
                return Proposal(mixture=mixtures[i], scale=scale, steps=steps, acquisition=float(-negative[i]))
        return self._random_run(history)

    def _search_pool(self, history: History, improvement: ExpectedImprovement, exponent: float) -> Proposal | None:
        """The run of the pool, not yet tried, with the largest expected improvement per cost^exponent."""
        runs = self._untried(history, self.search_steps)
        if not runs:
            return None
        mixtures, cells = torch.tensor(np.array([w for w, _, _ in runs])), [(scale, steps) for _, scale, steps in runs]
        with torch.no_grad():
            values = improvement(torch.cat([mixtures, self._fidelities(cells)], 1).unsqueeze(1)).numpy()
        i = int(np.argmax(values / np.array([self.problem.space.cost(*cell) for cell in cells]) ** exponent))
        return Proposal(mixture=runs[i][0], scale=runs[i][1], steps=runs[i][2], acquisition=float(values[i]))

    # -- inside

    def _cells(self, history: History, rungs: list[int]) -> list[tuple[str, int]]:
        """Scales and rungs that fit the budget."""
        space, limit = self.problem.space, self.problem.affordable(history)
        return [(name, z) for name, z in space.fidelities if z in rungs and space.cost(name, z) <= limit]

    def _untried(self, history: History, rungs: list[int]) -> list[tuple[np.ndarray, str, int]]:
        """Runs of the pool that fit the budget and that no earlier run has covered."""
        pool, space = self.problem.pool, self.problem.space
        assert pool is not None
        covered = np.zeros((len(pool.mixtures), len(space.scales)), dtype=np.int64)
        for trial, row in zip(history, pool.rows(history.mixtures()), strict=True) if len(history) else ():
            if row >= 0 and trial.scale in space.scale_names:
                column = space.scale_names.index(trial.scale)
                covered[row, column] = max(covered[row, column], trial.steps)
        runs = []
        for scale, steps in self._cells(history, rungs):
            column = space.scale_names.index(scale)
            there = pool.available[:, column, space.steps.index(steps)] & (covered[:, column] < steps)
            runs += [(w, scale, steps) for w in pool.mixtures[there]]
        return runs

    def _fidelities(self, cells: list[tuple[str, int]]) -> torch.Tensor:
        """Scale and steps relative to the target, ``k x 2``."""
        target = self.problem.space.target_steps
        rows = [(self._relative_size[scale], steps / target) for scale, steps in cells]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 2)

    def _data(self, reports: list[tuple[Trial, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs ``n x (d + 2)`` and values to minimise ``(n,)`` of the reports that hold the objective."""
        values = [self.problem.value(trial.observations[step]) for trial, step in reports]
        kept = [(report, value) for report, value in zip(reports, values, strict=True) if value is not None]
        mixtures = np.array([trial.mixture for (trial, _), _ in kept]).reshape(-1, self.problem.space.n_domains)
        fidelities = self._fidelities([(trial.scale, step) for (trial, step), _ in kept])
        objective = torch.tensor([self.problem.sign * value for _, value in kept], dtype=torch.float64)
        return torch.cat([torch.from_numpy(mixtures), fidelities], 1), objective


def _mixtures(logits: torch.Tensor, simplex: CappedSimplex) -> torch.Tensor:
    """Softmax, then the nearest mixture within the bounds, ``k x d``; differentiable."""
    w = torch.softmax(logits, 1)
    if not simplex.bounded:
        return w
    nearest = torch.from_numpy(simplex.project(w.detach().numpy()))
    # A share at a bound may miss it by the rounding error of the sum.
    free = (nearest > torch.from_numpy(simplex.lower + 1e-9)) & (nearest < torch.from_numpy(simplex.upper - 1e-9))
    # Shares at a bound stay there; the others move by the one shift that keeps the sum, as in the projection itself.
    shift = torch.where(free, nearest - w, 0.0).sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp_min(1)
    return torch.where(free, w + shift, nearest)


def _on_its_way(history: History, mixture: np.ndarray, scale: str, steps: int) -> bool:
    return any(
        trial.scale == scale and trial.steps == steps and same_mixture(trial.mixture, mixture)
        for trial in history.pending()
    )


def _pairs(x1: torch.Tensor, x2: torch.Tensor, diag: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return (x1, x2) if diag else (x1.unsqueeze(-2), x2.unsqueeze(-3))
