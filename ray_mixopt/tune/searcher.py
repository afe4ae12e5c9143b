"""``MixOptSearcher``: the mixture search as a Ray Tune search algorithm."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, cast

from pyarrow import fs
from ray.tune.search import SEARCH_ALG_IMPORT, Searcher

from ray_mixopt.core.history import History
from ray_mixopt.core.merging import DomainMap
from ray_mixopt.core.objective import Mode
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.scale import checked_costs
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.trial import BRANCH
from ray_mixopt.io import snapshots
from ray_mixopt.io.search_state import AnyStrategy, SearchState, check_revision
from ray_mixopt.tune import points
from ray_mixopt.tune.background import Asking
from ray_mixopt.tune.hearing import HearingSearcher
from ray_mixopt.tune.layout import Layout
from ray_mixopt.tune.pulse import watch_control_service
from ray_mixopt.tune.state import check_pickled, snapshot_often
from ray_mixopt.tune.storage import Storage
from ray_mixopt.tune.trials import Roster

logger = logging.getLogger(__name__)


class MixOptSearcher(HearingSearcher):
    """Searches for the mixture that is best at the target scale and steps, spending on cheaper runs where that pays.

    ``MixOptSearcher()`` learns everything from ``Tuner(param_space=...)`` and ``TuneConfig(metric, mode)``. A
    suggestion is ``{"mixture": {domain: share}, "scale": name, "steps": rung}``; a trial is to report "step" and its
    metrics at every rung up to ``steps``. Under ``MixOptScheduler`` runs are paused at their rung and may be continued
    later; under any other scheduler every run ends there. ``max_concurrent_trials`` counts the trials that hold or
    wait for resources, not the paused ones.

    Args:
        space: the search space; by default that of ``param_space``.
        metric: name of the metric to optimise; by default that of ``TuneConfig``.
        mode: "min" or "max"; by default that of ``TuneConfig``.
        settings: what the search is for, how it goes about it and what it may spend; see ``MixtureOptimizer``.
        points_to_evaluate: configurations to run before any other, with the keys of a suggestion; scale and steps may
            be left out where the space has only one.
        pool: the only runs that exist, when a table of logged runs is replayed.
        mixture_key: key of the mixture in the configuration.
        scale_key: key of the model scale.
        steps_key: key of the training steps.
        cost_per_step: price of a step by scale name, for a hand-written ``param_space`` with several scales.
        max_wait_s: longest time, in seconds, that Tune waits for a suggestion while trials run; it is then made in a
            thread, and the search depends on how long that takes. By default Tune waits as long as it takes.
        **given: further fields of ``Settings``, in place of ``settings`` or to change some of them: ``objective``
            (weight of each metric, in place of the single ``metric``, or an ``Objective``), ``strategy``, ``budget``
            (the search then finishes by itself), ``seed``, ``reference``, ``noise``, ``min_gain_per_cost``,
            ``stop_when_sure``, ``branches``, ``callbacks``. ``expected_runs`` is Tune's ``num_samples`` unless given.

    Attributes:
        unkept: cost of training that the state which is going to be restored does not know of.

    Raises:
        ValueError: for an argument that makes no sense; the message says what to change.
    """

    def __init__(
        self,
        space: MixtureSpace | None = None,
        metric: str | None = None,
        mode: Mode | None = None,
        *,
        settings: Settings | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        pool: Pool | None = None,
        mixture_key: str = "mixture",
        scale_key: str = "scale",
        steps_key: str = "steps",
        cost_per_step: Mapping[str, float] | None = None,
        max_wait_s: float | None = None,
        **given: Any,
    ) -> None:
        if space is not None and not isinstance(space, MixtureSpace):
            raise ValueError(f"space must be a MixtureSpace, got {space!r}: pass a dict as Tuner(param_space=...).")
        if metric is not None and not isinstance(metric, str):
            raise ValueError(f"metric must be one name, got {metric!r}: for several use objective={{name: weight}}.")
        for name in sorted({"mixture", "scale", "steps"} & given.keys()):
            raise ValueError(f"MixOptSearcher({name}=...) of version 0.1 is called {name}_key now.")
        self.layout = Layout(mixture=mixture_key, scale=scale_key, steps=steps_key)
        if points_to_evaluate is not None:
            given["points_to_evaluate"] = points.to_evaluate(self.layout, points_to_evaluate)
        if mode is not None:
            given["mode"] = mode
        elif isinstance(settings, Settings):
            mode = settings.mode
        settings = Settings.of(settings, **given)
        self._search = SearchState(space=space, metric=metric, mode=mode, settings=settings, pool=pool)
        super().__init__(metric=metric, mode=mode)
        self._asking = Asking(max_wait_s)
        self._cost_per_step = None if cost_per_step is None else dict(checked_costs(cost_per_step))
        self.max_concurrent = 0  # trials that may hold or wait for resources; 0 for no limit
        self.unkept = 0.0

    # -- the search as Tune sees it

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Takes over Tune's metric, mode and ``param_space``. May be called again, by another Tuner.

        Raises:
            ValueError: for a ``param_space`` that holds no mixture, or another one than before, or a grid search.
        """
        snapshot_often()
        search = self._search
        layout = self.layout.fitted(config, search.space)
        space = search.space or layout.space(config, self._cost_per_step)
        changes: dict[str, Any] = {"metric": metric or search.metric, "mode": mode or search.mode}
        if search.history is not None and len(search.history) > 0:
            if (changes["metric"], changes["mode"]) != (search.metric, search.mode):
                raise ValueError(
                    f"This MixOptSearcher has observations of {search.metric!r} ({search.mode}), which do not serve "
                    f"{changes['metric']!r} ({changes['mode']}): use a new one."
                )
            # Runs that were still going are another Tuner's, and so are their checkpoints.
            self.roster = Roster(search.history)
            self.roster.lose(set(self.roster.unconfirmed), search.history)
        else:
            settings, number = search.settings, spec.get("num_samples", sys.maxsize)
            if settings.expected_runs is None and 1 <= number < sys.maxsize:
                settings = replace(settings, expected_runs=number)
            self._search = replace(search, space=space, settings=settings, **changes)
        self.layout = layout
        self.storage.leave()
        self.storage = Storage(self.note)  # another Tuner's is another
        if self._search.missing is None:
            _ = self._search.optimizer  # made now, so that what does not fit is said now
        settings = search.settings
        own_end = settings.budget or settings.min_gain_per_cost or settings.stop_when_sure
        ends = own_end or spec.get("stop") or spec.get("time_budget_s")
        if spec.get("num_samples", 1) >= sys.maxsize and not ends:
            logger.warning("num_samples=-1 without MixOptSearcher(budget=...): this search does not end by itself.")
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Takes over the limit: Tune's own would count paused trials."""
        self.max_concurrent = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial; None for "not now"; FINISHED when the budget allows nothing more.

        A paused run may be worth more than any new one. The answer is then None, too, and ``MixOptScheduler`` resumes
        the run in the same step of Tune's loop.

        Raises:
            RuntimeError: if the space, the metric or the mode is unknown, the state could not be restored, or trial
                after trial fails before its first report.
            ValueError: if the budget does not pay for a single run.
            LeaseError: if another driver searches in the experiment's folder.
        """
        optimizer = self.optimizer
        watch_control_service()
        self.look()
        if not self.storage.attend():
            return None
        self.roster.check_failures()
        self.settle()
        roster, history = self.roster, optimizer.history
        if optimizer.space.phase_names and roster.saving(history):
            return None  # from whose checkpoint the next run may begin
        if roster.shown and roster.unconfirmed:
            roster.lose(set(roster.unconfirmed), history)
        running = roster.running(history)
        if self.max_concurrent and running >= self.max_concurrent:
            return None
        number, n_trials = history.n_asked, len(history)
        # With nothing running, Tune would sleep for a second if told to come back.
        with self.storage.lease or nullcontext():
            known, suggestion = (
                (True, None) if roster.exhausted else self._asking.ask(optimizer, trial_id, patient=not running)
            )
        if suggestion is None:
            roster.exhausted = known  # until a run reports or ends
            if running or not known:
                return None
            optimizer.problem.check_budget(history)
            return cast(Any, Searcher.FINISHED)
        roster.start(suggestion.trial_id)
        if suggestion.continues is not None:
            return None
        counted = history.n_asked > number
        config = self.layout.config(suggestion, optimizer.problem, number if counted else n_trials, counted=counted)
        if (branch := history[suggestion.trial_id].branch) is None:
            return config
        if (checkpoint := roster.checkpoint(branch.parent)) is None:
            history.begun_anew(suggestion.trial_id, "that has no checkpoint")
            return config
        return config | {BRANCH: asdict(branch) | {"checkpoint": checkpoint}}

    # -- answers and knowledge from elsewhere

    def recommend(self, *, details: bool = False) -> Recommendation:
        """The best mixture for the target as far as is known; see ``MixtureOptimizer.recommend``.

        Raises:
            RuntimeError: if the space, the metric or the mode is unknown.
        """
        return self.optimizer.recommend(details=details)

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float | Mapping[str, float],
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | Mapping[int, float] | None = None,
    ) -> None:
        """Takes in a run made elsewhere, at no cost; kept for later while the space is not known.

        Args:
            parameters: its configuration: mixture, scale and steps.
            value: the metric at those steps; with an ``objective``, metrics by name.
            error: whether it failed; then nothing is learned.
            pruned: whether it ended before its steps; ``value`` is then left out, since its step is unknown.
            intermediate_values: metric by training step, or at the first rungs in turn.

        Raises:
            ValueError: if the configuration or a value does not fit the space.
        """
        if error:
            return
        point = points.evaluated(self.layout, parameters, value, pruned, intermediate_values)
        if point is not None:
            self._search.points.append(point)
        if self._search.history is not None:
            _ = self._search.optimizer  # takes it

    def check_param_space(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError if this search cannot go on with a ``param_space``; see ``ray_mixopt.restore``."""
        if self._search.space is not None:
            check_revision(self._search.space, self.layout.space(config, self._cost_per_step))

    def absorb(self, history: History, changes: DomainMap | None = None, *, source: str = "") -> int:
        """Takes in the runs of an earlier history, at no cost, before the search; see ``MixtureOptimizer.absorb``.

        Raises:
            ValueError: if a domain of the runs has no place in the space, or a scale no size.
            RuntimeError: if the space, the metric or the mode is unknown: pass them to the searcher.
        """
        taken = self.optimizer.absorb(history, changes, source=source)
        self._search.space = self.optimizer.space
        return taken

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: all that a later process needs to suggest the same."""
        return {
            **self._search.state_dict(),
            "layout": self.layout.state(),
            "cost_per_step": self._cost_per_step,
            "max_wait_s": self._asking.max_wait_s,
            "n_recoveries": self.n_recoveries,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state, or raises ValueError and changes nothing.

        Bounds that are known by now go on to hold. A strategy of one's own, of which the state has only the name, must
        have been given to this searcher.
        """
        self._take_over(state, None)

    def _take_over(self, state: Mapping[str, Any], strategy: AnyStrategy | None) -> None:
        known = self._search
        search = SearchState.from_state_dict(
            state, space=known.space, pool=known.pool, settings=known.settings, strategy=strategy
        )
        try:
            layout, asking = Layout.from_state(state["layout"]), Asking(state.get("max_wait_s"))
            cost_per_step, n_recoveries = state["cost_per_step"], int(state["n_recoveries"])
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"Malformed state of a searcher: {error!r}.") from error
        self._search, self.layout, self._asking = search, layout, asking
        self._cost_per_step, self.n_recoveries = cost_per_step, n_recoveries
        self.roster = Roster(search.history)
        if self.unkept and search.history is not None:
            search.history.unkept += self.unkept
            self.unkept = 0.0

    @classmethod
    def load(
        cls,
        experiment_path: str | os.PathLike[str],
        *,
        pool: Pool | None = None,
        strategy: AnyStrategy | None = None,
        storage_filesystem: fs.FileSystem | None = None,
    ) -> MixOptSearcher:
        """The searcher of an experiment, running, interrupted or done: for ``recommend`` or for another Tuner.

        Args:
            experiment_path: the experiment's folder, a path or a URI.
            pool: the pool that it was made with, if any.
            strategy: in place of the one that it was made with; needed if that was one of your own.
            storage_filesystem: where the folder lies, if the path does not say.

        Raises:
            ValueError: if there is no readable state.
        """
        searcher = cls(pool=pool)
        where = snapshots.locate(experiment_path, storage_filesystem)
        searcher.recovered = snapshots.newest(*where, lambda state: searcher._take_over(state, strategy))
        searcher.count_recovery(searcher.recovered)
        return searcher

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: Tune keeps the searcher as it was made, and a second Tuner one that has run."""
        pool, settings = self._search.pool, self._search.settings
        check_pickled(strategy=settings.strategy, callbacks=settings.callbacks, pool=pool)
        return {"pool": pool, "settings": settings, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(settings=state["settings"], pool=state["pool"])  # type: ignore[misc]
        self.load_state_dict(state["state"])

    @property
    def metric(self) -> str | None:  # type: ignore[override]
        """The single metric to optimise; None while it is unknown, or where there is an objective."""
        return self._search.metric

    @property
    def mode(self) -> str | None:  # type: ignore[override]
        """The direction, "min" or "max"; None while it is unknown."""
        return self._search.mode


SEARCH_ALG_IMPORT["mixopt"] = lambda: MixOptSearcher
