"""Covariance matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def square_root(covariance: Tensor) -> Tensor:
    """A square root of ``batch_shape x c x c`` covariances that may be singular, or miss it by rounding."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    jitter = 1e-8 * scale * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    factor, info = torch.linalg.cholesky_ex(covariance + jitter)
    if bool(info.any()):
        values, vectors = torch.linalg.eigh(covariance)
        factor = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    return factor
