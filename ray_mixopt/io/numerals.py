"""What a cell of a table says as a number: with a decimal point or comma, in thousands, in per cent, as an infinity."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ray_mixopt.io.cells import MISSING

# One comma, with thousands in groups of three before it; the same with points in the place of commas; and groups of
# three alone, of which a table may mean either.
_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d*),\d+(?:[eE][+-]?\d+)?\s*%?")
_POINT = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d*)\.\d+(?:[eE][+-]?\d+)?\s*%?")
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+\s*%?"), re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+\s*%?")
_WHOLE = re.compile(r"[+-]?\d+(?:[eE][+-]?\d+)?\s*%?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_UNSOUND = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)


def is_missing(cell: object) -> bool:
    """Whether a cell says nothing."""
    return cell is None or str(cell).strip().lower() in MISSING


def is_unsound(cell: object) -> bool:
    """Whether a cell says NaN or an infinity, rather than nothing; a program writes that for what it computed."""
    return cell is not None and _UNSOUND.fullmatch(str(cell).strip()) is not None


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


def decimal_comma(columns: Iterable[tuple[str, Iterable[object]]]) -> bool | None:
    """Whether a table of texts writes decimal commas; None if cells such as "1,500" could be read either way.

    A column counts if all of its cells are numbers, one way or the other.

    Args:
        columns: names, and their cells.

    Raises:
        ValueError: if one column writes points, and another one commas.
    """
    commas: dict[str, str] = {}
    points: dict[str, str] = {}
    unclear = False
    for name, cells in columns:
        texts = [text for text in (str(cell).strip() for cell in cells) if text.lower() not in MISSING]
        with_comma = [text for text in texts if "," in text]
        with_point = [text for text in texts if "." in text]
        if with_comma and all(_COMMA.fullmatch(t) or _WHOLE.fullmatch(t) or _GROUPS[1].fullmatch(t) for t in texts):
            sure = [text for text in with_comma if not _GROUPS[0].fullmatch(text)]
            commas |= {name: sure[0]} if sure else {}
            unclear |= not sure
        elif with_point and all(_POINT.fullmatch(t) or _WHOLE.fullmatch(t) or _GROUPS[0].fullmatch(t) for t in texts):
            sure = [text for text in with_point if not _GROUPS[1].fullmatch(text)]
            points |= {name: sure[0]} if sure else {}
    if commas and points:
        (one, comma), (other, point) = next(iter(commas.items())), next(iter(points.items()))
        raise ValueError(
            f"it writes numbers with a decimal comma in the column {one!r}, as in {comma!r}, and with a point in "
            f"{other!r}, as in {point!r}: write all of them one way"
        )
    if commas:
        return True
    return None if unclear and not points else False


def digits(cell: object) -> int:
    """Digits behind the decimal point or comma of a number as it is written; 16 for one with an exponent."""
    text = str(cell).strip()
    if "e" in text.lower():
        return 16
    return len(text) - 1 - max(text.rfind("."), text.rfind(",")) if "." in text or "," in text else 0
