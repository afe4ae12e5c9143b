"""Names of benchmark problems: ``family/objective[@scale[:steps]][+noise[=share]][+failures[=rate]]``.

For instance ``slimpajama/val_loss/c4``, ``slimpajama/sum/losses@300M+noise``, ``regmix/loss``,
``synthetic/mixing_law+failures=0.1``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NOISE, FAILURES = 0.01, 0.1  # what "+noise" and "+failures" mean without a number

_NAME = re.compile(r"(?P<family>[a-z]+)/(?P<objective>[^@+]+)(@(?P<target>[^+]+))?(?P<options>(\+[^+]+)*)")


@dataclass(frozen=True, kw_only=True)
class ProblemName:
    """A name, taken apart.

    Args:
        text: the whole name.
        family: which family of problems.
        objective: which member of it.
        target: scale, and steps or None for the family's own; None for the family's own target.
        noise: of observed metrics, as a share of each metric's standard deviation over mixtures at the target.
        failures: probability that a run fails.
    """

    text: str
    family: str
    objective: str
    target: tuple[str, int | None] | None = None
    noise: float = 0.0
    failures: float = 0.0

    @classmethod
    def parse(cls, text: str) -> ProblemName:
        """Takes a name apart.

        Raises:
            ValueError: if it is not of the form above.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} names no problem: the form is family/objective[@scale[:steps]][+noise[=share]]"
                "[+failures[=rate]], for instance slimpajama/val_loss/c4@300M+noise."
            )
        target: tuple[str, int | None] | None = None
        if match["target"] is not None:
            scale, _, steps = match["target"].partition(":")
            if steps and not steps.isdecimal():
                raise ValueError(f"The steps {steps!r} in {text!r} are not a whole number.")
            target = scale, int(steps) if steps else None
        options = {"noise": 0.0, "failures": 0.0}
        for option in match["options"].split("+")[1:]:
            key, _, number = option.partition("=")
            if key not in options:
                raise ValueError(f"Unknown option +{option} in {text!r}: use +noise[=share] or +failures[=rate].")
            try:
                options[key] = float(number) if number else {"noise": NOISE, "failures": FAILURES}[key]
            except ValueError:
                raise ValueError(f"{number!r} in {text!r} is not a number.") from None
        return cls(text=text, family=match["family"], objective=match["objective"], target=target, **options)

    def identity(self, family: str, objective: str | None = None) -> str:
        """The name in full, under another family (and objective)."""
        target = "" if self.target is None else "@" + ":".join(str(part) for part in self.target if part is not None)
        options = (("noise", self.noise), ("failures", self.failures))
        rest = "".join(f"+{key}={value:g}" for key, value in options if value > 0)
        return f"{family}/{objective or self.objective}{target}{rest}"
