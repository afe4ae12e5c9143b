"""Settings of a training run, validated; they travel as plain JSON from the driver to the workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all settings: immutable, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_WIDEST = 2**20  # of an MLP


class Shape(Section):
    """Shape of an OLMo 2 model.

    Args:
        d_model: width of the residual stream.
        heads: attention heads.
        layers: transformer blocks.
        mlp_ratio: width of the SwiGLU layer's two halves together, in units of ``d_model``.
        tie_embeddings: whether input and output embeddings are one matrix; in OLMo 2 they are two.
        rope_theta: base of the rotary embedding's wave lengths.
    """

    d_model: int = Field(gt=0, le=2**16)
    heads: int = Field(gt=0, le=1024)
    layers: int = Field(gt=0, le=1024)
    mlp_ratio: float = Field(default=8, gt=0)
    tie_embeddings: bool = False
    rope_theta: float = Field(default=500_000, gt=1)

    @model_validator(mode="after")
    def _divisible(self) -> Shape:
        if self.d_model % self.heads or self.d_model // self.heads % 2:
            raise ValueError(f"d_model={self.d_model} is no even multiple of heads={self.heads}")
        if not 0 < self.mlp_width <= _WIDEST:
            raise ValueError(f"mlp_ratio={self.mlp_ratio:g} makes an MLP {self.mlp_width} wide: 1 to {_WIDEST} can be")
        return self

    @property
    def mlp_width(self) -> int:
        """Width of each half of the SwiGLU layer."""
        return round(self.mlp_ratio * self.d_model / 2)


_PRESETS = {
    # for CPUs and tests: width, heads, layers
    "nano": (64, 2, 2),
    "micro": (96, 3, 3),
    "tiny": (128, 4, 4),
    # arXiv 2503.21023
    "20M": (256, 8, 8),
    "60M": (512, 8, 8),
    "150M": (768, 12, 12),
    "300M": (1024, 16, 16),
    "500M": (1280, 16, 16),
    "700M": (1536, 16, 16),
    "1B": (2048, 16, 16),
}
PRESETS: dict[str, Shape] = {
    name: Shape(d_model=d_model, heads=heads, layers=layers, tie_embeddings=True)
    for name, (d_model, heads, layers) in _PRESETS.items()
}
"""Shapes by name. With a vocabulary of 50,257 tokens the last seven have about the parameters that they are named for,
which holds with one embedding matrix for input and output: so they have one. Shapes of your own have two by default."""


class AdamW(Section):
    """The optimizer, all but its learning rate, by default as OLMo 2's.

    Args:
        beta1: of AdamW.
        beta2: of AdamW.
        epsilon: of AdamW.
        weight_decay: of what decays: matrices, and what follows.
        decay_embeddings: whether the input's embeddings decay.
        decay_norms: whether the gains of norms decay.
        clip: largest norm of the gradient.
        z_loss: weight of the mean squared log of the softmax's normaliser, which keeps scores from drifting away. It is
            no part of the losses reported.
    """

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    decay_embeddings: bool = False
    decay_norms: bool = True
    clip: float = Field(default=1.0, gt=0)
    z_loss: float = Field(default=1e-5, ge=0)


class Optimization(AdamW):
    """AdamW and the learning rate, which is by default that of the paper, arXiv 2503.21023.

    The rate warms up over ``warmup_steps`` and then stays: a run to 1,000 steps is then a part of one to 2,000.
    """

    learning_rate: float = Field(default=6e-4, gt=0)
    warmup_steps: int = Field(default=2000, ge=0)


class Anneal(Section):
    """How a rung's report is made comparable: with a learning rate that has come down.

    Before each rung a branch leaves the run, over the last ``share`` of all steps up to the rung. On it the rate falls
    linearly to ``final_share`` of itself; the rung reports the model at its end. The run itself goes on, if it does,
    from where the branch left it, at the full rate, and sees the same sequences again.
    """

    share: float = Field(default=0.1, gt=0, lt=1)
    final_share: float = Field(default=0.1, ge=0, le=1)

    def leaves(self, rung: int) -> int:
        """The step after which the branch of a rung leaves; below it."""
        return rung - max(1, round(self.share * rung))


class Decay(Section):
    """The end of the final run: the rate falls linearly over the last ``steps`` to ``final_share`` of itself."""

    steps: int = Field(gt=0)
    final_share: float = Field(default=0.1, ge=0, le=1)


class Execution(Section):
    """How a run is computed; none of it changes what is computed, up to rounding.

    Args:
        parallel: "ddp" holds the model on every worker, "fsdp" (FSDP2) a part of it.
        shards: how many parts "fsdp" makes of the model: so many workers hold it whole together, and gradients travel
            between such groups (HSDP). By default all workers are one group.
        tensor: how many workers compute the same sequences together, each a part of the blocks' matrix products
            (tensor parallelism), with "fsdp" only.
        precision: "bf16" computes in bfloat16 with weights and optimizer in float32.
        compile: whether to compile the model with ``torch.compile``.
        activation_checkpointing: whether to compute activations again rather than to keep them.
        micro_batch: most sequences that a worker computes at a time.
        peak_flops: floating-point operations a second that one device can do, for the MFU; without it there is none.
    """

    parallel: Literal["ddp", "fsdp"] = "ddp"
    shards: int | None = Field(default=None, gt=0)
    tensor: int = Field(default=1, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    activation_checkpointing: bool = False
    micro_batch: int = Field(default=8, gt=0)
    peak_flops: float | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _sharded(self) -> Execution:
        if self.parallel == "ddp" and (self.shards is not None or self.tensor > 1):
            raise ValueError("shards and tensor are ways to hold a part of the model: they need parallel: fsdp")
        return self

    def groups(self, workers: int) -> int:
        """How many groups of workers there are that compute sequences of their own.

        Raises:
            ValueError: if so many workers cannot be grouped so.
        """
        groups = workers // self.tensor
        if workers % self.tensor or (self.shards is not None and groups % self.shards):
            parts = f"{self.tensor} tensor-parallel workers" + (f" x {self.shards} shards" if self.shards else "")
            raise ValueError(f"{workers} workers cannot be grouped by {parts}: change workers, tensor or shards.")
        return groups


class Evaluation(Section):
    """Downstream tasks of ``lm-eval`` at every rung; see ``downstream``.

    Args:
        tasks: names of tasks or groups.
        few_shot: examples in the prompt; by default the task's.
        limit: most documents of a task.
        folder: of task files of your own, at the same path on every worker.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    few_shot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, gt=0)
    folder: Path | None = None


