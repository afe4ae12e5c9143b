"""What the mixture is to be best for: several metrics, what must not get worse, and what to stay close to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from ray_mixopt.core.arguments import FrozenDict, in_order
from ray_mixopt.core.baselines import Baseline, jsonable, kept_baseline, resolve
from ray_mixopt.core.safety import check_fields, is_finite
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.words import called

Mode = Literal["min", "max"]

# A whole word of a metric's name that says that more of it is better.
_SCORES = re.compile(
    r"(?<![^\W_])(?:acc|accuracy|f1|score|em|exact[ _-]match|bleu|rouge(?:-?l(?:sum)?)?|win[ _-]?rate)(?![^\W\d_])",
    re.IGNORECASE,
)
_ERRORS = ("loss", "error", "ppl", "perplexity", "bpb", "nll")

_LEAST, _MOST = 1e-100, 1e100  # sizes of weights whose squares, with those of values, a float holds


@dataclass(frozen=True, kw_only=True)
class Guardrail:
    """A metric that must not be much worse than a baseline mixture's, at the target.

    It is a constraint in probability: a mixture is allowed when the surrogate gives it at least ``confidence``.

    Args:
        metric: name of the metric.
        tolerance: how much worse it may be, as a share of the baseline's value (0.02 is 2%).
        baseline: the mixture that it is compared with.
        mode: whether less ("min") or more ("max") of the metric is better.
        confidence: least probability that it holds.

    Raises:
        ValueError: for a tolerance below 0, a confidence outside (0, 1) or an unknown mode.
    """

    metric: str
    tolerance: float = 0.0
    baseline: Baseline = "proportional"
    mode: Mode = "min"
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if not is_finite(self.tolerance) or self.tolerance < 0:
            raise ValueError(f"The guardrail on {self.metric!r}: tolerance must be >= 0, got {self.tolerance!r}.")
        if not is_finite(self.confidence) or not 0 < self.confidence < 1:
            raise ValueError(
                f"The guardrail on {self.metric!r}: confidence must be between 0 and 1, got {self.confidence!r}."
            )
        _checked_mode(self.mode, f"the guardrail on {self.metric!r}")
        for label in ("tolerance", "confidence"):
            object.__setattr__(self, label, float(getattr(self, label)))
        object.__setattr__(self, "baseline", kept_baseline(self.baseline, f"The baseline of {self.metric!r}"))

    @property
    def sign(self) -> float:
        """+1 where less is better, -1 where more is."""
        return 1.0 if self.mode == "min" else -1.0

    def named(self, moved: tuple[str, ...] = ()) -> str:
        """It for people.

        Args:
            moved: the baselines that limits moved, see ``baselines.moved``.
        """
        name = called(self.baseline if isinstance(self.baseline, str) else "given", moved)
        allowed = f" by more than {self.tolerance:.3g} of its value" if self.tolerance else ""
        whose = f"that of the {name}" if " " in name.removesuffix(" mixture") else f"the {name}'s"
        return f"{self.metric} no worse than {whose}{allowed}"

    def __str__(self) -> str:
        return self.named()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A weighted sum of metrics with a direction each, guardrails, and closeness to a prior mixture.

    Each metric is modelled on its own, so that a run that reports only some of them still counts.

    Args:
        weights: importance of each metric, > 0.
        directions: "min" or "max" for metrics whose direction is not the search's ``mode``.
        relative_to: if given, each metric is divided by the size of its predicted value for this mixture at the
            target, so that metrics of different units weigh alike. Where that is too near 0 to divide by, which is
            warned of, it is divided by the standard deviation of its reports.
        guardrails: what must not get worse.
        prior: the mixture to stay close to; used with ``closeness``. Of several phases each has its own, or all one.
        closeness: objective units that a nat of Kullback-Leibler divergence from the prior is worth.

    Raises:
        ValueError: for weights, directions or a closeness that make no sense.
    """

    weights: Mapping[str, float]
    directions: Mapping[str, Mode] = field(default_factory=dict)
    relative_to: Baseline | None = None
    guardrails: tuple[Guardrail, ...] = ()
    prior: Baseline = "proportional"
    closeness: float = 0.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "weights", checked_weights(self.weights))
        put(self, "guardrails", in_order(self.guardrails, "guardrails"))
        for guardrail in self.guardrails:
            if not isinstance(guardrail, Guardrail):
                raise ValueError(f"guardrails must be a list of Guardrail, got {guardrail!r} in it.")
        if not isinstance(self.directions, Mapping):
            raise ValueError(f"directions must be 'min' or 'max' by metric, got {self.directions!r}.")
        put(self, "directions", FrozenDict(self.directions))
        put(self, "prior", kept_baseline(self.prior, "prior"))
        if self.relative_to is not None:
            put(self, "relative_to", kept_baseline(self.relative_to, "relative_to"))
        for name, weight in self.weights.items():
            if weight <= 0:
                raise ValueError(
                    f"The weight of {name!r} must be above 0, got {weight!r}: use directions for its sign."
                )
        for name, mode in self.directions.items():
            if name not in self.weights:
                raise ValueError(
                    f"directions names {name!r}, which has no weight; weights are there for {', '.join(self.weights)}."
                )
            _checked_mode(mode, f"the direction of {name!r}")
        if not is_finite(self.closeness) or not 0 <= self.closeness <= _MOST:
            raise ValueError(f"closeness must be a number from 0 to {_MOST:g}, got {self.closeness!r}.")
        put(self, "closeness", float(self.closeness))

    def signed(self, mode: Mode) -> dict[str, float]:
        """The weights of a linear combination in the direction of ``mode``."""
        return {m: w if self.directions.get(m, mode) == mode else -w for m, w in self.weights.items()}

    def check(self, space: MixtureSpace) -> None:
        """Checks that the baselines are mixtures of a space.

        Raises:
            ValueError: if one is not.
        """
        for guardrail in self.guardrails:
            resolve(guardrail.baseline, space)
        if self.relative_to is not None:
            resolve(self.relative_to, space)
        if self.closeness:
            resolve(self.prior, space)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that matter, those of the guardrails included."""
        return tuple(dict.fromkeys([*self.weights, *(guardrail.metric for guardrail in self.guardrails)]))

    @property
    def plain(self) -> bool:
        """Whether it is nothing but a weighted sum."""
        return self.relative_to is None and not self.guardrails and not self.closeness

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, read back by ``from_dict``."""
        return {
            "weights": dict(self.weights),
            "directions": dict(self.directions),
            "relative_to": jsonable(self.relative_to),
            "guardrails": [{**vars(g), "baseline": jsonable(g.baseline)} for g in self.guardrails],
            "prior": jsonable(self.prior),
            "closeness": self.closeness,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Objective:
        """The objective that ``to_dict`` described.

        Raises:
            ValueError: if the description is malformed.
        """
        check_fields(cls, data, "description of an objective")
        rails = tuple(Guardrail(**guardrail) for guardrail in data.get("guardrails", ()))
        return cls(**{**data, "guardrails": rails})


def in_words(weights: Mapping[str, float], mode: Mode) -> str:
    """A weighted sum for people, with the direction of each metric: "acc, maximised".

    Args:
        weights: of the metrics, below 0 for those of the other direction.
        mode: direction of the sum.
    """
    plain = len({abs(weight) for weight in weights.values()}) == 1
    ways: dict[str, list[str]] = {"minimised": [], "maximised": []}
    for metric, weight in weights.items():
        way = "minimised" if (mode == "min") == (weight > 0) else "maximised"
        ways[way].append(metric if plain else f"{abs(weight):g} {metric}")
    return "; ".join(f"{' + '.join(metrics)}, {way}" for way, metrics in ways.items() if metrics)


def is_score(metric: str) -> bool:
    """Whether more is better by a word of a metric's name: accuracy, F1, score, exact match, BLEU, ROUGE, win rate.

    Args:
        metric: its name; one that also says it is a loss or an error is no such metric.
    """
    return _SCORES.search(metric) is not None and not any(part in metric.lower() for part in _ERRORS)


def divergence(mixtures: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The Kullback-Leibler divergence, in nats, of mixtures ``... x d`` from a prior ``(d,)``, or one each: ``(...)``.

    A domain with no share in the prior counts as if it had a millionth, so that the divergence stays finite.
    """
    from scipy.special import rel_entr  # takes long to import, and most searches do without

    p = np.maximum(prior, 1e-6)
    p = p / p.sum(-1, keepdims=True)
    total: np.ndarray = rel_entr(mixtures, p).sum(-1)
    return total


def checked_weights(weights: object) -> dict[str, float]:
    """Weights by metric, not 0, and of a size that can be reckoned with.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"objective must map metric names to weights, got {weights!r}.")
    for name, weight in weights.items():
        if not is_finite(weight) or weight == 0:
            raise ValueError(f"The weight of metric {name!r} must be a finite number other than 0, got {weight!r}.")
        if not _LEAST <= abs(float(weight)) <= _MOST:
            raise ValueError(
                f"The weight of metric {name!r} must be between {_LEAST:g} and {_MOST:g} in size, got {weight!r}: only "
                "the ratios of weights matter, so multiply all of them by the same number."
            )
    if unnamed := [name for name in weights if not isinstance(name, str)]:
        raise ValueError(f"objective must map metric names to weights, got the name {unnamed[0]!r}.")
    return FrozenDict({str(name): float(weight) for name, weight in weights.items()})


def _checked_mode(mode: object, what: str) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be 'min' or 'max' ({what}), got {mode!r}.")
