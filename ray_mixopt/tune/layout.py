"""Where a Tune configuration holds what: mixture, model scale, training steps, and other hyper-parameters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray.tune.search.sample import Categorical

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Suggestion
from ray_mixopt.core.trial import BRANCH, REPEAT, Branch
from ray_mixopt.tune.param_space import ModelScale, Parameters, find_mixture, from_param_space

logger = logging.getLogger(__name__)

_STREAM = 7  # sets the draws of further hyper-parameters apart from the strategy's


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The keys of a configuration.

    Args:
        mixture: key of the ``{domain: share}`` dict, or of the ``{phase: {domain: share}}`` dict.
        scale: key of the model scale's name.
        steps: key of the training steps, the rung to reach.
        parameters: domains of ``param_space`` that are sampled rather than searched.
    """

    mixture: str = "mixture"
    scale: str = "scale"
    steps: str = "steps"
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        keys = (self.mixture, self.scale, self.steps)
        if len(set(keys)) < 3 or any(not isinstance(key, str) or not key or "/" in key for key in keys):
            raise ValueError(
                f"mixture_key, scale_key and steps_key must be three distinct names without '/', got {list(keys)}."
            )

    def fitted(self, config: Mapping[str, Any], space: MixtureSpace | None) -> Layout:
        """This layout with the mixture's key and the other parameters as found in a ``param_space``.

        Args:
            config: the ``param_space``.
            space: the space to search; None if ``config`` is to say.

        Raises:
            ValueError: if there is a grid search, no mixture, or one that is not of ``space``.
        """
        mixture, named = self.mixture, set() if space is None else set(space.phase_names or space.domains)
        if space is None:
            mixture = find_mixture(config, mixture)
        elif mixture not in config:
            mixture = next((key for key, value in config.items() if _names(value) == named), mixture)
        parameters = Parameters.of(config, without=(mixture, self.scale, self.steps))
        if space is not None:
            declared = {
                mixture: (_names(config.get(mixture, dict.fromkeys(named))), named),
                self.scale: (_options(config.get(self.scale)), set(space.scale_names)),
                self.steps: (_options(config.get(self.steps)), set(map(str, space.steps))),
            }
            for key, (found, wanted) in declared.items():
                if not found <= wanted or (key == mixture and found != wanted):
                    raise ValueError(
                        f"param_space[{key!r}] has {sorted(found)}, the searcher's space {sorted(wanted)}: use "
                        "space.param_space(), or a new MixOptSearcher."
                    )
            other = config[self.scale].space if isinstance(config.get(self.scale), ModelScale) else space
            if replace(other, earlier_scales=()) != replace(space, earlier_scales=()):
                raise ValueError("param_space was made by another MixtureSpace than the searcher's: use only one.")
        return replace(self, mixture=mixture, parameters=parameters)

    def space(self, config: Mapping[str, Any], cost_per_step: Mapping[str, float] | None) -> MixtureSpace:
        """The space that a ``param_space`` describes; see ``from_param_space`` for the errors raised."""
        keys = {"mixture_key": self.mixture, "scale_key": self.scale, "steps_key": self.steps}
        return from_param_space(config, **keys, cost_per_step=cost_per_step)

    def config(self, suggestion: Suggestion, problem: Problem, number: int, *, counted: bool) -> dict[str, Any]:
        """The configuration of a new trial.

        Args:
            suggestion: what to run.
            problem: has the random streams, one of which the other parameters are drawn from.
            number: of the suggestion, or of trials before it where it is not ``counted``.
            counted: whether it is the strategy's own. Lost runs and points to evaluate draw from streams of their own.
        """
        rng = problem.rng(number, _STREAM) if counted else problem.rng(number, _STREAM, 1)
        searched = {
            self.mixture: suggestion.mixture,
            self.scale: suggestion.scale,
            self.steps: suggestion.steps,
        }
        again: dict[str, Any] = {REPEAT: suggestion.repeat} if suggestion.repeat else {}
        return again | self.parameters.sample(rng) | searched

    def trial(self, trial_id: str, config: Mapping[str, Any], space: MixtureSpace) -> Trial:
        """The trial that a configuration describes.

        Raises:
            ValueError: if a key is missing or its value does not fit the space.
        """
        missing = [key for key in (self.mixture, self.scale, self.steps) if key not in config]
        if missing:
            raise ValueError(f"its configuration lacks {', '.join(missing)}")
        begins = config.get(BRANCH)
        try:
            return Trial(
                trial_id=trial_id,
                mixture=tuple(space.mixture(config[self.mixture]).tolist()),
                scale=space.scale(str(config[self.scale])).name,
                steps=int(config[self.steps]),
                repeat=int(config.get(REPEAT, 0)),
                branch=begins
                and Branch(parent=begins["parent"], **{k: int(begins[k]) for k in ("from_step", "steps")}),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"its configuration is malformed: {error}") from error

    def adopted(self, trial_id: str, config: Mapping[str, Any], history: History) -> Trial:
        """The trial that a configuration describes, now in a history that did not know it.

        Raises:
            ValueError: if a key is missing or its value does not fit the space.
        """
        run = self.trial(trial_id, config, history.space)
        if run.branch is not None and run.branch.parent not in history.trials:
            run.branch = None  # nothing tells what it went on from
        failed = [t.trial_id for t in history if (t.mixture, t.scale) == (run.mixture, run.scale)]
        history.add(run)
        if failed:
            history.n_apart += 1
            logger.warning("Trial %s makes the run of trial %s again, from its start.", trial_id, failed[-1])
        else:
            history.n_asked += 1  # it was asked for, by a state that is gone
            logger.warning("Trial %s was not in the state; it is taken over from its configuration.", trial_id)
        return run

    def config_of(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that a flattened Tune result repeats under "config/"; empty where it does not."""
        found: dict[str, Any] = {"config": {}}
        for key, value in result.items():
            *levels, name = key.split("/")
            if levels[:1] == ["config"] and [*levels, name][1] in (
                self.mixture,
                self.scale,
                self.steps,
                BRANCH,
                REPEAT,
            ):
                place = found
                for level in levels:
                    place = place.setdefault(level, {})
                place[name] = value
        return found["config"]

    def state(self) -> dict[str, Any]:
        """JSON-able description, read back by ``from_state``."""
        return {
            "mixture": self.mixture,
            "scale": self.scale,
            "steps": self.steps,
            "parameters": self.parameters.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Layout:
        """The layout that ``state`` described. Raises ValueError for keys that are no names."""
        for key in ("mixture", "scale", "steps"):
            if not isinstance(state[key], str):
                raise ValueError(f"Malformed state of a searcher: {key} is under the key {state[key]!r}.")
        return cls(**{**state, "parameters": Parameters.from_state(state["parameters"])})


def _names(value: Any) -> set[str]:
    return set(map(str, value)) if isinstance(value, Mapping) else set()


def _options(value: Any) -> set[str]:
    if value is None:
        return set()
    return set(map(str, value.categories)) if isinstance(value, Categorical) else {str(value)}
