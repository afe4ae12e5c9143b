"""What a strategy is asked and what it answers: proposals, the suggestions made of them, and who is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import History
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import Trial


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A run that could be made: a new one, or a paused one that goes on.

    Attributes:
        mixture: shares of training tokens in domain order, ``(n_shares,)``; from a strategy also a list, or weights by
            domain.
        scale: name of the model scale.
        steps: training steps to reach, one of the rungs.
        continues: the paused trial that it goes on with; None for a new run.
        acquisition: what the strategy expects of it, in the strategy's own terms; kept with the trial, for strategies
            whose later answers depend on it.
        counts: whether it is a suggestion of the strategy's own, which moves its random streams on. Runs asked for
            beforehand, and lost ones asked for again, do not count.
        parent: the paused trial that it goes on from where their first phases, which are the same, end; None for any
            that will do when it is asked for.
    """

    mixture: np.ndarray
    scale: str
    steps: int
    continues: str | None = None
    acquisition: float | None = None
    counts: bool = True
    parent: str | None = None

    @property
    def kept_acquisition(self) -> float | None:
        """What a state keeps of the acquisition: an infinity, or NaN, says nothing, and JSON has neither."""
        value = self.acquisition
        return None if value is None or not math.isfinite(value) else float(value)


def checked(run: object, space: MixtureSpace, strategy: str, *, limited: bool) -> Proposal:
    """What a strategy proposes, its mixture in domain order and normalised.

    Args:
        run: the proposal, whose mixture may be weights by domain, or a list.
        space: that of the search.
        strategy: its name.
        limited: whether the limits of the space hold; logged runs are what they are.

    Raises:
        TypeError: for what is no proposal.
        ValueError: for what is no mixture or outside the limits, an unknown scale, or steps that are no rung.
    """
    if not isinstance(run, Proposal):
        raise TypeError(f"{strategy}: propose must return a Proposal or None, got {run!r}.")
    named = f"Strategy {strategy!r} proposes"
    try:
        run = replace(run, mixture=space.mixture(run.mixture))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{named} the mixture {run.mixture!r}. {error}") from error
    if (run.scale, run.steps) not in space.fidelities:
        raise ValueError(f"{named} a run at {run.scale!r} x {run.steps!r} steps: the space trains {space.trains}.")
    if limited and run.continues is None and not space.simplex.contains(run.mixture, 1e-6).all():
        raise ValueError(
            f"{named} a mixture outside the limits, {space.named(run.mixture)}: space.simplex.project gives the "
            "nearest one within them."
        )
    return run


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What to run next.

    Attributes:
        trial_id: name of the run; a continued run keeps its own.
        mixture: share of training tokens by domain; sums to 1. Where a run has several phases, such shares by phase.
        scale: name of the model scale.
        steps: the rung to reach, in training steps; every rung passed is to be reported.
        continues: the paused trial to go on with (then equal to ``trial_id``), or None for a new run.
        cost: what it adds to the bill, in the space's cost unit: for a continued run only the further steps, for a
            branch those from where it begins.
        repeat: how many runs of the mixture at the scale have reported already. A further one is worth its price only
            with another seed. Of a branch, that of its parent, whose seed it has.
        parent: of a branch, the run that has trained its first phases already, up to ``from_step``. It starts from
            that checkpoint and reports nothing before ``steps``; once it is there it has a checkpoint of its own. None
            for a run that starts from nothing.
        from_step: of a branch, the training step that it starts from; where phases were trained already, the one at
            which they end; else 0.
    """

    trial_id: str
    mixture: dict[str, Any]
    scale: str
    steps: int
    continues: str | None
    cost: float
    repeat: int = 0
    parent: str | None = None
    from_step: int = 0

    @classmethod
    def of(cls, run: Trial, space: MixtureSpace, *, continues: str | None, repeat: int) -> Suggestion:
        """That a run of a history, which was asked for, is to be made, or to go on."""
        begins = run.branch if continues is None else None
        return cls(
            trial_id=run.trial_id,
            mixture=space.named(run.mixture),
            scale=run.scale,
            steps=run.steps,
            continues=continues,
            cost=cost_of(space, run, run.steps, start=run.reached),
            repeat=repeat,
            parent=None if begins is None else begins.parent,
            from_step=space.begins(run.steps) if begins is None else begins.from_step,
        )


class Strategy(Protocol):
    """Decides from a history what to run next and what to recommend.

    The same history must give the same answers, in any process: nothing but the history is saved, and a restored
    search asks a fresh strategy. Random draws come from ``Problem.rng``.
    """

    def propose(self, history: History) -> Proposal | None:
        """The next run; None when nothing useful fits the budget. Must not change the history."""
        ...

    def recommend(self, history: History) -> Recommendation:
        """The best mixture for the target as far as the history tells."""
        ...


class Callback:
    """Is told what a search does. Subclass it and override what you want to hear of; an error is raised."""

    def on_suggestion(self, suggestion: Suggestion) -> None:
        """A run was asked for; its trial is in the history already."""

    def on_fit(self, metric: str, model: Any) -> None:
        """The hyper-parameters of a metric's surrogate were fitted anew.

        Args:
            metric: its name.
            model: the ``MixtureGP`` with the new hyper-parameters.
        """
