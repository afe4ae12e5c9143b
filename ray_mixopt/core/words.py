"""How numbers, fidelities and lists are written where people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

_LIKE = 0.7  # letters in common by which a name is like another: two that have changed places, one too many
_WRITTEN_OUT = 1e10  # below this a number is shorter with its digits than it is hard to read with an exponent


def amount(value: float) -> str:
    """A number with four significant digits, or all of those before its point: 0.1234, 12.34, 19,700, 2.5e+21.

    Args:
        value: costs, tokens or steps, in any unit.
    """
    if not math.isfinite(value) or not 999.5 <= abs(value) < _WRITTEN_OUT:
        return f"{value:.4g}"
    return f"{value:,.0f}"


def full_runs(cost: float, full_run: float) -> str:
    """A cost in runs at the target, such as "0.50 full runs".

    Args:
        cost: in the space's unit.
        full_run: what a run at the target costs, in the same unit.
    """
    runs = cost / full_run
    return f"{f'{runs:.2f}' if not 0 < runs < 0.1 else f'{runs:.2g}'} full runs"


def price(cost: float, full_run: float) -> str:
    """A cost in full runs, and in the space's unit where people can read that: "0.50 full runs (cost 98.5)".

    A number of FLOPs tells nobody anything; hours and dollars do.

    Args:
        cost: in the space's unit.
        full_run: what a run at the target costs, in the same unit.
    """
    readable = max(cost, full_run) < _WRITTEN_OUT
    return full_runs(cost, full_run) + (f" (cost {amount(cost)})" if readable else "")


def duration(seconds: float) -> str:
    """A time for people, such as "45 s", "3 min" or "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def fidelity(scale: str, steps: int) -> str:
    """A scale and a length, such as "1B x 19,700 steps"; only "1B" for a length of 1: no length of the run is known."""
    return scale if steps == 1 else f"{scale} x {steps:,} steps"


def run_to(scale: str, steps: int) -> str:
    """A run and how far it is to go, such as "60M to step 2,000"; "a run of 60M" where no length of it is known."""
    return f"a run of {scale}" if steps == 1 else f"{scale} to step {steps:,}"


def counted(number: int, thing: str, things: str = "") -> str:
    """How many there are of what: "1 run", "2,000 runs".

    Args:
        number: of them.
        thing: one of them.
        things: several, if they do not just end with an s.
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def units(cpus: float, gpus: float) -> str:
    """Processors, such as "1 CPU, 0.5 GPUs"."""
    return ", ".join(f"{n:g} {what}{'' if n == 1 else 's'}" for n, what in ((cpus, "CPU"), (gpus, "GPU")))


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names one after the other, such as "a, b and c"; "" where there is none."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like one that is not, as after a slip of the pen; None where none is like it."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=_LIKE)), None)


def called(baseline: str, moved: Sequence[str]) -> str:
    """A mixture compared with: "uniform mixture", or "uniform mixture within the limits" where these moved it.

    Args:
        baseline: its name.
        moved: the names of those that limits exclude, see ``baselines.moved``.
    """
    return f"{baseline} mixture{' within the limits' if baseline in moved else ''}"


def has_phases(mixture: Mapping[str, Any]) -> bool:
    """Whether a mixture is one for each phase, by its name, rather than shares by domain."""
    return any(isinstance(shares, Mapping) for shares in mixture.values())


def by_phase(mixture: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """The shares of each phase by its name; where a run has one mixture, those by no name, ""."""
    return mixture if has_phases(mixture) else {"": mixture}


def shares_named(domain: str, phase: str) -> str:
    """What a share is of: "code", or "code in anneal" where there are several phases."""
    return f"{domain} in {phase}" if phase else domain


def by_name(mixture: Mapping[str, Any]) -> dict[str, float]:
    """The shares of a mixture by what they are of, see ``shares_named``."""
    return {
        shares_named(domain, phase): share
        for phase, shares in by_phase(mixture).items()
        for domain, share in shares.items()
    }
