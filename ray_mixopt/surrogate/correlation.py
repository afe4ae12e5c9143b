"""How the errors of several metrics go together.

Metrics have a surrogate each, but a mixture that surprises in one surprises in the others: a sum of ten losses would
pass for known far too well if their errors were taken to cancel. The surprises are the whitened values ``L^-1 y``: each
report less what all before it predicted, in standard deviations. Were the surrogates' kernels the same, and all metrics
reported, this would be the intrinsic coregionalisation model, in which each metric's mean is that of its
own surrogate, however correlated they are (Bonilla et al. 2007, Sec. 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_mixopt.surrogate.encoding import Observations
from ray_mixopt.surrogate.gp import MixtureGP

_DOUBT = 5.0  # reports that count against any correlation


@torch.no_grad()
def error_correlation(data: Sequence[Observations], models: Sequence[MixtureGP]) -> Tensor:
    """Correlation of the errors of metrics, ``k x k``, shrunk towards none while few reports have both.

    Args:
        data: what each model was given.
        models: one a metric, all with the same number of draws.
    """
    if len(models) == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    rows: dict[tuple[str, tuple[float, ...]], int] = {}
    reports = [zip(d.runs, map(tuple, d.x[:, -2:].tolist()), strict=True) for d in data]
    places = [torch.tensor([rows.setdefault(report, len(rows)) for report in of_metric]) for of_metric in reports]
    surprise = torch.zeros(len(data), len(models[0].theta), len(rows), dtype=torch.float64)
    known = torch.zeros(len(data), len(rows), dtype=torch.float64)
    for i, (place, model) in enumerate(zip(places, models, strict=True)):
        surprise[i, :, place] = model.white.squeeze(-1)
        known[i, place] = 1.0
    cross = torch.einsum("isn,jsn->ij", surprise, surprise)
    power = surprise.square().sum(1) @ known.T  # of i where j is known too
    common = known @ known.T
    found = cross / (power * power.T).sqrt().clamp_min(1e-300) * common / (common + _DOUBT)
    values, vectors = torch.linalg.eigh(found.fill_diagonal_(1.0))  # of pairs, it need not be a covariance
    nearest = (vectors * values.clamp_min(1e-6)) @ vectors.mT
    sd = nearest.diagonal().sqrt()
    return nearest / torch.outer(sd, sd)


def square_root(covariance: Tensor) -> Tensor:
    """A square root of ``batch_shape x c x c`` covariances that may be singular, or miss it by rounding."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    jitter = 1e-8 * scale * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    factor, info = torch.linalg.cholesky_ex(covariance + jitter)
    if bool(info.any()):
        values, vectors = torch.linalg.eigh(covariance)
        factor = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    return factor
