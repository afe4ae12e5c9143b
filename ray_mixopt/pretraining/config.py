"""The configuration of a search by pre-training, as it stands in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, ValidationError, model_validator

from ray_mixopt.core.merging import DomainMap
from ray_mixopt.core.phases import Phase
from ray_mixopt.core.safety import check_file_name
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.settings import Settings
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.core.words import has_phases
from ray_mixopt.io.yaml_file import read_yaml
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.mistakes import explain
from ray_mixopt.pretraining.proxies import PROXY_SHARE, ScaleRecipe, batch_rule, learning_rate_rule, warmup_rule
from ray_mixopt.pretraining.sections import ScaleSettings, Search, Target
from ray_mixopt.pretraining.training.settings import (
    Anneal,
    Decay,
    Evaluation,
    Execution,
    Optimization,
    Section,
    TrainingRun,
)

if TYPE_CHECKING:
    from ray_mixopt.pretraining.training.model import ModelCost

MEAN_LOSS = "mean_loss"
Share = Annotated[float, Field(ge=0, le=1)]
TRACKER_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}

_FREE = {"name", "data", "storage", "scales", "search", "execution", "cluster", "checkpoint_every", "keep_checkpoints"}
_FREE |= {"retries", "assumed_mfu", "decay"}  # of the final run alone
_FREE_OF_SCALES = {"name", "resources", "execution"}
_FREE_OF_SEARCH = {"earlier", "earlier_noise", "domain_map"}  # about its start


class PretrainConfig(Section):
    """A search by pre-training. Only ``data``, ``scales`` and lengths have no default.

    Args:
        name: of the experiment.
        data: folder of token shards, at the same path on every node.
        domains: to mix; by default all of the data.
        scales: in any order.
        steps: rungs, ascending, of the scales that have none of their own.
        tokens_per_parameter: the same in training tokens for each parameter of the scale.
        target: by default the largest scale and its last rung.
        batch_tokens: tokens of a step; by default by a rule for each scale, see ``proxies``.
        sequence_length: tokens of a sequence.
        lower: smallest share, by domain.
        upper: largest share, by domain.
        phases: of each run, where it has several: ``{name: main, fraction: 0.8}`` and so on, with limits of their own.
        max_repetition_ratio: most passes over a domain's tokens in the target run.
        simulate_tokens: training tokens of the real run that the target stands for: each domain is then cut down in
            proportion, so that the target repeats as the real run will.
        seed: of initial weights and data order.
        match_repetition: whether scales that train on fewer tokens than the target use as much less of each domain, so
            that they repeat as it will.
        optimization: AdamW and the learning rate, by default by a rule for each scale.
        anneal: of the learning rate, before every report.
        execution: precision, parallelism and the like.
        document_attention: whether tokens attend to their own document only.
        validation_tokens: of each domain, for the validation loss; the same ones in every run.
        checkpoint_every: steps between checkpoints for crashes, besides those at rungs.
        keep_checkpoints: whether to keep those of runs that can no longer be continued, to evaluate or publish them.
        search: strategy, budget, objective.
        cost: "flops", or "seconds" as measured and given with each scale.
        assumed_mfu: share of the ``peak_flops`` of a device that training is assumed to use, for the plan's hours.
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
    domains: list[str] | None = Field(default=None, min_length=1)
    scales: list[ScaleSettings] = Field(min_length=1)
    steps: list[int] | None = None
    tokens_per_parameter: list[PositiveFloat] | None = None
    target: Target | None = None
    batch_tokens: int | None = Field(default=None, gt=0)
    sequence_length: int = Field(default=1024, gt=0)
    lower: dict[str, Share] = {}
    upper: dict[str, Share] = {}
    phases: list[dict[str, Any]] = []
    max_repetition_ratio: float = Field(default=4.0, gt=0)
    simulate_tokens: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    match_repetition: bool = True
    optimization: ScaleRecipe = ScaleRecipe()
    anneal: Anneal | None = None
    execution: Execution = Execution()
    document_attention: bool = False
    validation_tokens: int = Field(default=2**18, gt=0)
    checkpoint_every: int | None = Field(default=None, gt=0)
    keep_checkpoints: bool = False
    search: Search = Search()
    cost: Literal["flops", "seconds"] = "flops"
    assumed_mfu: float = Field(default=0.4, gt=0, le=1)
    storage: str = "results"
    cluster: dict[str, float] | None = None
    tracking: list[Literal["tensorboard", "wandb", "mlflow"]] = []
    retries: int = Field(default=1, ge=0)
    decay: Decay | None = None
    evaluation: Evaluation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        given: dict[str, ScaleSettings | PretrainConfig] = {f"scale {scale.name!r}": scale for scale in self.scales}
        for name, section in (given | {"the search": self}).items():
            if section.steps is not None and section.tokens_per_parameter is not None:
                raise ValueError(f"{name}: give its rungs as steps or as tokens_per_parameter, not as both")
        if without := [scale.name for scale in self.scales if not self._lengths(scale)]:
            raise ValueError(f"steps: no rungs are given for {', '.join(without)}: give steps or tokens_per_parameter")
        if trained := [phase.name for phase in self.searched_phases if phase.mixture is not None]:
            raise ValueError(f"phases: {trained[0]} has a mixture, and all phases are trained here: leave it out")
        if len(self.phases) == 1:
            raise ValueError("phases: one phase is the whole of a run: leave phases out, or give two")
        if self.anneal is not None and self.decay is not None:
            raise ValueError("decay: with anneal all runs end with a decay of the learning rate: drop decay")
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
            raise ValueError(explain(error, cls, path)) from error
        storage = config.storage if "://" in config.storage else str(Path(config.storage).resolve())
        return config.model_copy(update={"data": config.data.resolve(), "storage": storage})

    def starting_from(self, paths: Sequence[str], noise: Mapping[str, float] | None = None) -> PretrainConfig:
        """The same search with more old runs to start from, and what is known of their noise by metric."""
        update = {
            "earlier": [*self.search.earlier, *paths],
            "earlier_noise": {**self.search.earlier_noise, **(noise or {})},
        }
        return self.model_copy(update={"search": self.search.model_copy(update=update)})

    def lasting(self) -> dict[str, Any]:
        """What stays as it is while a search goes on, JSON-able: all that says which runs it makes, and what for."""
        return self.model_dump(mode="json", exclude=_FREE) | {
            "data": self.manifest.fingerprint,
            "scales": {scale.name: scale.model_dump(mode="json", exclude=_FREE_OF_SCALES) for scale in self.scales},
            "search": self.search.model_dump(mode="json", exclude=_FREE_OF_SEARCH),
        }

    # -- what follows from it

    @property
    def searched_phases(self) -> tuple[Phase, ...]:
        """The phases of a run; none where it has one mixture throughout."""
        return tuple(Phase.from_dict(phase) for phase in self.phases)

    @property
    def experiment(self) -> str:
        """Folder or URI of the Tune experiment."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @cached_property
    def target_scale(self) -> str:
        """Name of the scale at which the best mixture is wanted."""
        if self.target is not None:
            return self.scale(self.target.scale).name
        return max(self.scales, key=lambda scale: self.model_cost(scale).parameters).name

    @property
    def target_steps(self) -> int:
        """Steps of the target run."""
        given = None if self.target is None else self.target.steps
        return given or self.rungs(self.target_scale)[-1]

    @property
    def target_tokens(self) -> int:
        """Training tokens of the target run."""
        return self.target_steps * self.batch(self.target_scale)

    def batch(self, scale: str) -> int:
        """Tokens of a step at a scale."""
        settings = self.scale(scale)
        given = settings.batch_tokens or self.batch_tokens
        return given or batch_rule(self.model_cost(settings).in_blocks, self.sequence_length)

    def rungs(self, scale: str) -> tuple[int, ...]:
        """The lengths of a scale's runs, in steps, ascending.

        Raises:
            ValueError: if two of them are the same number of steps.
        """
        settings = self.scale(scale)
        lengths, in_steps = self._lengths(settings) or ([], True)
        if in_steps:
            return tuple(int(length) for length in lengths)
        parameters, batch = self.model_cost(settings).in_blocks, self.batch(scale)
        rungs = [max(1, round(length * parameters / batch)) for length in lengths]
        if rungs != sorted(set(rungs)):
            raise ValueError(
                f"tokens_per_parameter: {lengths} are {rungs} steps of {batch} tokens at scale {scale!r}; they must "
                "be ascending and differ: take others, or smaller batches."
            )
        return tuple(rungs)

    def _lengths(self, scale: ScaleSettings) -> tuple[list[float], bool] | None:
        """The lengths given for a scale, and whether they are in steps."""
        given: tuple[ScaleSettings | PretrainConfig, ...] = (scale, self)
        for section in given:
            if section.steps:
                return list(section.steps), True
            if section.tokens_per_parameter:
                return section.tokens_per_parameter, False
        return None

    def supply_fraction(self, scale: str) -> float:
        """Share of each domain's training tokens that a scale's runs use, above 0 and at most 1.

        It is that of the tokens of the scale's longest run in those of the target, or of the run that the target stands
        for: at every part of its longest run, a scale has then passed over each domain as often as the target at the
        same part of its own. With more tokens than the target, all is used, and passes are more.
        """
        if not self.match_repetition:
            scale = self.target_scale
        return min(1.0, self._longest(scale) / self._stands_for)

    def _longest(self, scale: str) -> int:
        """Tokens of the run of a scale that is to the search what the target run is at its own scale."""
        return self.target_tokens if scale == self.target_scale else self.rungs(scale)[-1] * self.batch(scale)

    def matched(self, scale: str) -> float:
        """Passes over a domain at the end of a scale's longest run, in those of the target's end."""
        return self.rungs(scale)[-1] * self.batch(scale) / (self.supply_fraction(scale) * self._stands_for)

    @property
    def _stands_for(self) -> float:
        """Tokens of the real run that the target stands for."""
        if self.simulate_tokens is not None and self.simulate_tokens < self.target_tokens:
            raise ValueError(
                f"simulate_tokens={self.simulate_tokens:g} is less than the target's {self.target_tokens:g} tokens."
            )
        return self.simulate_tokens or self.target_tokens

    @cached_property
    def manifest(self) -> Manifest:
        """What the folder of the data holds; read once."""
        return Manifest.read(self.data)

    @property
    def mixed_domains(self) -> tuple[str, ...]:
        """Names of the domains to mix.

        Raises:
            ValueError: if the data have not all that the configuration names.
        """
        known = self.manifest.domains
        if unknown := [name for name in (*(self.domains or ()), *self.lower, *self.upper) if name not in known]:
            raise ValueError(f"{self.data} has no domain {unknown[0]!r}: it has {', '.join(known)}.")
        return tuple(self.domains or known)

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
            stop_when_sure=search.stop_when_sure,
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
        rungs = {scale.name: self.rungs(scale.name) for scale in self.scales}
        batches = {scale.name: self.batch(scale.name) for scale in self.scales}
        alike = len(set(rungs.values())) == 1
        scales = []
        for scale in self.scales:
            cost = self.model_cost(scale)
            flops = cost.flops_per_token * batches[scale.name]
            price = scale.seconds_per_step if self.cost == "seconds" else flops
            scales.append(
                Scale(
                    scale.name,
                    cost_per_step=price or flops,
                    parameters=cost.parameters,
                    steps=None if alike else rungs[scale.name],
                    tokens_per_step=None if len(set(batches.values())) == 1 else batches[scale.name],
                    annealed=0.0 if self.anneal is None else self.anneal.share,
                )
            )
        return MixtureSpace(
            domains=self.mixed_domains,
            scales=tuple(scales),
            steps=rungs[self.target_scale] if alike else (),
            target=None if self.target is None else (self.target_scale, self.target_steps),
            lower=self.lower,
            upper=self.upper,
            phases=self.searched_phases,
            token_supply={name: self.usable_tokens(name) for name in self.mixed_domains},
            target_tokens=self.target_tokens,
            max_epochs=self.max_repetition_ratio,
            repetition=self._repetition,
        )

    @property
    def _repetition(self) -> Literal["matched", "real"] | None:
        """What the model knows of passes over data; of several phases it knows none."""
        if self.max_repetition_ratio <= 1 or self.phases:
            return None
        return "matched" if self.match_repetition else "real"

    def usable_tokens(self, domain: str) -> float:
        """Of the training tokens of a domain those that the target uses: whole windows, and only a fraction of them."""
        fraction = self.supply_fraction(self.target_scale)
        windows = max(0, self.manifest.domains[domain].train.tokens - 1) // self.sequence_length
        return float(max(1, math.ceil(windows * fraction - 1e-9)) * self.sequence_length)

    def recipe(self, scale: str) -> Optimization:
        """How a scale's runs are optimised: as the scale says, else as the search does, else by rule."""
        settings, recipe = self.scale(scale), self.optimization
        batch, longest = self.batch(scale), self.rungs(scale)[-1]
        rate = settings.learning_rate or recipe.learning_rate
        warmup = recipe.warmup_steps if settings.warmup_steps is None else settings.warmup_steps
        if rate is None or warmup is None:
            parameters, share = self.model_cost(settings).in_blocks, recipe.proxy_share or PROXY_SHARE
            rate = rate or learning_rate_rule(parameters) * (1.0 if scale == self.target_scale else share)
            warmup = warmup_rule(parameters, batch, longest) if warmup is None else warmup
        fields = recipe.model_dump(exclude={"proxy_share"})
        return Optimization(**fields | {"learning_rate": rate, "warmup_steps": warmup})

    def run(
        self, mixture: Mapping[str, Any], scale: str, steps: int, *, final: bool = False, repeat: int = 0
    ) -> TrainingRun:
        """The settings of one training run; ``repeat`` is added to the seed, and a mixture may be one for each phase.

        Raises:
            ValueError: if they make no sense.
        """
        settings, rungs = self.scale(scale), self.rungs(scale)
        supply = self.supply_fraction(scale)
        phases = self.searched_phases
        nested = has_phases(mixture)
        each = [dict(mixture[phase.name] if nested else mixture) for phase in phases] or [dict(mixture)]
        begins = accumulate(phase.fraction for phase in phases[:-1])
        fields: dict[str, Any] = {
            "data": self.data,
            "fingerprint": self.manifest.fingerprint,
            "mixture": each[0],
            "later": [{"begins": begin, "mixture": of} for begin, of in zip(begins, each[1:], strict=True)],
            "shape": settings.model_shape,
            "sequence_length": self.sequence_length,
            "batch_tokens": self.batch(scale),
            "steps": steps,
            "rungs": rungs,
            "seed": self.seed + repeat,
            "optimization": self.recipe(scale),
            "anneal": self.anneal,
            "decay": self.decay if final else None,
            "execution": settings.execution or self.execution,
            "document_attention": self.document_attention,
            "validation_tokens": self.validation_tokens,
            "max_repetition_ratio": self.max_repetition_ratio * max(1.0, self.matched(scale)),
            "supply_fraction": supply,
            "checkpoint_every": self.checkpoint_every,
            "evaluation": self.evaluation,
        }
        try:
            return TrainingRun.model_validate(fields)
        except ValidationError as error:
            raise ValueError(explain(error, TrainingRun)) from error
