"""Parts of the configuration of a search by pre-training: a scale, the target, and how to search."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from ray_mixopt.pretraining.proxies import LearningRate
from ray_mixopt.pretraining.training.settings import PRESETS, Execution, Resources, Section, Shape


class ScaleSettings(Section):
    """A model scale.

    Args:
        name: how reports call it.
        shape: of the model; without one, the preset called ``name``.
        resources: workers of a run.
        execution: in place of the search's.
        steps: its own rungs, in place of the search's.
        tokens_per_parameter: the same in training tokens for each parameter, as ``proxies`` counts them.
        batch_tokens: of a step, in place of the search's.
        learning_rate: in place of the search's.
        warmup_steps: in place of the search's.
        seconds_per_step: measured, for ``cost: seconds``.
    """

    name: str = Field(min_length=1)
    shape: Shape | None = None
    resources: Resources = Resources()
    execution: Execution | None = None
    steps: list[int] | None = None
    tokens_per_parameter: list[PositiveFloat] | None = None
    batch_tokens: int | None = Field(default=None, gt=0)
    learning_rate: LearningRate | None = None
    warmup_steps: int | None = Field(default=None, ge=0)
    seconds_per_step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _known(self) -> ScaleSettings:
        if self.shape is None and self.name not in PRESETS:
            raise ValueError(f"{self.name!r} is no preset: give its shape, or use one of {', '.join(PRESETS)}")
        return self

    @property
    def model_shape(self) -> Shape:
        """The shape given, or the preset's."""
        return self.shape or PRESETS[self.name]


class Target(Section):
    """Where the best mixture is wanted: a scale, and one of its rungs, by default the last."""

    scale: str
    steps: int | None = None


class Search(Section):
    """How to search.

    Args:
        budget: most to spend, in target runs; a million at most.
        min_gain: the search ends before that once no run is expected to improve the objective at the target by this
            much per target run's cost.
        stop_when_sure: whether it ends once the verdict is to train the answer.
        strategy: see ``MixtureOptimizer``.
        objective: weight of each metric; by default the mean validation loss of all domains.
        mode: direction of the objective.
        seed: of the strategy.
        noise: standard deviation by metric between runs of other seeds, where it is known; else it is learned.
        concurrency: runs at a time; by default as many of the smallest as the cluster holds.
        earlier: where old runs are, taken in at no cost, see ``runs.read_runs``; ``--from`` adds to them.
        earlier_noise: how much they scatter by metric, see ``runs.Source``; ``--metric-noise`` adds to it.
        domain_map: what became of their domains; see ``DomainMap``.
    """

    budget: float = Field(default=3.0, gt=0, le=1e6)
    min_gain: float = Field(default=0.0, ge=0)
    stop_when_sure: bool = False
    strategy: str = "default"
    objective: dict[str, float] | None = Field(default=None, min_length=1)
    mode: Literal["min", "max"] = "min"
    seed: int = Field(default=0, ge=0)
    noise: dict[str, float] = {}
    concurrency: int | None = Field(default=None, gt=0)
    earlier: list[str] = []
    earlier_noise: dict[str, float] = {}
    domain_map: dict[str, Any] = {}
