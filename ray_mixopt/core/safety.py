"""Files that others may have written: how large they may be, and JSON that is no more than JSON."""

from __future__ import annotations

import json
from typing import Any

MiB = 2**20


def check_size(name: object, n_bytes: int | None, most: int) -> None:
    """Raises ValueError if a file is too large to be what it should be.

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
    """What a JSON text says.

    Raises:
        ValueError: if it is no JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def whole(value: object, name: str, least: int = 0) -> int:
    """A whole number of at least ``least``, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return value
