"""Small corpora for the tests of pre-training, which are skipped where its extra is not installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers that lie here

NEEDED = ("tokenizers", "transformers", "safetensors", "zstandard")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


SMALL = {"a": [1 + i % 50 for i in range(5000)], "b": [100 + i % 21 for i in range(1000)]}
"""Training tokens of two domains that are easy to tell apart: a repeats 1..50, b repeats 100..120."""


def pytest_report_header() -> str | None:
    return f"pretraining: skipped, since the extra [pretrain] lacks {', '.join(MISSING)}" if MISSING else None


def make_corpus(folder: Path, train: Mapping[str, Sequence[int]], val_tokens: int = 200, vocab_size: int = 257) -> Path:
    """A folder of shards with the given training tokens; headerless uint16, used in place."""
    from ray_mixopt.pretraining.data.adopt import Adoption

    for number, (name, tokens) in enumerate(train.items()):
        (folder / name).mkdir(parents=True)
        np.asarray(tokens, dtype=np.uint16).tofile(folder / name / "train-00000.bin")
        val = np.random.default_rng(number).integers(0, vocab_size, val_tokens, dtype=np.uint16)
        val.tofile(folder / name / "val-00000.bin")
    sources = {name: [f"{name}/*.bin"] for name in train}
    Adoption(folder=folder, sources=sources, vocab_size=vocab_size, eos_id=0).run()
    return folder


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Callable[..., Path]:
    """``corpus_folder(train, ...)``: see ``make_corpus``."""
    return lambda train, **options: make_corpus(tmp_path / "data", train, **options)


@pytest.fixture
def small(corpus_folder: Callable[..., Path]) -> Path:
    """The folder of ``SMALL``."""
    return corpus_folder(SMALL)
