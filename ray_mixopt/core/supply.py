"""What there is of each domain, and how often a run passes over it.

Notation: ``d`` domains, ``n`` mixtures ``w``, supplies ``S``. A run of ``D`` tokens passes ``w_i D / S_i`` times over
domain ``i``, whose rate is ``D / S_i``. What the passes after the first are worth is the surrogate's question
(``surrogate.repetition``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from ray_mixopt.core.safety import is_finite

Repetition = Literal["real", "matched"]
"""Which tokens runs at other fidelities than the target have: the same, or so many fewer that they repeat as much."""

WORTHLESS = 40.0
"""Passes after which a further one is worth next to nothing (Muennighoff et al. 2023, Fig. 1)."""

_MOST = 1e6  # passes: over nothing there are as many as one likes


def checked_tokens(
    token_supply: Mapping[str, float], target_tokens: float | None, max_epochs: float
) -> tuple[float | None, float]:
    """Tokens of the target run, and the most passes in it.

    Raises:
        ValueError: if they are no positive numbers, or cap nothing.
    """
    given = {"max_epochs": max_epochs} | ({} if target_tokens is None else {"target_tokens": target_tokens})
    for label, value in given.items():
        if not is_finite(value) or not value > 0:
            raise ValueError(f"{label} must be a positive finite number, got {value!r}.")
    if target_tokens is None and max_epochs != 1:
        raise ValueError(
            f"max_epochs={max_epochs:g} caps nothing without target_tokens: give the tokens seen by the target run, "
            "and token_supply."
        )
    if target_tokens is not None and not token_supply:
        raise ValueError("target_tokens caps nothing without token_supply: give the tokens available, by domain.")
    return None if target_tokens is None else float(target_tokens), float(max_epochs)


def checked_repetition(
    repetition: Any, target_tokens: float | None, max_epochs: float, phases: Sequence[object]
) -> None:
    """Raises ValueError if a space cannot tell how often its runs pass over a domain, or none does so twice."""
    if repetition is None:
        return
    if repetition not in get_args(Repetition):
        raise ValueError(f"repetition must be 'real' or 'matched', or None, got {repetition!r}.")
    if target_tokens is None:
        raise ValueError(
            f"repetition={repetition!r} needs the number of passes: give token_supply, by domain, and target_tokens."
        )
    if max_epochs <= 1:
        raise ValueError(
            f"repetition={repetition!r} is about passes after the first, and max_epochs={max_epochs:g} allows none: "
            f"set max_epochs, to {WORTHLESS:g} where nothing else limits it; later passes are worth next to nothing."
        )
    if phases:
        raise ValueError(
            f"repetition={repetition!r} knows one mixture for the whole of a run: leave it out, or phases."
        )


def passes(mixtures: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """How often runs see the tokens of each domain, at least 1, ``n x d``.

    Args:
        mixtures: ``n x d``.
        rates: passes of a run all of whose tokens are of the domain, which may be infinite, ``(d,)`` or ``n x d``.
    """
    with np.errstate(invalid="ignore"):
        found = np.where(mixtures > 0, mixtures * rates, 0.0)
    return np.clip(found, 1.0, _MOST)
