"""What to run next and what to recommend: the strategies of a search, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from ray_mixopt.core.problem import Problem
from ray_mixopt.core.settings import RENAMED, Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class Named:
    """A strategy of this package.

    Args:
        module: where it is; loaded when it is first used, so that random search does not wait for the surrogate.
        cls: its class.
        options: what may be said behind its name, ``name:option=value``, with the values that an option may have.
        predicts: whether it has a model: it then knows guardrails, relative objectives, closeness and expected gains.
        groups: whether it knows limits on groups of domains.
        phases: whether it knows mixtures of several phases.
    """

    module: str
    cls: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predicts: bool = False
    groups: bool = True
    phases: bool = True


STRATEGIES: dict[str, Named] = {
    "default": Named(module="ray_mixopt.strategies.default", cls="DefaultStrategy", predicts=True),
    "paper": Named(
        module="ray_mixopt.strategies.paper",
        cls="PaperStrategy",
        options={"kernel": ("rbf", "tv", "jsd"), "noise": ("printed", "script")},
        groups=False,
        phases=False,
    ),
    "random": Named(module="ray_mixopt.strategies.random", cls="RandomStrategy"),
}


def check(settings: Settings, space: MixtureSpace | None = None) -> None:
    """Checks that the chosen strategy exists and can do what the settings ask; one's own can do anything.

    Args:
        settings: of the search.
        space: of the search; None while it is not known.

    Raises:
        ValueError: naming what the strategy does not know.
    """
    if not isinstance(settings.strategy, str):
        return
    named, _ = _parsed(settings.strategy)
    goal = settings.goal
    if goal is not None and not goal.plain and not named.predicts:
        raise ValueError(
            f"Strategy {settings.strategy!r} knows only weighted sums: an objective with guardrails, relative_to or "
            "closeness needs strategy='default'."
        )
    if settings.min_gain_per_cost and not named.predicts:
        raise ValueError(
            f"Strategy {settings.strategy!r} does not predict gains: min_gain_per_cost needs strategy='default'."
        )
    if settings.stop_when_sure and not named.predicts:
        raise ValueError(f"Strategy {settings.strategy!r} is never sure: stop_when_sure needs strategy='default'.")
    if settings.noise and not named.predicts:
        raise ValueError(f"Strategy {settings.strategy!r} has no use for noise=: it needs strategy='default'.")
    if space is None:
        return
    if space.groups and not named.groups:
        raise ValueError(
            f"Strategy {settings.strategy!r} knows no limits on groups of domains: use 'default' or 'random'."
        )
    if not named.phases:
        space.check_one_mixture(f"Strategy {settings.strategy!r} knows")


def create(problem: Problem) -> Strategy:
    """The strategy that a problem's settings choose, made for the problem.

    Raises:
        ValueError: for an unknown name, or what ``check`` raises.
    """
    check(problem.settings, problem.space)
    chosen = problem.settings.strategy
    make: Callable[[Problem], Strategy]
    if isinstance(chosen, str):
        named, options = _parsed(chosen)
        make = partial(getattr(importlib.import_module(named.module), named.cls), **options)
    else:
        make = chosen
    strategy = make(problem)
    if not all(callable(getattr(strategy, name, None)) for name in ("propose", "recommend")):
        name = problem.settings.strategy_name
        raise ValueError(f"The strategy {name} makes {strategy!r}, which has no methods propose and recommend.")
    return strategy


def _parsed(text: str) -> tuple[Named, dict[str, str]]:
    """``name`` or ``name:option=value,option=value``, taken apart."""
    name, _, rest = text.partition(":")
    if text in RENAMED:
        raise ValueError(f"Strategy {text!r} of version 0.1 is called {RENAMED[text]!r} now.")
    if name not in STRATEGIES:
        raise ValueError(f"Unknown strategy {name!r}: choose one of {', '.join(STRATEGIES)}.")
    named, options = STRATEGIES[name], {}
    for part in rest.split(",") if ":" in text else ():
        key, _, value = part.partition("=")
        if key in options:
            raise ValueError(f"Strategy {text!r} says {key} twice.")
        if value not in named.options.get(key, ()):
            known = "; ".join(f"{option}={'|'.join(values)}" for option, values in named.options.items())
            raise ValueError(f"Strategy {name!r} has no {part!r}: its options are {known or 'none'}.")
        options[key] = value
    return named, options
