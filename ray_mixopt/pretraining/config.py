"""The configuration of a search by pre-training, as it stands in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ray_mixopt.core.merging import DomainMap
from ray_mixopt.core.safety import check_file_name
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.yaml_file import read_yaml
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.training.settings import (
    PRESETS,
    Decay,
    Evaluation,
    Execution,
    Optimization,
    Resources,
    Section,
    Shape,
    TrainingRun,
    explain,
)

if TYPE_CHECKING:
    from ray_mixopt.pretraining.training.model import ModelCost

MEAN_LOSS = "mean_loss"
TRACKER_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class ScaleSettings(Section):
    """A model scale.

    Args:
        name: how reports call it.
        shape: of the model; without one, the preset called ``name``.
        resources: workers of a run.
        execution: in place of the search's.
        learning_rate: in place of the search's.
        seconds_per_step: measured, for ``cost: seconds``.
    """

    name: str = Field(min_length=1)
    shape: Shape | None = None
    resources: Resources = Resources()
    execution: Execution | None = None
    learning_rate: float | None = Field(default=None, gt=0)
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
    """Where the best mixture is wanted."""

    scale: str
    steps: int


class Search(Section):
    """How to search.

    Args:
        budget: most to spend, in target runs.
        min_gain: the search ends before that once no run is expected to improve the objective at the target by this
            much per target run's cost.
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

    budget: float = Field(default=3.0, gt=0)
    min_gain: float = Field(default=0.0, ge=0)
    strategy: str = "default"
    objective: dict[str, float] | None = Field(default=None, min_length=1)
    mode: Literal["min", "max"] = "min"
    seed: int = Field(default=0, ge=0)
    noise: dict[str, float] = {}
    concurrency: int | None = Field(default=None, gt=0)
    earlier: list[str] = []
    earlier_noise: dict[str, float] = {}
    domain_map: dict[str, Any] = {}


