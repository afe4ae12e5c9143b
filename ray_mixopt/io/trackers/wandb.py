"""Runs of Weights & Biases: a folder ``wandb`` of runs on this machine, and a project that is asked for by name.

Both need the package wandb (``pip install 'ray-mixopt[trackers]'``): the files hold its own messages. Nothing asks its
service unless a source is called ``wandb:ENTITY/PROJECT``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_mixopt.core.safety import check_count, check_size, parse_json
from ray_mixopt.io.frames import MOST_BYTES, MOST_CELLS, flat

PREFIX = "wandb:"
_RUNS = "*run-*/run-*.wandb"
_HEAD, _HEAD_LENGTH = b":W&B", 7
_PART, _BLOCK = struct.Struct("<IHB"), 2**15


def is_folder(path: Path) -> bool:
    """Whether a folder holds runs of W&B, or a folder ``wandb`` that does."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    """The files of a run's folder, of the folder of runs, or of the folder that it is in; each run once."""
    found = {file.resolve() for pattern in ("run-*.wandb", _RUNS, f"wandb/{_RUNS}") for file in path.glob(pattern)}
    return sorted(found)


def folder(path: Path) -> list[dict[str, Any]]:
    """The records of the runs in a folder, synchronised or not.

    Raises:
        ValueError: if they cannot be read.
        ImportError: without the package wandb.
    """
    _package(path.name)
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    files = _files(path)
    check_size(path.name, sum(file.stat().st_size for file in files), MOST_BYTES)
    records: list[dict[str, Any]] = []
    for file in files:
        name = file.stem.removeprefix("run-")
        config: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        try:
            for data in _framed(file.read_bytes()):
                record = Record()
                record.ParseFromString(data)
                if record.HasField("run"):
                    name = record.run.display_name or name
                    config |= _items(record.run.config.update)
                config |= _items(record.config.update)
                if record.HasField("history"):
                    row = _items(record.history.item)
                    rows.append({"_step": record.history.step.num} | row)
        except (ValueError, DecodeError) as error:
            raise ValueError(f"{file.name} is no file of W&B: {error}.") from error
        records += _records(name, config, rows)
        check_count(path.name, sum(map(len, records)), MOST_CELLS, "cells")
    return records


def _framed(content: bytes) -> Iterator[bytes]:
    """The records of a file, which is a log of LevelDB behind a head of its own; its end may still be being written.

    Each part of a record has a checksum (4 bytes), its length (2) and whether it is all, the first, a middle or the
    last part (1), and lies in one block.
    """
    if not content.startswith(_HEAD):
        raise ValueError("it begins with something else")
    at, whole = _HEAD_LENGTH, b""
    while at + _PART.size <= len(content):
        if (left := _BLOCK - at % _BLOCK) < _PART.size:
            at += left
            continue
        _, length, kind = _PART.unpack_from(content, at)
        at += _PART.size
        if not 1 <= kind <= 4 or length > left - _PART.size:
            raise ValueError(f"at byte {at} is no part of a record")
        if at + length > len(content):
            return
        whole = content[at : at + length] if kind in (1, 2) else whole + content[at : at + length]
        at += length
        if kind in (1, 4):
            yield whole


def _items(items: Any) -> dict[str, Any]:
    """Values by name of W&B's messages, whose names may be paths."""
    return {"/".join(item.nested_key) or item.key: parse_json(item.value_json) for item in items}


def remote(path: Path) -> list[dict[str, Any]]:
    """The records of a project, ``wandb:ENTITY/PROJECT``, as its service gives them.

    Raises:
        ValueError: if the project cannot be had.
        ImportError: without the package wandb.
    """
    project = str(path).removeprefix(PREFIX).strip("/")
    wandb = _package(str(path))
    records: list[dict[str, Any]] = []
    try:
        for run in wandb.Api().runs(project):
            rows = [dict(row) for row in run.scan_history()]
            records += _records(str(run.name), json.loads(json.dumps(dict(run.config), default=str)), rows)
            check_count(project, sum(map(len, records)), MOST_CELLS, "cells")
    except (wandb.errors.Error, OSError) as error:
        raise ValueError(f"The project {project!r} of W&B cannot be read: {error}.") from error
    return records


def _records(name: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    told = {f"config/{key}": value for key, value in flat(config, "the configuration").items()}
    found = []
    for row in rows:
        values = flat(row, "a row")
        step = values.pop("_step", None)
        found.append(
            {"run": name, "step": step} | told | {f"metrics.{k}": v for k, v in values.items() if not k.startswith("_")}
        )
    return found


def _package(what: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise ImportError(
            f"{what} holds runs of W&B, which the package wandb reads: pip install 'ray-mixopt[trackers]', or export "
            "the project's table of runs as CSV."
        ) from None
    return wandb
