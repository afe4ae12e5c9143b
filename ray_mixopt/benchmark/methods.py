"""The methods by name: our strategies, and the rivals of ``rivals/settings.toml``."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from ray_mixopt.benchmark.problem import Task
from ray_mixopt.core.problem import Problem
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.strategy import Strategy, Suggestion

# Our strategies by the name of the method, which results are kept under.
OURS = {
    "default": "default",
    "paper": "paper",
    "paper-tv": "paper:kernel=tv",
    "paper-jsd": "paper:kernel=jsd",
    "paper-script-noise": "paper:noise=script",
    "random": "random",
}
AFRESH = "default-afresh"
AnyStrategy = str | Callable[[Problem], Strategy]
SETTINGS = Path(__file__).parent / "rivals" / "settings.toml"


class Method(Protocol):
    """A search, as the runner sees it."""

    @property
    def space(self) -> MixtureSpace:
        """The task's space with the rungs at which this method wants reports."""
        ...

    def ask(self) -> Suggestion | None:
        """The next run; None when the method has nothing more to run."""
        ...

    def tell(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Is told what a run reported at a rung, by metric."""
        ...

    def finish(self, trial_id: str, failed: bool = False) -> None:
        """Is told that a run is at its rung, or failed on the way."""
        ...

    def recommend(self) -> dict[str, float]:
        """Share of training tokens by domain to train with at the target, as far as is known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method of the registry, or one of your own: ``Entry(name="mine", strategy=MyStrategy, domain="both")``.

    Args:
        name: how it is asked for, and what its results are kept under.
        about: what it is, in a line.
        implementation: ``module:class`` of a rival; "" for a strategy.
        strategy: as in ``MixtureOptimizer``: its name, or a callable that makes one of a ``Problem``; ``name`` by
            default.
        packages: what must be importable.
        settings: keyword arguments of the class, or of ``Ours``; kept with the results, so plain JSON.
        domain: "simplex", "pool" or "both": whether it searches freely or among logged runs.
        reason: why it cannot run here; "" where it can.
    """

    name: str
    about: str = ""
    implementation: str = ""
    strategy: AnyStrategy = ""
    packages: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    domain: str = "simplex"
    reason: str = ""

    @property
    def obstacle(self) -> str:
        """Why it cannot run in this environment; "" where it can."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if self.reason or not missing:
            return self.reason
        return f"it needs {', '.join(missing)}: pip install 'ray-mixopt[benchmark]'"

    def suits(self, task: Task) -> bool:
        """Whether it can search that kind of task."""
        return self.domain in ("both", "simplex" if task.pool is None else "pool")

    def start(self, task: Task) -> Method:
        """A search that has not begun."""
        if not self.implementation:
            return Ours(task, **{"strategy": self.strategy or self.name, **self.settings})
        module, _, cls = self.implementation.partition(":")
        rival = getattr(importlib.import_module(f"ray_mixopt.benchmark.rivals.{module}"), cls)
        return cast(Method, rival(task, **self.settings))


class Ours:
    """A strategy of ``MixtureOptimizer``.

    Args:
        task: what is searched. The paper's presets get the paper's rungs, where any step can be reported.
        strategy: its name, or a callable that makes one of a ``Problem``.
        continuation: whether runs may go on later; otherwise each starts afresh.
        settings: further arguments of ``MixtureOptimizer``.
    """

    def __init__(self, task: Task, strategy: AnyStrategy, *, continuation: bool = True, **settings: Any) -> None:
        from ray_mixopt.optimizer import MixtureOptimizer

        if isinstance(strategy, str) and strategy.startswith("paper") and task.any_steps:
            from ray_mixopt.strategies.paper import paper_rungs  # imports PyTorch, which not every method needs

            task = task.with_rungs(paper_rungs(task.space.target_steps))
        self.space, self.continuation = task.space, continuation
        self.optimizer = MixtureOptimizer(
            task.space,
            mode=task.mode,
            objective=task.objective,
            strategy=strategy,
            budget=task.budget,
            seed=task.seed,
            pool=task.pool,
            **settings,
        )

    def ask(self) -> Suggestion | None:
        """The strategy's next run; None when it has nothing more to run."""
        return self.optimizer.ask()

    def tell(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Tells the optimizer what a run reported at a step, by metric."""
        self.optimizer.tell(trial_id, step, metrics)

    def finish(self, trial_id: str, failed: bool = False) -> None:
        """Tells the optimizer that a run is at its rung, or failed on the way."""
        self.optimizer.finish(trial_id, failed, continuable=self.continuation)

    def recommend(self) -> dict[str, float]:
        """Share of training tokens by domain that the strategy recommends for the target."""
        return self.optimizer.answer().mixture


@cache
def registry() -> dict[str, Entry]:
    """All methods by name, ours first."""
    rivals = tomllib.loads(SETTINGS.read_text())
    entries = [
        Entry(name=name, about="of this package", strategy=strategy, domain="both") for name, strategy in OURS.items()
    ]
    entries.append(
        Entry(
            name=AFRESH,
            about="default, with every run started afresh",
            domain="both",
            settings={"strategy": "default", "continuation": False},  # as in the results
        )
    )
    entries += [
        Entry(name=name, **{**rival, "packages": tuple(rival.get("packages", ()))}) for name, rival in rivals.items()
    ]
    return {entry.name: entry for entry in entries}


def find(name: str) -> Entry:
    """The method of that name, or of the strategy that ``module:attribute`` names.

    Raises:
        ValueError: for an unknown name, or what cannot be imported or is no callable.
    """
    if name in registry():
        return registry()[name]
    if ":" not in name:
        raise ValueError(
            f"Unknown method {name!r}: choose one of {', '.join(registry())}, or name a strategy of your own as "
            "module:attribute."
        )
    try:
        strategy = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The strategy {name!r} cannot be imported: {error}.") from error
    if not callable(strategy):
        raise ValueError(f"The strategy {name!r} is no callable from a Problem to a Strategy.")
    return Entry(name=name, about="of your own", strategy=strategy, domain="both")


def expand(patterns: Sequence[str]) -> list[Entry]:
    """The methods of some names or patterns (``*``), each once.

    Raises:
        ValueError: for an unknown name, or a pattern that matches nothing.
    """
    names: list[str] = []
    for pattern in patterns:
        matching = [name for name in registry() if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
        if not matching:
            raise ValueError(f"No method matches {pattern!r}: there are {', '.join(registry())}.")
        names += matching
    return [find(name) for name in dict.fromkeys(names)]
