"""What else a history says of an answer: what limits cost, what more data is worth, which fidelities agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.words import fidelity


@dataclass(frozen=True, kw_only=True)
class LimitPrice:
    """What would be recommended without a limit.

    Attributes:
        name: the limit.
        mixture: the mixture recommended without it, by domain.
        predicted: its predicted objective at the target.
        cost: how much better than the recommended mixture's its objective is: what the limit costs, >= 0 but for noise.
    """

    name: str
    mixture: dict[str, Any]
    predicted: Prediction
    cost: Prediction


@dataclass(frozen=True, kw_only=True)
class MoreData:
    """What twice the tokens of a domain would be worth.

    Attributes:
        domain: its name.
        passes: over what there is of it, in the target run of the recommended mixture.
        gain: by how much its objective would be better at the target with twice as much; another mixture might make
            more of it.
    """

    domain: str
    passes: float
    gain: Prediction

    def __str__(self) -> str:
        return f"twice as much {self.domain}, now seen {self.passes:.3g} times, would be worth {self.gain}"


@dataclass(frozen=True, kw_only=True)
class GuardrailCheck:
    """Whether a guardrail holds for the recommended mixture.

    Attributes:
        name: what must hold.
        probability: that it does.
        confidence: least probability wanted.
        predicted: the metric predicted for the recommended mixture; None while it was hardly observed.
        baseline: the same for the baseline mixture.
    """

    name: str
    probability: float
    confidence: float
    predicted: Prediction | None
    baseline: Prediction | None

    @property
    def holds(self) -> bool:
        """Whether it does, with the confidence that is wanted."""
        return self.probability >= self.confidence


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a fidelity ranks mixtures in comparison with the target.

    Attributes:
        scale: the model scale.
        steps: training steps.
        cost: of a run there.
        runs: mixtures seen there.
        expected: rank correlation (Spearman) that the surrogate expects over random mixtures.
        common: mixtures seen both there and at the target.
        observed: rank correlation of those; None for fewer than three.
    """

    scale: str
    steps: int
    cost: float
    runs: int
    expected: float
    common: int
    observed: float | None

    @property
    def grounds(self) -> str:
        """What the agreement rests on, in words."""
        text = f"rank correlation {self.expected:.2f} by the model"
        if self.observed is not None:
            return f"{text}, {self.observed:.2f} of the {self.common} mixtures that ran at both"
        return f"untested, since {'no mixture' if not self.common else f'only {self.common}'} ran at both; {text} alone"


@dataclass(frozen=True, kw_only=True)
class Reordered:
    """The data of a recommended mixture of several phases in another order.

    Attributes:
        name: which order, in a few words.
        predicted: its objective at the target.
        change: that less the recommended mixture's.
        probability: that the recommended mixture is better.
    """

    name: str
    predicted: Prediction
    change: Prediction
    probability: float | None

    def __str__(self) -> str:
        better = "" if self.probability is None else f"; better as recommended with probability {self.probability:.1%}"
        return f"{self.name} changes it by {self.change} (95%){better}"


@dataclass(frozen=True, kw_only=True)
class Details:
    """What else a history says about the recommended mixture.

    Attributes:
        tolerance: difference of the objective that counts as "as good": a tenth of the gap to the median mixture.
        ranges: least and largest share by domain among mixtures predicted that good: how flat the optimum is.
        limits: the limits that hold the recommendation, and what each costs.
        unconstrained: what would be recommended without any; None where none holds it.
        more_data: what more of the domains that are repeated would be worth, where the space says what is repeated,
            most first.
        guardrails: whether they hold.
        agreement: of each fidelity's ranking with the target's, by ascending cost; of many, those that were seen.
        reordered: the same data in other orders, where phases differ.
    """

    tolerance: float
    ranges: dict[str, tuple[float, float]]
    limits: tuple[LimitPrice, ...]
    unconstrained: LimitPrice | None
    guardrails: tuple[GuardrailCheck, ...]
    agreement: tuple[Agreement, ...]
    more_data: tuple[MoreData, ...] = ()
    reordered: tuple[Reordered, ...] = ()

    @property
    def shortest_agreeing(self) -> Agreement | None:
        """The cheapest fidelity with three runs or more whose ranking agrees (0.9 or more); None if none does."""
        good = [a for a in self.agreement if a.runs >= 3 and a.expected >= 0.9]
        return min(good, key=lambda a: a.cost, default=None)

    def lines(self) -> list[str]:
        """The same for people, a line each."""
        lines = [f"As good within {self.tolerance:.2g}:"]
        lines += [f"  {domain}: {low:.1%} to {high:.1%}" for domain, (low, high) in self.ranges.items()]
        for limit in (*self.limits, *([self.unconstrained] if self.unconstrained else [])):
            lines.append(f"Limit: {limit.name} costs {limit.cost}")
        lines += [f"More data: {more}" for more in self.more_data]
        lines += [f"Order: {other}" for other in self.reordered]
        for check in self.guardrails:
            verdict = "holds" if check.holds else "does NOT hold"
            lines.append(f"Guardrail: {check.name} {verdict}, with probability {check.probability:.1%}")
        agreeing = self.shortest_agreeing
        if agreeing is None:
            lines.append("No fidelity that was run three times ranks mixtures like the target (0.9) so far")
        else:
            where = fidelity(agreeing.scale, agreeing.steps)
            lines.append(f"Cheapest fidelity that ranks mixtures like the target: {where} ({agreeing.grounds})")
        return lines
