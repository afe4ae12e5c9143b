"""Reports that are finite and absurd: a loss of 10, or of a million, among forty of about 2.

A Gaussian process takes every value at its word, so that one of them bends the level, the scale and the noise of all
others. What no other report makes likely is left out: it is compared with what the others predict of it, under the
prior, in units that the others set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ray_mixopt.surrogate.encoding import Observations
from ray_mixopt.surrogate.fit import Hyperparameters, KernelMaker
from ray_mixopt.surrogate.standardisation import AccuracyLink

_FAR = 6.0  # robust standard deviations from the median: nothing nearer is looked at
_ABSURD = 12.0  # standard deviations from what the others predict
_CLIPPED = 100.0  # robust standard deviations: the size of an absurdity is of no interest
_LARGEST_SHARE = 0.1  # of the reports: more than that are no accidents
_MOST = 3000  # reports that are compared with each other, those of the largest fidelities
_FEWEST = 8  # reports: among fewer none is out of the ordinary


@torch.no_grad()
def sound(data: Observations, kernel: KernelMaker) -> Tensor:
    """Indices of the observations that are no absurdities, ascending, ``(k,)``.

    The leave-one-out error of an observation is ``(P y)_i / P_ii`` with variance ``1 / P_ii`` for the inverse
    covariance ``P`` (Rasmussen & Williams 2006, Eqs. 5.10-5.12). The worst one is left out and the others are looked at
    again without it, since it disturbs what is predicted of its neighbours.

    Args:
        data: observations of one metric.
        kernel: makes the kernel, taken at the mean of its prior.
    """
    every, y, scatter = torch.arange(len(data.y)), data.y, data.scatter
    if data.chance is not None:
        link = AccuracyLink.of(y, data.chance)
        y = link(y)
        scatter = None if scatter is None else scatter / float(link.slope(y.median()))
    distance = (y - y.median()).abs()
    spread = 1.4826 * float(distance.median())
    if len(y) < _FEWEST or spread <= 0 or not (distance > _FAR * spread).any():
        return every
    chosen = data.x[:, -2:].sum(-1).argsort(descending=True, stable=True)[:_MOST].sort().values
    values = ((y[chosen] - y.median()) / spread).clamp(-_CLIPPED, _CLIPPED)
    scatter = None if scatter is None else scatter / spread
    hyper = Hyperparameters(data.x.shape[-1] - 2, kernel=kernel, scatter=scatter)
    hyper.unpack(hyper.prior().mean)
    x = data.x[chosen]
    precision = torch.cholesky_inverse(torch.linalg.cholesky(hyper.noisy(hyper.kernel.between(x, x), x)))
    solved, left = precision @ values, torch.ones(len(chosen), dtype=torch.bool)
    for _ in range(int(_LARGEST_SHARE * len(chosen))):
        surprise = torch.where(
            left & (values.abs() > _FAR), solved.abs() / precision.diagonal().clamp_min(1e-300).sqrt(), 0
        )
        worst = int(surprise.argmax())
        if surprise[worst] <= _ABSURD:
            break
        left[worst] = False
        column = precision[:, worst].clone()
        solved -= column * (solved[worst] / column[worst])
        precision -= torch.outer(column, column / column[worst])
    kept = torch.ones(len(y), dtype=torch.bool)
    kept[chosen[~left]] = False
    return every[kept]
