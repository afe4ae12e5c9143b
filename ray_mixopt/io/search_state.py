"""What ``MixOptSearcher`` keeps of a search, and the optimizer that comes of it: read and written without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from ray_mixopt.core.history import History
from ray_mixopt.core.merging import revise
from ray_mixopt.core.objective import Mode
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.problem import Problem, checked_pool
from ray_mixopt.core.safety import check_known, check_version, named_numbers, whole
from ray_mixopt.core.settings import SETTINGS, Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Strategy
from ray_mixopt.io.snapshots import WRITTEN
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.strategies import check

AnyStrategy = str | Callable[[Problem], Strategy]
"""A strategy of this package by name, or one's own as what makes it of a problem."""

STATE_VERSION = 1
_FIELDS = ("version", "metric", "mode", "settings", "space", "history", "evaluated")
_BESIDE = ("layout", "cost_per_step", "max_wait_s", "n_recoveries", WRITTEN)  # what the searcher keeps with them
AT_STEPS = -1  # stands for "at the steps of the configuration"


@dataclass(kw_only=True)
class SearchState:
    """A search of which space, metric and mode may not be known yet: Tune tells them late.

    Args:
        space: the search space, None while it is unknown.
        metric: the single metric to optimise, None while it is unknown or where the settings have an objective.
        mode: "min" or "max", None while it is unknown.
        settings: of the optimizer. Their mode is not heeded: it is ``mode``, once that is known.
        pool: the only runs that exist, when a table of logged runs is replayed; not part of the JSON state.
        points: runs made elsewhere that wait for the optimizer, each ``{"mixture": weights by domain, "scale": name,
            "steps": rung, "values": [[step, value or metrics by name], ...]}``. Scale and steps may be None where the
            space has only one; so may a step, for "the first rungs in turn"; ``AT_STEPS`` is "at the point's steps".

    Raises:
        ValueError: for a strategy that does not exist, or cannot do what the settings ask.
    """

    space: MixtureSpace | None = None
    metric: str | None = None
    mode: Mode | None = None
    settings: Settings = field(default_factory=Settings)
    pool: Pool | None = None
    points: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        check(self.settings)
        if self.pool is not None:
            checked_pool(self.pool)
        self._optimizer: MixtureOptimizer | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of the objective, those of its guardrails included; empty while it is unknown."""
        return list(filter(None, [self.metric])) if self.settings.single_valued else list(self.settings.metrics)

    @property
    def missing(self) -> str | None:
        """A sentence about what is still unknown; None when all is known."""
        if self.space is None:
            return "No search space has been defined: pass MixOptSearcher(space), or tune.Tuner(param_space=...)."
        for name, known in (("metric", self.metrics), ("mode", self.mode)):
            if not known:
                return f"The {name} is unknown: pass MixOptSearcher({name}=...), or tune.TuneConfig({name}=...)."
        return None

    @property
    def history(self) -> History | None:
        """The history of the optimizer; None until there is one."""
        return None if self._optimizer is None else self._optimizer.history

    @property
    def optimizer(self) -> MixtureOptimizer:
        """The optimizer, made when it is first asked for; points that wait are given to it.

        Raises:
            RuntimeError: if something is ``missing``.
            ValueError: for a point that does not fit the space or the objective; it is dropped.
        """
        if self._optimizer is None:
            self._optimizer = MixtureOptimizer(*self._complete(), pool=self.pool)
        while self.points:
            _hand_over(self.points.pop(0), self._optimizer)
        return self._optimizer

    def _complete(self) -> tuple[MixtureSpace, Settings]:
        """The space, and the settings with all that was told late."""
        if self.missing is not None:
            raise RuntimeError(self.missing)
        assert self.space is not None and self.mode is not None
        objective = self.settings.objective or {self.metrics[0]: 1.0}
        return self.space, replace(self.settings, mode=self.mode, objective=objective)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, read back by ``from_state_dict``: all but the pool, callbacks, and a strategy of one's own.

        Such a strategy is named, for people to read.
        """
        settings = self.settings.to_dict()
        del settings["mode"]
        return {
            "version": STATE_VERSION,
            "metric": self.metric,
            "mode": self.mode,
            "settings": settings,
            "space": None if self.space is None else self.space.to_dict(),
            "history": None if self.history is None else self.history.state_dict(),
            "evaluated": list(self.points),
        }

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        *,
        space: MixtureSpace | None = None,
        pool: Pool | None = None,
        settings: Settings | None = None,
        strategy: AnyStrategy | None = None,
    ) -> SearchState:
        """The search that ``state_dict`` described, with its optimizer where it had one.

        Args:
            state: the description.
            space: holds from now on in place of the one described; see ``check_revision``.
            pool: the pool that the search was made with, if any.
            settings: have what JSON cannot hold: callbacks, and the strategy if that is one's own and not a name.
            strategy: in place of the one described.

        Raises:
            ValueError: if the state is of another version or malformed, ``space`` is of another search, or the strategy
                is one's own and neither ``settings`` nor ``strategy`` have it. Nothing named in a state is imported.
        """
        check_version(state, "a searcher's state", STATE_VERSION)
        check_known(state, (*_FIELDS, *_BESIDE), "state of a searcher")
        try:
            check_known(state["settings"], SETTINGS, "settings of a search")
            saved = None if state["space"] is None else MixtureSpace.from_dict(state["space"])
            history = None if state["history"] is None else History.from_state_dict(state["history"])
            described = state["settings"]
            if strategy is None and isinstance(described["strategy"], Mapping) and settings is not None:
                strategy = None if isinstance(settings.strategy, str) else settings.strategy
            read = Settings.from_dict({**described, "mode": state["mode"] or "min"}, strategy=strategy)
            if saved is not None and space is not None:
                check_revision(saved, space)
            # What the searcher keeps beside the search is checked with it, before anything changes.
            whole(state.get("n_recoveries", 0), "n_recoveries")
            named_numbers({} if state.get("cost_per_step") is None else state["cost_per_step"], "cost_per_step")
            metric, mode = state["metric"], state["mode"]
            if not isinstance(metric, str | None) or mode not in (None, *get_args(Mode)):
                raise ValueError(f"Malformed state of a searcher: it has the metric {metric!r} and the mode {mode!r}.")
            search = cls(
                space=space or saved,
                metric=metric,
                mode=mode,
                settings=read if settings is None else replace(read, callbacks=settings.callbacks),
                pool=pool,
                points=[_checked(point) for point in state["evaluated"]],
            )
            if history is not None:
                now, complete = search._complete()
                revise(history, now)
                search._optimizer = MixtureOptimizer.of_history(history, complete, pool=pool)
                _ = search.optimizer  # takes in the points that wait
        except (KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
            raise ValueError(f"Malformed state of a searcher: {error!r}.") from error
        return search


def check_revision(old: MixtureSpace, new: MixtureSpace) -> None:
    """Whether a search of ``old`` can go on in ``new``: floors, caps, groups, supplies and the target may differ.

    Raises:
        ValueError: naming what cannot be changed, and what to do instead.
    """
    for label in ("domains", "scales", "steps"):
        before, after = getattr(old, label), getattr(new, label)
        if before != after:
            raise ValueError(
                f"The search has the {label} {_listed(before)}, param_space has {_listed(after)}: these cannot be "
                "changed, since the runs made so far would mean something else. Search on in a new Tuner, with "
                "MixOptSearcher.add_evaluated_point for those runs that still count."
            )


def _listed(values: Sequence[Any]) -> list[Any]:
    return [value if isinstance(value, str | int) else (value.name, value.cost_per_step) for value in values]


def _checked(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a state. Its values may be NaN: the run then diverged."""
    check_known(point, ("mixture", "scale", "steps", "values"), "evaluated point")
    scale, steps, values = point["scale"], point["steps"], []
    if not isinstance(scale, str | None):
        raise ValueError(f"An evaluated point has the scale {scale!r}, which is no name.")
    for step, value in point["values"]:
        for part in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(part, bool) or not isinstance(part, int | float | None):
                raise ValueError(f"An evaluated point has the value {part!r}, which is no number.")
        values.append([step if step is None or step == AT_STEPS else whole(step, "A step", 1), value])
    return {
        "mixture": named_numbers(point["mixture"], "The mixture of an evaluated point"),
        "scale": scale,
        "steps": None if steps is None else whole(steps, "The steps of an evaluated point", 1),
        "values": values,
    }


def _hand_over(point: Mapping[str, Any], optimizer: MixtureOptimizer) -> None:
    space = optimizer.space
    scale = space.target_scale if point["scale"] is None and len(space.scales) == 1 else point["scale"]
    steps = space.target_steps if point["steps"] is None and len(space.steps) == 1 else point["steps"]
    if scale is None or steps is None:
        raise ValueError("An evaluated point must name its model scale and its training steps.")
    rungs = [rung for rung in space.rungs(str(scale)) if rung <= steps]
    if sum(step is None for step, _ in point["values"]) > len(rungs):
        raise ValueError(
            f"intermediate_values has more entries than there are rungs up to {steps} ({rungs}): give them as "
            "{step: value}."
        )
    name = optimizer.history.free_name("evaluated")
    for place, (step, value) in enumerate(point["values"]):
        step = rungs[place] if step is None else steps if step == AT_STEPS else step
        metrics = _by_name(value, optimizer)
        optimizer.add_evaluated_point(point["mixture"], str(scale), int(step), metrics, trial_id=name)


def _by_name(value: float | Mapping[str, float], optimizer: MixtureOptimizer) -> Mapping[str, float]:
    if isinstance(value, Mapping):
        return value
    names = list(optimizer.problem.weights)
    if len(names) > 1:
        raise ValueError(f"The objective has the metrics {names}: give an evaluated point's values by name.")
    return {names[0]: value}
