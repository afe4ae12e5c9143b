"""The cells of a table as numbers and texts, with errors that name the row."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ray_mixopt.core.safety import MOST_WHOLE
from ray_mixopt.io.numerals import has_sign, parsed, unsigned

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_SHOWN = 60  # characters of a cell in an error


class NoRowsError(ValueError):
    """A table has its header, and no row: nothing is finished yet."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells of a file.

    Attributes:
        name: of the file, for errors.
        frame: the cells, indexed by row as an editor counts: the header of a CSV file is row 1.
        comma: whether numbers are written with a decimal comma, see ``numerals.parsed``.
        doubtful: columns whose numbers may be in thousands or not, see ``numerals.Notation``.
    """

    name: str
    frame: pd.DataFrame
    comma: bool | None = False
    doubtful: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.frame.columns)

    def holds_numbers(self, column: str) -> bool:
        """Whether any cell of a column is a number, be it an infinity or in per cent."""
        values = (self.value(unsigned(cell)) for cell in self.frame[column])
        return any(value is not None and value == value for value in values)

    def numbers(self, column: str, *, may_miss: bool = False, whole: bool = False) -> np.ndarray:
        """A column as finite numbers ``(k,)``, NaN where a cell is empty.

        Args:
            column: its name.
            may_miss: whether cells may be empty.
            whole: whether they are whole numbers, so that what parts groups of three cannot be the decimal sign.

        Raises:
            ValueError: naming the row of a cell that is none.
        """
        if not whole:
            self.check_clear(column)
        kind = f"a finite number{' or empty' if may_miss else ''}"
        return self._numbers(column, kind, lambda v: not math.isinf(v) and (may_miss or not math.isnan(v)))

    def metric(self, column: str) -> np.ndarray:
        """A metric ``(k,)``, NaN where a cell is empty or says so; it may be infinite. Per cent become fractions.

        Raises:
            ValueError: naming the row of a cell that is no number.
        """
        self.check_clear(column)
        kind = "a number or empty"
        if not self.in_percent([column]):
            return self._numbers(column, kind, lambda _: True)
        logger.warning("%s: %s is in per cent, and divided by 100.", self.name, column)
        return replace(self, frame=self.frame[[column]].map(unsigned))._numbers(column, kind, lambda _: True) / 100

    def in_percent(self, columns: Sequence[str]) -> bool:
        """Whether the cells of some columns have per cent signs, all of them but zeros, empty ones and infinities.

        Raises:
            ValueError: naming a cell that has none, where others have.
        """
        texts = [name for name in columns if self.frame[name].dtype.kind not in "bfiu"]
        if not any(has_sign(cell) for name in texts for cell in self.frame[name]):
            return False
        for name in columns:
            for row, cell in self.frame[name].items():
                if not has_sign(cell) and (value := self.value(cell)) is not None and value and np.isfinite(value):
                    raise ValueError(
                        f"{self.name}, row {row}: {name} is {str(cell)!r}, and other cells have a per cent sign: write "
                        "all of them with it, or none."
                    )
        return True

    def check_clear(self, column: str) -> None:
        """Checks that the numbers of a column can be read one way only.

        Raises:
            ValueError: naming the first that cannot, and both ways.
        """
        if column not in self.doubtful or self.comma is None:  # in which case no cell of the kind is a number
            return
        decimal, parting = (",", ".") if self.comma else (".", ",")
        others = "commas" if self.comma else "points"
        row, text = next((row, str(cell).strip()) for row, cell in self.frame[column].items() if parting in str(cell))
        raise ValueError(
            f"{self.name}, row {row}: {column} is {text!r}, in a table with decimal {others}: that may be "
            f"{text.replace(parting, '')} or {text.replace(parting, decimal)}. Write the one that is meant."
        )

    def value(self, cell: object) -> float | None:
        """The number in a cell; see ``numerals.parsed``."""
        return parsed(cell, self.comma)

    def remark(self, cell: object) -> str:
        """Why a cell may be no number, to end an error with."""
        if self.comma and parsed(cell, False) is not None:
            return ", where other numbers of the table have a decimal comma"
        if self.comma is False and parsed(cell, False) is None and parsed(cell, True) is not None:
            return ", where numbers have a decimal point"
        if self.comma is None and parsed(cell, True) is not None:
            return ", which may be in thousands or have a decimal comma: write it without the comma"
        return ""

    def _numbers(self, column: str, kind: str, allowed: Callable[[float], bool]) -> np.ndarray:
        values = np.empty(len(self.frame))
        for i, (row, cell) in enumerate(self.frame[column].items()):
            value = self.value(cell)
            if value is None or not allowed(value):
                raise ValueError(
                    f"{self.name}, row {row}: {column} must be {kind}, got {str(cell)[:_SHOWN]!r}{self.remark(cell)}."
                )
            values[i] = value
        return values

    def texts(self, column: str) -> list[str]:
        """The cells of a column, without blanks at their ends. A whole number is the same text whatever its type."""
        cells = self.frame[column].tolist()
        whole = [isinstance(cell, float) and cell.is_integer() and abs(cell) <= MOST_WHOLE for cell in cells]
        return [str(int(cell)) if is_whole else str(cell).strip() for cell, is_whole in zip(cells, whole, strict=True)]
