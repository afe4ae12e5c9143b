"""Simulated pre-training runs: instant answers for replays, tests and benchmarks.

``load`` gives a fitted simulator by name, ``RunTable`` replays logged runs, ``SimulatorTrainable`` shows either to Ray
Tune. Importing this package costs next to nothing: weights are read by ``load``, Ray only with ``SimulatorTrainable``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_mixopt.simulators.simulator import Simulator

if TYPE_CHECKING:
    from ray_mixopt.simulators.run_table import RunTable as RunTable
    from ray_mixopt.simulators.trainable import SimulatorTrainable as SimulatorTrainable

__all__ = ["RunTable", "Simulator", "SimulatorTrainable", "load", "names"]

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the simulators that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))


def load(name: str, noise: float = 0.0, seed: int = 0, steps: Sequence[int] | None = None) -> Simulator:
    """A simulator by name, or the one in the ``.npz`` file of that path.

    Args:
        name: one of ``names()``, or a path that ends in ``.npz`` and was written by ``ray-mixopt simulator fit``.
        noise: standard deviation of the observation noise, as a share of each metric's standard deviation over
            mixtures at the target; 0 for none.
        seed: seed of that noise.
        steps: rungs of the space, ascending, in place of the simulator's own. The last one becomes the target.

    Raises:
        ValueError: for an unknown name, a negative noise, or rungs outside the fitted steps.
    """
    if str(name).endswith(".npz"):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"There is no simulator file {str(path)!r}.")
    elif name in names():
        path = _FOLDER / f"{name}.npz"
    else:
        known = ", ".join(names())
        raise ValueError(f"Unknown simulator {name!r}: use one of {known}, or a path that ends in .npz.")
    simulator = Simulator.read(path)
    space = simulator.space
    if steps is not None:
        space = replace(space, steps=tuple(steps), target=None)
    return replace(simulator, space=space, noise=noise, seed=seed)


def __getattr__(name: str) -> Any:
    if name == "RunTable":
        from ray_mixopt.simulators.run_table import RunTable

        return RunTable
    if name == "SimulatorTrainable":
        from ray_mixopt.simulators.trainable import SimulatorTrainable

        return SimulatorTrainable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
