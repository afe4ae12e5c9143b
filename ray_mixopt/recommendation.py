"""The answer of a search, with its uncertainty and its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A value at the target with its 95% interval, in the objective's own unit.

    Attributes:
        mean: expected value.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often 95% intervals held when each run was predicted from all the others.

    Attributes:
        coverage: share of the held-out observations inside their interval.
        n: number of held-out observations.
    """

    coverage: float
    n: int

    @property
    def trustworthy(self) -> bool:
        """Whether the coverage is at least 90%, give or take what ``n`` observations (20 or more) can tell."""
        margin = 2 * (0.95 * 0.05 / max(self.n, 1)) ** 0.5
        return 0.90 - margin <= self.coverage and self.n >= 20

    def __str__(self) -> str:
        note = "" if self.trustworthy else ", not calibrated: read the intervals with care"
        return f"{self.coverage:.0%} of {self.n} left-out observations inside their 95% interval{note}"


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
        probability_better: than each of these, by name; None where it is the same mixture.
        spent: cost paid so far.
        target_runs: ``spent`` in full runs at the target.
        value_of_next_run: expected improvement of the predicted optimum by the next run; None where the strategy has
            no estimate of it.
        next_run: that run; None where the strategy does not say.
        calibration: leave-one-run-out check of the intervals; None where the strategy has none.
        diverged: number of runs that reported NaN or inf.
    """

    mixture: dict[str, float]
    scale: str
    steps: int
    predicted: Prediction | None
    uniform: Prediction | None
    proportional: Prediction | None = None
    reference: Prediction | None = None
    probability_better: dict[str, float | None] = field(default_factory=dict)
    spent: float
    target_runs: float
    value_of_next_run: float | None = None
    next_run: NextRun | None = None
    calibration: Calibration | None = None
    diverged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)

    def __str__(self) -> str:
        width = max(map(len, self.mixture), default=0)
        lines = [f"Recommended mixture for {self.scale} x {self.steps} steps"]
        lines += [f"  {domain:<{width}}  {share:7.2%}" for domain, share in self.mixture.items()]
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
            lines.append(f"Calibration: {self.calibration}")
        if self.diverged:
            lines.append(f"Diverged runs: {self.diverged}")
        return "\n".join(lines)
