"""OLMo 2 language models of any size, initialised at random, and what they cost.

Notation: ``N`` parameters in matrix products, ``l`` layers, ``d`` width, ``T`` tokens a sequence, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Olmo2Config, Olmo2ForCausalLM

from ray_mixopt.pretraining.training.settings import Execution, Shape

_VOCABULARY_MULTIPLE = 64  # matrix products are faster on round sizes


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding matrix: the vocabulary rounded up; the rows beyond it are never a target."""
    return math.ceil(vocab_size / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


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
        intermediate_size=round(shape.mlp_ratio * shape.d_model / 2),
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=sequence_length,
        tie_word_embeddings=shape.tie_embeddings,
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

    def memory_bytes(self, execution: Execution, workers: int) -> float:
        """An estimate of the memory that one worker needs, in bytes, without that of libraries."""
        state = self.bytes_of_state / (workers if execution.parallel == "fsdp" else 1)
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
    d, hidden = shape.d_model, shape.mlp_ratio * shape.d_model / 2
    # A block keeps its input, q, k, v before and after their norm and rotation, attention's output and projection, and
    # the SwiGLU layer's gate, up, product and output.
    block = d if execution.activation_checkpointing else 13 * d + 4 * hidden
    scores = padded_vocabulary(vocab_size) * (width + 8)  # logits, and in float32 with their gradient
    return ModelCost(
        parameters=parameters,
        in_blocks=sum(parameter.numel() for parameter in model.model.layers.parameters()),
        flops_per_token=6.0 * in_products + 12.0 * shape.layers * d * sequence_length,
        bytes_of_state=16 * parameters,
        bytes_of_activations=float(sequence_length * (shape.layers * block * width + scores)),
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay, the gains of norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
