"""What became of domains: how mixtures of an older list of domains read in a newer one.

The map goes from each old domain to shares of new ones. One that is not named keeps its name; a new domain that nothing
maps to had no share in old runs, which is what adding a domain means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.untrusted import parse_json

DROPPED_SHARE = 1e-3  # a run may have had at most this share of a dropped domain


@dataclass(frozen=True, kw_only=True)
class DomainMap:
    """Changes of the list of domains.

    Args:
        renamed: new name by old name. Several old domains with one new name are merged.
        split: for an old domain, what it was made of: share by new domain, summing to 1.
        dropped: old domains that are gone. Runs with more than a thousandth of their tokens from them are left out.

    Raises:
        ValueError: if a domain is changed twice or a split does not sum to 1.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    split: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dropped: Sequence[str] = ()

    def __post_init__(self) -> None:
        changed = [*self.renamed, *self.split, *self.dropped]
        twice = sorted({name for name in changed if changed.count(name) > 1})
        if twice:
            raise ValueError(f"The map changes {', '.join(twice)} more than once: say one thing about each domain.")
        for name, parts in self.split.items():
            if not isinstance(parts, Mapping) or not parts or any(share < 0 for share in parts.values()):
                raise ValueError(f"The split of {name!r} must give shares >= 0 by new domain, got {parts!r}.")
            if not math.isclose(math.fsum(parts.values()), 1.0, abs_tol=1e-6):
                raise ValueError(f"The split of {name!r} sums to {math.fsum(parts.values()):g} instead of 1.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DomainMap:
        """The map that a configuration declares: ``{"renamed": ..., "split": ..., "dropped": ...}``.

        Raises:
            ValueError: for other keys or a map that makes no sense.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"A domain map has the keys renamed, split and dropped: {error}.") from error

    @classmethod
    def read(cls, path: Path) -> DomainMap:
        """The map in a JSON file.

        Raises:
            ValueError: if it holds none.
        """
        try:
            return cls.from_dict(parse_json(path.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path.name} holds no domain map: {error}") from error

    def matrix(self, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
        """What old shares are in new domains, ``d_old x d_new``; the row of a dropped domain is 0.

        Raises:
            ValueError: if the map names a domain that is in neither list, or an old one has no place in the new list.
        """
        unknown = sorted({*self.renamed, *self.split, *self.dropped} - set(old))
        if unknown:
            raise ValueError(f"The map changes {', '.join(unknown)}, which the runs do not have: {', '.join(old)}.")
        result = np.zeros((len(old), len(new)))
        for i, name in enumerate(old):
            if name in self.dropped:
                continue
            for target, share in self.split.get(name, {self.renamed.get(name, name): 1.0}).items():
                if target not in new:
                    raise ValueError(
                        f"The runs have the domain {target!r}, which is not one of {', '.join(new)}: say what became "
                        "of it (renamed, split or dropped)."
                    )
                result[i, list(new).index(target)] += share
        return result

    def apply(self, mixtures: np.ndarray, old: Sequence[str], new: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Old mixtures ``n x d_old`` in new domains, and which of them can be kept, ``(n,)``.

        Raises:
            ValueError: see ``matrix``.
        """
        matrix = self.matrix(old, new)
        shares = mixtures @ matrix
        total = shares.sum(1)
        kept = total >= 1 - DROPPED_SHARE
        exact = np.abs(total - 1) < 1e-12
        shares[~exact & kept] /= total[~exact & kept][:, None]
        return shares, kept
