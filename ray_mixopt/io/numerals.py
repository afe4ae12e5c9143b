"""What a cell of a table says as a number: with a decimal point or comma, in thousands, in per cent, as an infinity."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ray_mixopt.io.cells import MISSING

# One comma, with thousands in groups of three before it; the same with points in the place of commas; and groups of
# three alone, of which a table may mean either.
_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d*),\d+(?:[eE][+-]?\d+)?\s*%?")
_POINT = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d*)\.\d+(?:[eE][+-]?\d+)?\s*%?")
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+\s*%?"), re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+\s*%?")
_WHOLE = re.compile(r"[+-]?\d+(?:[eE][+-]?\d+)?\s*%?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
# What people and programs write for a number that is not read: 1 200, 1'200, −1.5, 3.1±0.1, %50, (1.5), 2×10^3,
# or the error of a spreadsheet. A date, a version and an address are none, and neither is what has a unit.
_DIGITS = r"(?:\d{1,3}(?:[\s'’`´_.,]\d{3})+|\d+)(?:[.,]\d*)?|[.,]\d+"
_TENS = r"(?:\s*(?:e|[×·*]\s*10\s*(?:\^|\*\*)?)\s*[+\-−–]?\s*\d+)?"
_UNREAD = re.compile(
    rf"[(+\-−–~≈<>≤≥=$€£%％\s]*(?:{_DIGITS}){_TENS}"
    rf"(?:\s*(?:±|\+/?-|\()\s*(?:{_DIGITS}){_TENS})?[)\s%％‰$€£*\-]*|#[A-Z0/]+[!?A]?",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"\W*\d")
_UNSOUND = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)


def is_missing(cell: object) -> bool:
    """Whether a cell says nothing."""
    return cell is None or str(cell).strip().lower() in MISSING


def is_unsound(cell: object) -> bool:
    """Whether a cell says NaN or an infinity, rather than nothing; a program writes that for what it computed."""
    return cell is not None and _UNSOUND.fullmatch(str(cell).strip()) is not None


def is_unread(cell: object) -> bool:
    """Whether a cell is meant for a number by the looks of it, but written as none is read."""
    return isinstance(cell, str) and parsed(unsigned(cell)) is None and _UNREAD.fullmatch(cell.strip()) is not None


def begins_with_digits(cell: object) -> bool:
    """Whether a cell is a text such as "3k" or "1.9 nats"."""
    return isinstance(cell, str) and _BEGINS.match(cell) is not None


def has_sign(cell: object) -> bool:
    """Whether a cell ends with a per cent sign."""
    return isinstance(cell, str) and cell.rstrip().endswith("%")


def unsigned(cell: object) -> object:
    """A cell without its per cent sign."""
    return cell.rstrip().removesuffix("%") if isinstance(cell, str) else cell


def parsed(cell: object, comma: bool | None = False) -> float | None:
    """The number in a cell, NaN for an empty one, None for anything else.

    Args:
        cell: as it was read.
        comma: whether the table writes a decimal comma; None where it cannot be told, and then no cell may need it.
    """
    if type(cell) is float:
        return cell
    if is_missing(cell):
        return math.nan
    text = str(cell).strip()
    if "_" in text:  # which Python takes for a number with its thousands apart
        return None
    if "," in text or comma:
        groups, decimal = ("." if comma else ","), ("," if comma else ".")
        pattern = _COMMA if comma else _POINT
        if comma is None or not (
            pattern.fullmatch(text) or _GROUPS[bool(comma)].fullmatch(text) or _WHOLE.fullmatch(text)
        ):
            return None
        text = text.replace(groups, "").replace(decimal, ".")
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How a table writes its numbers.

    Attributes:
        comma: whether with a decimal comma; None if it writes "1,500" and the like, and nothing that tells.
        doubtful: columns of such cells, or of "1.500" where others have a comma, while no number of the table tells
            that these are in thousands: another program may have written them than the rest.
    """

    comma: bool | None = False
    doubtful: frozenset[str] = frozenset()


def notation(columns: Iterable[tuple[str, Iterable[object]]]) -> Notation:
    """How a table of texts writes its numbers.

    A column counts if all of its cells are numbers, one way or the other. A number such as "1,500,000" or "1,500.5"
    tells that groups of three are in thousands.

    Args:
        columns: names, and their cells.

    Raises:
        ValueError: if one column writes points, and another one commas.
    """
    sure: dict[str, dict[str, str]] = {",": {}, ".": {}}  # a cell that has this for its decimals, by column
    groups: dict[str, list[str]] = {",": [], ".": []}  # columns in which it may part the thousands as well
    thousands = set()  # what does in other columns
    for name, cells in columns:
        texts = [text for text in (str(cell).strip() for cell in cells) if text.lower() not in MISSING]
        for mark, other, decimals, own, others in ((",", ".", _COMMA, *_GROUPS), (".", ",", _POINT, *_GROUPS[::-1])):
            if not all(decimals.fullmatch(t) or _WHOLE.fullmatch(t) or others.fullmatch(t) for t in texts):
                continue
            if clear := [text for text in texts if mark in text and not own.fullmatch(text)]:
                sure[mark][name] = clear[0]
            elif any(mark in text for text in texts):
                groups[mark].append(name)
            if any(text.count(other) > 1 or (mark in text and other in text) for text in texts):
                thousands.add(other)
    if sure[","] and sure["."]:
        (one, comma), (another, point) = (next(iter(sure[mark].items())) for mark in ",.")
        raise ValueError(
            f"it writes numbers with a decimal comma in the column {one!r}, as in {comma!r}, and with a point in "
            f"{another!r}, as in {point!r}: write all of them one way"
        )
    parting = "." if sure[","] else ","
    doubtful = frozenset[str]() if parting in thousands else frozenset(groups[parting])
    return Notation(comma=None if doubtful and not sure[","] and not sure["."] else bool(sure[","]), doubtful=doubtful)


def digits(cell: object) -> int:
    """Digits behind the decimal point or comma of a number as it is written; 16 for one with an exponent."""
    text = str(cell).strip()
    if "e" in text.lower():
        return 16
    return len(text) - 1 - max(text.rfind("."), text.rfind(",")) if "." in text or "," in text else 0
