"""The search space as Ray Tune domains, and back.

The domains are subclasses of Tune's ``Float`` and ``Categorical``: any other searcher sees ``tune.uniform(0, 1)`` and
``tune.choice``, while ours finds the names, costs, bounds and target on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.search.sample import Categorical, Domain, Float, _BackwardsCompatibleNumpyRng

from ray_mixopt.core.space import MixtureSpace, Scale, priced

if TYPE_CHECKING:
    from ray.tune.search.sample import RandomState


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
    """Choice of a rung, in training steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__(tuple(steps))
        self.sampler = Categorical._Uniform()  # type: ignore[assignment]


def to_param_space(space: MixtureSpace) -> dict[str, Any]:
    """``{"mixture": {domain: MixtureWeight}, "scale": ModelScale, "steps": TrainSteps}`` for ``tune.Tuner``."""
    return {
        "mixture": {name: MixtureWeight(name) for name in space.domains},
        "scale": ModelScale(space),
        "steps": TrainSteps(space.steps),
    }


def from_param_space(
    config: Mapping[str, Any],
    *,
    mixture: str = "mixture",
    scale: str = "scale",
    steps: str = "steps",
    cost_per_step: Mapping[str, float] | None = None,
) -> MixtureSpace:
    """The ``MixtureSpace`` of a Tune ``param_space``.

    A space written by ``MixtureSpace.param_space`` comes back as it was. In a hand-written one, the mixture is the
    sub-dict called ``mixture`` (or the only sub-dict) whose leaves are non-negative ``Float`` domains; the scale and
    the steps are ``tune.choice`` of names and of ascending integers, or constants.

    Args:
        config: the ``param_space``.
        mixture: key of the mixture.
        scale: key of the model scale; absent means a single scale.
        steps: key of the training steps; absent means a single rung.
        cost_per_step: price of a step by scale name; required for a hand-written choice of several scales.

    Raises:
        ValueError: if there is no mixture, it is ambiguous, or a scale has no cost.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"param_space must be a dict, got {type(config).__name__}.")
    if isinstance(config.get(scale), ModelScale):
        return config[scale].space
    group = config[mixture_key(config, mixture)]
    if not _is_mixture(group):
        raise ValueError(
            f"param_space[{mixture!r}] must be a dict of at least two domains with tune.uniform(a, b), a >= 0; "
            f"got {group!r}."
        )
    rungs = _choices(config.get(steps), key=steps, default=1)
    names = [str(name) for name in _choices(config.get(scale), key=scale, default="model")]
    prices = priced(
        names,
        cost_per_step or {},
        remedy="build the space with MixtureSpace(...).param_space(), or pass "
        "MixOptSearcher(cost_per_step={scale: cost})",
    )
    return MixtureSpace(
        domains=tuple(group), scales=tuple(Scale(name, prices[name]) for name in names), steps=tuple(sorted(rungs))
    )


def mixture_key(config: Mapping[str, Any], mixture: str = "mixture") -> str:
    """``mixture`` where ``param_space`` has it, else the key of the only sub-dict that can be a mixture.

    Raises:
        ValueError: if there is none, or several.
    """
    if mixture in config:
        return mixture
    found = [key for key, value in config.items() if _is_mixture(value)]
    if len(found) != 1:
        raise ValueError(
            f"param_space has no mixture under {mixture!r} (candidates: {found}): name the sub-dict of domain "
            "weights with MixOptSearcher(mixture=...)."
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
