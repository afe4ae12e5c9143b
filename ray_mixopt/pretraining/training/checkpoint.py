"""Checkpoints: weights and optimizer through ``torch.distributed.checkpoint``, the rest as JSON.

The tensors are safetensors files, written by all workers side by side and readable by any other number of them;
nothing is pickled. ``run.json`` is written last: a folder without it is no checkpoint. The position of the sampler is
the step; random numbers follow from (seed, step, rank), so that there is no generator to save.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter

from ray_mixopt.core.safety import check_version, write_atomically
from ray_mixopt.pretraining.training.workers import Workers, plain

RUN = "run.json"
ANNEALED = "annealed"
"""Folder of the weights that the last report is of, in checkpoints of runs whose branches are annealed."""

VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(kw_only=True)
class TrainingProgress:
    """How far a run is.

    Attributes:
        step: steps done, of the run itself.
        branch_steps: steps done on branches, all of which ended with a report; see ``Anneal``.
        seconds: spent on training, on all attempts together.
        loss_sum: sum of the training losses since the last report.
        loss_steps: how many they are.
        reports: all reports so far, by step.
    """

    step: int = 0
    branch_steps: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    reports: dict[int, dict[str, float]] = field(default_factory=dict)


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    identity: Mapping[str, Any],
    workers: Workers,
) -> None:
    """Writes a checkpoint into an empty folder; all workers call it together."""
    _write(folder, _tensors(model, optimizer))
    if workers.rank == 0:
        content = {"version": VERSION, "identity": dict(identity), "progress": asdict(progress)}
        write_atomically(folder / RUN, json.dumps(content))
    workers.wait()


def save_weights(folder: Path, model: nn.Module) -> None:
    """Writes the weights of an annealed model into the folder that is to become a checkpoint; all workers together."""
    weights = {f"model.{name}": parameter.detach() for name, parameter in plain(model).named_parameters()}
    _write(folder / ANNEALED, weights)


def _write(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single process, that it is one
        dcp.save(
            tensors,
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            no_dist=not dist.is_initialized(),
        )


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any], workers: Workers
) -> TrainingProgress:
    """Reads a checkpoint into a model and its fresh optimizer; all workers call it together.

    Raises:
        ValueError: if the folder is no checkpoint, or one of a run with other data, mixture, model or settings.
    """
    progress = read_progress(folder, identity)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            on_device = parameter.device if group.get("fused") else torch.device("cpu")
            step = torch.tensor(float(progress.step), device=on_device)
            moments = {name: torch.zeros_like(parameter) for name in _MOMENTS}
            optimizer.state[parameter] = {"step": step, **moments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(
            _tensors(model, optimizer),
            storage_reader=HuggingFaceStorageReader(str(folder)),
            no_dist=not dist.is_initialized(),
        )
    workers.wait()
    return progress


def load_weights(folder: Path, model: nn.Module) -> int:
    """Reads the weights that the last report of a checkpoint is of into a model of one process.

    Those of a checkpoint between two reports are of the run as it was there.

    Returns:
        The training steps that they have seen.

    Raises:
        ValueError: if the folder is no checkpoint, or one of another model.
    """
    progress = _read(folder)[1]
    annealed = (folder / ANNEALED).is_dir()
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = HuggingFaceStorageReader(str(folder / ANNEALED if annealed else folder))
            dcp.load(weights, storage_reader=reader, no_dist=True)
    except (KeyError, RuntimeError, CheckpointException) as error:
        raise ValueError(f"The weights in {folder} are not those of the model that it says it has: {error}.") from error
    return max(map(int, progress["reports"])) if annealed else int(progress["step"])


def read_identity(folder: Path) -> dict[str, Any]:
    """What the run of a checkpoint has in common with all that go on from it; see ``TrainingRun.identity``.

    Raises:
        ValueError: if the folder is no checkpoint.
    """
    return _read(folder)[0]


def step_of(folder: Path) -> int:
    """The training steps of a checkpoint.

    Raises:
        ValueError: if the folder is none.
    """
    return int(_read(folder)[1]["step"])


def read_progress(folder: Path, identity: Mapping[str, Any]) -> TrainingProgress:
    """How far the run of a checkpoint was.

    Raises:
        ValueError: if the folder is no checkpoint, or one of a run with other data, mixture, model or settings.
    """
    found, fields = _read(folder)
    for name, value in identity.items():
        if found.get(name) != value:
            raise ValueError(
                f"The checkpoint {folder} comes from a run with another {name}: {found.get(name)!r}, not {value!r}. A "
                "run can only go on as it began."
            )
    fields["reports"] = {int(step): report for step, report in fields["reports"].items()}
    return TrainingProgress(**fields)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and progress of a checkpoint, as they stand in it."""
    try:
        content = json.loads((folder / RUN).read_text())
        found, fields = content["identity"], content["progress"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no whole checkpoint: {error}.") from error
    check_version(content, f"the checkpoint {folder}", VERSION)
    return found, fields


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and both moments by name. The third part of AdamW's state, the step, is in ``run.json``."""
    tensors = {}
    for name, parameter in plain(model).named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment in _MOMENTS:
            tensors[f"optimizer.{moment}.{name}"] = optimizer.state[parameter][moment]
    return tensors
