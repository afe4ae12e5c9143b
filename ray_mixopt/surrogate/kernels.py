"""Covariance of a metric over mixtures and fidelities.

Inputs are rows ``x = [w, s, t]``: the mixture ``w`` (``d`` shares), ``s`` the log size of the model and ``t`` the log
training steps, both relative to the target, where ``s = t = 0``. With ``f = (s, t)``,

    k(x, x') = a m(w, w') (1 + r_s e^(-alpha (s + s')) (1 - h + h k_s)) (1 + r_t e^(-beta (t + t')) (1 - h + h k_t))
               + b k_s k_t + c kc + l,
    m(w, w') = sum_i c_i v_i v_i' + c_0 <w, w'> + kw(u, u'),    k_s = exp(-|s - s'| / rho_s) and k_t alike,

which is that of a scaling law ``E(w) + A(w) e^(-alpha s) + B(w) e^(-beta t) + C(w) e^(-alpha s - beta t)`` whose
coefficients are Gaussian processes over the mixture (Hoffmann et al. 2022, Eq. 2, has constants and no ``C``). The
effect of the mixture on what is left of the loss in the end is the same at all fidelities, and small models and short
runs add effects of their own that fade at the rates of the law: size and length have amplitudes of their own, since on
real runs size transfers and shortness does not. A part ``h`` of these drifts from one fidelity to the next, with a
range of ``rho``: no run follows a law so exactly that its learning curve tells what it leads to. A level ``b`` of the
same range is what the law does not say. A curve ``kc`` common to all mixtures stands on a linear trend ``l`` with a
wide fixed prior. Nothing grows freely from fidelity to fidelity: what the data seem to say of growth, by marginal
likelihood, is wrong at the next scale.

What a run shows is off from that by noise, and by ``g [w = w'] k_s k_t``, which the reports of one mixture share: a
run's dozen reports, all a little off in the same way, are no dozen witnesses of an effect of the mixture.

Gains diminish, losses fall like powers of the tokens of a domain: the effects are functions of

    u = log(1 + w / e) / log(1 + 1 / e)

in [0, 1], linear in a share below the knee ``e``, logarithmic above. ``v`` is ``u`` less that of equal shares, divided
by its length in a corner. The knee is learned, and so is how much of the effect is linear in the shares after all:
``<w, w'>`` is the inner product of the deviations from equal shares, 1 for a corner with itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel
from torch import Tensor

_SAME = 1e-9  # difference of the shares of one mixture, by rounding
# Prior variance of the linear trend in units of the standardised metric: level 2 sd, slope 0.5 sd an e-fold.
_LEVEL_VARIANCE = 4.0
_SLOPE_VARIANCE = 0.25
_MANY_DOMAINS = 32
_CACHED = 2**17  # covariances at a time: what a core's cache holds


Moments = tuple[float | Sequence[float], float | Sequence[float]]
"""Location and width of the Gaussian prior of a parameter, one number or one for each of its entries."""

# Weakly informative: lengthscales of the order of the simplex, mixture effects that are small next to the curve.
PRIORS: Mapping[str, Moments] = {
    "log_amplitude": (math.log(0.2), 1.5),
    "log_linear": (0.0, 1.5),
    "log_plain": (-1.0, 1.5),
    "log_knee": (math.log(0.15), 0.7),
    "mixture.raw_lengthscale": (0.0, 0.7),
    "log_fading": (math.log(0.1), 1.0),
    "log_rates": (math.log(0.3), 0.4),
    "log_own": (math.log(0.01), 1.5),
    "log_ranges": (0.0, 0.5),
    "log_curve": (0.0, 1.0),
    "curve.raw_lengthscale": (math.log(3.0), 0.7),
}


class MixtureKernel(Kernel):
    """A covariance over inputs ``[w, s, t]`` that the surrogate can be given: subclass it for another one.

    A subclass has ``forward`` and a prior for each of its parameters; amplitudes are relative to the variance of the
    standardised metric. ``DefaultStrategy(problem, kernel=...)`` takes it.

    Args:
        n_domains: number of domains, ``d``; inputs have ``d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.

    Attributes:
        n_shares: number of shares of a mixture, which come first among an input's columns: one a domain.
        n_inputs: number of columns that say what was trained on, before size and length: the shares alone.
        priors: location and width of the Gaussian prior of each parameter, by its name.
    """

    priors: Mapping[str, Moments]

    def __init__(self, n_domains: int, batch_shape: torch.Size | None = None) -> None:
        super().__init__(batch_shape=torch.Size() if batch_shape is None else batch_shape)
        self.n_domains = self.n_shares = self.n_inputs = n_domains

    def shared_error(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Covariance of what observations are off by beyond noise, as ``forward``, or what broadcasts to it: none."""
        return x1.new_zeros(())

    def observed(self, x: Tensor) -> Tensor:
        """Covariance of observations at ``n x d+2`` short of their noise, with gradients, ``batch_shape x n x n``."""
        return self.forward(x, x) + self.shared_error(x, x)

    @torch.no_grad()
    def between(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Covariance of ``x1`` (``a x d+2``) with ``x2`` (``c x d+2``) without gradients, ``s x a x c``."""
        return self.forward(x1, x2)


class MixtureFidelityKernel(MixtureKernel):
    """The covariance above, batched over hyper-parameter draws.

    All hyper-parameters are stored as logarithms, in which their priors are Gaussian: ``a`` is the amplitude, ``c_i``
    linear, ``c_0`` plain, ``e`` the knee in equal shares, ``r`` fading, ``alpha`` and ``beta`` rates, ``g`` and ``b``
    own, ``rho`` ranges and ``c`` the curve.

    Args:
        n_domains: number of domains, ``d``; inputs have ``d + 2`` columns.
        batch_shape: batch of hyper-parameter draws.
        priors: in place of ``PRIORS``, for the parameters that it names.
        drift: ``h``, which is not learned: smooth learning curves would have it vanish, and be extrapolated for sure.
    """

    def __init__(
        self,
        n_domains: int,
        batch_shape: torch.Size | None = None,
        *,
        priors: Mapping[str, Moments] | None = None,
        drift: float = 0.2,
    ) -> None:
        batch = torch.Size() if batch_shape is None else batch_shape
        super().__init__(n_domains, batch)
        self.priors, self.drift = {**PRIORS, **(priors or {})}, drift
        # Of this one only the lengthscale is used: the covariance is computed without rounding, below.
        self.mixture = MaternKernel(2.5, batch_shape=batch, lengthscale_constraint=_log())
        self.curve = RBFKernel(ard_num_dims=2, batch_shape=batch, lengthscale_constraint=_log())
        sizes = {
            "amplitude": 1,
            "linear": n_domains,
            "plain": 1,
            "knee": 1,
            "fading": 2,
            "rates": 2,
            "own": 2,
            "ranges": 2,
            "curve": 1,
        }
        for name, size in sizes.items():
            self.register_parameter(f"log_{name}", torch.nn.Parameter(torch.zeros(*batch, size)))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Covariance of ``x1`` (``batch_shape x n x d+2``) with ``x2`` (``batch_shape x m x d+2``)."""
        d = self.n_inputs
        weight, offset = self._weights(x1[..., d:], x2[..., d:], diag)
        return weight * self._effect(x1[..., :d], x2[..., :d], diag) + offset

    def shared_error(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Covariance of what the reports of one mixture are off by together, shapes as in ``forward``."""
        w, d = self.n_shares, self.n_inputs
        return self._own_error(x1[..., d:], x2[..., d:]) * _same(x1[..., :w], x2[..., :w])

    def observed(self, x: Tensor) -> Tensor:
        """As of any kernel; each part is computed once for a pair of distinct mixtures or distinct fidelities."""
        d = self.n_inputs
        (mixtures, i), (fidelities, j) = _distinct(x[:, :d]), _distinct(x[:, d:])
        weight, offset = self._weights(fidelities, fidelities, False)
        effect, own = self._effect(mixtures, mixtures, False), self._own_error(fidelities, fidelities)
        shares = mixtures[:, : self.n_shares]
        same = _spread(_same(shares, shares), i)
        return _spread(offset, j) + _spread(weight, j) * _spread(effect, i) + _spread(own, j) * same

    @torch.no_grad()
    def between(self, x1: Tensor, x2: Tensor) -> Tensor:
        """``forward`` without gradients for ``n x d+2`` and ``m x d+2`` inputs that repeat mixtures and fidelities.

        Each part is computed once for a pair of distinct mixtures or distinct fidelities, since many runs share them,
        and for as many rows at a time as a cache holds.
        """
        d, m = self.n_inputs, len(x2)
        (w1, i1), (f1, j1) = _distinct(x1[:, :d]), _distinct(x1[:, d:])
        (w2, i2), (f2, j2) = _distinct(x2[:, :d]), _distinct(x2[:, d:])
        weight, offset = self._weights(f1, f2, False)
        # Many mixtures at the same fidelities, as runs that could be bought are: cheaper with those that are missing.
        is_grid = len(w2) * len(f2) < 1.5 * m
        # Not the kernel's batch_shape: asking for it imports a compiler, which takes longer than a suggestion.
        n_rows = max(1, _CACHED // max(1, self.log_knee.numel() * m))
        there, blocks = self._features(w2), []
        for of_mixtures, j in zip(i1.split(n_rows), j1.split(n_rows), strict=True):
            here, i = of_mixtures.unique(return_inverse=True)
            effect = _selected(_joint(self._features(w1[here]), there, False), i, -2)
            rows = [part if len(f1) == 1 else part[..., j, :] for part in (offset, weight)]  # one row serves them all
            if is_grid:
                base, slope = (part.unsqueeze(-2) for part in rows)
                block = torch.addcmul(base, slope, effect.unsqueeze(-1)).flatten(-2)
                block = _selected(block, i2 * len(f2) + j2, -1)
            else:
                base, slope = (part[..., j2] for part in rows)
                block = torch.addcmul(base, slope, _selected(effect, i2, -1))
            blocks.append(block)
        return torch.cat(blocks, -2)

    def log_shares(self, mixtures: Tensor) -> Tensor:
        """Shares ``... x d`` on the scale on which gains diminish, in [0, 1], ``batch_shape x ... x d``."""
        knee = self.log_knee.exp().unsqueeze(-1) / self.n_domains
        return torch.log1p(mixtures / knee) / torch.log1p(1 / knee)

    def _features(self, mixtures: Tensor) -> tuple[Tensor, Tensor]:
        """What the effects of mixtures ``... x d`` are made of: linear ones are inner products, others distances.

        Returns:
            ``v`` and the plain deviations, each times the root of its weight, ``batch_shape x ... x 2d``, and ``u`` in
            lengthscales, ``batch_shape x ... x d``.
        """
        d = self.n_domains
        equal, shares = self.log_shares(mixtures.new_full((1, 1), 1 / d)), self.log_shares(mixtures)
        size = (1 - equal).square() + (d - 1) * equal.square()
        linear = (self.log_linear.exp().unsqueeze(-2) / size).sqrt()
        plain = (self.log_plain.exp().unsqueeze(-2) / (1 - 1 / d)).sqrt()
        return torch.cat([linear * (shares - equal), plain * (mixtures - 1 / d)], -1), shares / self.mixture.lengthscale

    def _effect(self, w1: Tensor, w2: Tensor, diag: bool) -> Tensor:
        """Of the mixture."""
        features = self._features(w1)
        return _joint(features, features if w2 is w1 else self._features(w2), diag)

    def _weights(self, f1: Tensor, f2: Tensor, diag: bool) -> tuple[Tensor, Tensor]:
        """What multiplies the mixture's effect, and what is added."""
        amplitude, curve, level = (
            _column(p.exp(), diag) for p in (self.log_amplitude, self.log_curve, self.log_own[..., 1:])
        )
        law, kept = amplitude, self._kept(f1, f2, diag)
        parts = (p.exp().split(1, -1) for p in (self.log_fading, self.log_rates))
        for of1, of2, near, *axis in zip(f1.unbind(-1), f2.unbind(-1), kept, *parts, strict=True):
            fading, rate = (_column(p, diag) for p in axis)
            total = of1 + of2 if diag else of1.unsqueeze(-1) + of2.unsqueeze(-2)
            law = law * (1 + fading * torch.exp(-rate * total) * (1 - self.drift + self.drift * near))
        trend = (f1 * f2).sum(-1) if diag else f1 @ f2.mT
        offset = curve * self.curve.forward(f1, f2, diag=diag) + _LEVEL_VARIANCE + _SLOPE_VARIANCE * trend
        return law, offset + level * kept[0] * kept[1]

    def _own_error(self, f1: Tensor, f2: Tensor) -> Tensor:
        """What reports of one mixture are off by together, from one fidelity to another."""
        kept = self._kept(f1, f2, False)
        return _column(self.log_own[..., :1].exp(), False) * kept[0] * kept[1]

    def _kept(self, f1: Tensor, f2: Tensor, diag: bool) -> tuple[Tensor, Tensor]:
        """What is left of what drifts, from one fidelity to another along each axis: ``k_s`` and ``k_t``."""
        size, length = (
            torch.exp(-_gap(of1, of2, diag) / _column(reach, diag))
            for of1, of2, reach in zip(f1.unbind(-1), f2.unbind(-1), self.log_ranges.exp().split(1, -1), strict=True)
        )
        return size, length


def _joint(features1: tuple[Tensor, Tensor], features2: tuple[Tensor, Tensor], diag: bool) -> Tensor:
    """The covariance of the effects of mixtures, from the features of each."""
    (v1, u1), (v2, u2) = features1, features2
    inner = (v1 * v2).sum(-1) if diag else v1 @ v2.mT
    return inner + matern((u1 - u2).norm(dim=-1) if diag else _distance(u1, u2))


def _gap(f1: Tensor, f2: Tensor, diag: bool) -> Tensor:
    """Distance along one axis of the fidelity."""
    return (f1 - f2 if diag else f1.unsqueeze(-1) - f2.unsqueeze(-2)).abs()


def matern(distance: Tensor) -> Tensor:
    """Matern-5/2 of distances in lengthscales."""
    r = math.sqrt(5) * distance
    return r.neg().exp_() * torch.addcmul(r, r, r, value=1 / 3).add_(1)  # few passes: this is most of a suggestion


def _distance(u1: Tensor, u2: Tensor) -> Tensor:
    """Euclidean; of few domains not by a product of matrices, so that near-duplicates agree to the last digit."""
    if u1.shape[-1] < _MANY_DOMAINS:
        return torch.cdist(u1, u2, compute_mode="donot_use_mm_for_euclid_dist")
    distance: Tensor = _Distance.apply(u1, u2)
    return distance


class _Distance(torch.autograd.Function):
    """Distances by products of matrices, gradients too: of many domains torch's own take ten times that.

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


def _told_apart(mixtures: Tensor) -> Tensor:
    """What tells mixtures ``... x d`` apart: their shares, of many domains where they lie along three directions."""
    d = mixtures.shape[-1]
    if d < _MANY_DOMAINS:
        return mixtures
    # Any will do that no two mixtures are likely to agree along: these are of no special position to any domain.
    angles = torch.arange(1, d + 1, dtype=mixtures.dtype).unsqueeze(-1) * mixtures.new_tensor([2, 3, 5]).sqrt()
    return mixtures @ angles.sin()


def _same(w1: Tensor, w2: Tensor) -> Tensor:
    """Which of ``... x n x d`` and ``... x m x d`` mixtures are the same."""
    return torch.cdist(_told_apart(w1.detach()), _told_apart(w2.detach()), p=math.inf) < _SAME


def _spread(part: Tensor, places: Tensor) -> Tensor:
    """A matrix between distinct things, ``... x k x k``, as one between ``n`` that each have a place among them."""
    return part.index_select(-2, places).index_select(-1, places)


def _selected(part: Tensor, places: Tensor, dim: int) -> Tensor:
    """Some rows or columns of a part, by index; without a copy where they are all of them in order."""
    same = len(places) == part.shape[dim] and bool((places == torch.arange(len(places))).all())
    return part if same else part.index_select(dim, places)


def _log() -> Positive:
    return Positive(transform=torch.exp, inv_transform=torch.log)
