"""A run of a search: what it was asked to do, what it showed, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

from ray_mixopt.core.arguments import kept_shares
from ray_mixopt.core.curves import understood
from ray_mixopt.core.safety import check_fields, named_numbers, number, whole
from ray_mixopt.core.words import has_phases, listed

EXPLODED = 1e10  # no loss, perplexity or accuracy of a run that learns anything gets there
FAR = 10  # times the last rung: beyond that, steps are taken to be another unit
_MOST_NAMED = 5  # metrics in a warning
_EVERY_STEP = "Report the metric with every step."
_JUST_BELOW = 1e-3  # of a step: what is left out where steps are computed from epochs, say

REPEAT = "repeat"
"""Key, in the configuration of a run, of how many of its mixture and scale there were before; without it, none."""

BRANCH = "branch"
"""Key, in the configuration of a run, of where it begins if not at its start: the fields of ``Branch``, and the path of
the ``checkpoint``."""

Status = Literal["running", "paused", "done", "diverged", "failed", "lost"]
"""``running``: asked for and not yet at its rung. ``paused``: at its rung, can be continued. ``done``: over, cannot be
continued. ``diverged``: reported what is not ``is_sound``: NaN, an infinity, 1e10 and more. ``failed``: ended by an
error of its own. ``lost``: its machine failed, or its runner no longer knows it."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a run begins that goes on from the checkpoint of another: where the phases end that both have in common.

    Attributes:
        parent: name of the other run.
        from_step: training step of the checkpoint.
        steps: the rung that the other run had reached, which is the first that this one reports.
    """

    parent: str
    from_step: int
    steps: int


@dataclass(kw_only=True)
class Trial:
    """One training run.

    Attributes:
        trial_id: its name.
        mixture: shares in domain order, ``(d,)``.
        scale: name of the model scale.
        steps: the rung it was asked to reach.
        status: see ``Status``.
        observations: metrics seen at each step; those that diverged are left out.
        evaluated: whether the run was given to the search rather than paid by it.
        acquisition: what the strategy expected of the run when it asked for it, in the strategy's own terms; None
            where it keeps no such number.
        noise: standard deviation by metric, where it is known that its values scatter more than those of other runs.
        supply: tokens by domain that there were for the run, where these are others than the space says.
        branch: where it began, if not from nothing.
        repeat: how many runs of its mixture and scale had reported before it; of a branch, that of its parent.
    """

    trial_id: str
    mixture: tuple[float, ...]
    scale: str
    steps: int
    status: Status = "running"
    observations: dict[int, dict[str, float]] = field(default_factory=dict)
    evaluated: bool = False
    acquisition: float | None = None
    noise: dict[str, float] = field(default_factory=dict)
    supply: dict[str, float] = field(default_factory=dict)
    branch: Branch | None = None
    repeat: int = 0

    @property
    def reached(self) -> int:
        """The last step seen; 0 before the first report."""
        return max(self.observations, default=0)

    @property
    def pending(self) -> bool:
        """Whether the rung it was asked for is still on its way."""
        return self.status == "running" and self.reached < self.steps


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the configuration of a trainable asks for.

    Attributes:
        weights: non-negative, by domain name, or by phase and domain name; not normalised.
        scale: name of the model scale.
        steps: the rung to train to.
        continuable: whether the run may go on later with larger ``steps``.
        repeat: how many runs of the mixture at the scale there were before: it takes a seed of its own.
    """

    weights: dict[str, Any]
    scale: str
    steps: int
    continuable: bool
    repeat: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], *, phased: bool = False) -> Wanted:
        """What the configuration asks for, in Python's own types.

        Searchers built on NumPy put its scalars, str_ and int64, into configurations.

        Args:
            config: the configuration.
            phased: whether a mixture may be one for each phase.

        Raises:
            ValueError: if it lacks ``mixture``, ``scale`` or ``steps``.
            TypeError: if ``mixture`` is not a mapping.
        """
        if missing := [key for key in ("mixture", "scale", "steps") if key not in config]:
            raise ValueError(f"The configuration of a run lacks {', '.join(missing)}: it has {sorted(config)}.")
        mixture = config["mixture"]
        if not isinstance(mixture, Mapping):
            raise TypeError(f"config['mixture'] must map domain names to weights, got {mixture!r}.")
        nested = has_phases(mixture)
        shares = kept_shares(mixture, "config['mixture']") if nested else mixture
        if nested and not phased:
            raise ValueError(
                f"This trainable trains one mixture for the whole of a run, and config['mixture'] has one for each of "
                f"the phases {', '.join(map(str, mixture))}."
            )
        return cls(
            weights={str(name): share if nested else float(share) for name, share in shares.items()},
            scale=str(config["scale"]),
            steps=int(config["steps"]),
            continuable=bool(config.get("continuable", False)),
            repeat=int(config.get(REPEAT, 0)),
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run as it was asked for, to take it back.

    Attributes:
        trial: the run.
        before: the rung that it was paused at; None for a new one.
        reached: the step it was at.
        n: number of runs asked for by then, this one included.
        counts: whether it moved the strategy's random streams on.
    """

    trial: Trial
    before: int | None
    reached: int
    n: int
    counts: bool


def steps_done(reported: float) -> int:
    """The whole training steps of a reported number: a float just below a rung is that rung, half a step is none."""
    return math.floor(reported + _JUST_BELOW)


def is_far(step: float, rungs: Iterable[int]) -> bool:
    """Whether a step is so far beyond all rungs that it cannot be a training step: it counts tokens or the like."""
    return step > FAR * max(rungs)


def check_near(step: int, rungs: Iterable[int], whose: str) -> None:
    """Raises ValueError for a step that ``is_far``: a run would be billed for what it cannot have trained.

    Args:
        step: reported.
        rungs: all of the space, and that of the run.
        whose: what the error says before it: "Trial 'a' reported".
    """
    last = max(rungs)
    if is_far(step, (last,)):
        raise ValueError(
            f"{whose} step {step:,}, far beyond the last rung {last:,}. Steps are training steps: tokens, samples or "
            "milliseconds are none."
        )


def is_sound(value: float) -> bool:
    """Whether a metric is a number that a run that has not diverged may report."""
    return abs(value) < EXPLODED  # so that NaN is not


def trial_of(entry: Mapping[str, Any]) -> Trial:
    """The trial that the state of a history describes.

    Raises:
        ValueError: if it makes no sense; or what comes of looking into what is not there.
    """
    name, status = entry["trial_id"], entry["status"]
    if unknown := set(entry) - {field.name for field in fields(Trial)}:
        raise ValueError(f"Trial {name!r} has the unknown fields {sorted(unknown)}.")
    if not isinstance(name, str) or not isinstance(entry["scale"], str) or not isinstance(entry["evaluated"], bool):
        raise ValueError(f"Trial {name!r} is malformed.")
    if status not in get_args(Status):
        raise ValueError(f"Trial {name!r} has the unknown status {status!r}.")
    if not isinstance(entry["mixture"], list | tuple):
        raise ValueError(f"Trial {name!r} has no list of shares.")
    observations = understood(entry["observations"], f"trial {name!r}")
    if (status in ("paused", "diverged") and not observations) or (entry["evaluated"] and status == "running"):
        raise ValueError(f"Trial {name!r} cannot be {status}.")
    if entry["evaluated"] and status == "paused":  # earlier releases let given runs be paused
        status = "done"
    noise = named_numbers(entry.get("noise", {}), f"the noise of trial {name!r}")
    if not all(0 <= value < EXPLODED for value in noise.values()):
        raise ValueError(f"Trial {name!r} has a noise that is no standard deviation: {noise}.")
    supply = named_numbers(entry.get("supply", {}), f"the supply of trial {name!r}")
    if not all(tokens > 0 for tokens in supply.values()):
        raise ValueError(f"Trial {name!r} has a supply that is no number of tokens: {supply}.")
    acquisition = entry["acquisition"]
    return Trial(
        trial_id=name,
        mixture=tuple(number(share, f"A share of trial {name!r}") for share in entry["mixture"]),
        scale=entry["scale"],
        steps=whole(entry["steps"], f"The rung of trial {name!r}", 1),
        status=status,
        observations=observations,
        evaluated=entry["evaluated"],
        acquisition=None if acquisition is None else number(acquisition, f"The acquisition of trial {name!r}"),
        noise=noise,
        supply=supply,
        repeat=whole(entry.get("repeat", 0), f"The repeat of trial {name!r}"),
        branch=None if entry.get("branch") is None else _branch_of(entry["branch"], f"trial {name!r}"),
    )


def _branch_of(data: Any, run: str) -> Branch:
    check_fields(Branch, data, f"description of where {run} began")
    branch = Branch(**data)
    if not 0 < branch.from_step < branch.steps:
        raise ValueError(f"{run} cannot have begun at step {branch.from_step} on its way to {branch.steps}.")
    return branch


def missed(trial_id: str, wanted: Sequence[str], reported: Sequence[str]) -> str:
    """A sentence about a report without any metric of the objective.

    Args:
        trial_id: of the run that reported.
        wanted: the metrics of the objective.
        reported: what it has instead; names that are nearly those of ``wanted`` may be meant for them.
    """
    some = ", ".join(reported[:_MOST_NAMED]) + (", ..." if len(reported) > _MOST_NAMED else "")
    near = {name: get_close_matches(name, reported, n=1) for name in wanted}
    meant = listed([f"{found[0]!r} to be {name!r}" for name, found in near.items() if found])
    return (
        f"Trial {trial_id} reported no number for {', '.join(wanted)}{some and f', but for {some}'}: nothing is "
        f"learned from such a report. {f'Is {meant}? Give both one name.' if meant else _EVERY_STEP}"
    )
