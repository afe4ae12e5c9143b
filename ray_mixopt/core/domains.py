"""The domains of a space: their names, and what is said of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ray_mixopt.core.arguments import FrozenDict, in_order
from ray_mixopt.core.safety import is_finite


def checked_domains(domains: Sequence[str]) -> tuple[str, ...]:
    """Names of domains as a tuple.

    Raises:
        ValueError: if they are fewer than two, or no distinct names.
    """
    names = in_order(domains, "domains", "a sequence of names")
    if len(names) < 2:
        raise ValueError(f"A mixture needs at least two domains, got {list(names)}.")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"A domain's name must be a non-empty string, got {name!r}.")
        if "/" in name:
            raise ValueError(f"Domain {name!r} contains '/', which separates levels in Tune's results: rename it.")
    if len(set(names)) < len(names):
        raise ValueError(f"Domains must be distinct, repeated: {sorted({n for n in names if names.count(n) > 1})}.")
    return names


def by_domain(label: str, values: Mapping[str, float] | None, domains: Sequence[str]) -> FrozenDict[str, float]:
    """Numbers by domain, in the order of the domains.

    Args:
        label: what errors call them; "lower" and "upper" are shares, others numbers of tokens.
        values: finite and not negative; none where None.
        domains: names of all domains.

    Raises:
        ValueError: if they are something else, or of an unknown domain.
    """
    if values is None:
        return FrozenDict()
    if not isinstance(values, Mapping):
        raise ValueError(f"{label} must be a mapping from domain names to numbers, got {values!r}.")
    for name, value in values.items():
        if name not in domains:
            raise ValueError(f"{label} names the unknown domain {name!r}: the space has {', '.join(domains)}.")
        if not is_finite(value) or value < 0:
            raise ValueError(f"{label}[{name!r}] must be a finite number >= 0, got {value!r}.")
        if label in ("lower", "upper") and value > 1:
            raise ValueError(f"{label}[{name!r}] is a share of the tokens and cannot be above 1, got {value!r}.")
    found = FrozenDict({name: float(values[name]) for name in domains if name in values})
    if label == "token_supply" and not math.isfinite(total := sum(found.values())):
        raise ValueError(f"token_supply sums to {total:g}: count the tokens of all domains in a larger unit.")
    if label == "token_supply" and len(found) == len(domains) and not total:
        raise ValueError("token_supply is 0 for every domain: give the tokens available, or leave it out.")
    return found
