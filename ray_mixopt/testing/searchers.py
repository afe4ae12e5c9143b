"""What Ray Tune asks of a searcher, without a Ray cluster.

Tune saves a searcher every few seconds, restores it into a fresh object that has not seen the search space, tells it of
trials late, twice or not at all, and asks for several trials before the first has ended. The tests are those that
Tune's own suite has for its searchers, and more.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator
from ray.tune.search.sample import Domain
from ray.tune.utils import flatten_dict

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace

SPACE = MixtureSpace(
    domains=("web", "code", "math"), scales=(Scale("20M", 1.0, 20e6), Scale("60M", 3.0, 60e6)), steps=(10, 20, 40)
)
IN_FLIGHT = 8

_RESTORE_ELSEWHERE = """
import importlib.util, json, sys
file, name, state = sys.argv[1:]
spec = importlib.util.spec_from_file_location("conformance", file)
module = importlib.util.module_from_spec(spec)
sys.modules["conformance"] = module
spec.loader.exec_module(module)
test = getattr(module, name)()
searcher = test.make_searcher()
searcher.restore(state)
print(json.dumps(test.plain(searcher.suggest("next"))))
"""


class SearcherConformance:
    """Subclass it, name the class ``Test...``, and give ``make_searcher``."""

    metric = "loss"
    mode = "min"

    # -- to be given, or changed

    def make_searcher(self) -> Searcher:
        """A fresh searcher, always with the same seed, that knows neither space nor metric."""
        raise NotImplementedError

    def param_space(self) -> dict[str, Any]:
        """The space to search."""
        return SPACE.param_space()

    def value(self, config: Mapping[str, Any]) -> float:
        """What a trial of that configuration reports in the end: any function of it, different for different ones."""
        weights = list(config["mixture"].values())
        return float(weights[0] / sum(weights) - 0.5) ** 2 + 1 / int(config["steps"]) + 0.1 * (config["scale"] == "20M")

    def last_step(self, config: Mapping[str, Any]) -> int:
        """The training step at which a trial of that configuration ends."""
        return int(config["steps"])

    # -- suggestions

    def test_suggestions_resolve_the_space(self) -> None:
        """Tune resolves nothing that a searcher leaves open."""
        searcher = self._ready()
        wanted = {key for key, value in flatten_dict(self.param_space()).items() if isinstance(value, Domain)}
        for name, config in self._drive(searcher, self._names(3)):
            found = flatten_dict(config)
            assert wanted <= set(found), f"{name} lacks {sorted(wanted - set(found))}"
            assert not any(isinstance(value, Domain) for value in found.values()), f"{name} is unresolved: {found}"

    def test_the_same_seed_suggests_the_same(self) -> None:
        """Two fresh searchers agree."""
        one, two = (list(self._drive(self._ready(), self._names(5))) for _ in range(2))
        assert one == two

    def test_suggestions_in_flight_are_distinct(self) -> None:
        """Several are asked for before any has reported."""
        for before in (0, 5):
            searcher = self._ready()
            list(self._drive(searcher, self._names(before)))
            configs = [self._suggest(searcher, f"flying_{i}") for i in range(IN_FLIGHT)]
            texts = {json.dumps(config, sort_keys=True) for config in configs}
            assert len(texts) == IN_FLIGHT, f"after {before} trials {IN_FLIGHT - len(texts)} of {IN_FLIGHT} are repeats"

    def test_a_limiter_holds_back(self) -> None:
        """``ConcurrencyLimiter``, which ``max_concurrent_trials`` puts around every searcher."""
        limited = ConcurrencyLimiter(self.make_searcher(), max_concurrent=2)
        assert limited.set_search_properties(self.metric, self.mode, self.param_space())
        first, second = self._suggest(limited, "a"), self._suggest(limited, "b")
        assert first != second and limited.suggest("c") is None
        self._complete(limited, "a", first)
        assert isinstance(limited.suggest("d"), dict) and limited.suggest("e") is None

    def test_grid_search_is_refused(self) -> None:
        """Silently ignoring a part of the space would be worse."""
        searcher = self.make_searcher()
        with _raises((ValueError, RuntimeError), "a grid_search in the space"):
            searcher.set_search_properties(
                self.metric, self.mode, self.param_space() | {"lr": tune.grid_search([1, 2])}
            )
            searcher.suggest("a")

    def test_a_searcher_without_a_space_says_so(self) -> None:
        """An empty ``param_space`` is never handed over."""
        with _raises((ValueError, RuntimeError), "a suggestion without a space"):
            self.make_searcher().suggest("a")

    # -- reports

    def test_invalid_values(self) -> None:
        """NaN and infinities, on the way and in the end."""
        for value in (math.nan, math.inf, -math.inf):
            searcher = self._ready()
            for number in range(3):
                config = self._suggest(searcher, str(number))
                searcher.on_trial_result(str(number), self._result(config, value, step=1))
                searcher.on_trial_complete(str(number), self._result(config, value))
            list(self._drive(searcher, self._names(3)))

    def test_missing_values(self) -> None:
        """Reports without the metric, and an end without any report."""
        searcher = self._ready()
        for number, silent in enumerate((False, True)):
            config = self._suggest(searcher, str(number))
            result = self._result(config, 0.0)
            del result[self.metric]
            searcher.on_trial_result(str(number), result)
            searcher.on_trial_complete(str(number), None if silent else result)
        list(self._drive(searcher, self._names(3)))

    def test_failed_trials(self) -> None:
        """``error=True``, before and after a report."""
        searcher = self._ready()
        for number in range(4):
            config = self._suggest(searcher, str(number))
            if number % 2:
                searcher.on_trial_result(str(number), self._result(config, 1.0, step=1))
            searcher.on_trial_complete(str(number), error=True)
        list(self._drive(searcher, self._names(3)))

    def test_late_and_repeated_reports(self) -> None:
        """What comes after the end of a trial, or twice, changes nothing."""
        told_once, told_more = self._ready(), self._ready()
        configs = {}
        for searcher in (told_once, told_more):
            configs = dict(self._drive(searcher, self._names(3)))
        for name, config in configs.items():
            result = self._result(config, self.value(config))
            told_more.on_trial_result(name, result)
            told_more.on_trial_complete(name, result)
            told_more.on_trial_complete(name)
            told_more.on_trial_complete(name, error=True)
        assert list(self._drive(told_once, ["x", "y"])) == list(self._drive(told_more, ["x", "y"]))

    def test_unknown_trials(self) -> None:
        """Reports of trials that a restored state does not know do no harm."""
        told, untold = self._ready(), self._ready()
        told.on_trial_result("nobody", {self.metric: 1.0, "training_iteration": 1})
        told.on_trial_complete("nobody", {self.metric: 1.0, "training_iteration": 1})
        told.on_trial_complete("no one")
        told.on_trial_complete("someone", error=True)
        assert list(self._drive(told, ["x", "y"])) == list(self._drive(untold, ["x", "y"]))

    # -- state

    def test_it_can_be_pickled(self) -> None:
        """Tune pickles the searcher when the Tuner is made."""
        searcher = pickle.loads(pickle.dumps(self.make_searcher()))
        assert searcher.set_search_properties(self.metric, self.mode, self.param_space())
        assert list(self._drive(searcher, ["x"])) == list(self._drive(self._ready(), ["x"]))

    def test_saving_changes_nothing(self, tmp_path: Path) -> None:
        """It is saved every few seconds, first before any trial."""
        saved, unsaved = self._ready(), self._ready()
        for name in self._names(4):
            saved.save(str(tmp_path / "state"))
            assert list(self._drive(saved, [name])) == list(self._drive(unsaved, [name]))

    def test_a_restored_searcher_suggests_the_same(self, tmp_path: Path) -> None:
        """Into a fresh object that knows no space, with a trial under way."""
        searcher = self._ready()
        list(self._drive(searcher, self._names(3)))
        on_its_way = self._suggest(searcher, "not_completed")
        searcher.save(str(tmp_path / "state"))
        other = self.make_searcher()
        other.restore(str(tmp_path / "state"))
        for each in (searcher, other):
            self._complete(each, "not_completed", on_its_way)
        assert list(self._drive(searcher, self._names(5, "later"))) == list(self._drive(other, self._names(5, "later")))

    def test_five_and_five_are_ten(self, tmp_path: Path) -> None:
        """Tune's warm start test: bare and limited, from a file and from an experiment's folder."""
        whole = list(self._drive(self._ready(), self._names(10)))
        for limited in (False, True):
            for by_folder in (False, True):
                where = tmp_path / f"{limited}-{by_folder}"
                where.mkdir()
                first, second = self._ready(limited=limited), self._wrap(self.make_searcher(), limited)
                half = list(self._drive(first, self._names(10)[:5]))
                if by_folder:
                    SearchGenerator(first).save_to_dir(str(where), "2026-01-01")
                    SearchGenerator(second).restore_from_dir(str(where))
                else:
                    first.save(str(where / "state"))
                    second.restore(str(where / "state"))
                rest = list(self._drive(second, self._names(10)[5:]))
                assert half + rest == whole, f"limited={limited}, by_folder={by_folder}"

    def test_a_fresh_process_suggests_the_same(self, tmp_path: Path) -> None:
        """Nothing that only this process knows may matter: hash seeds, object ids, global generators."""
        searcher = self._ready()
        list(self._drive(searcher, self._names(4)))
        searcher.save(str(tmp_path / "state"))
        cls = type(self)
        arguments = [inspect.getfile(cls), cls.__name__, str(tmp_path / "state")]
        child = subprocess.run(
            [sys.executable, "-c", _RESTORE_ELSEWHERE, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"},
        )
        assert child.returncode == 0, child.stderr[-2000:]
        assert json.loads(child.stdout.splitlines()[-1]) == self._suggest(searcher, "next")

    # -- steps of the tests

    def plain(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration without NumPy's scalars, as JSON would have it."""
        plain: dict[str, Any] = json.loads(json.dumps(config, default=lambda value: value.item()))
        return plain

    def _ready(self, *, limited: bool = False) -> Searcher:
        searcher = self._wrap(self.make_searcher(), limited)
        assert searcher.set_search_properties(self.metric, self.mode, self.param_space()), "the space is refused"
        return searcher

    def _wrap(self, searcher: Searcher, limited: bool) -> Searcher:
        return ConcurrencyLimiter(searcher, max_concurrent=1) if limited else searcher

    def _names(self, n: int, stem: str = "trial") -> list[str]:
        return [f"{stem}_{number}" for number in range(n)]

    def _suggest(self, searcher: Searcher, name: str) -> dict[str, Any]:
        config = searcher.suggest(name)
        assert isinstance(config, dict), f"no suggestion for {name}: {config!r}"
        return self.plain(config)

    def _drive(self, searcher: Searcher, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in names:
            config = self._suggest(searcher, name)
            self._complete(searcher, name, config)
            yield name, config

    def _complete(self, searcher: Searcher, name: str, config: Mapping[str, Any]) -> None:
        searcher.on_trial_complete(name, self._result(config, self.value(config)))

    def _result(self, config: Mapping[str, Any], value: float, step: int | None = None) -> dict[str, Any]:
        """A flattened result, as Tune hands it over."""
        step = self.last_step(config) if step is None else step
        return flatten_dict({"training_iteration": step, "step": step, self.metric: value, "config": dict(config)})


@contextmanager
def _raises(kinds: tuple[type[Exception], ...], what: str) -> Iterator[None]:
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"{what} was not refused")
