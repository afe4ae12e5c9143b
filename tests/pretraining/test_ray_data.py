"""Ray Data gives the sequences of a run, in their order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, make_corpus
from small_ray import start_ray

from ray_mixopt.pretraining.data.sampler import Mixture, MixtureSampler
from ray_mixopt.pretraining.data.shards import Corpus

PAGE = Path(__file__).parents[2] / "docs" / "pretraining.md"


def test_the_page_reads_what_a_run_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_ray("ray_mixopt.pretraining.data.sampler")
    data = make_corpus(tmp_path / "data", {"python": SMALL["a"], "documentation": SMALL["b"]})
    (shown,) = re.findall(r"<!-- ray data -->\n```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown = shown.replace('"data/demo"', repr(str(data))).replace("128, 0)", "16, 3)").replace("2_000", "200")
    seen: list[torch.Tensor] = []
    exec(f"{shown}    seen.append(inputs)\n", {"seen": seen})
    mixture = Mixture(weights={"python": 0.6, "documentation": 0.4}, sequence_length=16, seed=3)
    expected = MixtureSampler(Corpus(data), mixture).sequences(np.arange(200))[:, :-1]
    assert np.array_equal(torch.cat(seen).numpy(), expected)
