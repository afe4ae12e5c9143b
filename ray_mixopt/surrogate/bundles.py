"""Many metrics as few models: metrics that the same runs report and that go together are modelled as their sum.

The objective asks only for the weighted sum of its metrics, and a sum of Gaussian processes is one. A model for each
metric knows more, since their structures differ and some runs may lack one; but every model is fitted, factorised and
solved anew. Beyond ``FitSettings.most_models`` metrics those that all the same reports have are put into bundles of
which each is a metric to the rest of the package, clustered by the correlation of what they add to the objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ray_mixopt.surrogate.encoding import Observations


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A metric, or several of which the weighted sum has one model.

    Attributes:
        metrics: their names.
        weight: of the bundle in the objective.
        data: observations of the metric, or of the weighted sum.
    """

    metrics: tuple[str, ...]
    weight: float
    data: Observations

    @property
    def name(self) -> str:
        """The metric's name, or the first one's and how many more there are."""
        return self.metrics[0] if len(self.metrics) == 1 else f"{self.metrics[0]} + {len(self.metrics) - 1} more"


def alone(data: Mapping[str, Observations], weights: Mapping[str, float]) -> list[Bundle]:
    """Every metric in a bundle of its own."""
    return [Bundle(metrics=(name,), weight=weights[name], data=values) for name, values in data.items()]


def bundled(
    data: Mapping[str, Observations], weights: Mapping[str, float], n_bundles: int, settled: Callable[[int], int]
) -> list[Bundle]:
    """Metrics in bundles of which each has the same reports.

    Args:
        data: observations of each metric.
        weights: of each metric in the objective.
        n_bundles: how many are wanted; there are more where metrics have many different sets of reports.
        settled: for a number of observations, how many of the first say what goes together: as many as there were when
            hyper-parameters were fitted last, so that bundles do not change in between.
    """
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, values in data.items():
        # An accuracy has a scale of its own, on which sums make no sense.
        own = "" if values.chance is None else name
        alike.setdefault((values.x.numpy().tobytes(), values.runs, own), []).append(name)
    free = max(n_bundles - len(alike), 0)
    found = []
    for names in sorted(alike.values(), key=len, reverse=True):
        n = min(len(names), 1 + free)
        free -= n - 1
        parts = {name: data[name] for name in names}
        for group in _clusters(parts, weights, n, settled):
            found.append(_sum([data[name] for name in group], group, weights))
    return found


def _clusters(
    data: Mapping[str, Observations], weights: Mapping[str, float], n: int, settled: Callable[[int], int]
) -> list[tuple[str, ...]]:
    """At most ``n`` groups of metrics with the same reports, those together whose parts of the objective are alike."""
    names = list(data)
    if n == 1 or len(names) == 1:
        return [tuple(names)]
    from scipy.cluster.hierarchy import fcluster, linkage

    rows = settled(len(data[names[0]].y))
    parts = np.stack([weights[name] * data[name].y[:rows].numpy() for name in names])
    parts = parts - parts.mean(1, keepdims=True)
    size = np.sqrt(np.square(parts).sum(1, keepdims=True))
    parts = np.divide(parts, size, out=np.zeros_like(parts), where=size > 0)
    distance = np.sqrt(np.clip(2 - 2 * parts @ parts.T, 0, None))[np.triu_indices(len(names), 1)]
    which = fcluster(linkage(distance, "average"), n, "maxclust")
    return [tuple(name for name, k in zip(names, which, strict=True) if k == label) for label in np.unique(which)]


def _sum(data: Sequence[Observations], names: Sequence[str], weights: Mapping[str, float]) -> Bundle:
    if len(names) == 1:
        return Bundle(metrics=tuple(names), weight=weights[names[0]], data=data[0])
    y = torch.stack([weights[name] * values.y for name, values in zip(names, data, strict=True)]).sum(0)
    known = [
        weights[name] ** 2 * values.noise for name, values in zip(names, data, strict=True) if values.noise is not None
    ]
    noise = torch.stack(known).sum(0) if known else None
    scatters = [values.scatter for values in data]
    scatter = math.hypot(*(weights[name] * one for name, one in zip(names, scatters, strict=True) if one is not None))
    whole = replace(data[0], y=y, noise=noise, scatter=None if None in scatters else scatter)
    return Bundle(metrics=tuple(names), weight=1.0, data=whole)
