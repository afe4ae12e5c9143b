"""Simulated pre-training runs: instant answers for replays, tests and benchmarks.

``load`` gives a fitted simulator by name, ``RunTable`` replays logged runs, ``SimulatorTrainable`` shows either to Ray
Tune. Importing this package costs next to nothing: weights are read by ``load``, Ray only with ``SimulatorTrainable``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ray_mixopt.simulators.simulator import Simulator, load, names

if TYPE_CHECKING:
    from ray_mixopt.simulators.run_table import RunTable as RunTable
    from ray_mixopt.simulators.trainable import SimulatorTrainable as SimulatorTrainable

__all__ = ["RunTable", "Simulator", "SimulatorTrainable", "load", "names"]

_WHERE = {"RunTable": "run_table", "SimulatorTrainable": "trainable"}

if not TYPE_CHECKING:  # else a name that there is not would pass

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
