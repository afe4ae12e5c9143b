"""From runs to the surrogate's inputs and values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ray_mixopt.history import History
from ray_mixopt.space import MixtureSpace


def fidelity_coordinates(space: MixtureSpace, scale: str, steps: float) -> tuple[float, float]:
    """Log size and log steps relative to the target. Size is parameters, or cost per step where one is unknown."""
    known = all(s.parameters is not None for s in space.scales)
    this, target = space.scale(scale), space.scale(space.target_scale)
    size = this.parameters / target.parameters if known else this.cost_per_step / target.cost_per_step  # type: ignore[operator]
    return math.log(size), math.log(steps / space.target_steps)


def encode(space: MixtureSpace, mixtures: np.ndarray, fidelities: Sequence[tuple[str, int]]) -> Tensor:
    """Inputs of ``n`` mixtures, ``n x d``, at one fidelity each (or all at a single one), ``n x d+2``."""
    coordinates = np.array([fidelity_coordinates(space, scale, steps) for scale, steps in fidelities]).reshape(-1, 2)
    both = np.broadcast_to(coordinates, (len(mixtures), 2))
    return torch.from_numpy(np.concatenate([mixtures, both], axis=1))


def observations(space: MixtureSpace, history: History, metric: str, n_arrivals: int | None = None) -> tuple[Tensor, Tensor]:
    """What the first ``n_arrivals`` reports say of a metric: inputs ``n x d+2`` and values ``(n,)``.

    Reports that lack the metric are left out.
    """
    mixtures, fidelities, values = [], [], []
    for trial_id, step in history.arrivals[:n_arrivals]:
        trial = history[trial_id]
        value = trial.observations[step].get(metric)
        if value is not None:
            mixtures.append(trial.mixture)
            fidelities.append((trial.scale, step))
            values.append(value)
    if not values:
        return torch.zeros(0, space.n_domains + 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return encode(space, np.array(mixtures), fidelities), torch.tensor(values, dtype=torch.float64)
