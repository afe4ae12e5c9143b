"""State in files: written whole or not at all, and read with distrust, since others may have written it."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MiB = 2**20
_MOST_NAME = 200  # bytes; file systems take 255, and some is for what stands before and after
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[\s.]|\s$")


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
    if isinstance(found, bool) or found not in readable:
        known = " and ".join(map(str, readable)) + (remedy and f"; {remedy}")
        raise ValueError(f"Cannot read {what} of version {found!r}: this release reads {known}.")
    return int(found)


def check_size(name: object, n_bytes: int | None, most: int) -> None:
    """Raises ValueError if a file is too large to be what it should be: it is not read, then.

    Args:
        name: of the file.
        n_bytes: its size, None where that is not known.
        most: the largest size, in bytes.
    """
    if n_bytes is not None and n_bytes > most:
        raise ValueError(
            f"{name} has {n_bytes / MiB:.1f} MiB, which is more than the {most / MiB:g} MiB that are read."
        )


def parse_json(content: bytes | str) -> Any:
    """The value that a JSON text describes.

    Raises:
        ValueError: if it is no JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def whole(value: object, name: str, least: int = 0) -> int:
    """``value``, if it is a whole number of at least ``least``; else raises ValueError, which calls it ``name``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return value


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
