"""How well a fitted simulator agrees with its reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How well a simulator agrees with its reference, on questions it was not trained on.

    Args:
        metrics: names of the metrics, in the order of all arrays.
        r2: coefficient of determination over mixtures, all scales and 500..19,700 steps.
        spearman: rank correlation of mixtures at the target.
        reversal_reference: rank correlation of mixtures between the smallest scale and the target, by the reference.
        reversal_fitted: the same by the fitted simulator.
        regret: by the reference, of the mixture that the fitted simulator finds best at the target, normalised so that
            0 is the best and 1 the median Dirichlet(1) mixture.
        mixtures_per_second: throughput of ``evaluate`` in batches of 100,000, per second of processor time here.
        seed: seed of the fit.
        iterations: number of training batches, 0 where nothing was trained.
        fit_seconds: processor time of the training.
    """

    metrics: tuple[str, ...]
    r2: np.ndarray
    spearman: np.ndarray
    reversal_reference: np.ndarray
    reversal_fitted: np.ndarray
    regret: np.ndarray
    mixtures_per_second: float
    seed: int
    iterations: int = 0
    fit_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the arrays by metric."""
        arrays = ("r2", "spearman", "reversal_reference", "reversal_fitted", "regret")
        rows = {
            name: {array: float(getattr(self, array)[i]) for array in arrays} for i, name in enumerate(self.metrics)
        }
        rest = ("mixtures_per_second", "seed", "iterations", "fit_seconds")
        return {"metrics": rows, **{name: getattr(self, name) for name in rest}}

    def table(self) -> str:
        """The agreement by metric, as a Markdown table."""
        head = ["metric", "R²", "Spearman at target", "20M vs target, reference", "20M vs target, fitted", "regret"]
        columns = (self.r2, self.spearman, self.reversal_reference, self.reversal_fitted, self.regret)
        rows = [[name, *(f"{column[i]:.4f}" for column in columns)] for i, name in enumerate(self.metrics)]
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * len(columns), *rows)]
        return "\n".join(lines)
