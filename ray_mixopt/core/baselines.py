"""Mixtures to compare with, by name or by shares, and what the limits of a space make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ray_mixopt.core.arguments import in_order, kept_shares
from ray_mixopt.core.phased import PhasedSimplex
from ray_mixopt.core.safety import number
from ray_mixopt.core.simplex import SAME_SHARE, CappedSimplex, same_mixture
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.words import has_phases

Baseline = str | Mapping[str, Any] | Sequence[float]
"""A mixture to compare with: "uniform", "proportional" (to the token supply), or shares by domain or in their order.

Where a space has several phases, shares by domain are those of all of them, or there are such shares for each."""


def kept_baseline(baseline: Any, what: str) -> Any:
    """A baseline that stays as it is, whatever becomes of the one given.

    Args:
        baseline: a name, weights by domain, or weights in the order of the domains.
        what: what the error calls it: "reference".

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(baseline, str):
        return baseline
    try:
        if isinstance(baseline, Mapping):
            return kept_shares(baseline, what)
        return tuple(number(share, what) for share in in_order(baseline, what))
    except ValueError as error:
        several = isinstance(baseline, Mapping) and has_phases(baseline)
        raise ValueError(
            f"{what} must be weights by domain, 'uniform' or 'proportional', got {baseline!r}."
            + (f" Of several phases each has such weights: {error}." if several else "")
        ) from None


def jsonable(baseline: Baseline | None) -> Any:
    """A baseline as JSON has it."""
    if baseline is None or isinstance(baseline, str):
        return baseline
    return dict(baseline) if isinstance(baseline, Mapping) else list(baseline)


def resolve(baseline: Baseline, space: MixtureSpace) -> np.ndarray:
    """The shares of a baseline mixture, ``(n_shares,)``.

    Raises:
        ValueError: for an unknown name, shares that are no mixture, or "proportional" without a token supply.
    """
    if not isinstance(baseline, str):
        return space.mixture(baseline)
    if baseline == "uniform":
        return space.uniform()
    if baseline != "proportional":
        raise ValueError(f"A baseline is 'uniform', 'proportional' or shares by domain, got {baseline!r}.")
    shares = space.proportional()
    if shares is None:
        raise ValueError(
            "The proportional mixture is not known: give the space a token_supply for every domain, or use 'uniform' "
            "or shares by domain as the baseline."
        )
    return shares


def moved(space: MixtureSpace) -> tuple[str, ...]:
    """Names of the baselines that limits exclude, so that the nearest mixture within them stands for each."""
    found = {"uniform": (np.full(space.n_shares, 1 / space.n_domains), space.uniform())}
    if (nearest := space.proportional()) is not None:
        supply = np.array([space.token_supply[name] for name in space.domains])
        found["proportional"] = np.resize(supply / supply.sum(), space.n_shares), nearest
    return tuple(name for name, (meant, within) in found.items() if not same_mixture(meant, within))


def broken(space: MixtureSpace, mixture: np.ndarray) -> tuple[str, ...]:
    """The limits that a mixture breaks, in words such as "the cap on code"; none where it is within all.

    Args:
        space: has the limits.
        mixture: ``(n_shares,)``.
    """
    if not isinstance(space.simplex, PhasedSimplex):
        return tuple(_broken(space.simplex, mixture, space.domains))
    simplex, found = space.simplex, []
    each = zip(space.phase_names, simplex.blocks, simplex.apart(mixture[None])[0], strict=True)
    for phase, block, shares in each:
        found += [f"{limit} in {phase}" for limit in _broken(block, shares, space.domains)]
    for domain, share, cap in zip(space.domains, simplex.mean(mixture[None])[0], simplex.caps, strict=True):
        if share > cap + SAME_SHARE:
            found.append(f"the supply of {domain}")
    return tuple(found)


def _broken(simplex: CappedSimplex, mixture: np.ndarray, domains: Sequence[str]) -> Iterator[str]:
    for domain, share, low, high in zip(domains, mixture, simplex.lower, simplex.upper, strict=True):
        if share > high + SAME_SHARE:
            yield f"the cap on {domain}"
        elif share < low - SAME_SHARE:
            yield f"the floor on {domain}"
    for members, least, most in simplex.limits:
        if not least - SAME_SHARE <= mixture[members].sum() <= most + SAME_SHARE:
            yield f"the limit on {'+'.join(domains[i] for i in members)}"