class PretrainConfig(Section):
    """A search by pre-training. Only ``data``, ``scales``, ``steps`` and ``batch_tokens`` have no default.

    Args:
        name: of the experiment.
        data: folder of token shards, at the same path on every node.
        domains: to mix; by default all of the data.
        scales: in any order.
        steps: rungs, ascending.
        target: by default the largest scale and the last rung.
        batch_tokens: tokens of a step.
        sequence_length: tokens of a sequence.
        lower: smallest share, by domain.
        upper: largest share, by domain.
        max_repetition_ratio: most passes over a domain's tokens in the target run.
        simulate_tokens: training tokens of the real run that the target stands for: each domain is then cut down in
            proportion, so that the target repeats as the real run will.
        seed: of initial weights and data order.
        optimization: AdamW and the learning rate.
        execution: precision, parallelism and the like.
        validation_sequences: windows of each domain for the validation loss.
        checkpoint_every: steps between checkpoints for crashes, besides those at rungs.
        search: strategy, budget, objective.
        cost: "flops", or "seconds" as measured and given with each scale.
        storage: folder or URI for experiment and checkpoints, reached by all nodes.
        cluster: most resources that the cluster can ever have, for one that grows; by default what it has.
        tracking: callbacks of Ray's to log to.
        retries: how often a run starts again after a worker has died.
        decay: of the learning rate at the end of the final run.
        evaluation: downstream tasks at every rung, as metrics ``lm_eval/<task>/<metric>``.
    """

    name: Annotated[str, AfterValidator(lambda name: check_file_name(name, "An experiment"))] = Field(
        default="pretrain", pattern=r"^[\w.-]+$"
    )
    data: Path
    domains: list[str] | None = None
    scales: list[ScaleSettings] = Field(min_length=1)
    steps: list[int] = Field(min_length=1)
    target: Target | None = None
    batch_tokens: int = Field(gt=0)
    sequence_length: int = Field(default=1024, gt=0)
    lower: dict[str, float] = {}
    upper: dict[str, float] = {}
    max_repetition_ratio: float = Field(default=4.0, gt=0)
    simulate_tokens: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    optimization: Optimization = Optimization()
    execution: Execution = Execution()
    validation_sequences: int = Field(default=64, gt=0)
    checkpoint_every: int | None = Field(default=None, gt=0)
    search: Search = Search()
    cost: Literal["flops", "seconds"] = "flops"
    storage: str = "results"
    cluster: dict[str, float] | None = None
    tracking: list[Literal["tensorboard", "wandb", "mlflow"]] = []
    retries: int = Field(default=1, ge=0)
    decay: Decay | None = None
    evaluation: Evaluation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if self.simulate_tokens is not None and self.simulate_tokens < self.target_tokens:
            raise ValueError(
                f"simulate_tokens={self.simulate_tokens:g} is less than the target's {self.target_tokens:g} tokens"
            )
        if self.cost == "seconds" and (missing := [s.name for s in self.scales if s.seconds_per_step is None]):
            raise ValueError(f"cost: seconds needs the measured seconds_per_step of {', '.join(missing)}")
        return self

    @classmethod
    def read(cls, path: Path) -> PretrainConfig:
        """The configuration in a YAML file. Paths in it are relative to the working directory, and become absolute.

        Raises:
            ValueError: if the file cannot be read or used; the message says where.
        """
        data = read_yaml(path, "configuration")
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            raise ValueError(f"{path}: {explain(error)}") from error
        storage = config.storage if "://" in config.storage else str(Path(config.storage).resolve())
        return config.model_copy(update={"data": config.data.resolve(), "storage": storage})

    def starting_from(self, paths: Sequence[str], noise: Mapping[str, float] | None = None) -> PretrainConfig:
        """The same search with more old runs to start from, and what is known of their noise by metric."""
        update = {
            "earlier": [*self.search.earlier, *paths],
            "earlier_noise": {**self.search.earlier_noise, **(noise or {})},
        }
        return self.model_copy(update={"search": self.search.model_copy(update=update)})

    # -- what follows from it

    @property
    def experiment(self) -> str:
        """Folder or URI of the Tune experiment."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @property
    def target_steps(self) -> int:
        """Steps of the target run."""
        return self.steps[-1] if self.target is None else self.target.steps

    @property
    def target_tokens(self) -> int:
        """Training tokens of the target run."""
        return self.target_steps * self.batch_tokens

    @property
    def supply_fraction(self) -> float:
        """Share of each domain's training tokens that runs use, above 0 and at most 1."""
        return 1.0 if self.simulate_tokens is None else self.target_tokens / self.simulate_tokens

    @cached_property
    def manifest(self) -> Manifest:
        """What the folder of the data holds; read once."""
        return Manifest.read(self.data)

    @property
    def mixed_domains(self) -> tuple[str, ...]:
        """Names of the domains to mix."""
        return tuple(self.domains or self.manifest.domains)

    @property
    def objective(self) -> dict[str, float]:
        """Weight of each metric by its name; by default all domains' validation losses, equally."""
        names = self.manifest.domains
        return self.search.objective or {f"val_loss/{name}": 1 / len(names) for name in names}

    @property
    def budget(self) -> float:
        """Most to spend, in the cost unit of the space."""
        return self.search.budget * self.space.target_cost

    @property
    def search_settings(self) -> Settings:
        """What the optimizer is told of the search, in the cost unit of the space.

        Raises:
            ValueError: if it makes no sense.
        """
        search = self.search
        return Settings(
            mode=search.mode,
            objective=self.objective,
            strategy=search.strategy,
            budget=self.budget,
            seed=search.seed,
            noise=search.noise,
            min_gain_per_cost=search.min_gain / self.space.target_cost,
        )

    @property
    def domain_map(self) -> DomainMap:
        """What became of the domains of old runs.

        Raises:
            ValueError: if it makes no sense.
        """
        return DomainMap.from_dict(self.search.domain_map)

    def scale(self, name: str) -> ScaleSettings:
        """The settings of a scale.

        Raises:
            ValueError: if there is none of that name.
        """
        found = [scale for scale in self.scales if scale.name == name]
        if not found:
            raise ValueError(f"There is no scale {name!r}: there are {', '.join(scale.name for scale in self.scales)}.")
        return found[0]

    def model_cost(self, scale: ScaleSettings) -> ModelCost:
        """Parameters, operations and memory of a scale's model."""
        from ray_mixopt.pretraining.training import model  # takes seconds to import, and the trials do without

        vocab_size = self.manifest.tokenizer.vocab_size
        return model.cost(scale.model_shape, vocab_size, self.sequence_length, scale.execution or self.execution)

    @cached_property
    def space(self) -> MixtureSpace:
        """The search space, its caps from the supply of tokens.

        Raises:
            ValueError: if a domain is unknown, or the bounds leave no mixture.
        """
        domains = self.manifest.domains
        if unknown := [name for name in (*self.mixed_domains, *self.lower, *self.upper) if name not in domains]:
            raise ValueError(f"{self.data} has no domain {unknown[0]!r}: it has {', '.join(domains)}.")
        scales = []
        for scale in self.scales:
            cost = self.model_cost(scale)
            flops = cost.flops_per_token * self.batch_tokens
            price = scale.seconds_per_step if self.cost == "seconds" else flops
            scales.append(Scale(scale.name, cost_per_step=price or flops, parameters=cost.parameters))
        return MixtureSpace(
            domains=self.mixed_domains,
            scales=tuple(scales),
            steps=tuple(self.steps),
            target=None if self.target is None else (self.target.scale, self.target.steps),
            lower=self.lower,
            upper=self.upper,
            token_supply={name: self._usable(domains[name].train.tokens) for name in self.mixed_domains},
            target_tokens=self.target_tokens,
            max_epochs=self.max_repetition_ratio,
        )

    def _usable(self, tokens: int) -> float:
        """Tokens of a domain that runs use: whole windows, and only a part of them in simulated epoching."""
        windows = max(0, tokens - 1) // self.sequence_length
        return float(max(1, math.ceil(windows * self.supply_fraction - 1e-9)) * self.sequence_length)

    def run(
        self, mixture: Mapping[str, float], scale: str, steps: int, *, final: bool = False, repeat: int = 0
    ) -> TrainingRun:
        """The settings of one training run; ``repeat`` is added to the seed.

        Raises:
            ValueError: if they make no sense.
        """
        settings = self.scale(scale)
        optimization = self.optimization
        if settings.learning_rate is not None:
            optimization = optimization.model_copy(update={"learning_rate": settings.learning_rate})
        fields: dict[str, Any] = {
            "data": self.data,
            "fingerprint": self.manifest.fingerprint,
            "mixture": dict(mixture),
            "shape": settings.model_shape,
            "sequence_length": self.sequence_length,
            "batch_tokens": self.batch_tokens,
            "steps": steps,
            "rungs": tuple(self.steps),
            "seed": self.seed + repeat,
            "optimization": optimization,
            "decay": self.decay if final else None,
            "execution": settings.execution or self.execution,
            "validation_sequences": self.validation_sequences,
            "max_repetition_ratio": self.max_repetition_ratio,
            "supply_fraction": self.supply_fraction,
            "checkpoint_every": self.checkpoint_every,
            "evaluation": self.evaluation,
        }
        try:
            return TrainingRun.model_validate(fields)
        except ValidationError as error:
            raise ValueError(explain(error)) from error
