"""What makes runs of several scales comparable where nobody says otherwise: batch, learning rate and warm-up by rule.

The rules are those of OLMo's ladder of models, as olmix uses them for its proxies (arXiv 2602.12237). They count the
parameters of the transformer blocks: embeddings are none of their ``N``.

    batch           327,680 (N / 108e6)^(2/3) tokens, up to the next power of two
    learning rate   0.0047 (N / 108e6)^(-1/3) / 2
    warm-up         N tokens, and at most 5% of the longest run

Scales below the target take a tenth of that learning rate: small models that are trained gently rank mixtures more like
the target (arXiv 2512.24503; measured on the demo corpus, too, see experiments/README.md).
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from ray_mixopt.pretraining.training.settings import AdamW

LearningRate = Annotated[float, Field(gt=0, le=1)]  # AdamW moves each weight by about as much in a step

_REFERENCE = 108e6  # parameters
_WARMUP_SHARE = 0.05
PROXY_SHARE = 0.1


class ScaleRecipe(AdamW):
    """How runs are optimised; what is None follows from the scale by rule.

    Args:
        learning_rate: after warm-up, of all scales.
        proxy_share: of the rule's learning rate that scales below the target take; by default a tenth.
        warmup_steps: of all scales.
    """

    learning_rate: LearningRate | None = None
    proxy_share: float | None = Field(default=None, gt=0, le=1)
    warmup_steps: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _by_rule(self) -> ScaleRecipe:
        if self.learning_rate is not None and self.proxy_share is not None:
            raise ValueError(
                "proxy_share is a share of the rule's learning rate, and learning_rate replaces the rule: give one of "
                "them, or the learning_rate of each scale"
            )
        return self


def batch_rule(parameters: int, sequence_length: int) -> int:
    """Tokens of a step, in a power of two of sequences."""
    tokens = 327_680 * (parameters / _REFERENCE) ** (2 / 3)
    return sequence_length * int(2 ** max(0, math.ceil(math.log2(tokens / sequence_length))))


def learning_rate_rule(parameters: int) -> float:
    """The learning rate after warm-up."""
    return 0.0047 * (parameters / _REFERENCE) ** (-1 / 3) / 2


def warmup_rule(parameters: int, batch_tokens: int, longest: int) -> int:
    """Steps of the warm-up, the same for all lengths of a scale, of which ``longest`` has the most steps."""
    return max(1, round(min(parameters / batch_tokens, _WARMUP_SHARE * longest)))
