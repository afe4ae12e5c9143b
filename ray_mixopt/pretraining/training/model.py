"""OLMo 2 language models of any size, initialised at random, and what they cost.

Notation: ``N`` parameters in matrix products, ``l`` layers, ``d`` width, ``T`` tokens a sequence, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Olmo2Config
from transformers.models.olmo2 import modeling_olmo2

from ray_mixopt.pretraining.training.settings import Execution, Shape
from ray_mixopt.pretraining.training.workers import by_mesh

_VOCABULARY_MULTIPLE = 64  # matrix products are faster on round sizes
_MOST_SCORES = 2**26  # that exist at a time: 256 MiB in float32


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding matrix: the vocabulary rounded up; the rows beyond it are never a target."""
    return math.ceil(vocab_size / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


class Olmo2ForCausalLM(modeling_olmo2.Olmo2ForCausalLM):
    """OLMo 2 that can give the losses of its next tokens without the scores of all of them at a time.

    Its name is that of the class in ``transformers``, which is what files of the model are to say.
    """

    def forward(self, input_ids: torch.Tensor, targets: torch.Tensor | None = None, **options: Any) -> Any:
        """What that class gives; with ``targets``, ``(m, T)``, their losses: see ``token_losses``."""
        if targets is None:
            return super().forward(input_ids=input_ids, **options)
        hidden = self.model(input_ids=input_ids, use_cache=False, **options).last_hidden_state
        rows, wanted = hidden.flatten(0, 1), targets.flatten()
        size = max(1, _MOST_SCORES // self.lm_head.weight.shape[0])
        if len(rows) <= size:
            parts = [_losses(rows, wanted, self.lm_head)]
        else:  # the scores of a part are computed again in the backward pass instead of being kept
            parts = [
                checkpoint(_losses, *part, self.lm_head, use_reentrant=False, preserve_rng_state=False)
                for part in zip(rows.split(size), wanted.split(size), strict=True)
            ]
        losses, logs = (torch.cat(values).view(targets.shape) for values in zip(*parts, strict=True))
        return losses, logs


def _losses(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    losses, logs = _NextTokens.apply(head(hidden).float(), targets)
    return losses, logs


class _NextTokens(torch.autograd.Function):
    """Cross-entropy and log of the softmax's normaliser, ``(n,)`` each, of scores ``(n, V)``.

    Both follow from the softmax and one of the scores. PyTorch's own ways to them go over all scores once more, forward
    and backward, which is a part of the time that is felt where models are small. Losses and their gradients are those
    of ``cross_entropy`` to the last bit.
    """

    @staticmethod
    def forward(context: Any, scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places = targets[:, None]
        log_p = scores.log_softmax(-1)
        context.save_for_backward(log_p, places)
        losses = -log_p.gather(1, places)[:, 0]
        return losses, losses + scores.gather(1, places)[:, 0]

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        log_p, places = context.saved_tensors
        of_losses, of_logs = (gradient[:, None] for gradient in gradients)
        of_log_p = torch.zeros_like(log_p).scatter_(1, places, -(of_losses + of_logs))
        of_scores = torch.ops.aten._log_softmax_backward_data(of_log_p, log_p, -1, log_p.dtype)
        return of_scores.scatter_add_(1, places, of_logs), None


def build(shape: Shape, vocab_size: int, sequence_length: int, *, attention: str = "sdpa") -> Olmo2ForCausalLM:
    """A model with random weights, in float32 on the current default device.

    Args:
        shape: of the model.
        vocab_size: of the tokenizer, ``V``.
        sequence_length: most tokens that it is to see at a time.
        attention: implementation in ``transformers``.
    """
    config = Olmo2Config(
        vocab_size=padded_vocabulary(vocab_size),
        hidden_size=shape.d_model,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=sequence_length,
        tie_word_embeddings=shape.tie_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=1e-6,
        use_cache=False,
        pad_token_id=None,  # else one embedding would never be trained
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = attention
    return Olmo2ForCausalLM(config)


def logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Scores of the next token, ``(m, T) -> (m, T, V)``."""
    return model(input_ids=inputs, use_cache=False).logits


def token_losses(
    model: nn.Module, windows: torch.Tensor, document_end: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each next token and the log of the softmax's normaliser, in float32, ``(m, T), (m, T)``.

    Args:
        model: as it is trained.
        windows: of tokens, ``(m, T + 1)``.
        document_end: the token that ends a document, where tokens attend to those of their own document only.
    """
    inputs, targets = windows[:, :-1], windows[:, 1:]
    positions = {} if document_end is None else {"position_ids": document_positions(inputs, document_end)}
    return model(input_ids=inputs, targets=targets, **positions)


def document_positions(inputs: torch.Tensor, document_end: int) -> torch.Tensor:
    """The place of each token in its document, or in the part of it that is here, ``(m, T)``.

    Where these places start anew, attention of ``transformers`` does, too.
    """
    places = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    begins = torch.zeros_like(inputs, dtype=torch.bool)
    begins[:, 1:] = inputs[:, :-1] == document_end
    return places - torch.where(begins, places, 0).cummax(1).values


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model costs.

    Attributes:
        parameters: number of parameters.
        in_blocks: of them those that are no embeddings: neither of the input nor of the output.
        flops_per_token: floating-point operations to train on one token.
        bytes_of_state: of weights, gradients and optimizer, in float32.
        bytes_of_activations: kept for the backward pass of one sequence; an estimate.
    """

    parameters: int
    in_blocks: int
    flops_per_token: float
    bytes_of_state: int
    bytes_of_activations: float

    @property
    def bytes_of_checkpoint(self) -> int:
        """Of weights and the two moments of AdamW, in float32."""
        return 12 * self.parameters

    def memory_bytes(self, execution: Execution, workers: int) -> float:
        """An estimate of the memory that one worker needs, in bytes, without that of libraries."""
        parts = (execution.shards or execution.groups(workers)) * execution.tensor
        state = self.bytes_of_state / (parts if execution.parallel == "fsdp" else 1)
        return state + execution.micro_batch * self.bytes_of_activations


def cost(shape: Shape, vocab_size: int, sequence_length: int, execution: Execution | None = None) -> ModelCost:
    """Counts parameters and operations of a model, which is laid out but not allocated.

    Operations are those of matrix products: ``6 N`` a token, and ``12 l d T`` for attention to all tokens (as PaLM and
    nanoGPT count, that is without the saving of a causal mask). Looking up embeddings costs nothing; computing
    activations again is not counted.
    """
    execution = execution or Execution()
    with torch.device("meta"):
        model = build(shape, vocab_size, sequence_length)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    in_products = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    width = 2 if execution.precision == "bf16" else 4
    d, hidden = shape.d_model, shape.mlp_width
    # A block keeps its input, q, k, v before and after their norm and rotation, attention's output and projection, and
    # the SwiGLU layer's gate, up, product and output.
    block = d if execution.activation_checkpointing else 13 * d + 4 * hidden
    vocabulary = padded_vocabulary(vocab_size)
    tokens = min(sequence_length, max(1, _MOST_SCORES // vocabulary))  # whose scores there are at a time
    scores = tokens * vocabulary * (width + 8)  # logits, and in float32 with their gradient
    return ModelCost(
        parameters=parameters,
        in_blocks=sum(parameter.numel() for parameter in model.model.layers.parameters()),
        flops_per_token=6.0 * in_products + 12.0 * shape.layers * d * sequence_length,
        bytes_of_state=16 * parameters,
        bytes_of_activations=float(sequence_length * shape.layers * block * width + scores),
    )


def parameter_groups(
    model: nn.Module, weight_decay: float, *, embeddings: bool = True, norms: bool = False
) -> list[dict[str, Any]]:
    """AdamW's groups: what decays, which matrices do, and what does not.

    Args:
        model: as it is trained.
        weight_decay: of the first group.
        embeddings: whether those of the input are in it, be they those of the output, too.
        norms: whether their gains are.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        decays = norms if parameter.ndim < 2 else embeddings or not name.endswith("embed_tokens.weight")
        groups[0 if decays else 1].append(parameter)
    return [
        {"params": alike, "weight_decay": decay}
        for group, decay in zip(groups, (weight_decay, 0.0), strict=True)
        for alike in by_mesh(group)
    ]
