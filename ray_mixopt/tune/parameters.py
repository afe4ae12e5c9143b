"""Hyper-parameters of a Tune ``param_space`` that are not part of the mixture search.

Tune leaves it to the searcher to resolve every domain of ``param_space``. The mixture, scale and steps are searched;
all others (a learning rate, say) are sampled here, as Tune's own random search would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search.sample import Categorical, Domain, Float, Integer, Normal, Quantized
from ray.tune.search.variant_generator import parse_spec_vars

Path = tuple[str, ...]


class Parameters:
    """Tune domains by their path in the configuration. JSON-able, since a restored run may never see them again.

    Args:
        domains: ``Float``, ``Integer`` and ``Categorical`` domains with Tune's own samplers.

    Raises:
        ValueError: for a domain that cannot be written down, or one inside a list.
    """

    def __init__(self, domains: Mapping[Path, Domain] | None = None) -> None:
        self._domains = dict(domains or {})
        for path, domain in self._domains.items():
            if any(not isinstance(key, str) for key in path):
                raise ValueError(f"param_space has a search domain inside a list, at {path}: give it a key of its own.")
            _describe(path, domain)

    @classmethod
    def of(cls, config: Mapping[str, Any], *, without: Sequence[str]) -> Parameters:
        """All domains of a ``param_space`` but those under the keys ``without``.

        Raises:
            ValueError: if there is a ``grid_search`` anywhere, or a domain that cannot be written down.
        """
        _, domains, grids = parse_spec_vars(dict(config))
        if grids:
            where = ", ".join("/".join(map(str, path)) for path, _ in grids)
            raise ValueError(f"grid_search is not supported by MixOptSearcher (found at {where}): use tune.choice.")
        return cls({path: domain for path, domain in domains if path[0] not in without})

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """A nested configuration with a value for every domain."""
        config: dict[str, Any] = {}
        for path, domain in self._domains.items():
            parent = config
            for key in path[:-1]:
                parent = parent.setdefault(key, {})
            parent[path[-1]] = domain.sample(random_state=rng)
        return config

    def state(self) -> list[dict[str, Any]]:
        """JSON-able description, read back by ``from_state``."""
        return [_describe(path, domain) for path, domain in self._domains.items()]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> Parameters:
        """The parameters that ``state`` described."""
        return cls({tuple(entry["path"]): _domain(entry) for entry in state})


def _describe(path: Path, domain: Domain) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": list(path), "type": type(domain).__name__}
    known = type(domain) in (Float, Integer, Categorical)
    sampler = domain.get_sampler() if known else None
    if isinstance(sampler, Quantized):
        entry["quantum"] = sampler.q
        sampler = sampler.get_sampler()
    entry["sampler"] = type(sampler).__name__
    if not known or type(sampler) is not getattr(type(domain), entry["sampler"], None):
        raise ValueError(
            f"param_space[{'/'.join(path)!r}] is {domain!r}, which cannot be kept in a JSON state: use tune.uniform, "
            "tune.randint, tune.choice or one of their kin."
        )
    if isinstance(domain, Categorical):
        return entry | {"categories": domain.categories}
    if isinstance(sampler, Normal):
        return entry | {"mean": sampler.mean, "sd": sampler.sd}
    assert isinstance(domain, Float | Integer)
    return entry | {"lower": domain.lower, "upper": domain.upper}


def _domain(entry: Mapping[str, Any]) -> Domain:
    domain: Any
    if entry["type"] == "Categorical":
        # Tune puts tuples in the place of objects and looks them up again: a list would not be found.
        domain = Categorical([_tuples(category) for category in entry["categories"]])
    else:
        domain = {"Float": Float, "Integer": Integer}[entry["type"]](entry.get("lower"), entry.get("upper"))
    if entry["sampler"] == "_Normal":
        domain = domain.normal(entry["mean"], entry["sd"])
    else:
        domain = domain.loguniform() if entry["sampler"] == "_LogUniform" else domain.uniform()
    return domain.quantized(entry["quantum"]) if "quantum" in entry else domain


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
