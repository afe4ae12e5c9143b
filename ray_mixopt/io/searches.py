"""Searches on disk: the optimizer behind an experiment, a replay or a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray_mixopt.core.baselines import Baseline
from ray_mixopt.core.history import History
from ray_mixopt.core.objective import Mode, Objective
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.safety import parse_json, write_atomically
from ray_mixopt.core.settings import Settings
from ray_mixopt.io import snapshots
from ray_mixopt.io.search_state import AnyStrategy, SearchState
from ray_mixopt.optimizer import MixtureOptimizer

HISTORY, EXPERIMENT = "history.json", "experiment"


def save(optimizer: MixtureOptimizer, path: Path) -> None:
    """Writes an optimizer with its history, and with the pool of logged runs if it has one, as JSON."""
    state = optimizer.state_dict()
    pool = optimizer.problem.pool
    if pool is not None:
        state["pool"] = pool.to_dict()
    write_atomically(path, json.dumps(state))


def load(
    path: str | Path,
    *,
    objective: Mapping[str, float] | Objective | None = None,
    mode: Mode | None = None,
    strategy: AnyStrategy | None = None,
    reference: Baseline | None = None,
) -> MixtureOptimizer:
    """The optimizer of a search, running or done.

    Args:
        path: folder or URI of a Tune experiment; folder of a replay; or a JSON file of an optimizer or a history.
        objective: asked about instead of the search's own; needed for a history, which has none.
        mode: its direction; that of the search by default, else "min".
        strategy: in place of the search's own; needed if that is none of this package's.
        reference: a mixture to compare with, in place of the search's own.

    Raises:
        ValueError: if there is no search at that path, or it is damaged.
        OwnStrategyError: if its strategy is one's own and not given.
    """
    found = _contents(path, strategy)
    if isinstance(found, History):
        if objective is None and len(found.metrics) != 1:
            known = ", ".join(found.metrics) or "(none)"
            raise ValueError(f"The runs have the metrics {known}: say which one is wanted.")
        asked = objective or {found.metrics[0]: 1.0}
        return MixtureOptimizer.of_history(
            found,
            Settings(objective=asked, mode=mode or "min", strategy=strategy or "default", reference=reference),
        )
    settings, pool = found.settings, found.problem.pool
    reference = settings.reference if reference is None else reference
    if objective is None:
        wanted = replace(settings, mode=mode or settings.mode, reference=reference)
        return found if wanted == settings else MixtureOptimizer.of_history(found.history, wanted, pool=pool)
    wanted = replace(settings, objective=objective, mode=mode or settings.mode, reference=reference)
    check_reported(wanted.metrics, found.history)
    return MixtureOptimizer.of_history(found.history, wanted, pool=pool)


def is_search(path: str | Path) -> bool:
    """Whether a path leads to a search, with an objective, rather than to a table of runs or a bare history."""
    place = Path(path)
    if "://" in str(path) or (place.is_dir() and not any(place.glob("*.csv"))):
        return True
    if place.suffix.lower() != ".json":
        return False
    state = _state(place)
    return "trials" not in state


def is_folder(path: Path) -> bool:
    """Whether a folder is that of a replay or of an experiment of ours, which keeps the state of its searcher."""
    if not path.is_dir():
        return False
    states = (snapshots.NAME, snapshots.PREVIOUS + snapshots.NAME, snapshots.KEPT + snapshots.NAME)
    return any((path / name).exists() for name in (HISTORY, EXPERIMENT)) or any(
        any(path.glob(state.format("*"))) for state in states
    )


def load_history(path: str | Path) -> History:
    """The history of a search, whatever its objective.

    Raises:
        ValueError: see ``load``.
    """
    found = _contents(path, "default")  # any strategy will do
    return found if isinstance(found, History) else found.history


def check_reported(metrics: Iterable[str], history: History) -> None:
    """Checks that runs of a history reported all of these metrics.

    Raises:
        ValueError: naming those that none did.
    """
    known = history.metrics
    if missing := [name for name in metrics if name not in known]:
        raise ValueError(f"No run reported {', '.join(missing)}: they have {', '.join(known) or 'no metrics'}.")


def _contents(path: str | Path, strategy: AnyStrategy | None) -> MixtureOptimizer | History:
    """What is at a path: a search, or a bare history."""
    place = Path(path)
    if "://" not in str(path):
        if not place.exists():
            raise ValueError(f"There is no search at {str(path)!r}.")
        if (place / HISTORY).is_file():
            place = place / HISTORY
        if place.is_file():
            return _from_file(place, strategy)
        if (place / EXPERIMENT).is_dir():
            place = place / EXPERIMENT
        if not snapshots.candidates(*snapshots.locate(place)):
            raise ValueError(
                f"No readable searcher state at {path}: there is none, nor a table of runs (.csv, .jsonl, .parquet), a "
                "folder of RegMix or olmix, or anything that a tracker keeps."
            )
    return _from_experiment(path if "://" in str(path) else place, strategy)


def _from_experiment(path: str | Path, strategy: AnyStrategy | None) -> MixtureOptimizer:
    take = partial(SearchState.from_state_dict, strategy=strategy)
    found = snapshots.newest(*snapshots.locate(path), take)
    search = found.value
    if search.missing is not None:  # Tune has not told it yet
        raise ValueError(f"The search at {str(path)!r} holds nothing yet. {search.missing}")
    if found.fallback is not None:
        search.optimizer.history.note(found.fallback)
    return search.optimizer


def _from_file(path: Path, strategy: AnyStrategy | None) -> MixtureOptimizer | History:
    state = _state(path)
    if "version" not in state and (
        (state and all(isinstance(column, dict) for column in state.values())) or {"columns", "data"} <= state.keys()
    ):
        raise ValueError(
            f"{path.name} is a table by columns, as pandas writes one by default: write it with orient='records', or "
            "as CSV."
        )
    if "trials" in state:
        return History.from_state_dict(state)
    if "layout" in state:  # a snapshot of a Tune searcher
        return _from_experiment(path, strategy)
    pool = state.get("pool")
    return MixtureOptimizer.from_state_dict(
        state, pool=None if pool is None else Pool.from_dict(pool), strategy=strategy
    )


def _state(path: Path) -> dict[str, Any]:
    try:
        state = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path.name} holds neither a search nor a history.")
    return state
