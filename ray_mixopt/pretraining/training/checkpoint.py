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
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter

from ray_mixopt.core.safety import check_version, write_atomically
from ray_mixopt.pretraining.mistakes import explain
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

    step: Annotated[int, Field(ge=0)] = 0
    branch_steps: Annotated[int, Field(ge=0)] = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    reports: dict[int, dict[str, float]] = field(default_factory=dict)


_PROGRESS = TypeAdapter(TrainingProgress)


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a single process, that it is one
            dcp.save(
                tensors,
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
                no_dist=not dist.is_initialized(),
            )
    except CheckpointException as error:
        raise OSError(f"The checkpoint {folder} cannot be written: {_told(error)}.") from error


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any], workers: Workers
) -> TrainingProgress:
    """Reads a checkpoint into a model and its fresh optimizer; all workers call it together.

    Raises:
        ValueError: if the folder is no checkpoint, damaged, or of a run with other data, mixture, model or settings.
    """
    progress = read_progress(folder, identity)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            on_device = parameter.device if group.get("fused") else torch.device("cpu")
            step = torch.tensor(float(progress.step), device=on_device)
            moments = {name: torch.zeros_like(parameter) for name in _MOMENTS}
            optimizer.state[parameter] = {"step": step, **moments}
    _fill(_tensors(model, optimizer), folder, alone=not dist.is_initialized())
    workers.wait()
    return progress


def load_weights(folder: Path, model: nn.Module) -> int:
    """Reads the weights that the last report of a checkpoint is of into a model of one process.

    Those of a checkpoint between two reports are of the run as it was there.

    Returns:
        The training steps that they have seen.

    Raises:
        ValueError: if the folder is no checkpoint, damaged, or one of another model.
    """
    progress = _read(folder)[1]
    annealed = (folder / ANNEALED).is_dir()
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    _fill(weights, folder / ANNEALED if annealed else folder, alone=True)
    return max(progress.reports, default=progress.step) if annealed else progress.step


def _fill(tensors: dict[str, torch.Tensor], folder: Path, *, alone: bool) -> None:
    """Reads tensors by name, all workers together unless this process is alone."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):  # which looks at the names and at the size
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is damaged: {error}. Without that checkpoint the run begins anew.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except (KeyError, CheckpointException) as error:
        what = f"The weights in {folder} are not those of the model that it says it has"
        raise ValueError(f"{what}: {_told(error)}.") from error


def _told(error: BaseException) -> str:
    """What an error says, which ``CheckpointException`` says of each worker, with all calls that led there."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error) or type(error).__name__).strip().splitlines()[-1].rstrip(".")


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
    return _read(folder)[1].step


def read_progress(folder: Path, identity: Mapping[str, Any]) -> TrainingProgress:
    """How far the run of a checkpoint was.

    Raises:
        ValueError: if the folder is no checkpoint, or one of a run with other data, mixture, model or settings.
    """
    found, progress = _read(folder)
    for name, value in identity.items():
        if found.get(name) != value:
            raise ValueError(
                f"The checkpoint {folder} comes from a run with another {name}: {found.get(name)!r}, not {value!r}. A "
                "run can only go on as it began."
            )
    return progress


def _read(folder: Path) -> tuple[dict[str, Any], TrainingProgress]:
    """Identity and progress of a checkpoint, as they stand in it."""
    try:
        content = json.loads((folder / RUN).read_bytes())
        check_version(content, f"the checkpoint {folder}", VERSION)
        found, progress = content["identity"], _PROGRESS.validate_python(content["progress"])
        if not isinstance(found, dict):
            raise ValueError("its identity is no JSON object")
    except ValidationError as error:
        raise ValueError(explain(error, where=f"{folder} is no whole checkpoint")) from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} is no whole checkpoint: {str(error).rstrip('.')}.") from error
    return found, progress


def bytes_of_tensors(folder: Path) -> int:
    """Bytes of all files of tensors of a checkpoint."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and both moments by name. The third part of AdamW's state, the step, is in ``run.json``."""
    tensors = {}
    for name, parameter in plain(model).named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment in _MOMENTS:
            tensors[f"optimizer.{moment}.{name}"] = optimizer.state[parameter][moment]
    return tensors
