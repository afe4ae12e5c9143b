"""What callers in Python pass: NumPy's numbers become Python's, lists have an order, mappings are copied to stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, NoReturn, TypeVar

import numpy as np

from ray_mixopt.core.safety import MOST_WHOLE, is_finite, named_numbers
from ray_mixopt.core.words import has_phases

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A mapping that stays as it was made, and so can be a field of frozen settings; JSON takes it for a dict."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("These settings cannot be changed: make others, for instance with dataclasses.replace.")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of any library; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_step(value: Any, whose: str) -> int:
    """A training step as a whole number: NumPy's are, and so is 2000.0.

    Args:
        value: what was given.
        whose: what the error says before it: "Trial 'a' reported".

    Raises:
        ValueError: if it is no whole number from 1 on, or larger than any run gets.
    """
    if not is_finite(value) or not 0 < value <= MOST_WHOLE or value != int(value):
        text = repr(value)
        raise ValueError(f"{whose} step {text[:40]}: steps are whole numbers, counted from 1.")
    return int(value)


def in_order(values: Any, what: str, kind: str = "a list") -> tuple[Any, ...]:
    """The entries of a list.

    Args:
        values: what was given.
        what: what the error calls it: "domains".
        kind: what the error says that it must be.

    Raises:
        ValueError: for a set, whose order is another in every process, or what is no list at all.
    """
    if isinstance(values, set | frozenset):
        raise ValueError(f"{what} must be a list: a set has no order, and another one would give other results.")
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{what} must be {kind}, got {values!r}.")
    return tuple(values)


def as_numbers(shares: Any) -> np.ndarray:
    """Shares in the order of the domains as an array; ValueError for what holds anything but numbers."""
    try:
        return np.asarray(shares, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"A mixture is weights by domain name, or numbers in the order of the domains, got {shares!r}."
        ) from None


def kept_shares(shares: Mapping[Any, Any], what: str) -> FrozenDict[str, Any]:
    """Weights by domain that stay as they are; or those of several phases, by phase and domain.

    Args:
        shares: what was given.
        what: what the error calls it.

    Raises:
        ValueError: if it is neither.
    """
    if has_phases(shares):
        return FrozenDict(
            {str(phase): FrozenDict(named_numbers(of, f"{what}, {phase!r}")) for phase, of in shares.items()}
        )
    return FrozenDict(named_numbers(shares, what))
