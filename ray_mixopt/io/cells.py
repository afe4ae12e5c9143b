"""Names of others in the headers and cells of tables: none is taken for a formula, or for a column of the format's own.

Both ways of writing are undone when a table is read, so that every name comes back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

MISSING = frozenset({"", "na", "nan", "none", "null", "<na>"})
"""What a cell without a value says, in small letters."""

_NOTHING = re.compile(r"\s*'*\s*(?:na|nan|none|null|<na>)?\s*", re.IGNORECASE)

MIXTURE = "mixture/"
_BESIDE = "metric/"
# Spreadsheets compute cells that begin so; the last four are the wide forms that some take for the same. An apostrophe
# in front makes it text, to them too. Where a decimal comma is usual, semicolons separate the cells, and some programs
# take tabs for that; quotes around a cell that holds them are no help then.
_START = r"(?:(?<=[;\t\r\n])|^)"
_COMPUTED = r"(?=['\"]*\s*[=+\-@\t\r\n＝＋－＠])"
_FORMULA, _GUARDED = re.compile(_START + _COMPUTED), re.compile(f"{_START}'{_COMPUTED}")


def guarded(text: str) -> str:
    """The text of a CSV cell, with an apostrophe before whatever a spreadsheet would compute."""
    return _FORMULA.sub("'", text)


def unguarded(text: str) -> str:
    """What ``guarded`` was given."""
    return _GUARDED.sub("", text)


def kept(text: str) -> str:
    """A name as a cell, with an apostrophe before one that would be read as a missing value, such as "NA"."""
    return f"'{text.strip()}" if _NOTHING.fullmatch(text) else text


def unkept(text: str) -> str:
    """What ``kept`` was given."""
    return text.removeprefix("'") if _NOTHING.fullmatch(text) else text


def beside(metric: str, own: Collection[str]) -> str:
    """A metric's name as a column: ``metric/<name>`` if the format has a column of that name.

    Args:
        metric: its name.
        own: columns of the format, in small letters; in a tidy table those of the mixture are so, too.
    """
    return f"{_BESIDE}{metric}" if _is_taken(metric, own) else metric


def metric_of(column: str, own: Collection[str]) -> str:
    """What ``beside`` was given."""
    rest = column.removeprefix(_BESIDE)
    return rest if rest != column and _is_taken(rest, own) else column


def _is_taken(metric: str, own: Collection[str]) -> bool:
    while metric.startswith(_BESIDE):
        metric = metric.removeprefix(_BESIDE)
    return metric.strip().lower() in own or metric.startswith(MIXTURE)


def check_distinct(names: Iterable[str], what: str) -> None:
    """Checks names that are to come back from a table, whose cells are read without blanks at their ends.

    Args:
        names: each once.
        what: bears them, for the error: "The scale".

    Raises:
        ValueError: for a name that reads as a missing value, or as another one, or that would lose blanks at its ends.
    """
    known: dict[str, str] = {}
    blank = ""
    for name in names:
        blank = blank or (name if name != name.strip() else "")
        if not name.strip():
            raise ValueError(f"{what} {name!r} would be read as a missing value in a table: rename it.")
        if (other := known.setdefault(name.strip(), name)) != name:
            raise ValueError(f"{what} {name!r} would be read as {other!r} in a table: rename one of them.")
    if blank:
        raise ValueError(f"{what} {blank!r} would be read as {blank.strip()!r} in a table: rename it.")
