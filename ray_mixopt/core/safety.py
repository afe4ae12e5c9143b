"""State in files: written whole or not at all, and read with distrust, since others may have written it."""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import IO, Any, Literal, Union, get_args, get_origin, get_type_hints

from ray_mixopt.core.words import listed, near

MiB = 2**20
_MOST_NAME = 200  # bytes; file systems take 255, and some is for what stands before and after
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SHOWN = 60  # characters of a name in an error
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[\s.]|\s$")
MOST_WHOLE = 2**53  # the largest whole number up to which a float, and so any reader of JSON, has all of them

_UNPACKED_ROOM = 64 * MiB  # what any packed file may unpack to
_UNPACKED_RATIO = 200  # and how many times its size: text packs to a tenth or so


class TooMuchError(ValueError):
    """A file holds more than is read."""


def write_atomically(path: str | os.PathLike[str], content: str | bytes, *, durable: bool = False) -> None:
    """Writes a local file so that at every moment a whole one has its name: the one before, or the new one.

    Args:
        path: of the file, in a folder that exists. What fails leaves it as it was.
        content: all of it; text is written as UTF-8.
        durable: whether that is to hold if the machine itself stops, not only this process; takes some milliseconds.
    """
    file = Path(path)
    draft = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        with draft.open("wb") as stream:
            stream.write(content.encode("utf-8") if isinstance(content, str) else content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def is_finite(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    known = isinstance(value, Real) and not isinstance(value, bool)
    try:
        return known and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond all floats
        return False


def check_version(state: object, what: str, *readable: int, remedy: str = "") -> int:
    """The version of a JSON state, under its key "version".

    Args:
        state: what was read.
        what: how the error calls it, with its article: "a history".
        readable: the versions that this release reads.
        remedy: what to do about a file of another release: "fit it again".

    Raises:
        ValueError: if the state is no JSON object, or of another version.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"Cannot read {what}: it is of type {type(state).__name__}, not a JSON object.")
    found = state.get("version")
    if type(found) is not int or found not in readable:  # neither true nor 1.0 is the version 1
        known = " and ".join(map(str, readable)) + (remedy and f"; {remedy}")
        raise ValueError(f"Cannot read {what} of version {found!r}: this release reads {known}.")
    return found


# -- how much there is


def check_size(name: object, n_bytes: int | None, most: int) -> None:
    """Raises TooMuchError if a file is too large to be what it should be: it is not read, then.

    Args:
        name: of the file.
        n_bytes: its size, None where that is not known.
        most: the largest size, in bytes.
    """
    if n_bytes is not None and n_bytes > most:
        raise TooMuchError(
            f"{name} has {n_bytes / MiB:.1f} MiB, which is more than the {most / MiB:g} MiB that are read."
        )


def check_count(name: object, n: int, most: int, what: str) -> None:
    """Raises TooMuchError if a file holds more than ``most`` of something, such as "rows"."""
    if n > most:
        raise TooMuchError(f"{name} has {n:,} {what}, which is more than the {most:,} that are read.")


def check_unpacked(name: object, unpacked: int, packed: int) -> None:
    """Raises TooMuchError if a packed file holds more than can be believed: a small file may unpack to any size.

    Args:
        name: of the file.
        unpacked: bytes that have come out so far.
        packed: bytes that they came of.
    """
    if unpacked > _UNPACKED_ROOM + _UNPACKED_RATIO * packed:
        raise TooMuchError(
            f"{name} unpacks to {unpacked / max(packed, 1):,.0f} times its size, which no text does: it was read up to "
            f"{unpacked / MiB:,.0f} MiB and no further. If it is what you want, unpack it first."
        )


class Unpacked(io.RawIOBase):
    """The bytes that a decompressor gives; TooMuchError as soon as they are more than can be believed.

    Args:
        name: of the file.
        stream: the decompressor.
        packed: the file that it reads, whose position says how much of it has been used.
    """

    def __init__(self, name: object, stream: IO[bytes], packed: IO[bytes]) -> None:
        self._name, self._stream, self._packed, self._n = name, stream, packed, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Reads into a buffer; the number of bytes, 0 at the end."""
        part = self._stream.read(len(buffer))
        buffer[: len(part)] = part
        self._n += len(part)
        check_unpacked(self._name, self._n, self._packed.tell())
        return len(part)

    def close(self) -> None:
        """Closes the file, too."""
        if not self.closed:
            self._stream.close()
            self._packed.close()
        super().close()


# -- what is there


def parse_json(content: bytes | str) -> Any:
    """The value that a JSON text describes.

    Raises:
        ValueError: if it is no JSON, not UTF-8, nested too deeply, or has a key twice in one object.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:  # half of a character, which could not be written again
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name!r} is there more than once")
    return found


def whole(value: object, name: str, least: int = 0) -> int:
    """``value``, if it is a whole number of at least ``least``; else raises ValueError, which calls it ``name``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_WHOLE:
        raise ValueError(f"{name} must be a whole number >= {least}, got {_short(value)}")
    return value


def check_readable(name: str, what: str) -> None:
    """Raises ValueError, which calls it ``what``, if a name has control characters: it would command a terminal."""
    if _CONTROL.search(name):
        raise ValueError(f"The {what} {name[:_SHOWN]!r} has control characters in its name: rename it.")


def check_file_name(name: str, what: str) -> str:
    """The name, if a file or a folder can have it, or a name with it in the middle, wherever it is copied to.

    Args:
        name: to check.
        what: bears it, for the error: "A domain".

    Raises:
        ValueError: for a name that is empty, leads elsewhere, is hidden or cannot be typed, or is too long.
    """
    n_bytes = len(name.encode("utf-8", "surrogatepass"))
    if not name or _NO_NAME.search(name) or n_bytes > _MOST_NAME:
        raise ValueError(
            f"{what} also gives files their names, and {name[:100]!r} cannot: rename it, to at most {_MOST_NAME} bytes "
            "without slashes, control characters, blanks at its ends or a dot in front."
        )
    return name


def check_file_names(names: Iterable[str], what: str) -> None:
    """``check_file_name`` of each, and that no two would be one file where capitals do not count.

    Raises:
        ValueError: naming the first that will not do.
    """
    known: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", check_file_name(name, what)).casefold()
        if (other := known.setdefault(key, name)) != name:
            raise ValueError(
                f"{what} also gives files their names, and {other!r} and {name!r} are one where capitals do not count: "
                "rename one of them."
            )


def number(value: object, name: str) -> float:
    """``value``, if it is a finite number, and neither a truth value nor text; else raises ValueError."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ValueError(f"{name} must be a number, got {_short(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {_short(value)}")
    return found


def named_numbers(values: object, name: str) -> dict[str, float]:
    """Finite numbers by name; ValueError, which calls them ``name``, for anything else."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be numbers by name, got {_short(values)}")
    for key in values:
        if not isinstance(key, str):
            raise ValueError(f"{name} must be numbers by name, got the name {_short(key)}")
    return {key: number(value, f"{name}, {key!r},") for key, value in values.items()}


def check_known(data: Mapping[Any, Any], known: Iterable[str], what: str) -> None:
    """Raises ValueError if JSON has fields that are not known: whoever wrote them meant something by them.

    Args:
        data: what was read.
        known: names of the fields.
        what: what the error calls malformed: "history".
    """
    known = list(known)
    if unknown := sorted(set(map(str, data)) - set(known)):
        meant = listed([found for name in unknown if (found := near(name, known))])
        raise ValueError(
            f"Malformed {what}: it has the unknown fields {', '.join(unknown)}; known are {', '.join(known)}."
            + (meant and f" Did you mean {meant}?")
        )


def check_fields(kind: Any, data: object, what: str) -> None:
    """Checks that what JSON says of a dataclass has its fields, and these have their types; lists stand for tuples.

    Args:
        kind: the dataclass.
        data: what was read.
        what: what the error calls malformed: "description of a space".

    Raises:
        ValueError: naming the first field that is wrong.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"Malformed {what}: it is {_short(data)}, not a JSON object.")
    known = {field.name: field for field in fields(kind)}
    check_known(data, known, what)
    hints = get_type_hints(kind)
    for name, field in known.items():
        if name not in data:
            if field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"Malformed {what}: {name} is missing.")
        elif not _fits(data[name], hints[name]):
            raise ValueError(f"Malformed {what}: {name} cannot be {_short(data[name])}.")


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value has a type."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in inside)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if origin is tuple and inside[-1] is not Ellipsis:
        if not isinstance(value, list | tuple) or len(value) != len(inside):
            return False
        return all(_fits(part, hinted) for part, hinted in zip(value, inside, strict=True))
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(part, inside[0]) for part in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inside[0]) and _fits(v, inside[1]) for k, v in value.items())
    if is_dataclass(hint):
        try:
            check_fields(hint, value, "")
        except ValueError:
            return False
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_WHOLE
    return hint is Any or (hint in (str, bool, NoneType) and isinstance(value, hint))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
