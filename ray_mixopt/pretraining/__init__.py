"""Real pre-training: token shards, a mixture sampler, OLMo 2 models, a training loop, and a Ray Tune trainable.

Needs ``pip install 'ray-mixopt[pretrain]'``. The rest of the package does not import it.
"""

from __future__ import annotations

import importlib.util

_NEEDED = ("pydantic", "safetensors", "tokenizers", "transformers", "yaml", "zstandard")
_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    raise ImportError(
        f"ray_mixopt.pretraining needs {', '.join(_missing)}: pip install 'ray-mixopt[pretrain]'.", name=_missing[0]
    )
