"""Hyper-parameters of one metric's surrogate: the MAP estimate, and draws from a Laplace approximation around it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from ray_mixopt.core.turns import on_one_thread, with_gradients
from ray_mixopt.surrogate.kernels import MixtureFidelityKernel, MixtureKernel

_MAX_ITERATIONS = 100
_TOLERANCE = 1e-5  # relative, of the log density: a thousandth of a nat or so
_BOUND = 4.0  # prior standard deviations a hyper-parameter may go
_STEP = 1e-3  # of the differences of gradients
_CACHED = 2**17  # entries of a batch of covariances
_MANY = 64  # hyper-parameters
_DIRECTIONS = 32  # of those, in which the curvature is measured
_JITTER = 1e-8
_NOISE_FLOOR = 1e-6  # standardised variance; keeps replicates from making the covariance singular

NOISE_PRIOR = (math.log(1e-4), 2.0)  # location and width, of the log of the standardised variance

KernelMaker = Callable[[int, torch.Size], MixtureKernel]
"""Makes a kernel of the number of domains and a batch shape; a class of kernels does."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Independent Gaussians on the logarithms of the hyper-parameters, in ``unpack`` order.

    Args:
        mean: ``(p,)``.
        std: ``(p,)``.
    """

    mean: Tensor
    std: Tensor

    def log_density(self, theta: Tensor) -> Tensor:
        """Up to a constant, ``batch_shape``."""
        return -0.5 * ((theta - self.mean) / self.std).square().sum(-1)


class Hyperparameters(torch.nn.Module):
    """A kernel and a noise variance whose parameters can be read and set as one vector.

    Args:
        n_domains: number of domains.
        batch_shape: batch of hyper-parameter draws.
        kernel: makes the kernel.
        scatter: standard deviation of the noise, standardised, where it is known: its parameter then means nothing.
    """

    def __init__(
        self,
        n_domains: int,
        batch_shape: torch.Size | None = None,
        kernel: KernelMaker = MixtureFidelityKernel,
        scatter: float | None = None,
    ) -> None:
        super().__init__()
        self.scatter = scatter
        self.batch_shape = torch.Size() if batch_shape is None else batch_shape
        self.kernel = kernel(n_domains, self.batch_shape)
        self.log_noise = torch.nn.Parameter(torch.zeros(*self.batch_shape, 1))
        self.double()

    def pack_grad(self) -> Tensor:
        """Gradients of all parameters, ``batch_shape x p``."""
        return torch.cat([_grad(p).reshape(*self.batch_shape, -1) for p in self.parameters()], -1)

    def unpack(self, theta: Tensor) -> None:
        """Set all parameters from ``batch_shape x p``."""
        with torch.no_grad():
            sizes = [p.numel() // max(math.prod(self.batch_shape), 1) for p in self.parameters()]
            for parameter, part in zip(self.parameters(), theta.split(sizes, -1), strict=True):
                parameter.copy_(part.reshape(parameter.shape))

    def prior(self) -> Prior:
        """The prior of what ``unpack`` sets."""
        n_batch = max(math.prod(self.batch_shape), 1)
        priors = {"log_noise": NOISE_PRIOR} | {f"kernel.{name}": prior for name, prior in self.kernel.priors.items()}
        moments = [
            [torch.as_tensor(moment, dtype=torch.float64).expand(p.numel() // n_batch) for moment in priors[name]]
            for name, p in self.named_parameters()
        ]
        return Prior(mean=torch.cat([mean for mean, _ in moments]), std=torch.cat([std for _, std in moments]))

    def noise(self) -> Tensor:
        """Variance of the observation noise, ``batch_shape x 1``."""
        if self.scatter is not None:
            return torch.full_like(self.log_noise, self.scatter**2 + _NOISE_FLOOR, requires_grad=False)
        return self.log_noise.exp() + _NOISE_FLOOR

    def nugget(self, variance: Tensor, known: Tensor | None = None) -> Tensor:
        """What is added to the prior variances of observations, ``batch_shape x n``: noise and a relative jitter.

        The jitter is in proportion since amplitudes may differ by orders of magnitude between fidelities. Observations
        may have a variance that is known beforehand, ``(n,)``, on top of the noise of all.
        """
        nugget = _JITTER * variance + self.noise()
        return nugget if known is None else nugget + known

    def noisy(self, covariance: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
        """The prior covariance at inputs ``n x d+2`` as that of ``n`` observations, ``batch_shape x n x n``.

        In place, unless a gradient is wanted: a kernel may need what it returned.
        """
        if covariance.requires_grad:
            covariance = covariance + self.kernel.shared_error(x, x)
        else:
            rows = max(1, _CACHED // max(1, covariance[..., 0, :].numel()))
            for start in range(0, len(x), rows):
                covariance[..., start : start + rows, :] += self.kernel.shared_error(x[start : start + rows], x)
        return self._with_nugget(covariance, known)

    def _with_nugget(self, covariance: Tensor, known: Tensor | None) -> Tensor:
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        diagonal += self.nugget(diagonal.clone(), known)
        return covariance

    def log_likelihood(self, x: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        """Log marginal likelihood of ``(n,)`` values at ``n x d+2``, ``batch_shape``."""
        density: Tensor = _LogDensity.apply(self._with_nugget(self.kernel.observed(x), known), y)
        return density


class _LogDensity(torch.autograd.Function):
    """Log density of ``(n,)`` values under a normal of mean 0 with covariance ``batch_shape x n x n``.

    Its derivative ``(P y y' P - P) / 2`` with the inverse ``P`` (Rasmussen & Williams 2006, Eq. 5.9) takes one
    inversion, a third of what it takes to go back through the factorisation.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(covariance)
        precision = torch.cholesky_inverse(factor)
        solved = precision @ y
        ctx.save_for_backward(precision, solved)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * solved @ y - log_det - 0.5 * len(y) * math.log(2 * math.pi)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        precision, solved = ctx.saved_tensors
        slope = solved.unsqueeze(-1) * solved.unsqueeze(-2) - precision
        return 0.5 * gradients[0][..., None, None] * slope, None


def _grad(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _loss_and_grad(
    model: Hyperparameters, prior: Prior, theta: Tensor, x: Tensor, y: Tensor, known: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Negative log posterior and its gradient for a batch of hyper-parameters."""
    model.unpack(theta)
    model.zero_grad()
    loss = -model.log_likelihood(x, y, known)
    loss.sum().backward()
    offset = (theta - prior.mean) / prior.std
    return loss.detach() - prior.log_density(theta), model.pack_grad() + offset / prior.std


def _own(*tensors: Tensor | None) -> list[Any]:
    """The tensors; copies of those made in inference mode, which can have no part in a gradient."""
    return [tensor.clone() if tensor is not None and tensor.is_inference() else tensor for tensor in tensors]


@on_one_thread
@with_gradients
def map_estimate(
    x: Tensor,
    y: Tensor,
    known: Tensor | None = None,
    kernel: KernelMaker = MixtureFidelityKernel,
    scatter: float | None = None,
) -> Tensor:
    """Hyper-parameters of largest posterior density, ``(p,)``.

    Args:
        x: inputs, ``n x d+2``.
        y: standardised values, ``(n,)``.
        known: variances of the values, ``(n,)``, on top of the noise, which is estimated unless ``scatter`` says it.
        kernel: makes the kernel.
        scatter: the noise's standard deviation, standardised, where it is known.
    """
    x, y, known = _own(x, y, known)
    model = Hyperparameters(x.shape[-1] - 2, kernel=kernel, scatter=scatter)
    prior = model.prior()

    def objective(offset: np.ndarray) -> tuple[float, np.ndarray]:
        """In units of the prior, in which the search needs the fewest steps."""
        theta = prior.mean + prior.std * torch.from_numpy(offset)
        loss, grad = _loss_and_grad(model, prior, theta, x, y, known)
        return float(loss), (prior.std * grad).numpy()

    result = minimize(
        objective,
        np.zeros(len(prior.mean)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_BOUND, _BOUND)] * len(prior.mean),
        options={"maxiter": _MAX_ITERATIONS, "ftol": _TOLERANCE},
    )
    return prior.mean + prior.std * torch.from_numpy(result.x)


@on_one_thread
@with_gradients
def laplace_draws(
    x: Tensor,
    y: Tensor,
    mode: Tensor,
    n_draws: int,
    rng: np.random.Generator,
    known: Tensor | None = None,
    kernel: KernelMaker = MixtureFidelityKernel,
    scatter: float | None = None,
) -> Tensor:
    """The mode, refined, and ``n_draws - 1`` draws from the Gaussian that fits the posterior at the mode, ``s x p``.

    The Hessian comes from differences of the gradient, evaluated in batches that fit a core's cache. Curvatures below
    the prior's are raised to it. Of very many hyper-parameters the data tell about few directions: those are looked for
    (Lanczos 1950), and the others stay as wide as the prior.

    Args:
        x: inputs, ``n x d+2``.
        y: standardised values, ``(n,)``.
        mode: the MAP estimate, ``(p,)``.
        n_draws: number of draws, ``s``.
        rng: source of randomness.
        known: as in ``map_estimate``.
        kernel: makes the kernel.
        scatter: as in ``map_estimate``.
    """
    x, y, mode, known = _own(x, y, mode, known)
    p, n_domains = len(mode), x.shape[-1] - 2
    prior = Hyperparameters(n_domains, kernel=kernel).prior()

    def gradients(points: Tensor) -> Tensor:
        """Of the loss at ``k x p`` hyper-parameters, ``k x p``."""
        chunks = points.split(max(1, _CACHED // len(y) ** 2))
        models = [Hyperparameters(n_domains, chunk.shape[:1], kernel, scatter) for chunk in chunks]
        pairs = zip(models, chunks, strict=True)
        return torch.cat([_loss_and_grad(model, prior, chunk, x, y, known)[1] for model, chunk in pairs])

    (slope,) = gradients(mode[None])
    if p <= _MANY:
        hessian = (gradients(mode + _STEP * torch.eye(p, dtype=mode.dtype)) - slope) / _STEP
        scaled = prior.std[:, None] * 0.5 * (hessian + hessian.T) * prior.std  # in units of the prior
        values, vectors = torch.linalg.eigh(scaled)
        # The symmetric root: the eigenvectors' signs, and their order among equals, are the library's choice.
        spread = vectors * values.clamp_min(1.0).rsqrt() @ vectors.mT
    else:

        def curvature(direction: Tensor) -> Tensor:
            (there,) = gradients((mode + _STEP * prior.std * direction)[None])
            return prior.std * (there - slope) / _STEP

        values, vectors = _lanczos(curvature, torch.from_numpy(rng.standard_normal(p)), _DIRECTIONS)
        spread = torch.eye(p, dtype=mode.dtype) + (vectors * (values.clamp_min(1.0).rsqrt() - 1)) @ vectors.mT
    # A Newton step: where the search for the mode stopped depends on how the machine rounds.
    mode = mode - prior.std * (spread @ spread @ (prior.std * slope))
    noise = torch.from_numpy(rng.standard_normal((p, n_draws - 1)))
    draws = torch.cat([mode[:, None], mode[:, None] + prior.std[:, None] * (spread @ noise)], 1)
    limit = _BOUND * prior.std[:, None]
    draws = torch.minimum(torch.maximum(draws, prior.mean[:, None] - limit), prior.mean[:, None] + limit)
    return draws.T.contiguous()


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Up to ``n`` outermost eigenvalues of a symmetric matrix, ``(k,)``, and their vectors, ``p x k``, approximately.

    Args:
        product: the matrix times a vector ``(p,)``.
        start: any vector, ``(p,)``.
        n: number of products.
    """
    basis = torch.zeros(len(start), n, dtype=start.dtype)
    images = torch.zeros_like(basis)
    vector = start / start.norm()
    for i in range(n):
        basis[:, i] = vector
        images[:, i] = product(vector)
        vector = images[:, i] - basis @ (basis.T @ images[:, i])
        vector = vector - basis @ (basis.T @ vector)  # twice is enough to stay orthogonal
        left = float(vector.norm())
        if left <= 1e-9 * float(images[:, i].norm()):  # there are no further ones
            basis, images = basis[:, : i + 1], images[:, : i + 1]
            break
        vector = vector / left
    small = basis.T @ images
    values, vectors = torch.linalg.eigh(0.5 * (small + small.T))
    return values, basis @ vectors
