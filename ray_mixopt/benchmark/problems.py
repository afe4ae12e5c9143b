"""The problems by name, and the suites that the results are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ray_mixopt.benchmark import logged, slimpajama, synthetic
from ray_mixopt.benchmark.problem import BenchmarkProblem, ProblemName

FAMILIES: dict[str, Callable[[ProblemName, Path | None], BenchmarkProblem]] = {
    slimpajama.FAMILY: slimpajama.load,
    **dict.fromkeys(logged.LOGS, logged.load),
    synthetic.FAMILY: synthetic.load,
}


def _names(family: str, objectives: Sequence[str], rest: str = "") -> tuple[str, ...]:
    return tuple(f"{family}/{objective}{rest}" for objective in objectives)


_METRICS = slimpajama.METRICS
_SUMS = tuple(f"sum/{name}" for name in slimpajama.SUMS)
SUITES: dict[str, tuple[str, ...]] = {
    "headline": _names("slimpajama", _METRICS),
    "headline-noise": _names("slimpajama", _METRICS, "+noise"),
    "sums": _names("slimpajama", _SUMS, "+noise"),
    "sums-exact": _names("slimpajama", _SUMS),
    "targets": tuple(
        name for target in slimpajama.TARGETS for name in _names("slimpajama", _METRICS, f"@{target}+noise")
    ),
    "tables": tuple(name for family, metrics in logged.OBJECTIVES.items() for name in _names(family, metrics)),
    "synthetic": _names(synthetic.FAMILY, synthetic.PROBLEMS),
    "failures": _names("slimpajama", _METRICS, "+noise=0.005+failures=0.1"),
}


def default_data() -> Path | None:
    """The folder ``../shared/data`` beside the checkout, if there is one."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return folder if folder.is_dir() else None


def load(name: str, data: Path | None = None) -> BenchmarkProblem:
    """The problem of that name; ``problem`` says what it is made of.

    Args:
        name: of the problem.
        data: folder of the reference data, laid out as ``slimpajama/``, ``regmix/`` and ``mixinglaws/``.

    Raises:
        ValueError: for a name that is no problem's.
        FileNotFoundError: if it needs data that the folder lacks.
    """
    parsed = ProblemName.parse(name)
    if parsed.family not in FAMILIES:
        raise ValueError(f"Unknown family in {name!r}: choose one of {', '.join(FAMILIES)}.")
    return FAMILIES[parsed.family](parsed, data)


def expand(suites: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the problems of some suites, and those that match a name or pattern (``*``), each once.

    Raises:
        ValueError: for an unknown suite, or a pattern that matches nothing.
    """
    names: list[str] = []
    for suite in suites:
        if suite not in SUITES:
            raise ValueError(f"Unknown suite {suite!r}: choose one of {', '.join(SUITES)}.")
        names += SUITES[suite]
    known = tuple(dict.fromkeys(name for members in SUITES.values() for name in members))
    for pattern in patterns:
        matching = [name for name in known if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
        if not matching:
            raise ValueError(f"No problem of the suites matches {pattern!r}.")
        names += matching
    return tuple(dict.fromkeys(names))
