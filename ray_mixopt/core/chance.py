"""What guessing scores on known tasks: the accuracy of a model that has learned nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_mixopt.core.arguments import FrozenDict
from ray_mixopt.core.objective import is_score
from ray_mixopt.core.safety import is_finite

CHANCE: Mapping[str, float] = FrozenDict(
    {
        **dict.fromkeys(
            ("arc_challenge", "arc_easy", "hellaswag", "logiqa", "mmlu", "openbookqa", "race", "sciq"), 0.25
        ),
        **dict.fromkeys(("anli", "cb", "social_iqa", "siqa"), 1 / 3),
        **dict.fromkeys(("boolq", "copa", "piqa", "rte", "wic", "winogrande", "wsc"), 0.5),
        **dict.fromkeys(("commonsense_qa", "csqa"), 0.2),
        "mmlu_pro": 0.1,
        **dict.fromkeys(("gsm8k", "lambada", "naturalqs", "nq_open", "squad", "triviaqa"), 0.0),
    }
)
"""Share of right answers by guessing, by task as ``lm-eval`` and OLMES name them: one over the number of choices."""


def chance_of(metric: str) -> float | None:
    """The accuracy that guessing has, by the task in a metric's name; None for losses, and for tasks not known.

    Args:
        metric: its name, such as "accuracy/hellaswag" or "lm_eval/arc_easy/acc_norm,none". Of several tasks that it
            might be, the one of the longest name counts.
    """
    if not is_score(metric):
        return None
    name = re.sub(r"[\s-]+", "_", metric.lower())
    # A task's name stands for its subsets, "mmlu_anatomy", as well.
    found = [task for task in CHANCE if re.search(rf"(?<![^\W_]){task}(?![^\W_])", name)]
    return CHANCE[max(found, key=len)] if found else None


def checked_chance(chance: object) -> Mapping[str, float]:
    """What guessing scores by metric, as it was given.

    Raises:
        ValueError: if it is no number from 0 to 100 a metric.
    """
    if not isinstance(chance, Mapping):
        raise ValueError(f"chance must map metrics to what guessing scores, such as 0.25, got {chance!r}.")
    for name, value in chance.items():
        if not isinstance(name, str) or not is_finite(value) or not 0 <= value < 100:
            raise ValueError(
                f"The chance of {name!r} must be what guessing scores, such as 0.25 of four choices, or 25 where "
                f"accuracies are in per cent; got {value!r}."
            )
    return FrozenDict({name: float(value) for name, value in chance.items()})
