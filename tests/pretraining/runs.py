"""A tiny training run and a tiny search, for tests in this process and in others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.training.session import FolderSession
from ray_mixopt.pretraining.training.settings import Optimization, Shape, TrainingRun
from ray_mixopt.pretraining.training.train import train
from ray_mixopt.pretraining.training.workers import Workers


def tiny_run(folder: Path, **changes: Any) -> TrainingRun:
    """Four sequences of 16 tokens a step, rungs at 3, 6 and 9 steps."""
    settings: dict[str, Any] = {
        "data": folder,
        "mixture": {"a": 0.6, "b": 0.4},
        "shape": Shape(d_model=16, heads=2, layers=2),
        "sequence_length": 16,
        "batch_tokens": 64,
        "steps": 6,
        "rungs": (3, 6, 9),
        "validation_tokens": 64,
        "optimization": Optimization(learning_rate=1e-2, warmup_steps=2),
        "execution": {"micro_batch": 1},
        "log_every": 1,
    }
    return TrainingRun.model_validate(settings | changes)


def tiny_search(data: Path, storage: Path, **changes: Any) -> PretrainConfig:
    """Two scales, the larger one with two workers; rungs at 2, 4 and 6 steps."""
    settings: dict[str, Any] = {
        "data": data,
        "scales": [
            {"name": "S", "shape": {"d_model": 16, "heads": 2, "layers": 1}},
            {"name": "L", "shape": {"d_model": 32, "heads": 2, "layers": 1}, "resources": {"workers": 2}},
        ],
        "steps": [2, 4, 6],
        "sequence_length": 16,
        "batch_tokens": 64,
        "validation_tokens": 32,
        "optimization": {"learning_rate": 0.01, "warmup_steps": 2},
        "storage": str(storage),
    }
    return PretrainConfig.model_validate(settings | changes)


class Recorder(FolderSession):
    """A folder session that remembers the reports."""

    def __init__(self, folder: Path, workers: Workers | None = None, begins: Path | None = None) -> None:
        self.reports: list[Mapping[str, float]] = []
        super().__init__(folder, workers or alone(), self.reports.append, begins)


def alone() -> Workers:
    return Workers.current(torch.device("cpu"))


def run_in(folder: Path, run: TrainingRun, workers: Workers | None = None) -> list[Mapping[str, float]]:
    """Trains, and returns the reports that were new."""
    session = Recorder(folder, workers)
    train(run, session, workers or alone())
    return session.reports


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint; parts of one tensor under their files' names."""
    newest = max(folder.glob("step-*"))
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints are equal bit by bit."""
    first, second = tensors(one), tensors(other)
    return (
        bool(first) and first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    )


def timeless(reports: list[Mapping[str, float]]) -> list[dict[str, float]]:
    """Reports without what a clock says."""
    return [{key: value for key, value in report.items() if "second" not in key} for report in reports]
