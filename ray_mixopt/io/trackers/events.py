"""Folders of runs: TensorBoard's event files, with a run's configuration beside them; and trials of Tune.

The configuration of a run is what its hyper-parameters (``add_hparams``) say, or a file ``params.json``,
``config.json`` or ``mixture.json`` in its folder, or scalars that are called ``mixture/<domain>``. Trials of Tune have
a file ``result.json``, which says all.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.core.safety import MiB, check_count, check_size, parse_json
from ray_mixopt.io.cells import MIXTURE
from ray_mixopt.io.frames import MOST_BYTES, MOST_CELLS, flat

PATTERN = "events.out.tfevents"
RESULTS = "result.json"
_CONFIGS = ("params.json", "config.json", "mixture.json")
_MOST_RECORD, _MOST_CONFIG, _MOST_ENTRIES = 64 * MiB, MiB, 500_000
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # TensorFlow's numbers of float, double, int32 and int64


def is_events(name: str) -> bool:
    """Whether a file of that name holds events."""
    return PATTERN in name


def is_folder(path: Path) -> bool:
    """Whether a folder holds event files, or trials of Tune that no searcher of ours made."""
    return any(is_events(name) or name == RESULTS for _, names in _walk(path) for name in names)


def single(path: Path) -> list[dict[str, Any]]:
    """The records of one event file.

    Raises:
        ValueError: if it is malformed or too large.
    """
    return _run(path.parent.name, path.parent, {path.parent: [path.name]})


def folder(path: Path) -> list[dict[str, Any]]:
    """The records of all runs in a folder: each folder in it that holds events, with those below it, is a run.

    Raises:
        ValueError: if a file is malformed, or there is more than is read.
    """
    found = {place: [n for n in names if is_events(n) or n == RESULTS] for place, names in _walk(path)}
    found = {place: names for place, names in found.items() if names}
    if len(found) > 1:
        found.pop(path, None)
    tops: dict[Path, dict[Path, list[str]]] = {}
    for place in sorted(found):
        top = next((known for known in tops if known in place.parents), place)
        tops.setdefault(top, {})[place] = found[place]
    sizes = [(place / name).stat().st_size for place, names in found.items() for name in names]
    check_size(path.name, sum(sizes), MOST_BYTES)
    records: list[dict[str, Any]] = []
    for top, places in tops.items():
        name = top.name if top == path else str(top.relative_to(path))
        trial = top / RESULTS
        records += _trial(trial, name) if trial.is_file() else _run(name, top, places)
        check_count(path.name, sum(map(len, records)), MOST_CELLS, "cells")
    return records


def _walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    n = 0
    for place, _, names in os.walk(path):
        n += len(names)
        check_count(path.name, n, _MOST_ENTRIES, "files")
        yield Path(place), names


def _trial(path: Path, name: str) -> list[dict[str, Any]]:
    """The reports of a trial of Tune, a JSON object a line."""
    records = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if line.strip():
            try:
                records.append({"run": name} | flat(parse_json(line), f"line {number}"))
            except ValueError as error:
                if records and "\n" not in path.read_text("utf-8")[-1:]:
                    break  # the last line is being written
                raise ValueError(f"{name}/{path.name}, line {number}: {error}.") from error
    return records


def _run(name: str, top: Path, places: dict[Path, list[str]]) -> list[dict[str, Any]]:
    """The records of a run, of which ``places`` holds the event files by folder."""
    config: dict[str, Any] = {}
    rows: dict[int, dict[str, Any]] = {}
    for place, names in places.items():
        below = "" if place == top else f"{place.relative_to(top)}/"
        told: dict[str, Any] = {}
        scalars: list[tuple[int, str, float]] = []
        for file in sorted(names):
            for step, tag, value in _values(place / file):
                if isinstance(value, dict):
                    told |= value
                else:
                    scalars.append((step, tag, value))
        config |= told
        if told and below:
            continue  # the folder that add_hparams makes, whose scalars stand for the whole run
        for step, tag, value in scalars:
            is_share = tag.startswith(MIXTURE)
            (config if is_share else rows.setdefault(step, {}))[tag if is_share else f"metrics.{below}{tag}"] = value
    shared = {key: value for key, value in config.items() if key.startswith(MIXTURE)}
    rest = {f"config/{key}": value for key, value in (_beside(top) | config).items() if key not in shared}
    if shared and not any(key.startswith(f"config/{MIXTURE}") for key in rest):
        rest |= {f"config/{key}": value for key, value in shared.items()}
    return [{"run": name, "step": step} | rest | values for step, values in sorted(rows.items())]


def _beside(folder: Path) -> dict[str, Any]:
    """The configuration in a file beside the events."""
    for name in _CONFIGS:
        file = folder / name
        if file.is_file():
            check_size(file, file.stat().st_size, _MOST_CONFIG)
            try:
                found = flat(parse_json(file.read_bytes()), "it")
            except ValueError as error:
                raise ValueError(f"{folder.name}/{name} holds no configuration: {error}.") from error
            return {MIXTURE + key: value for key, value in found.items()} if name == "mixture.json" else found
    return {}


def _values(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Step, tag and value of each scalar of a file; a dict in the place of the value holds hyper-parameters."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    for record in _framed(path):
        event = Event()
        try:
            event.ParseFromString(record)
            for value in event.summary.value:
                plugin = value.metadata.plugin_data
                if plugin.plugin_name == "hparams":
                    if told := _hparams(plugin.content):
                        yield int(event.step), value.tag, told
                elif (number := _number(value)) is not None:
                    yield int(event.step), value.tag, number
        except DecodeError as error:
            raise ValueError(f"{path.parent.name}/{path.name} holds no events: {error}.") from error


def _framed(path: Path) -> Iterator[bytes]:
    """The records of a file, without their checksums; one that ends early is still being written."""
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            check_size(f"A record of {path.name}", length, _MOST_RECORD)
            body = file.read(length + 4)
            if len(body) < length + 4:
                return
            yield body[:length]


def _number(value: Any) -> float | None:
    """The scalar of a summary; None if it is something else."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.tensor.dtype not in _DTYPES:
        return None
    tensor = value.tensor
    if math.prod(dim.size for dim in tensor.tensor_shape.dim) != 1:
        return None
    if tensor.tensor_content:
        dtype = np.dtype(_DTYPES[tensor.dtype])
        known = len(tensor.tensor_content) == dtype.itemsize
        return float(np.frombuffer(tensor.tensor_content, dtype=dtype)[0]) if known else None
    numbers = [*tensor.float_val, *tensor.double_val, *tensor.int_val, *tensor.int64_val]
    return float(numbers[0]) if numbers else None


def _hparams(content: bytes) -> dict[str, Any]:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    found = {}
    for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        if kind in ("number_value", "string_value", "bool_value"):
            found[str(name)] = getattr(value, kind)
    return found
