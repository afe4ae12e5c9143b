"""What a search found and paid where the truth is known, as JSON-able data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ray_mixopt.analysis.ledger import Ledger
from ray_mixopt.analysis.truth import Truth
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.optimizer import MixtureOptimizer


def result(optimizer: MixtureOptimizer, truth: Truth, trajectory: Sequence[Recommendation]) -> dict[str, Any]:
    """What was found and paid, JSON-able.

    Values under ``true`` and ``regret`` are without noise, None where the truth is not known. Costs are in the space's
    unit, under ``full_runs`` in runs at the target.

    Args:
        optimizer: the search, which is of one metric.
        truth: of that metric.
        trajectory: its answers along the way, for the picture.
    """
    space, history = optimizer.space, optimizer.history
    recommendation = optimizer.recommend()
    paid, spent = Ledger(history).paid_runs, history.spent_by_scale()

    def answer(mixture: np.ndarray, predicted: Prediction | None) -> dict[str, Any]:
        return {
            "mixture": space.named(mixture),
            "predicted": None if predicted is None else asdict(predicted),
            "true": truth.value(mixture),
            "regret": truth.regret(mixture),
        }

    return {
        "target": {"scale": space.target_scale, "steps": space.target_steps, "cost": space.target_cost},
        "recommended": answer(space.mixture(recommendation.mixture), recommendation.predicted),
        "uniform": answer(space.uniform(), recommendation.uniform),
        "moved": list(recommendation.moved),
        "difference": None if recommendation.difference is None else asdict(recommendation.difference),
        "probability_better": recommendation.probability_better,
        "verdict": None if recommendation.verdict is None else asdict(recommendation.verdict),
        "best_known": truth.best,
        "spent": recommendation.spent,
        "target_runs": recommendation.target_runs,
        "value_of_next_run": recommendation.value_of_next_run,
        "gain": recommendation.gain_text,
        "calibration": None if recommendation.calibration is None else str(recommendation.calibration),
        "hindsight": None if recommendation.predicted is None else recommendation.calibration_text,
        "by_scale": [
            {
                "scale": name,
                "runs": paid[name],
                "spent": spent[name],
                "full_runs": spent[name] / space.target_cost,
                "share": spent[name] / recommendation.spent if recommendation.spent else 0.0,
            }
            for name in space.scale_names
        ],
        "runs": sum(paid.values()),
        "continued": history.n_continued,
        "diverged": recommendation.diverged,
        "trajectory": [
            {"spent": point.spent, "full_runs": point.target_runs}
            | answer(space.mixture(point.mixture), point.predicted)
            for point in trajectory
        ],
    }
