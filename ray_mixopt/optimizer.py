"""Ask/tell search for the best mixture at the target, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, overload

import numpy as np

from ray_mixopt.core.arguments import is_whole
from ray_mixopt.core.forecast import Forecast
from ray_mixopt.core.history import Asked, History, Trial
from ray_mixopt.core.merging import DomainMap, take_in, translated
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.recommendation import Recommendation
from ray_mixopt.core.safety import check_known, check_version, is_finite
from ray_mixopt.core.settings import SETTINGS, Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Proposal, Strategy, Suggestion, checked
from ray_mixopt.core.turns import P, R, S, Turn, in_turn, with_gradients
from ray_mixopt.strategies import create
from ray_mixopt.strategies.design import first_run, lost_run, n_reported

if TYPE_CHECKING:
    from ray_mixopt.surrogate.belief import Belief
    from ray_mixopt.surrogate.gp import MixtureGP
    from ray_mixopt.surrogate.posterior import ObjectivePosterior

STATE_VERSION = 1
_books = in_turn("_history_turn")  # what reads or changes the history
_in_turn = in_turn("_model_turn", "_history_turn")  # what uses the models, too; always in this order


def _thought(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    return _in_turn(with_gradients(method))


class MixtureOptimizer:
    """Multi-fidelity, multi-scale search over {mixture, scale, steps}.

    Use: ``ask`` for a run, ``tell`` each rung as it is seen, ``finish`` the run, ``recommend`` at any time. Several
    ``ask`` before any ``tell`` are distinct and informed by each other. Threads may share an optimizer: what one does,
    or asks the history, waits for what another is doing. Only ``propose`` leaves the history to the others while it
    thinks.

    Args:
        space: the search space.
        settings: what the search is for, how it goes about it and what it may spend.
        pool: the only runs that exist, when a table of logged runs is replayed.
        **given: the fields of ``Settings``, in place of ``settings`` or to change some of them:
            ``MixtureOptimizer(space, objective={"loss": 1.0}, budget=100, seed=1)``.

    Attributes:
        problem: space, settings and pool.
        history: what was asked, seen and paid: the only state.

    Raises:
        ValueError: for settings that make no sense, or do not fit the space or the strategy.
    """

    def __init__(
        self, space: MixtureSpace, settings: Settings | None = None, *, pool: Pool | None = None, **given: Any
    ) -> None:
        if not isinstance(space, MixtureSpace):
            raise ValueError(f"MixtureOptimizer needs a MixtureSpace, got {type(space).__name__}.")
        self._model_turn = Turn()
        self.problem = Problem(space=space, settings=Settings.of(settings, **given), pool=pool)
        self._strategy = create(self.problem)
        self._belief: Belief | None = None
        self._continues = True  # not in a search of version 0.1 that never did
        self.history = History(space)
        self.problem.check_named()
        self.problem.check_first_runs(self.history)

    @property
    def space(self) -> MixtureSpace:
        """The search space."""
        return self.problem.space

    @property
    def _history_turn(self) -> Turn:
        return self.history.turn

    @property
    def settings(self) -> Settings:
        """What the search is for, how it goes about it and what it may spend."""
        return self.problem.settings

    # -- ask and tell

    @overload
    def ask(self, trial_id: str | None = None) -> Suggestion | None: ...

    @overload
    def ask(self, trial_id: int) -> list[Suggestion]: ...

    def ask(self, trial_id: str | int | None = None) -> Suggestion | None | list[Suggestion]:
        """The next run; None when the budget allows nothing more, no run is worth it, or a pool is used up.

        A run that was lost before it showed anything is asked for again first, under a new name; then come the
        ``points_to_evaluate``. Runs that have not reported yet are taken into account: several asked for at once
        differ, since each is worth what it adds to those before it.

        Args:
            trial_id: name for a new run; made up if not given. A continuation keeps the name of the run it continues.
                Or a number of runs: ``ask(8)`` is a list of the next eight, of fewer when there are no more.

        Raises:
            ValueError: for a number of runs below 1.
        """
        if trial_id is None or isinstance(trial_id, str):
            filed = self._next(trial_id)
            return None if filed is None else self._announced(*filed)
        if not is_whole(trial_id) or trial_id < 1:
            raise ValueError(f"ask takes a number of runs from 1 on, or a name, got {trial_id!r}.")
        batch: list[tuple[Suggestion, Asked]] = []
        try:
            while len(batch) < trial_id and (filed := self._next(None)) is not None:
                self._announced(*filed)
                batch.append(filed)
        except BaseException:  # the caller gets none of them
            for _, asked in reversed(batch):
                self.history.withdraw(asked)
            raise
        return [suggestion for suggestion, _ in batch]

    @_thought
    def _next(self, trial_id: str | None) -> tuple[Suggestion, Asked] | None:
        if (proposal := self.propose(self.history)) is None:
            self.problem.warn_if_poor(self.history)
            return None
        return self._filed(proposal, trial_id)

    @with_gradients
    def propose(self, history: History) -> Proposal | None:
        """What ``ask`` would want to run given a history, which stays as it is; safe to call in another thread."""
        with self._model_turn:
            if ours := lost_run(self.problem, history) or first_run(self.problem, history):
                return ours
            proposal = self._strategy.propose(history)
        if proposal is None:
            return None
        return checked(proposal, self.space, self.settings.strategy_name, limited=self.problem.pool is None)

    def accept(self, proposal: Proposal, trial_id: str | None = None) -> Suggestion:
        """Files a proposal as asked for; see ``ask``."""
        return self._announced(*self._filed(proposal, trial_id))

    def _announced(self, suggestion: Suggestion, asked: Asked) -> Suggestion:
        try:
            for callback in self.settings.callbacks:
                callback.on_suggestion(suggestion)
        except BaseException:  # nobody hears of the suggestion, so that nobody will run it
            self.history.withdraw(asked)
            raise
        return suggestion

    @_books
    def _filed(self, proposal: Proposal, trial_id: str | None) -> tuple[Suggestion, Asked]:
        """The suggestion, and what takes it back."""
        history, before, repeat = self.history, None, 0
        if proposal.continues is not None:
            before = history[proposal.continues].steps
            trial = history.resume(proposal.continues, proposal.steps)
        else:
            branch = self.problem.branch(proposal, history)
            repeat = n_reported(history, proposal.mixture, proposal.scale)
            if branch is not None:
                repeat = history[branch.parent].repeat  # with the seed of what it goes on with
            trial = Trial(
                trial_id=history.free_name("trial") if trial_id is None else trial_id,
                mixture=tuple(proposal.mixture.tolist()),
                scale=proposal.scale,
                steps=proposal.steps,
                acquisition=proposal.kept_acquisition,
                branch=branch,
                repeat=repeat,
            )
            history.add(trial)
        asked = history.asked(trial, before, counts=proposal.counts)
        return Suggestion.of(trial, self.space, continues=proposal.continues, repeat=repeat), asked

    @_books
    def still_possible(self, proposal: Proposal) -> bool:
        """Whether a proposal made for an earlier state of the history can be accepted now."""
        if proposal.continues is not None:
            trial = self.history[proposal.continues]
            if trial.status != "paused" or trial.reached >= proposal.steps:
                return False
        if (parent := proposal.parent) is not None and self.history[parent].status != "paused":
            return False
        return self.problem.affords(proposal, self.history)

    @_books
    def tell(self, trial_id: str, step: int, value: float | Mapping[str, float]) -> None:
        """Report what a run showed at a rung; call it for every rung as it is seen.

        A repeated (trial, step) is dropped. NaN or inf marks the run as diverged. Metrics that a mapping lacks are
        simply unknown.

        Args:
            trial_id: the suggestion's name.
            step: training step of the report.
            value: the objective, or metrics by name when ``objective`` was given. Metrics that are not part of it are
                kept, for another objective to be asked about later; there a NaN is no divergence.

        Raises:
            ValueError: for an unknown trial, a bad step, or a value of the wrong kind.
        """
        self.history.observe(trial_id, step, *self.problem.reported(value), self.problem.metrics)

    @_books
    def finish(self, trial_id: str, failed: bool = False, *, lost: bool = False, continuable: bool = True) -> None:
        """The run stopped: at its rung, or ``failed`` before it. What it showed is kept either way.

        Args:
            trial_id: the suggestion's name.
            failed: whether an error ended it; it then cannot be continued.
            lost: whether its machine failed and not the run; if it showed nothing, it is asked for again.
            continuable: whether its last checkpoint is kept, so that it can go on later at marginal cost.

        Raises:
            ValueError: for an unknown trial, or one that was given to the search.
        """
        self.history.finish(trial_id, failed=failed, lost=lost, continuable=continuable and self._continues)

    # -- runs made elsewhere

    @_books
    def add_evaluated_point(
        self,
        mixture: Mapping[str, float],
        scale: str,
        step: int,
        value: float | Mapping[str, float],
        *,
        trial_id: str | None = None,
    ) -> None:
        """Take in a run made elsewhere; it costs this search nothing.

        Args:
            mixture: weights by domain, normalised here.
            scale: name of the scale it was trained at.
            step: training step of the value.
            value: as in ``tell``.
            trial_id: rungs of one run share it; made up if not given.

        Raises:
            ValueError: if the mixture, scale, step or value does not fit the space.
        """
        report = self.problem.reported(value)
        name = self.history.free_name("evaluated") if trial_id is None else trial_id
        shares = tuple(self.space.mixture(mixture).tolist())
        known = self.history.trials.get(name) if isinstance(name, str) else None
        if known is None:
            self.history.add(
                Trial(trial_id=name, mixture=shares, scale=scale, steps=step, status="done", evaluated=True)
            )
        elif (known.mixture, known.scale) != (shares, scale):
            raise ValueError(f"Trial {name!r} has another mixture or scale: every run needs an id of its own.")
        try:
            self.history.observe(name, step, *report, self.problem.metrics)
        except ValueError:
            if known is None:
                del self.history.trials[name]
            raise

    @_thought
    def absorb(self, history: History, changes: DomainMap | None = None, *, source: str = "") -> int:
        """Takes in the runs of an earlier history, at no cost; ``io.runs.read_runs`` makes one of files.

        Domains that they lack had no share. Scales that this search lacks are learned from and never trained. The
        initial design is left out as far as they make it unnecessary.

        Args:
            history: runs at any fidelity, perhaps of other domains and scales.
            changes: what became of their domains.
            source: put before the names of their trials.

        Returns:
            The number of runs taken in.

        Raises:
            ValueError: if a domain of the runs has no place in the space, or a scale no size.
        """
        if not isinstance(history, History):
            raise TypeError(f"absorb takes a History, got {history!r}: io.runs.read_runs('runs.csv') makes one.")
        before = len(self.history)
        given = translated(history, self.space, changes)
        take_in(self.history, given, source)
        self.problem = self.problem.within(given.space)
        self._strategy, self._belief = create(self.problem), None
        return len(self.history) - before

    # -- answers

    @_thought
    def recommend(self, *, details: bool = False) -> Recommendation:
        """The best mixture for the target as far as is known.

        Args:
            details: whether to add how flat the optimum is, what limits cost and how fidelities rank. Takes seconds.
        """
        recommendation = self._priced(self._strategy.recommend(self.history))
        nothing = self.problem.nothing_known(self.history)
        if nothing or not details:
            return replace(recommendation, nothing_known=nothing)
        from ray_mixopt.strategies.details import detailed

        return detailed(recommendation, self.problem, self.history, self.belief)

    @_thought
    def answer(self, history: History | None = None) -> Recommendation:
        """``recommend``, of another history if one is given, without the next run and the check of the intervals."""
        brief = getattr(self._strategy, "answer", self._strategy.recommend)
        return self._priced(brief(self.history if history is None else history))

    def _priced(self, answer: object) -> Recommendation:
        if isinstance(answer, Recommendation):
            return replace(answer, target_cost=self.space.target_cost, phases=self.space.phases)
        raise TypeError(f"{self.settings.strategy_name}: recommend must return a Recommendation, got {answer!r}.")

    @property
    @_thought
    def belief(self) -> Belief:
        """The models of all metrics: the strategy's own, or the default ones where it has none."""
        if self._belief is None:
            from ray_mixopt.surrogate.phased import belief_of

            self._belief = getattr(self._strategy, "belief", None) or belief_of(self.problem)
        return self._belief

    @_thought
    def posterior(self) -> ObjectivePosterior | None:
        """What is known of the objective at the target; None while one of its metrics has fewer than two values."""
        return self.belief.posterior(self.problem, self.history)

    @_thought
    def predict(
        self,
        mixtures: Sequence[Mapping[str, float]] | np.ndarray,
        *,
        scale: str | None = None,
        steps: int | None = None,
    ) -> Forecast:
        """What is expected of mixtures together: values, uncertainties, and how surely they differ.

        Args:
            mixtures: weights by domain of each, or ``n x d`` shares in the order of the space's domains.
            scale: name of a scale; the target's by default.
            steps: training steps; the target's by default.

        Returns:
            The objective, in its own unit and direction, without noise.

        Raises:
            ValueError: for no mixture or one that does not fit the space, an unknown scale, or if fewer than two
                reports have all metrics of the objective.
        """
        if not isinstance(mixtures, list | tuple | np.ndarray) or not len(mixtures):
            raise ValueError(f"predict needs a sequence of at least one mixture, got {mixtures!r}.")
        shares = np.array([self.space.mixture(mixture) for mixture in mixtures]).reshape(-1, self.space.n_shares)
        posterior = self.posterior()
        if posterior is None:
            raise ValueError(
                f"Nothing can be predicted yet: fewer than two reports have {', '.join(self.problem.weights)}."
            )
        name = self.space.scale(self.space.target_scale if scale is None else scale).name
        length = self.space.target_steps if steps is None else steps
        if not is_finite(length) or not length > 0:
            raise ValueError(f"steps must be a number of training steps above 0, got {steps!r}.")
        return posterior.at(name, length).forecast(shares)

    @_thought
    def model(self, metric: str) -> MixtureGP:
        """The Gaussian process of a metric: a BoTorch model, in the metric's own unit.

        Its inputs are rows ``[w, s, t]`` as ``surrogate.encoding.encode`` makes them.

        Raises:
            ValueError: if fewer than two runs reported the metric.
        """
        model = self.belief.model(metric, self.problem, self.history)
        if model is None:
            known = ", ".join(self.history.metrics) or "none yet"
            raise ValueError(f"Fewer than two reports have the metric {metric!r}: metrics reported are {known}.")
        return model

    # -- state

    @_books
    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: the settings and the history. The pool and callbacks are not part of it."""
        state = {"version": STATE_VERSION, **self.settings.to_dict(), "history": self.history.state_dict()}
        return state if self._continues else state | {"continuation": False}

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        *,
        pool: Pool | None = None,
        strategy: str | Callable[[Problem], Strategy] | None = None,
    ) -> MixtureOptimizer:
        """The optimizer that ``state_dict`` described; it goes on exactly where that one stood.

        Args:
            state: what ``state_dict`` gave, of this version or 0.1.
            pool: the pool, which is not part of the state.
            strategy: in place of the one described; needed where that was one of your own.

        Raises:
            ValueError: if the state is of another version or malformed.
        """
        check_version(state, "an optimizer", STATE_VERSION)
        check_known(state, ("version", *SETTINGS, "history", "continuation", "pool"), "optimizer")
        history = History.from_state_dict(state.get("history", {}))
        optimizer = cls.of_history(history, Settings.from_dict(state, strategy=strategy), pool=pool)
        continuation = state.get("continuation", True)
        if not isinstance(continuation, bool):
            raise ValueError(f"Malformed optimizer: continuation must be true or false, got {continuation!r}.")
        if not continuation:
            optimizer._continues = False
            for trial in history.paused():
                trial.status = "done"
        return optimizer

    @classmethod
    def of_history(cls, history: History, settings: Settings, *, pool: Pool | None = None) -> MixtureOptimizer:
        """The optimizer of a search that has a history already.

        Points to evaluate that limits have come to exclude since are left out, where they were not run yet.

        Args:
            history: taken over, and added to from now on.
            settings: of the search.
            pool: the only runs that exist, if there is one.

        Raises:
            ValueError: see ``MixtureOptimizer``.
        """
        optimizer = cls(history.space, replace(settings, points_to_evaluate=()), pool=pool)
        optimizer.problem = replace(optimizer.problem, settings=settings)
        optimizer._strategy, optimizer.history = create(optimizer.problem), history
        return optimizer
