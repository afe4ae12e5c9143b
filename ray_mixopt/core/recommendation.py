"""The answer of a search, with its uncertainty and its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_mixopt.core.forecast import Calibration, Hindsight, Prediction

_MOST_NAMED = 5  # of the reports that are left out


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """The run that the search would buy next.

    Attributes:
        mixture: share of training tokens by domain.
        scale: the model scale.
        steps: training steps to reach.
        cost: what it adds to the bill, in the space's cost unit.
        continues: the paused trial that it goes on with, None for a new run.
    """

    mixture: dict[str, float]
    scale: str
    steps: int
    cost: float
    continues: str | None = None


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
    mixture: dict[str, float]
    predicted: Prediction
    cost: Prediction


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


@dataclass(frozen=True, kw_only=True)
class Details:
    """What else a history says about the recommended mixture.

    Attributes:
        tolerance: difference of the objective that counts as "as good": a tenth of the gap to the median mixture.
        ranges: least and largest share by domain among mixtures predicted that good: how flat the optimum is.
        limits: the limits that hold the recommendation, and what each costs.
        unconstrained: what would be recommended without any; None where none holds it.
        guardrails: whether they hold.
        agreement: of each fidelity's ranking with the target's, by ascending cost.
    """

    tolerance: float
    ranges: dict[str, tuple[float, float]]
    limits: tuple[LimitPrice, ...]
    unconstrained: LimitPrice | None
    guardrails: tuple[GuardrailCheck, ...]
    agreement: tuple[Agreement, ...]

    @property
    def shortest_agreeing(self) -> Agreement | None:
        """The cheapest fidelity with three runs or more whose ranking agrees (0.9 or more); None if none does."""
        good = [a for a in self.agreement if a.runs >= 3 and a.expected >= 0.9]
        return min(good, key=lambda a: a.cost, default=None)

    def lines(self) -> list[str]:
        """The same for people, a line each."""
        lines = [f"As good within {self.tolerance:.2g}:"]
        lines += [f"  {domain}: {low:.1%} to {high:.1%}" for domain, (low, high) in self.ranges.items()]
        for price in (*self.limits, *([self.unconstrained] if self.unconstrained else [])):
            lines.append(f"Limit: {price.name} costs {price.cost}")
        for check in self.guardrails:
            verdict = "holds" if check.holds else "does NOT hold"
            lines.append(f"Guardrail: {check.name} {verdict}, with probability {check.probability:.1%}")
        agreeing = self.shortest_agreeing
        if agreeing is None:
            lines.append("No fidelity that was run three times ranks mixtures like the target (0.9) so far")
        else:
            lines.append(
                f"Cheapest fidelity that ranks mixtures like the target: {agreeing.scale} x {agreeing.steps} steps "
                f"(rank correlation {agreeing.expected:.2f})"
            )
        return lines


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether to train a mixture, in words.

    Attributes:
        ready: whether it is surely better than what one would train without a search, see ``Recommendation.sure``.
        text: what to do, how sure it is, and what it rests on.
    """

    ready: bool
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The mixture to train, and why to believe it.

    Attributes:
        mixture: share of training tokens by domain.
        scale: the target scale.
        steps: the target's training steps.
        predicted: predicted objective at the target; None before anything was observed.
        uniform: the same for the mixture nearest to equal shares.
        proportional: the same for the mixture nearest to the token supply; None without a supply.
        reference: the same for the reference mixture; None without one.
        probability_better: than each of these, by name; None where it is the same mixture. The last of them is the one
            of lowest mean: the best that one would train without a search, and what the answer is careful about.
        difference: from that last one, at the target; None before anything was observed.
        sure: whether it is better than that last one with a probability of 95%, when the interval is widened by ``1 + d
            / n`` for ``d`` domains and ``n`` mixtures seen: few say little of how much they do not say.
        furthest: scale and steps of the dearest report so far; None before the first.
        spent: cost paid so far.
        target_runs: ``spent`` in full runs at the target.
        value_of_next_run: expected improvement of the predicted optimum by the next run; None where the strategy has
            no estimate of it.
        next_run: that run; None where the strategy does not say.
        calibration: leave-one-run-out check of the intervals; None where the strategy has none. Neighbours help: it
            says nothing of larger scales.
        hindsight: its largest runs as predicted from the smaller ones; None where there is nothing to test on.
        diverged: number of runs that reported NaN or inf.
        left_out: number of values, of all metrics, beyond what the model holds: those of the smallest fidelities.
        absurd: reports that no other makes likely and that count for nothing, a few words each.
        details: what else is known, where asked for.
    """

    mixture: dict[str, float]
    scale: str
    steps: int
    predicted: Prediction | None
    uniform: Prediction | None
    proportional: Prediction | None = None
    reference: Prediction | None = None
    probability_better: dict[str, float | None] = field(default_factory=dict)
    difference: Prediction | None = None
    sure: bool = False
    furthest: tuple[str, int] | None = None
    spent: float
    target_runs: float
    value_of_next_run: float | None = None
    next_run: NextRun | None = None
    calibration: Calibration | None = None
    hindsight: Hindsight | None = None
    diverged: int = 0
    left_out: int = 0
    absurd: tuple[str, ...] = ()
    details: Details | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        verdict = self.verdict
        lists = {"absurd": list(self.absurd), "furthest": None if self.furthest is None else list(self.furthest)}
        return asdict(self) | lists | {"verdict": None if verdict is None else asdict(verdict)}

    @property
    def calibration_text(self) -> str:
        """What is known of the intervals at larger scales."""
        untested = "not known, since no scale has five mixtures at one length and a smaller scale to predict them from"
        return untested if self.hindsight is None else str(self.hindsight)

    @property
    def verdict(self) -> Verdict | None:
        """Whether to train it; None where the strategy predicts nothing."""
        if self.predicted is None or self.difference is None or not self.probability_better:
            return None
        name, probability = list(self.probability_better.items())[-1]
        ready = probability is not None and self.sure
        if probability is None:
            text = f"Not yet: no mixture is surely better than the {name} one so far."
        else:
            size = f"{self.difference} against the {name} mixture, better with probability {probability:.0%}"
            text = f"{'Train it' if ready else 'Not yet'}: {size}."
        if self.furthest is not None:
            scale, steps = self.furthest
            text += f" It rests on runs of up to {scale} x {steps:,} steps"
            text += ", none of them at the target's scale." if scale != self.scale else "."
        if not ready and self.next_run is not None:
            run = self.next_run
            text += f" What would tell most is {run.scale} to step {run.steps:,}, for {run.cost:.4g}."
        return Verdict(ready=ready, text=text)

    def __str__(self) -> str:
        width = max(map(len, self.mixture), default=0)
        lines = [f"Recommended mixture for {self.scale} x {self.steps} steps"]
        lines += [f"  {domain:<{width}}  {share:7.2%}" for domain, share in self.mixture.items()]
        if self.verdict is not None:
            lines.append(f"Verdict: {self.verdict}")
        rows: Mapping[str, Prediction | None] = {
            "recommended": self.predicted,
            "uniform": self.uniform,
            "proportional": self.proportional,
            "reference": self.reference,
        }
        lines += [f"Predicted, {name}: {value} (95%)" for name, value in rows.items() if value is not None]
        for name, probability in self.probability_better.items():
            if probability is not None:
                lines.append(f"Better than the {name} mixture with probability {probability:.1%}")
        lines.append(f"Spent: {self.spent:.4g} ({self.target_runs:.2f} full runs)")
        if self.value_of_next_run is not None:
            run = self.next_run
            which = "" if run is None else f" ({run.scale} to step {run.steps}, cost {run.cost:.4g})"
            lines.append(f"Expected gain of the next run{which}: {self.value_of_next_run:.2g}")
        if self.calibration is not None:
            lines.append(f"Fit: {self.calibration}")
        if self.predicted is not None:
            lines.append(f"Calibration: {self.calibration_text}")
        if self.diverged:
            lines.append(f"Diverged runs: {self.diverged}")
        if self.absurd:
            lines.append(f"Left out as absurd, {len(self.absurd)}: {', '.join(self.absurd[:_MOST_NAMED])}")
        if self.left_out:
            lines.append(f"Left out of the model, which is full: {self.left_out} values of the smallest runs")
        if self.details is not None:
            lines += self.details.lines()
        return "\n".join(lines)
