"""What a search found and paid where the truth is known, as JSON-able data, and read from it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.analysis.ledger import Ledger
from ray_mixopt.analysis.truth import Truth
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.safety import MiB, check_size, check_version, named_numbers, number, parse_json
from ray_mixopt.core.words import amount
from ray_mixopt.optimizer import MixtureOptimizer

RESULT, RESULT_VERSION = "result.json", 1
_MOST_BYTES = 16 * MiB


@dataclass(frozen=True, kw_only=True)
class Known:
    """A mixture and what is true of it.

    Attributes:
        mixture: shares by domain.
        true: its objective at the target; None where it is not known.
        regret: 0 is the best mixture, 1 the median random one; None where it is not known.
        full_runs: spent when it was recommended.
    """

    mixture: dict[str, float]
    true: float | None
    regret: float | None
    full_runs: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """The truth about a replay.

    Attributes:
        metric: that was searched.
        mode: whether less of it is better.
        recommended: in the end.
        uniform: the mixture of equal shares, or the nearest within the limits.
        best: the metric of the best mixture.
        points: what was recommended on the way, by cost.
        saving: what searching saved, in numbers, as sentences; "" where it is not known.
    """

    metric: str
    mode: str
    recommended: Known
    uniform: Known
    best: float
    points: tuple[Known, ...]
    saving: str

    @classmethod
    def read(cls, folder: Path) -> Course | None:
        """The truth in the folder of a replay; None where there is none.

        Raises:
            ValueError: if it is damaged.
        """
        place = folder / RESULT
        if not place.is_file():
            return None
        check_size(place, place.stat().st_size, _MOST_BYTES)
        try:
            data = parse_json(place.read_bytes())
            check_version(data, "the result of a replay", RESULT_VERSION)
            if data["recommended"] is None:
                return None
            return cls(
                metric=str(data["metric"]),
                mode=str(data["mode"]),
                recommended=_known(data["recommended"], data["target_runs"]),
                uniform=_known(data["uniform"], 0.0),
                best=number(data["best_known"], "best_known"),
                points=tuple(_known(point, point["full_runs"]) for point in data["trajectory"]),
                saving=str(data.get("saving", "")),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = str(error).removesuffix(".") if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{place} is no result of a replay: {what}. Remove it to report without it.") from None

    def fits(self, problem: Problem) -> bool:
        """Whether it is about the domains and the objective of a problem."""
        mine = {self.metric: 1.0}, self.mode, set(self.recommended.mixture)
        return mine == (dict(problem.weights), problem.mode, set(problem.space.domains))


def _known(data: Mapping[str, Any], full_runs: Any) -> Known:
    def maybe(key: str) -> float | None:
        return None if data[key] is None else number(data[key], key)

    return Known(
        mixture=named_numbers(data["mixture"], "mixture"),
        true=maybe("true"),
        regret=maybe("regret"),
        full_runs=number(full_runs, "full_runs"),
    )


def result(optimizer: MixtureOptimizer, truth: Truth, trajectory: Sequence[Recommendation]) -> dict[str, Any]:
    """What was found and paid, JSON-able.

    Values under ``true`` and ``regret`` are without noise, None where the truth is not known. ``difference`` is the
    predicted one from the baseline named under ``against``, and ``true_difference`` what it really is. Costs are in the
    space's unit, under ``full_runs`` in runs at the target.

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

    values = recommendation.values
    recommended = answer(space.mixture(recommendation.mixture), recommendation.predicted)
    baselines = {name: answer(mixture, values[name]) for name, mixture in optimizer.problem.baselines().items()}
    against = None if recommendation.against is None else baselines[recommendation.against]["true"]
    known = recommended["true"] is not None and against is not None
    return {
        "target": {"scale": space.target_scale, "steps": space.target_steps, "cost": space.target_cost},
        "recommended": recommended,
        "uniform": baselines["uniform"],
        "baselines": baselines,
        "against": recommendation.against,
        "moved": list(recommendation.moved),
        "difference": None if recommendation.difference is None else asdict(recommendation.difference),
        "true_difference": recommended["true"] - against if known else None,
        "probability_better": recommendation.probability_better,
        "verdict": None if recommendation.verdict is None else asdict(recommendation.verdict),
        "best_known": truth.best,
        "logged": truth.logged,
        "saving": saving(optimizer, truth, recommendation),
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
            {
                "spent": point.spent,
                "full_runs": point.target_runs,
                "difference": None if point.difference is None else asdict(point.difference),
            }
            | answer(space.mixture(point.mixture), point.predicted)
            for point in trajectory
        ],
    }


def saving(optimizer: MixtureOptimizer, truth: Truth, answer: Recommendation) -> str:
    """What the search saved, in sentences: of the training that a worse mixture takes, or of the runs in a log.

    Args:
        optimizer: the search.
        truth: of its objective.
        answer: what the search recommends.

    Returns:
        "" where the truth does not say.
    """
    space, pool = optimizer.space, optimizer.problem.pool
    best, found = space.mixture(answer.mixture), []
    uniform = truth.value(space.uniform())
    steps = None if uniform is None else truth.steps_to(best, uniform)
    if steps is not None and steps < space.target_steps:
        found.append(
            f"What the {answer.called('uniform')} has at the target, the recommended one has after {steps:,} of "
            f"{space.target_steps:,} steps: {1 - steps / space.target_steps:.1%} of a full run saved each time, and "
            f"the search paid {amount(answer.target_runs)} full runs."
        )
    place = truth.place(best)
    if place is not None:
        found.append(f"The recommended mixture is number {place[0]} of the {place[1]} logged at the target.")
    if pool is not None:
        runs, cost = pool.full_runs(space)
        found.append(
            f"All {runs:,} logged runs cost {amount(cost)} full runs, of which the search paid "
            f"{amount(answer.target_runs)}: {max(1 - answer.target_runs / cost, 0.0):.1%} saved."
        )
    return " ".join(found)
