"""A figure of a report, and what all of them share: size, colours, words for those who do not see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart; lines and markers differ, too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++")
DASHES = ("-", "--", ":", "-.")
SEQUENTIAL = "cividis"

WIDTH = 5.2  # inches: letters of 9 points stay readable on a phone's 390 pixels
DPI = 180


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with its words.

    Attributes:
        name: of the file, without suffix.
        title: heading.
        figure: the picture.
        alt: what it shows, for those who do not see it.
        caption: how to read it.
    """

    name: str
    title: str
    figure: Figure
    alt: str
    caption: str


def line_style(k: int) -> dict[str, str]:
    """Colour and dashes of the ``k``-th of many lines, as arguments of Matplotlib's; the first 24 differ."""
    return {"color": PALETTE[k % 6], "linestyle": DASHES[k // 6 % 4]}  # thin lines in the last colour are too pale


def point_style(k: int) -> dict[str, str]:
    """Colour and marker of the ``k``-th group of points, as arguments of Matplotlib's; the first 42 differ."""
    return {"color": PALETTE[k % 6], "marker": MARKERS[k % 7]}


def canvas(height: float = 3.4, rows: int = 1, columns: int = 1, *, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, ``rows x columns``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    axes: np.ndarray = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, axes


def even_choice(n: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` of ``n`` things, evenly spread, ascending: a picture of more says no more."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def finish(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Puts a grid behind the data, and takes the box away on the upper right."""
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure) -> None:
    """Says above all axes what is drawn in the first, in as many columns as fit."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not labels:
        return
    column = 0.45 + 0.073 * max(map(len, labels))  # inches: the handle, and letters of 10 points
    columns = max(1, min(len(labels), int(WIDTH / column)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def cost_label(target: str) -> str:
    """The label of an axis of cost in full runs, given the target in a few words."""
    return f"cost, in full runs ({target})"


def log_cost(axes: Axes, target: str) -> None:
    """Makes the horizontal axis one of cost in full runs: logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(unlabelled)
    axes.set_xlabel(cost_label(target))


def plain(value: float, position: float) -> str:
    """A tick's number without powers of ten."""
    return f"{value:g}"


def unlabelled(value: float, position: float) -> str:
    """No label on minor ticks."""
    return ""


def short(name: str, length: int = 24) -> str:
    """A name that fits a small panel: its beginning and its end, where names of a family differ."""
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[-end:]}"


def listed(parts: list[str], most: int = 8) -> str:
    """Parts in one sentence."""
    shown = parts[:most] + ([f"and {len(parts) - most} more"] if len(parts) > most else [])
    return ", ".join(shown)
