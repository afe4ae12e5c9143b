"""A pool of logged runs: the only (mixture, scale, steps) that a replay of a table can visit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_mixopt.core.safety import check_fields
from ray_mixopt.core.simplex import SAME_SHARE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ray_mixopt.core.space import MixtureSpace


@dataclass(frozen=True, kw_only=True)
class _PoolState:
    """What JSON says of a pool."""

    mixtures: list[list[float]]
    available: list[list[list[bool]]]
    scales: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Mixtures that can be run, and where.

    Args:
        mixtures: distinct mixtures in the space's domain order, ``n x d``.
        available: whether a mixture has a value at a scale and rung, ``n x n_scales x n_steps``.
        scales: names of the scales, in order; by default ``of`` takes them from a space, in the order in which that was
            given them.
        steps: the rungs, ascending; likewise.

    Raises:
        ValueError: if the shapes disagree or nothing is available.
    """

    mixtures: np.ndarray
    available: np.ndarray
    scales: tuple[str, ...] | None = None
    steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mixtures.ndim != 2 or self.available.ndim != 3 or len(self.mixtures) != len(self.available):
            raise ValueError(
                f"A pool needs mixtures (n, d) and available (n, n_scales, n_steps), got {self.mixtures.shape} and "
                f"{self.available.shape}."
            )
        named = tuple(
            n if names is None else len(names)
            for n, names in zip(self.available.shape[1:], (self.scales, self.steps), strict=True)
        )
        if named != self.available.shape[1:]:
            raise ValueError(
                f"A pool's available runs have {self.available.shape[1]} scales and {self.available.shape[2]} rungs, "
                f"but {named[0]} and {named[1]} are named."
            )
        if not self.available.any():
            raise ValueError("A pool in which no run is available has nothing to search.")

    def of(self, space: MixtureSpace) -> Pool:
        """This pool with the scales and rungs of a space, and in its order.

        Raises:
            ValueError: if it does not fit the space; the message says where.
        """
        if self.mixtures.shape[1] != space.n_domains:
            raise ValueError(f"The pool has {self.mixtures.shape[1]} domains, the space {space.n_domains}.")
        if self.available.shape[1:] != (len(space.scales), len(space.steps)):
            raise ValueError(
                f"The pool has {self.available.shape[1]} scales and {self.available.shape[2]} rungs, the space "
                f"{len(space.scales)} and {len(space.steps)}."
            )
        scales, steps = self.scales or space.listed_scales, self.steps or space.steps
        for label, own, wanted in (("scales", scales, space.scale_names), ("rungs", steps, space.steps)):
            if set(own) != set(wanted):
                raise ValueError(f"The pool has the {label} {own}, the space {wanted}.")
        rows, columns = [scales.index(name) for name in space.scale_names], [steps.index(z) for z in space.steps]
        available = self.available[:, rows][:, :, columns]
        return replace(self, available=available, scales=space.scale_names, steps=space.steps)

    def row(self, mixture: ArrayLike) -> int | None:
        """The row of ``mixtures`` that is the same mixture as this one ``(d,)``; None where there is none."""
        row = int(self.rows(np.asarray(mixture, dtype=np.float64)[None])[0])
        return None if row < 0 else row

    def rows(self, mixtures: ArrayLike) -> np.ndarray:
        """For each of ``n x d`` mixtures the row of the same one in the pool, -1 where there is none, ``(n,)``."""
        distance, rows = self._tree.query(np.asarray(mixtures, dtype=np.float64), p=np.inf)
        found: np.ndarray = np.where(distance <= SAME_SHARE, rows, -1)
        return found

    def logged_at(self, scale: str, steps: int) -> np.ndarray:
        """The mixtures that have a run at a scale and rung, ``k x d``; no rows where there is no such rung."""
        cell = self._cell(scale, steps)
        found: np.ndarray = self.mixtures[:0] if cell is None else self.mixtures[self.available[:, *cell]]
        return found

    def has(self, mixture: ArrayLike, scale: str, steps: int) -> bool:
        """Whether a mixture ``(d,)`` has a run at a scale and rung."""
        row, cell = self.row(mixture), self._cell(scale, steps)
        return row is not None and cell is not None and bool(self.available[row, *cell])

    def rungs(self, mixture: ArrayLike, scale: str) -> tuple[int, ...]:
        """The steps at which a mixture ``(d,)`` has a run at a scale, ascending; none for a mixture not in the pool."""
        row, (scales, steps) = self.row(mixture), self._names
        if row is None or scale not in scales:
            return ()
        return tuple(z for z, there in zip(steps, self.available[row, scales.index(scale)], strict=True) if there)

    def full_runs(self, space: MixtureSpace) -> tuple[int, float]:
        """Number of logged runs, one a mixture and scale, and what they cost in full runs at a space's target."""
        steps = np.array(self._names[1])
        length = np.where(self.available, steps, 0).max(-1)  # n x n_scales
        price = np.array([space.scale(name).cost_per_step for name in self._names[0]])
        return int((length > 0).sum()), float((length * price).sum()) / space.target_cost

    def to_dict(self) -> dict[str, Any]:
        """The pool as JSON-able data."""
        names = {"scales": self.scales, "steps": self.steps}
        return {"mixtures": self.mixtures.tolist(), "available": self.available.tolist()} | {
            key: list(values) for key, values in names.items() if values is not None
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Pool:
        """The pool that ``to_dict`` described; version 0.1 wrote no names.

        Raises:
            ValueError: if it is no such description.
        """
        check_fields(_PoolState, state, "pool of logged runs")
        try:
            mixtures = np.array(state["mixtures"], dtype=np.float64)
            available = np.array(state["available"], dtype=bool)
        except ValueError:
            raise ValueError("Malformed pool of logged runs: its rows do not all have the same length.") from None
        if mixtures.ndim != 2 or (mixtures < 0).any() or (np.abs(mixtures.sum(1) - 1) > 1e-6).any():
            raise ValueError("Malformed pool of logged runs: it has mixtures whose shares do not sum to 1.")
        named = {key: tuple(state[key]) for key in ("scales", "steps") if key in state}
        return cls(mixtures=mixtures, available=available, **named)

    @property
    def _names(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Scales and rungs."""
        if self.scales is None or self.steps is None:
            raise ValueError("The pool does not know its scales and rungs: use pool.of(space).")
        return self.scales, self.steps

    def _cell(self, scale: str, steps: int) -> tuple[int, int] | None:
        """Places of a scale and rung in ``available``; None where it has no such scale or rung."""
        scales, rungs = self._names
        return (scales.index(scale), rungs.index(steps)) if scale in scales and steps in rungs else None

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import KDTree

        return KDTree(self.mixtures)
