"""Covariance of a metric over mixtures and fidelities.

Inputs are rows ``x = [w, s, t]``: the mixture ``w`` (``d`` shares), ``s`` the log size of the model and ``t`` the log
training steps, both relative to the target, where ``s = t = 0``. With ``f = (s, t)``,

    k(x, x') = g(f) g(f') a1 (c <w, w'> (o ko + (1 - o) (r + (1 - r) kf)) + (1 - q) kw(u, u') kf + q kw(2u, 2u') ko)
               + a2 kc + l                                      with kf, ko, kc and l functions of f and f'

an effect of the mixture that is linear in the shares, of which most is shared by all fidelities; a smooth one that
neighbouring fidelities share (``kf``, range learned); and a rough one that hardly two fidelities share (``ko``, range
fixed). ``kf`` falls off exponentially: neighbours agree less than a smooth kernel of that range would have it, and what
is far off still more, so that many runs half-way to the target do not pass for runs at the target. The finer the
structure, the less of it transfers: small models tell which domains help long before they tell how much of each. How
much is rough, ``q``, is learned: a fixed share would pull optima that do transfer to the corners. An amplitude ``g(f) =
exp(b . f)`` of all three may grow or shrink with the fidelity; a scaling curve ``kc`` common to all mixtures stands on
a linear trend ``l`` with a wide fixed prior. ``<w, w'>`` is the inner product of the deviations from equal shares, 1
for a corner with itself.

The smooth and the rough effect are stationary in ``u = log(1 + w / e) / log(1 + 1 / e)`` with ``e`` 15% of an equal
share: losses fall like powers of the tokens of a domain, so that going from none to 3% matters about as much as from
45% to 100%.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel
from torch import Tensor

SMALL_SHARE = 0.15  # of an equal share: below it the effect of a share is linear, above it logarithmic
_OWN = 0.1  # share of the linear effect that hardly two fidelities share
_FINER = 2.0  # lengthscale of the smooth effect over that of the rough one
_OWN_RANGE = 0.4  # e-folds of size or steps over which fidelities share what is rough
# Prior variance of the linear trend in units of the standardised metric: level 2 sd, slope 0.5 sd an e-fold.
_LEVEL_VARIANCE = 4.0
_SLOPE_VARIANCE = 0.25
_MANY_DOMAINS = 32
_CACHED = 2**17  # covariances at a time: what a core's cache holds


Moments = tuple[float | Sequence[float], float | Sequence[float]]
"""Location and width of the Gaussian prior of a parameter, one number or one for each of its entries."""

# Weakly informative: lengthscales of the order of the simplex, mixture effects that are small next to the curve.
PRIORS: Mapping[str, Moments] = {
    "log_amplitudes": ((math.log(0.1), 0.0), (1.5, 1.0)),
    "log_linear": (0.0, 1.5),
    "logit_shared": (2.0, 1.5),
    "logit_rough": (0.0, 1.5),
    "growth": (0.0, 0.4),
    "mixture.raw_lengthscale": (math.log(0.8), 0.8),
    "scale.raw_lengthscale": (math.log(3.0), 0.5),
    "steps.raw_lengthscale": (math.log(2.0), 0.5),
    "curve.raw_lengthscale": (math.log(3.0), 0.7),
}


def log_shares(mixtures: Tensor, small_share: float = SMALL_SHARE) -> Tensor:
    """Shares ``... x d`` on the scale on which the surrogate is stationary, in [0, 1]."""
    small = small_share / mixtures.shape[-1]
    return torch.log1p(mixtures / small) / math.log1p(1 / small)


class MixtureKernel(Kernel):
    """A covariance over inputs ``[w, s, t]`` that the surrogate can be given: subclass it for another one.

    A subclass has ``forward`` and a prior for each of its parameters; amplitudes are relative to the variance of the
    standardised metric. ``DefaultStrategy(problem, kernel=...)`` takes it.

    Args:
        n_domains: number of domains, ``d``; inputs have ``d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.

    Attributes:
        priors: location and width of the Gaussian prior of each parameter, by its name.
    """

    priors: Mapping[str, Moments]

    def __init__(self, n_domains: int, batch_shape: torch.Size | None = None) -> None:
        super().__init__(batch_shape=torch.Size() if batch_shape is None else batch_shape)
        self.n_domains = n_domains

    @torch.no_grad()
    def between(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Covariance of ``x1`` (``a x d+2``) with ``x2`` (``c x d+2``) without gradients, ``s x a x c``."""
        return self.forward(x1, x2)


