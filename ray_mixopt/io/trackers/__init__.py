"""What trackers kept of runs, as records: one a run and step, with ``run``, ``step``, ``config/...``, ``metrics....``.

A folder of TensorBoard's event files, of Tune's trials or of W&B, an MLflow store (its folder ``mlruns`` or its SQLite
file), and, if it is asked for by name, ``wandb:ENTITY/PROJECT``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_mixopt.io.trackers import events, mlflow, wandb

Records = list[dict[str, Any]]


def reader_of(path: Path) -> Callable[[Path], Records] | None:
    """What reads the records at a path; None if no tracker wrote there."""
    if str(path).startswith(wandb.PREFIX):
        return wandb.remote
    if path.is_file():
        if path.suffix.lower() in mlflow.DATABASES:
            return mlflow.database
        return events.single if events.is_events(path.name) else None
    if not path.is_dir():
        return None
    for there, read in (
        (mlflow.is_store, mlflow.store),
        (wandb.is_folder, wandb.folder),
        (events.is_folder, events.folder),
    ):
        if there(path):
            return read
    return None
