"""The search space as Ray Tune domains and back, and the domains of a ``param_space`` that are not searched.

The space's domains are subclasses of Tune's ``Float`` and ``Categorical``: any other searcher sees
``tune.uniform(0, 1)`` and ``tune.choice``, while ours finds the names, costs, bounds and target on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.search.sample import Categorical, Domain, Float, Integer, Normal, Quantized, _BackwardsCompatibleNumpyRng
from ray.tune.search.variant_generator import parse_spec_vars

from ray_mixopt.core.scale import Scale, priced
from ray_mixopt.core.space import MixtureSpace

if TYPE_CHECKING:
    from ray.tune.search.sample import RandomState


Path = tuple[str, ...]


class MixtureWeight(Float):
    """Unnormalised weight of one domain.

    Sampled alone it is an Exp(1) variable (scaled into the unit interval), so that weights drawn independently by a
    random search are, once normalised, uniform on the simplex. Floors and caps hold only under ``MixOptSearcher``.
    """

    class _Exponential(Float._Uniform):  # a Uniform for isinstance checks in other searchers
        def sample(  # type: ignore[override]
            self,
            domain: Float,
            config: list[dict[str, Any]] | dict[str, Any] | None = None,
            size: int = 1,
            random_state: RandomState = None,
        ) -> Any:
            if not isinstance(random_state, _BackwardsCompatibleNumpyRng):
                random_state = _BackwardsCompatibleNumpyRng(random_state)
            # exp(-40) is 4e-18: the clip at 1 is never seen.
            weights = np.clip(-np.log(random_state.uniform(1e-12, 1.0, size=size)) / 40.0, 1e-12, 1.0)
            return weights if size > 1 else domain.cast(weights[0])

    default_sampler_cls = _Exponential

    def __init__(self, domain: str) -> None:
        super().__init__(0.0, 1.0)
        self.domain = domain
        self.sampler = self._Exponential()  # type: ignore[assignment]


class ModelScale(Categorical):
    """Choice of a model scale; carries the whole ``MixtureSpace``."""

    def __init__(self, space: MixtureSpace) -> None:
        super().__init__(space.scale_names)
        self.space = space
        self.sampler = Categorical._Uniform()  # type: ignore[assignment]


class TrainSteps(Categorical):
    """Choice of a rung, in training steps; that it is one of the scale's own holds only under ``MixOptSearcher``."""

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__(tuple(steps))
        self.sampler = Categorical._Uniform()  # type: ignore[assignment]


def to_param_space(space: MixtureSpace) -> dict[str, Any]:
    """``{"mixture": {domain: MixtureWeight}, "scale": ModelScale, "steps": TrainSteps}`` for ``tune.Tuner``.

    Where the space has several phases, there is such a mixture for each, by its name.
    """
    weights = {name: MixtureWeight(name) for name in space.domains}
    return {
        "mixture": {phase: dict(weights) for phase in space.phase_names} or weights,
        "scale": ModelScale(space),
        "steps": TrainSteps(space.steps),
    }


def from_param_space(
    config: Mapping[str, Any],
    *,
    mixture_key: str = "mixture",
    scale_key: str = "scale",
    steps_key: str = "steps",
    cost_per_step: Mapping[str, float] | None = None,
) -> MixtureSpace:
    """The ``MixtureSpace`` of a Tune ``param_space``.

    A space written by ``MixtureSpace.param_space`` comes back as it was. In a hand-written one, the mixture is the
    sub-dict called ``mixture_key`` (or the only sub-dict) whose leaves are non-negative ``Float`` domains; the scale
    and the steps are ``tune.choice`` of names and of ascending integers, or constants.

    Args:
        config: the ``param_space``.
        mixture_key: key of the mixture.
        scale_key: key of the model scale; absent means a single scale.
        steps_key: key of the training steps; absent means a single rung.
        cost_per_step: price of a step by scale name; required for a hand-written choice of several scales.

    Raises:
        ValueError: if there is no mixture, it is ambiguous, or a scale has no cost.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"param_space must be a dict, got {type(config).__name__}.")
    if isinstance(config.get(scale_key), ModelScale):
        return config[scale_key].space
    group = config[find_mixture(config, mixture_key)]
    if not _is_mixture(group):
        raise ValueError(
            f"param_space[{mixture_key!r}] must be a dict of at least two domains with tune.uniform(a, b), a >= 0; "
            f"got {group!r}."
        )
    rungs = _choices(config.get(steps_key), key=steps_key, default=1)
    names = [str(name) for name in _choices(config.get(scale_key), key=scale_key, default="model")]
    remedy = "build the space with MixtureSpace(...).param_space(), or pass cost_per_step={scale: cost}"
    prices = priced(names, cost_per_step or {}, remedy=remedy)
    return MixtureSpace(
        domains=tuple(group), scales=tuple(Scale(name, prices[name]) for name in names), steps=tuple(sorted(rungs))
    )


def find_mixture(config: Mapping[str, Any], key: str) -> str:
    """``key`` where ``param_space`` has it, else the key of the only sub-dict that can be a mixture.

    Raises:
        ValueError: if there is none, or several.
    """
    if key in config:
        return key
    found = [name for name, value in config.items() if _is_mixture(value)]
    if len(found) != 1:
        raise ValueError(
            f"param_space has no mixture under {key!r} (candidates: {found}): name the sub-dict of domain weights "
            "by mixture_key=NAME."
        )
    return found[0]


def _is_mixture(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) >= 2
        and all(isinstance(leaf, Float) and leaf.lower is not None and leaf.lower >= 0 for leaf in value.values())
    )


def _choices(value: Any, *, key: str, default: Any) -> list[Any]:
    if value is None:
        return [default]
    if isinstance(value, Categorical):
        return list(value.categories)
    if isinstance(value, Domain | Mapping):
        found = "a grid_search" if isinstance(value, Mapping) and "grid_search" in value else repr(value)
        raise ValueError(f"param_space[{key!r}] must be tune.choice([...]) or a constant, got {found}.")
    return [value]


class Parameters:
    """The domains of a ``param_space`` that are not searched but sampled, as Tune's own random search would.

    Tune leaves it to the searcher to resolve every domain, a learning rate's, say. They are kept by their path in the
    configuration; JSON-able, since a restored run may never see them again.

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
        for entry in state:
            if not isinstance(entry["path"], list) or not all(isinstance(key, str) for key in entry["path"]):
                raise ValueError(f"Malformed state of a searcher: a parameter has the path {entry['path']!r}.")
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
    for name in ("lower", "upper", "mean", "sd", "quantum"):
        value = entry.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float | None) or value != value:
            raise ValueError(f"Malformed state of a searcher: {name} of a parameter is {value!r}.")
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