class MixtureFidelityKernel(MixtureKernel):
    """The covariance above, batched over hyper-parameter draws.

    All positive hyper-parameters are stored as logarithms, ``r`` and ``q`` as their logits, so that their priors are
    Gaussian in the parameters.

    Args:
        n_domains: number of domains, ``d``; inputs have ``d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.
        priors: in place of ``PRIORS``, for the parameters that it names.
        small_share: part of an equal share up to which the effect of a share is linear, and logarithmic beyond.
    """

    def __init__(
        self,
        n_domains: int,
        batch_shape: torch.Size | None = None,
        *,
        priors: Mapping[str, Moments] | None = None,
        small_share: float = SMALL_SHARE,
    ) -> None:
        batch = torch.Size() if batch_shape is None else batch_shape
        super().__init__(n_domains, batch)
        self.priors = {**PRIORS, **(priors or {})}
        self.small_share = small_share
        # Of these three only the lengthscales are used: the covariances are computed without rounding, below.
        self.mixture = MaternKernel(2.5, ard_num_dims=n_domains, batch_shape=batch, lengthscale_constraint=_log())
        self.scale = MaternKernel(0.5, batch_shape=batch, lengthscale_constraint=_log())
        self.steps = MaternKernel(0.5, batch_shape=batch, lengthscale_constraint=_log())
        self.curve = RBFKernel(ard_num_dims=2, batch_shape=batch, lengthscale_constraint=_log())
        self.register_parameter("log_amplitudes", torch.nn.Parameter(torch.zeros(*batch, 2)))
        self.register_parameter("log_linear", torch.nn.Parameter(torch.zeros(*batch, 1)))
        self.register_parameter("logit_shared", torch.nn.Parameter(torch.zeros(*batch, 1)))
        self.register_parameter("logit_rough", torch.nn.Parameter(torch.zeros(*batch, 1)))
        self.register_parameter("growth", torch.nn.Parameter(torch.zeros(*batch, 2)))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Covariance of ``x1`` (``batch_shape x n x d+2``) with ``x2`` (``batch_shape x m x d+2``)."""
        d = self.n_domains
        effects = self._effects(x1[..., :d], x2[..., :d], diag)
        weights, offset = self._weights(x1[..., d:], x2[..., d:], diag)
        return sum((weight * effect for weight, effect in zip(weights, effects, strict=True)), offset)

    @torch.no_grad()
    def between(self, x1: Tensor, x2: Tensor) -> Tensor:
        """``forward`` without gradients for ``n x d+2`` and ``m x d+2`` inputs that repeat mixtures and fidelities.

        Each part is computed once for a pair of distinct mixtures or distinct fidelities, since many runs share them,
        and for as many rows at a time as a cache holds.
        """
        d, m = self.n_domains, len(x2)
        (w1, i1), (f1, j1) = _distinct(x1[:, :d]), _distinct(x1[:, d:])
        (w2, i2), (f2, j2) = _distinct(x2[:, :d]), _distinct(x2[:, d:])
        weights, offset = self._weights(f1, f2, False)
        # Many mixtures at the same fidelities, as runs that could be bought are: cheaper with those that are missing.
        is_grid = len(w2) * len(f2) < 1.5 * m
        # Not the kernel's batch_shape: asking for it imports a compiler, which takes longer than a suggestion.
        n_rows = max(1, _CACHED // max(1, self.log_linear.numel() * m))
        blocks = []
        for of_mixtures, j in zip(i1.split(n_rows), j1.split(n_rows), strict=True):
            here, i = of_mixtures.unique(return_inverse=True)
            effects = self._effects(w1[here], w2, False)
            if is_grid:
                block = offset[..., j, :].unsqueeze(-2).repeat_interleave(len(w2), -2)
                for weight, effect in zip(weights, effects, strict=True):
                    block.addcmul_(weight[..., j, :].unsqueeze(-2), effect[..., i, :].unsqueeze(-1))
                block = _selected(block.flatten(-2), i2 * len(f2) + j2)
            else:
                block = offset[..., j, :][..., j2]
                for weight, effect in zip(weights, effects, strict=True):
                    block.addcmul_(weight[..., j, :][..., j2], _selected(effect[..., i, :], i2))
            blocks.append(block)
        return torch.cat(blocks, -2)

    def along(self, distance: Tensor) -> Tensor:
        """Correlation of two fidelities at a distance along one axis, in its range: Matern-1/2."""
        return torch.exp(-distance)

    def _effects(self, w1: Tensor, w2: Tensor, diag: bool) -> Iterator[Tensor]:
        """The linear, the smooth and the rough effect of the mixture, one at a time: of many runs each is large."""
        v1, v2 = w1 - 1 / self.n_domains, w2 - 1 / self.n_domains
        inner = (v1 * v2).sum(-1) if diag else v1 @ v2.transpose(-1, -2)
        yield _column(self.log_linear.exp(), diag) / (1 - 1 / self.n_domains) * inner
        u1, u2 = (log_shares(w, self.small_share) / self.mixture.lengthscale for w in (w1, w2))
        distance = (u1 - u2).norm(dim=-1) if diag else _distance(u1, u2)
        yield matern(distance)
        yield matern(_FINER * distance)

    def _weights(self, f1: Tensor, f2: Tensor, diag: bool) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """What multiplies each effect, and what is added."""
        g1, g2 = ((f * self.growth.unsqueeze(-2)).sum(-1).exp() for f in (f1, f2))
        growth = g1 * g2 if diag else g1.unsqueeze(-1) * g2.unsqueeze(-2)
        trend = (f1 * f2).sum(-1) if diag else f1 @ f2.transpose(-1, -2)
        amplitude, curve = (_column(a, diag) for a in self.log_amplitudes.exp().split(1, -1))
        gaps = [_gap(*pair, diag) for pair in zip(f1.unbind(-1), f2.unbind(-1), strict=True)]
        own = matern(gaps[0] / _OWN_RANGE) * matern(gaps[1] / _OWN_RANGE)
        ranges = [_column(axis.lengthscale.squeeze(-1), diag) for axis in (self.scale, self.steps)]
        near = self.along(gaps[0] / ranges[0]) * self.along(gaps[1] / ranges[1])
        shared, rough = (_column(p.sigmoid(), diag) for p in (self.logit_shared, self.logit_rough))
        total = amplitude * growth
        on_linear = total * (_OWN * own + (1 - _OWN) * (shared + (1 - shared) * near))
        offset = curve * self.curve.forward(f1, f2, diag=diag) + _LEVEL_VARIANCE + _SLOPE_VARIANCE * trend
        return (on_linear, total * (1 - rough) * near, total * rough * own), offset


def _gap(f1: Tensor, f2: Tensor, diag: bool) -> Tensor:
    """Distance along one axis of the fidelity."""
    return (f1 - f2 if diag else f1.unsqueeze(-1) - f2.unsqueeze(-2)).abs()


def matern(distance: Tensor) -> Tensor:
    """Matern-5/2 of distances in lengthscales."""
    r = math.sqrt(5) * distance
    return r.neg().exp_() * torch.addcmul(r, r, r, value=1 / 3).add_(1)  # few passes: this is most of a suggestion


def _distance(u1: Tensor, u2: Tensor) -> Tensor:
    """Euclidean, not by a product of matrices: rounding would make near-duplicates of a mixture disagree."""
    if u1.shape[-1] >= _MANY_DOMAINS and (u1.requires_grad or u2.requires_grad):
        distance: Tensor = _Distance.apply(u1, u2)
        return distance
    return torch.cdist(u1, u2, compute_mode="donot_use_mm_for_euclid_dist")


class _Distance(torch.autograd.Function):
    """Distances for a fit, by products of matrices, gradients too: of many domains torch's own take ten times that.

    Where two rows are nearly the same, a distance of 1e-7 may stand for 0: the covariance is flat there.
    """

    @staticmethod
    def forward(ctx: Any, u1: Tensor, u2: Tensor) -> Tensor:
        squares = [u.square().sum(-1) for u in (u1, u2)]
        distance = (squares[0].unsqueeze(-1) + squares[1].unsqueeze(-2) - 2 * u1 @ u2.mT).clamp_min_(0.0).sqrt_()
        ctx.save_for_backward(u1, u2, distance)
        return distance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        u1, u2, distance = ctx.saved_tensors
        slope = torch.where(distance > 0, gradients[0] / distance, 0.0)
        return (
            slope.sum(-1, keepdim=True) * u1 - slope @ u2,
            slope.sum(-2).unsqueeze(-1) * u2 - slope.mT @ u1,
        )


def _column(parameter: Tensor, diag: bool) -> Tensor:
    """A parameter ``batch_shape x 1`` in the shape that multiplies a covariance or its diagonal."""
    return parameter if diag else parameter.unsqueeze(-1)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of ``n x k``, in order of appearance, and where each one went, ``(n,)``."""
    table = np.ascontiguousarray(rows.numpy())
    whole = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).reshape(-1)
    _, first, places = np.unique(whole, return_index=True, return_inverse=True)
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rows[torch.from_numpy(first[order])], torch.from_numpy(rank[places])


def _selected(part: Tensor, columns: Tensor) -> Tensor:
    """Some columns of a part, by index; without a copy where they are all of them in order."""
    same = len(columns) == part.shape[-1] and bool((columns == torch.arange(len(columns))).all())
    return part if same else part.index_select(-1, columns)


def _log() -> Positive:
    return Positive(transform=torch.exp, inv_transform=torch.log)
