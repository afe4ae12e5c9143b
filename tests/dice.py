"""A minimal searcher that keeps the contract of ``ray_mixopt.testing``, and others that each break a part of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import UNDEFINED_SEARCH_SPACE, Searcher
from ray.tune.search.variant_generator import assign_value, parse_spec_vars

from ray_mixopt.testing import SearcherConformance


class Dice(Searcher):
    """Seeded random search; its state is the number of suggestions and the space."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.seed, self.n = seed, 0
        self.space: dict[str, Any] | None = None

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        self._metric, self._mode = metric, mode
        _, domains, grids = parse_spec_vars(config)
        if grids:
            raise ValueError("grid_search is not supported")
        # By position among the alternatives, so that the state is JSON.
        self.space = {"/".join(path): getattr(domain, "categories", None) for path, domain in domains}
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.space is None:
            raise RuntimeError(UNDEFINED_SEARCH_SPACE.format(cls="Dice", space="space"))
        rng = np.random.default_rng([self.seed, self.n])
        self.n += 1
        config: dict[str, Any] = {}
        for path, categories in self.space.items():
            value = float(rng.random()) if categories is None else categories[int(rng.integers(len(categories)))]
            parts = path.split("/")
            if len(parts) > 1:
                config.setdefault(parts[0], {})
            assign_value(config, tuple(parts), value)
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps({"n": self.n, "space": self.space, "seed": self.seed}))

    def restore(self, checkpoint_path: str) -> None:
        state = json.loads(Path(checkpoint_path).read_text())
        self.n, self.space, self.seed = state["n"], state["space"], state["seed"]


class LeavesOpen(Dice):
    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        super().set_search_properties(metric, mode, config)
        self.space = {path: options for path, options in self.space.items() if path != "steps"}
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return super().suggest(trial_id)


class Unseeded(Dice):
    def __init__(self) -> None:
        super().__init__(seed=int(np.random.default_rng().integers(2**31)))


class RepeatsItself(Dice):
    """Asks for the same until it hears of a result."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        config = super().suggest(trial_id)
        self.n -= 1
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.n += 1


class KnowsNoLimit(Dice):
    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return True


class IgnoresGrids(Dice):
    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        return super().set_search_properties(metric, mode, {k: v for k, v in config.items() if k != "lr"})


class SearchesNothing(Dice):
    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return super().suggest(trial_id) if self.space is not None else {}


class FearsNan(Dice):
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        int(result["loss"] * 10 if result else 0)


class WantsMetrics(Dice):
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.last = result[self._metric]


class WantsResults(Dice):
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.last = result["training_iteration"]


class CountsReports(Dice):
    """What it suggests depends on how often it was told."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.n += 1


class HoldsALock(Dice):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class DrawsWhenSaved(Dice):
    def save(self, checkpoint_path: str) -> None:
        super().save(checkpoint_path)
        self.n += 1


class Forgets(Dice):
    def restore(self, checkpoint_path: str) -> None:
        super().restore(checkpoint_path)
        self.n -= 1


class DependsOnTheProcess(Dice):
    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return super().suggest(trial_id) | {"salt": hash("salt")}


class TestDice(SearcherConformance):
    def make_searcher(self) -> Searcher:
        return Dice()


class TestDependsOnTheProcess(SearcherConformance):
    def make_searcher(self) -> Searcher:
        return DependsOnTheProcess()