class LaterPhase(Section):
    """A phase of a run after its first one.

    Args:
        begins: where, as a part of the run.
        mixture: share of its training tokens by domain; normalised by the run.
    """

    begins: float = Field(gt=0, lt=1)
    mixture: dict[str, float] = Field(min_length=1)


class TrainingRun(Section):
    """One training run.

    Args:
        data: folder of token shards, at the same path on every worker.
        fingerprint: of the manifest that the run was planned with; workers refuse other data.
        mixture: share of the training tokens by domain; normalised here. Of several phases, that of the first.
        later: phases after the first one. They are on a branch, as with ``anneal``: that of each rung begins where the
            first phase of a run to the rung ends, and the run itself goes on with the mixture of the first.
        shape: of the model.
        sequence_length: tokens of a sequence.
        batch_tokens: tokens of one step on all workers together.
        steps: the run ends after so many.
        rungs: steps at which it reports; ``steps`` itself is one in any case.
        seed: of the initial weights and the order of the data.
        document_attention: whether a token attends to those of its own document only, not to all before it in its
            sequence.
        validation_tokens: of each domain, that the validation loss is measured on, up to a whole window.
        max_repetition_ratio: most passes over the training tokens of a domain.
        supply_fraction: share of each domain to use at all; see ``sampler.Mixture``.
        anneal: of the learning rate before every report; without it, reports are of the constant rate.
        decay: of the learning rate at the end, for a run that reports at its constant rate before.
        checkpoint_every: steps between checkpoints for crashes, besides those at the rungs.
        log_every: steps between looks at the loss, which notice when it is not finite.
        evaluation: downstream tasks, besides the validation losses.
    """

    version: Literal[1] = 1
    data: Path
    fingerprint: str | None = None
    mixture: dict[str, float] = Field(min_length=1)
    later: tuple[LaterPhase, ...] = ()
    shape: Shape
    sequence_length: int = Field(default=1024, gt=0)
    batch_tokens: int = Field(gt=0)
    steps: int = Field(gt=0)
    rungs: tuple[int, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**63)
    optimization: Optimization = Optimization()
    anneal: Anneal | None = None
    decay: Decay | None = None
    execution: Execution = Execution()
    document_attention: bool = False
    validation_tokens: int = Field(default=2**18, gt=0)
    max_repetition_ratio: float | None = Field(default=None, gt=0)
    supply_fraction: float = Field(default=1.0, gt=0, le=1)
    checkpoint_every: int | None = Field(default=None, gt=0)
    log_every: int = Field(default=10, gt=0)
    evaluation: Evaluation | None = None

    @model_validator(mode="before")
    @classmethod
    def _normalised(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("mixture"), dict):
            data = data | {"mixture": _normalised(data["mixture"])}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> TrainingRun:
        if self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"batch_tokens={self.batch_tokens} is no whole number of sequences of {self.sequence_length} tokens: "
                "take a multiple of sequence_length"
            )
        shape, tensor = self.shape, self.execution.tensor
        if uneven := [width for width in (shape.d_model, shape.mlp_width) if width % tensor]:
            raise ValueError(
                f"execution.tensor={tensor} workers cannot share out a width of {uneven[0]} evenly: the model is "
                f"{shape.d_model} wide, its MLP {shape.mlp_width}"
            )
        begins = [0.0, *(stage.begins for stage in self.later)]
        if any(b <= a for a, b in zip(begins, begins[1:], strict=False)):
            raise ValueError(f"later phases begin one after the other, got {begins[1:]}")
        if self.later and self.anneal is not None and self.anneal.share > 1 - begins[1] + 1e-9:
            raise ValueError(f"anneal.share={self.anneal.share:g} is more than what follows the first phase")
        if any(set(stage.mixture) != set(self.mixture) for stage in self.later):
            raise ValueError("all phases have the domains of the first, be it with a share of 0")
        _ = self.mixtures  # whose shares make sense
        if self.decay is not None and self.decay.steps > self.steps:
            raise ValueError(f"decay.steps={self.decay.steps} is more than the run's {self.steps} steps")
        if self.decay is not None and self.anneal is not None:
            raise ValueError("anneal lets the learning rate fall before every report, so that decay has no place")
        return self

    @property
    def batch_sequences(self) -> int:
        """Sequences of one step on all workers together."""
        return self.batch_tokens // self.sequence_length

    @property
    def reports(self) -> tuple[int, ...]:
        """Steps at which the run reports, ascending; the last one is ``steps``."""
        return tuple(sorted({rung for rung in self.rungs if 0 < rung < self.steps} | {self.steps}))

    @property
    def branches(self) -> bool:
        """Whether the model of a report is that of the end of a branch."""
        return self.anneal is not None or bool(self.later)

    @property
    def mixtures(self) -> tuple[dict[str, float], ...]:
        """Those of all phases, normalised, in one order of the domains."""
        later = [_normalised(stage.mixture) for stage in self.later]
        return self.mixture, *({name: shares[name] for name in self.mixture} for shares in later)

    def leaves(self, rung: int) -> int:
        """The step after which the model of a rung's report leaves the run: the rung, or where its branch begins."""
        if self.later:
            return min(round(self.later[0].begins * rung), rung - 1)
        return rung if self.anneal is None else self.anneal.leaves(rung)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint for crashes is due after a step."""
        return self.checkpoint_every is not None and step % self.checkpoint_every == 0

    def next_stop(self, step: int, rung: int) -> int:
        """Where the run stops next after ``step`` steps on its way to the report of a rung."""
        every = self.checkpoint_every or rung
        return min(self.leaves(rung), (step // every + 1) * every)

    def identity(self) -> dict[str, Any]:
        """Everything that a checkpoint must have in common with the run that goes on from it, JSON-able."""
        kept = ("mixture", "shape", "sequence_length", "batch_tokens", "seed", "optimization", "supply_fraction")
        return self.model_dump(mode="json", include={*kept, "anneal", "document_attention"})


def _normalised(mixture: Mapping[str, Any]) -> dict[str, float]:
    shares = {str(name): float(share) for name, share in mixture.items()}
    total = sum(shares.values())
    if not all(map(math.isfinite, shares.values())) or min(shares.values(), default=0) < 0 or total <= 0:
        raise ValueError(f"shares must be finite, not negative and not all zero, got {shares}")
    return shares if abs(total - 1) < 1e-12 else {name: share / total for name, share in shares.items()}


class Resources(Section):
    """The workers of one run.

    Args:
        workers: how many train one model together.
        cpus_per_worker: of each.
        gpus_per_worker: of each; 1 for training on GPUs.
        labels: that a node must have for a worker, as Ray's label selectors say it: "A100", "!spot", "in(A100, H100)"
            or "!in(spot, preemptible)".
    """

    workers: int = Field(default=1, gt=0)
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    labels: dict[str, str] = {}

    @property
    def each(self) -> dict[str, float]:
        """What one worker needs, by Ray's names."""
        amounts = {"CPU": self.cpus_per_worker, "GPU": float(self.gpus_per_worker)}
        return {kind: amount for kind, amount in amounts.items() if amount}

    @property
    def total(self) -> dict[str, float]:
        """What all workers need, by Ray's names."""
        return {kind: self.workers * amount for kind, amount in self.each.items()}

    def may_use(self, labels: Mapping[str, str]) -> bool:
        """Whether workers may be on a node with these labels."""
        return all(_selects(wanted, labels.get(name)) for name, wanted in self.labels.items())

    def fitting(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many such workers find room on nodes with these resources."""
        return sum(min(int(node.get(kind, 0.0) / amount) for kind, amount in self.each.items()) for node in nodes)


def _selects(wanted: str, label: str | None) -> bool:
    """Whether a label is as a selector of Ray wants it; a node without the label has none that is excluded."""
    inverted, plain = wanted.startswith("!"), wanted.removeprefix("!")
    listed = plain.startswith("in(") and plain.endswith(")")
    values = [value.strip() for value in plain[3:-1].split(",")] if listed else [plain]
    return (label in values) != inverted
