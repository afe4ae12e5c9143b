"""The answer of a search, with its uncertainty and its price."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ray_mixopt.core.details import Details
from ray_mixopt.core.forecast import Calibration, Hindsight, Prediction
from ray_mixopt.core.notebook import paragraph, table
from ray_mixopt.core.phases import Phase, in_words, searched
from ray_mixopt.core.words import amount, by_phase, called, counted, fidelity, listed, price, run_to, shares_named

_MOST_NAMED = 5  # of the reports that are left out
_SURELY_BETTER = 0.95
_SURELY_WORSE = 0.05  # probability to be better than what one would train, at which it is not to be trained


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """The run that the search would buy next.

    Attributes:
        mixture: share of training tokens by domain; where a run has several phases, by phase and domain.
        scale: the model scale.
        steps: training steps to reach.
        cost: what it adds to the bill, in the space's cost unit.
        continues: the paused trial that it goes on with, None for a new run.
        repeat: how many runs of the mixture at the scale have reported as much: a further one has another seed.
    """

    mixture: dict[str, Any]
    scale: str
    steps: int
    cost: float
    continues: str | None = None
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether to train a mixture, in words.

    Attributes:
        ready: whether it is surely better than what one would train without a search, see ``Recommendation.sure``, and
            no check says that such intervals are too narrow.
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
        mixture: share of training tokens by domain; where a run has several phases, by phase and domain.
        phases: of a run, as the space has them; none where it has one mixture throughout.
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
        moved: which of uniform and proportional limits exclude: the nearest mixture within them stands for each.
        breaks: limits and guardrails, in words, that a mixture compared with does not keep, by its name.
        furthest: scale and steps of the dearest report so far; None before the first.
        nearest: those of the report nearest to the target: at its scale, else at the largest; None before the first.
        spent: cost paid so far.
        target_runs: ``spent`` in full runs at the target.
        target_cost: what a full run there costs, in the space's cost unit; None until the optimizer has said it.
        elsewhere: cost of the runs that were given to the search, as far as they were seen.
        value_of_next_run: expected improvement of what is recommended by the next run alone; 0 where no report of it
            would change the answer, however much there is to gain. None where the strategy has no estimate.
        next_run: that run; None where the strategy does not say.
        calibration: leave-one-run-out check of the intervals; None where the strategy has none. Neighbours help: it
            says nothing of larger scales.
        hindsight: its largest runs as predicted from the smaller ones; None where there is nothing to test on.
        diverged: number of runs that reported NaN or inf.
        left_out: number of values, of all metrics, beyond what the model holds: those of the smallest fidelities.
        absurd: reports that no other makes likely and that count for nothing, a few words each.
        unconfirmed: the runs of those among them that would be good news, a few words each, where no other run of their
            mixture says whether they are true: nothing is sure before.
        nothing_known: a sentence that says so while no report says anything of the objective; the mixture is then no
            answer, and only the one of equal shares. Else "".
        details: what else is known, where asked for.
    """

    mixture: dict[str, Any]
    phases: tuple[Phase, ...] = ()
    scale: str
    steps: int
    predicted: Prediction | None
    uniform: Prediction | None
    proportional: Prediction | None = None
    reference: Prediction | None = None
    probability_better: dict[str, float | None] = field(default_factory=dict)
    difference: Prediction | None = None
    sure: bool = False
    moved: tuple[str, ...] = ()
    breaks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    furthest: tuple[str, int] | None = None
    nearest: tuple[str, int] | None = None
    spent: float
    target_runs: float
    target_cost: float | None = None
    elsewhere: float = 0.0
    value_of_next_run: float | None = None
    next_run: NextRun | None = None
    calibration: Calibration | None = None
    hindsight: Hindsight | None = None
    diverged: int = 0
    left_out: int = 0
    absurd: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    nothing_known: str = ""
    details: Details | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        verdict = self.verdict
        lists: dict[str, Any] = {name: list(getattr(self, name)) for name in ("absurd", "unconfirmed", "moved")}
        for name in ("furthest", "nearest"):
            lists[name] = None if getattr(self, name) is None else list(getattr(self, name))
        lists["breaks"] = {name: list(limits) for name, limits in self.breaks.items()}
        lists["phases"] = [phase.to_dict() for phase in self.phases]
        return asdict(replace(self, phases=())) | lists | {"verdict": None if verdict is None else asdict(verdict)}

    @property
    def calibration_text(self) -> str:
        """What is known of the intervals at larger scales."""
        untested = "not known, since no scale has five mixtures at one length and a smaller scale to predict them from"
        return untested if self.hindsight is None else str(self.hindsight)

    @property
    def gain_text(self) -> str | None:
        """What the next run alone is expected to bring; None where the strategy has no estimate of it."""
        gain, run = self.value_of_next_run, self.next_run
        if gain is None:
            return None
        which = "" if run is None else f", {run_to(run.scale, run.steps)} for {self.price(run.cost)}"
        if not gain:
            return f"No single run would move the answer yet, not even the next one{which}"
        return f"Expected gain of the next run{which}: {gain:.2g}"

    @property
    def _unmoved(self) -> bool:
        """Whether no report of the next run alone would change the answer."""
        return self.value_of_next_run is not None and not self.value_of_next_run

    def price(self, cost: float) -> str:
        """A cost, given in the space's unit, in full runs at the target as far as it is known what one costs."""
        return f"a cost of {amount(cost)}" if self.target_cost is None else price(cost, self.target_cost)

    def called(self, name: str) -> str:
        """What a mixture compared with is called: "uniform mixture", or that "within the limits" if these moved it."""
        return called(name, self.moved)

    @property
    def against(self) -> str | None:
        """The name of the mixture that ``difference`` is from; None before anything was observed."""
        return next(reversed(self.probability_better), None)

    @property
    def verdict(self) -> Verdict | None:
        """Whether to train it; None where the strategy predicts nothing."""
        name = self.against
        if self.predicted is None or self.difference is None or name is None:
            return None
        other, probability = self.called(name), self.probability_better[name]
        worse = probability is not None and probability <= _SURELY_WORSE
        ready = probability is not None and self.sure and not self._too_sure and not self.unconfirmed
        breaks = f"breaks {listed(self.breaks[name])}" if name in self.breaks else ""
        if probability is None:
            text = f"Not yet: no mixture is surely better than the {other} so far."
        elif worse:
            text = f"No: the {other} is better with probability {1 - probability:.0%}{breaks and f', but {breaks}'}. "
            text += f"{self.difference} against it."
        else:
            size = f"{self.difference} against the {other}{breaks and f', which {breaks}'}"
            text = f"{'Train it' if ready else 'Not yet'}: {size}, better with probability {probability:.0%}."
            if probability >= _SURELY_BETTER and not self.sure:
                text += " For as few mixtures as were seen that is not sure enough."
        if breaks:
            text += self._within_limits
        if self._too_sure:
            text += f" But such intervals were too sure: {self._too_sure}."
        if self.unconfirmed:
            text += (
                f" But {listed(self.unconfirmed)} reported what would be better than all others and is left out as "
                f"absurd: run {'that mixture' if len(self.unconfirmed) == 1 else 'those mixtures'} again."
            )
        text += self._evidence
        if not ready and not worse and self.next_run is not None:
            run = self.next_run
            text += f" What would tell most is {run_to(run.scale, run.steps)}, for {self.price(run.cost)}"
            text += ", of a mixture that has run there, with another seed" if run.repeat else ""
            text += ", though no report of it alone would move the answer yet." if self._unmoved else "."
        return Verdict(ready=ready, text=text)

    @property
    def _too_sure(self) -> str:
        """By which check the intervals do not hold; "" where none says so.

        Smaller scales that predicted the largest are what the answer rests on. Runs predicted from their neighbours
        count where there is no such check.
        """
        if self.hindsight is not None:
            return "" if self.hindsight.trustworthy else self.hindsight.found
        return self.calibration.found if self.calibration is not None and self.calibration.failed else ""

    @property
    def _within_limits(self) -> str:
        """How sure it is against what the limits allow, where they do not allow the mixture that matters most."""
        rest = {n: p for n, p in self.probability_better.items() if n not in self.breaks and p is not None}
        parts = [f"the {self.called(name)} with probability {p:.0%}" for name, p in rest.items()]
        return f" Of what the limits allow, it is better than {listed(parts)}." if parts else ""

    @property
    def _evidence(self) -> str:
        """Which runs it rests on."""
        if self.furthest is None or self.nearest is None:
            return ""
        text = f" It rests on runs of up to {fidelity(*self.furthest)}"
        if self.furthest[0] != self.nearest[0]:
            text += f", the dearest, and {fidelity(*self.nearest)}, the nearest to the target"
        return text + (", none of them at the target's scale." if self.nearest[0] != self.scale else ".")

    @property
    def title(self) -> str:
        """What it is the mixture of, in a few words."""
        free, where = searched(self.phases), fidelity(self.scale, self.steps)
        if len(free) > 1:
            return f"Recommended mixtures of {listed([phase.name for phase in free])} for {where}"
        return f"Recommended mixture{''.join(f' of {phase.name}' for phase in free)} for {where}"

    def _repr_html_(self) -> str:
        verdict, ranges = self.nothing_known or str(self.verdict or ""), self.details.ranges if self.details else {}
        each, head = by_phase(self.mixture), ["Domain"]
        for phase in each:
            head += [phase or "Share", *(("As good from", "to") if ranges else ())]
        shares = []
        for domain in next(iter(each.values())):
            cells = [domain]
            for phase, of in each.items():
                cells += [f"{of[domain]:.2%}", *_ends(ranges.get(shares_named(domain, phase)))]
            shares.append(cells)
        page = "".join(paragraph(text) for text in (verdict, in_words(self.phases)) if text)
        page += table(self.title, head, shares)
        if self.predicted is None:
            return page
        better = self.probability_better
        rows = [
            (self.called(name).replace(" mixture", ""), value, _percent(better.get(name)))
            for name, value in self.values.items()
            if value is not None
        ]
        others = self.details.reordered if self.details else ()
        rows += [(other.name, other.predicted, _percent(other.probability)) for other in others]
        return page + table("Predicted, with 95% intervals", ("Mixture", "Value", "Recommended is better"), rows)

    @property
    def values(self) -> dict[str, Prediction | None]:
        """What is predicted of the mixture ("recommended"), and of those that it is compared with, by name."""
        return {
            "recommended": self.predicted,
            "uniform": self.uniform,
            "proportional": self.proportional,
            "reference": self.reference,
        }

    def __str__(self) -> str:
        spent = f"Spent: {self.price(self.spent)}"
        if self.elsewhere:
            spent = f"{spent}; c" if self.spent else "C"
            spent += f"ost of the runs that were given: {self.price(self.elsewhere)}"
        if self.nothing_known:
            return f"{self.nothing_known}\n{spent}"
        each = by_phase(self.mixture)
        domains, wide = next(iter(each.values())), {phase: max(len(phase), 7) for phase in each}
        width = max(map(len, domains), default=0)
        lines = [self.title, *([in_words(self.phases)] if self.phases else [])]
        if len(each) > 1:
            lines.append("  ".join(["", " " * width, *(f"{phase:>{wide[phase]}}" for phase in each)]))
        for domain in domains:
            shares = (f"{of[domain]:{wide[phase]}.2%}" for phase, of in each.items())
            lines.append("  ".join(["", f"{domain:<{width}}", *shares]))
        if self.verdict is not None:
            lines.append(f"Verdict: {self.verdict}")
        for name, value in self.values.items():
            if value is not None:
                lines.append(f"Predicted, {self.called(name).replace(' mixture', '')}: {value} (95%)")
        for name, probability in self.probability_better.items():
            if probability is not None:
                lines.append(f"Better than the {self.called(name)} with probability {probability:.1%}")
        lines.append(spent)
        said = self._unmoved and self.verdict is not None and "What would tell most" in self.verdict.text
        if self.gain_text is not None and not said:
            lines.append(self.gain_text)
        if self.calibration is not None:
            lines.append(f"Fit: {self.calibration}")
        if self.predicted is not None:
            lines.append(f"Calibration: {self.calibration_text}")
        if self.diverged:
            lines.append(f"Diverged runs: {self.diverged}")
        if self.absurd:
            lines.append(f"Left out as absurd, {len(self.absurd)}: {', '.join(self.absurd[:_MOST_NAMED])}")
        if self.left_out:
            lines.append(
                f"Left out of the model, which is full: {counted(self.left_out, 'value')} of the smallest runs"
            )
        if self.details is not None:
            lines += self.details.lines()
        return "\n".join(lines)


def _percent(probability: float | None) -> str | None:
    return None if probability is None else f"{probability:.1%}"


def _ends(limits: tuple[float, float] | None) -> tuple[str, ...]:
    return () if limits is None else tuple(f"{share:.1%}" for share in limits)
