"""What a command says of its training: JSON lines, CSV or TensorBoard events, read while they are written."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray_mixopt.core.history import is_sound
from ray_mixopt.core.safety import MOST_WHOLE, MiB
from ray_mixopt.core.trial import steps_done

Format = Literal["json", "csv", "tensorboard"]
SUFFIXES: Mapping[str, Format] = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv"}
MOST_AT_ONCE = 16 * MiB  # that are read of a file before what it says is looked at
LONGEST_LINE = MiB  # a longer one says nothing
MOST_STEPS = 10_000  # that wait for the rest of their metrics
MOST_NAMES = 1000  # metrics of a step, and names that an error may speak of
_DEEPEST = 8  # nesting of a JSON object
_KNOWN_BYTES = 64  # by which a file is known again
_DELIMITERS = (",", "\t", ";")
_EVENTS = "*tfevents*"
_LONGEST_EVENT = 64 * MiB

Record = tuple[int, dict[str, float]]
"""A training step, and what was measured there."""


class Reader:
    """What a file, or a folder of event files, says by and by.

    A file that is not there yet, or not whole, is no error: it may come. One that is written anew is read anew.

    Args:
        path: of the file; of a folder for TensorBoard's events.
        format: how it is written.
        step: key or column of the training step; TensorBoard's events have one.
        names: what to call metrics, and how the file calls them; all others keep their names.

    Attributes:
        seen: names that the file has, the first ones.
    """

    def __init__(
        self, path: Path, format: Format, *, step: str = "step", names: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.format, self.step = path, format, step
        self.seen: dict[str, None] = {}
        self._ours: dict[str, list[str]] = {}
        for ours, theirs in (names or {}).items():
            self._ours.setdefault(theirs, []).append(ours)
        self._files: dict[Path, _Tail] = {}

    @property
    def n_passed_over(self) -> int:
        """How many lines were too long to be read."""
        return sum(tail.n_passed_over for tail in self._files.values())

    def poll(self) -> Iterator[Record]:
        """What has come since the last time."""
        if self.format == "tensorboard":
            for path in sorted(self.path.rglob(_EVENTS) if self.path.is_dir() else [self.path]):
                yield from self._events(self._files.setdefault(path, _Tail(path)))
            return
        tail = self._files.setdefault(self.path, _Tail(self.path))
        for line in tail.lines():
            values = _json_of(line) if self.format == "json" else self._cells(tail, line)
            if (found := self._named(values)) is not None:
                yield found

    def _named(self, values: Mapping[str, Any]) -> Record | None:
        """A step and its metrics, as we call them; None where the step is missing."""
        for name in values:
            if len(self.seen) < MOST_NAMES:
                self.seen.setdefault(name)
        step = _number(values.get(self.step))
        if step is None or not 0 <= step <= MOST_WHOLE:
            return None
        found: dict[str, float] = {}
        for theirs, value in list(values.items())[:MOST_NAMES]:
            if theirs != self.step and (number := _number(value)) is not None:
                found[theirs] = number
        renamed = {ours: found.get(theirs) for theirs, names in self._ours.items() for ours in names}
        kept = {theirs: number for theirs, number in found.items() if theirs not in self._ours} | renamed
        return steps_done(step), {name: number for name, number in kept.items() if number is not None}

    def _cells(self, tail: _Tail, line: str) -> dict[str, str]:
        """The cells of a line under the names of the first line that names the step."""
        cells = _split(line, tail.delimiter)
        if tail.header is not None and self.step not in cells:
            return _first(zip(tail.header, cells, strict=True)) if len(cells) == len(tail.header) else {}
        for delimiter in _DELIMITERS:
            if self.step in (names := _split(line, delimiter)):
                tail.header, tail.delimiter = names, delimiter
                return {}
        return dict.fromkeys(cells, "") if len(cells) > 1 else {}  # to be seen

    def _events(self, tail: _Tail) -> Iterator[Record]:
        from google.protobuf.message import DecodeError
        from tensorboardX.proto import event_pb2  # takes long to import, which few need

        for content in tail.records():
            event = event_pb2.Event()
            try:
                event.ParseFromString(content)
            except DecodeError:
                continue
            tagged = ((value.tag, _scalar(value)) for value in event.summary.value)
            values = _first((tag, value) for tag, value in tagged if value is not None)
            if values and (found := self._named({**values, self.step: event.step})) is not None:
                yield found


class _Tail:
    """A file that grows, read from where it was left."""

    def __init__(self, path: Path) -> None:
        self.header: list[str] | None = None
        self.delimiter = _DELIMITERS[0]
        self._path, self._offset, self._known = path, 0, b""
        self._held = b""
        self.n_passed_over = 0  # lines that are too long

    def lines(self) -> Iterator[str]:
        """Lines that have ended."""
        while content := self._content():
            *lines, self._held = (self._held + content).replace(b"\r", b"\n").split(b"\n")
            if len(self._held) > LONGEST_LINE:
                self._held, self.n_passed_over = b"", self.n_passed_over + 1
            for line in lines:
                if len(line) > LONGEST_LINE:
                    self.n_passed_over += 1
                elif line:
                    yield line.decode("utf-8", "replace").removeprefix("\ufeff")

    def records(self) -> Iterator[bytes]:
        """Whole records of an event file: length (8 bytes) and its checksum (4), content and its checksum (4)."""
        while content := self._content():
            held, start = self._held + content, 0
            while len(held) - start >= 12:
                (length,) = struct.unpack_from("<Q", held, start)
                if length > _LONGEST_EVENT:
                    self._held = b""
                    return
                if len(held) - start < length + 16:
                    break
                yield held[start + 12 : start + 12 + length]
                start += length + 16
            self._held = held[start:]

    def _content(self) -> bytes:
        """The next part; empty if there is none now."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._known))
                if file.read(len(self._known)) != self._known:  # another file by now
                    self._offset, self._known, self._held, self.header = 0, b"", b"", None
                    file.seek(0)
                content = file.read(MOST_AT_ONCE)
        except OSError:
            return b""
        self._offset += len(content)
        self._known = (self._known + content)[-_KNOWN_BYTES:]
        return content


