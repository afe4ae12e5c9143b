"""A pool of logged runs: the only (mixture, scale, steps) that a replay of a table can visit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Mixtures that can be run, and where.

    Args:
        mixtures: distinct mixtures in the space's domain order, ``n x d``.
        available: whether a mixture has a value at a scale and rung of the space, ``n x n_scales x n_steps``.

    Raises:
        ValueError: if the shapes disagree or nothing is available.
    """

    mixtures: np.ndarray
    available: np.ndarray

    def __post_init__(self) -> None:
        if self.mixtures.ndim != 2 or self.available.ndim != 3 or len(self.mixtures) != len(self.available):
            raise ValueError(
                f"A pool needs mixtures (n, d) and available (n, n_scales, n_steps), got {self.mixtures.shape} and "
                f"{self.available.shape}."
            )
        if not self.available.any():
            raise ValueError("A pool in which no run is available has nothing to search.")
