"""Inputs of the surrogate that are solved for once, for many questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.surrogate.gp import Solved


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Inputs solved for in the model of every metric, so that no question about them solves again.

    Attributes:
        x: the inputs, ``c x d+2``.
        solved: what each metric's data say of them.
    """

    x: Tensor
    solved: tuple[Solved, ...]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def mixtures(self) -> np.ndarray:
        """The mixtures, ``c x d``."""
        return self.x[:, : self.solved[0].model.hyper.kernel.n_shares].numpy()

    def take(self, rows: np.ndarray | Tensor) -> Points:
        """Some of them, by index."""
        index = torch.as_tensor(rows)
        return Points(x=self.x[index], solved=tuple(part.take(index) for part in self.solved))

    def joined(self, other: Points) -> Points:
        """Both, one after the other."""
        pairs = zip(self.solved, other.solved, strict=True)
        return Points(x=torch.cat([self.x, other.x]), solved=tuple(a.joined(b) for a, b in pairs))