@dataclass
class Progress:
    """How far a run is, by what it has said.

    Args:
        wanted: metrics without which a step says too little.

    Attributes:
        last: the last step that was named; 0 before the first.
        incomplete: steps with some of the metrics.
    """

    wanted: Collection[str]
    last: int = 0
    n_records: int = 0
    incomplete: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Takes in what was said of a step; the parts of it may come one by one. What was said first stays."""
        step, values = record
        self.last, self.n_records = max(self.last, step), self.n_records + 1
        self.incomplete[step] = values | self.incomplete.get(step, {})
        while len(self.incomplete) > MOST_STEPS:
            del self.incomplete[next(iter(self.incomplete))]

    def diverge(self, step: int) -> None:
        """Takes in that the run has diverged by a step, whatever was said of it."""
        self.last = max(self.last, step)
        self.incomplete[step] = self.incomplete.get(step, {}) | dict.fromkeys(self.wanted, math.nan)

    def diverged(self, beyond: int) -> int | None:
        """The first step after ``beyond`` at which a wanted metric is NaN, infinite or absurd."""
        bad = [step for step in self.incomplete if step > beyond and not self._sound(step)]
        return min(bad, default=None)

    def reached(self, rung: int) -> int | None:
        """The first step from a rung on of which all is known."""
        whole = [step for step, values in self.incomplete.items() if step >= rung and values.keys() >= set(self.wanted)]
        return min(whole, default=None)

    def report(self, step: int) -> dict[str, Any]:
        """All that is known of a step. Forgets the ones before it."""
        values = self.incomplete[step]
        for earlier in [one for one in self.incomplete if one < step]:
            del self.incomplete[earlier]
        return {**values, "step": step}

    def _sound(self, step: int) -> bool:
        values = self.incomplete[step]
        return all(is_sound(values[name]) for name in self.wanted if name in values)


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of a line."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _first(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by name; the first one of a name that is there twice, as of a step that is."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def _json_of(line: str) -> dict[str, Any]:
    """The JSON object that a line ends with, its inner objects' keys joined by "/"; empty if there is none."""
    start = line.find("{")
    try:
        value = json.loads(line[start:], object_pairs_hook=_first) if start >= 0 else {}
    except (ValueError, RecursionError):
        return {}
    return _first(_flat(value, "", _DEEPEST)) if isinstance(value, dict) else {}


def _flat(value: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and depth:
            yield from _flat(inner, f"{prefix}{key}/", depth - 1)
        elif isinstance(inner, str | int | float):
            yield f"{prefix}{key}", inner


def _scalar(value: Any) -> float | None:
    """The number of a summary; None if it is something else."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor"):
        return None
    tensor, kinds = (
        value.tensor,
        {1: ("<f", "float_val"), 2: ("<d", "double_val"), 3: ("<i", "int_val"), 9: ("<q", "int64_val")},
    )
    if tensor.dtype not in kinds or any(size.size != 1 for size in tensor.tensor_shape.dim):
        return None
    layout, name = kinds[tensor.dtype]
    if len(tensor.tensor_content) == struct.calcsize(layout):
        return float(struct.unpack(layout, tensor.tensor_content)[0])
    values = getattr(tensor, name)
    return float(values[0]) if len(values) else None


def _number(value: object) -> float | None:
    """The number that is meant, NaN and the infinities among them; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
