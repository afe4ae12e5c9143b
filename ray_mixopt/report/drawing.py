"""A figure of a report, and what all of them share: size, colours, words for those who do not see it.

Names of domains, scales, metrics and runs are strangers' text. Plotly takes a text for a small kind of HTML: whatever
it draws goes through ``plain``. What is around a plot, titles, axes and tables, is HTML that the template escapes; what
is shown under the mouse is a trace's ``text``, which the page sets as text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_mixopt.core.words import amount, by_phase

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart; lines and markers differ, too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
PATTERNS = ("", "/", ".", "x", "\\", "-", "+")
DASHES = ("solid", "dash", "dot", "dashdot")
SEQUENTIAL = "cividis"
BAND, FAINT = "rgba(0,114,178,0.25)", "rgba(0,114,178,0.1)"  # of BLUE

MOST_ROWS = 100  # of a figure's table
MOST_TICKS = 5  # that stand beside each other on a phone
_ROW = 26  # pixels of a category
_GAP = 0.25  # of an axis, at least, between two labels of a logarithmic one


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture with its axes' names, which stand around it as text that wraps.

    Attributes:
        figure: Plotly's.
        x: what is along the horizontal axis; "" where the labels say it.
        y: what is along the vertical one.
        title: of a panel among others.
    """

    figure: Figure
    x: str
    y: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with its words.

    Attributes:
        name: of the figure, a word.
        title: heading.
        panels: the pictures.
        alt: what they show, for those who do not see it.
        caption: how to read it.
        head: names of the columns of what it shows; none where a table on the page says the same.
        rows: the same in numbers, a cell each.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    alt: str
    caption: str
    head: tuple[str, ...] = ()
    rows: Sequence[Sequence[Any]] = ()

    @property
    def cells(self) -> list[list[str]]:
        """The first rows, as text."""
        return [[_cell(value) for value in row] for row in self.rows[:MOST_ROWS]]

    @property
    def more(self) -> int:
        """The number of rows that the page has no place for."""
        return max(len(self.rows) - MOST_ROWS, 0)


def plain(text: str) -> str:
    """A text that Plotly shows as it is, whatever it looks like."""
    return html.escape(" ".join(text.split()), quote=False)


def hover(*lines: str) -> str:
    """What is shown of a point under the mouse, line by line; by the page, as text, and not by Plotly."""
    return "\n".join(line for line in lines if line)


def of_mixture(shares: Mapping[str, Any], most: int = 5) -> list[str]:
    """The largest shares of a mixture, a line each; of several phases those of each in a line."""
    if "" not in (each := by_phase(shares)):
        return [f"{phase}: {listed(of_mixture(of, 3))}" for phase, of in each.items()]
    largest = sorted(shares.items(), key=lambda item: -item[1])[:most]
    return [f"{share:.1%} {name}" for name, share in largest if share >= 5e-4]


def canvas(height: int, **axes: Any) -> Figure:
    """An empty figure.

    Args:
        height: in pixels; the width is that of the page.
        **axes: ``xaxis`` and ``yaxis``, as Plotly's layout has them.
    """
    from plotly.graph_objects import Figure

    both = {"automargin": True, "gridcolor": "#e4e4e4", "zeroline": False, "linecolor": "#999999", "ticks": ""}
    figure = Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 10, "b": 24},
        font={"family": 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', "size": 12},
        hovermode="closest",
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.01,
            "yanchor": "bottom",
        },
        xaxis=both | {"showline": True, "tickangle": 0, "ticklabelstandoff": 6} | axes.get("xaxis", {}),
        yaxis=both | axes.get("yaxis", {}),
    )
    return figure


def categories(names: Sequence[str]) -> dict[str, Any]:
    """An axis of named rows, the first on top.

    Rows have numbers, since two names that are cut alike, and names that look like numbers or dates, are all the same
    to Plotly.
    """
    return {
        "type": "linear",
        "tickvals": list(range(len(names))),
        "ticktext": [plain(short(name)) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "ticklabelstandoff": 4,
    }


def colorbar() -> dict[str, Any]:
    """A bar of colours above the plot, whose upper margin must have room for it."""
    return {
        "orientation": "h",
        "thickness": 10,
        "len": 0.9,
        "x": 0.5,
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "nticks": 4,
        "outlinewidth": 0,
    }


def rows_height(n: int, entries: int = 0) -> int:
    """Pixels of a figure of ``n`` named rows, and a legend of some entries, which on a phone are below each other."""
    return 60 + _ROW * max(n, 2) + 20 * entries


def logarithmic(values: Sequence[float], *, whole: bool = False) -> dict[str, Any]:
    """A logarithmic axis around some positive values, whose few labels are plain numbers.

    Args:
        values: what is drawn along it.
        whole: whether only whole numbers make sense.
    """
    low, high = min(values), max(values)
    pad = max(0.05 * math.log10(high / low), 0.03)
    gap = _GAP * (math.log10(high / low) + 2 * pad)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]
        ticks = _apart(found, gap)
        if len(ticks) == len(found) > 1:
            break
    if len(ticks) < 2:
        ticks = _apart([low, high], gap)
    text = [_thousands(value) if whole else amount(float(f"{value:.2g}")) for value in ticks]
    return {
        "type": "log",
        "range": [math.log10(low) - pad, math.log10(high) + pad],
        "tickvals": ticks,
        "ticktext": text,
    }


def share_axis(high: float = 1.0) -> dict[str, Any]:
    """An axis of shares from 0 to ``high``."""
    return {"range": [-0.02 * high, 1.02 * high], "tickformat": ".0%", "nticks": MOST_TICKS}


def lines_of(parts: Sequence[Sequence[float]]) -> list[float | None]:
    """Several lines as one, with gaps between them."""
    found: list[float | None] = []
    for part in parts:
        found += [*part, None]
    return found


def point_style(k: int) -> dict[str, str]:
    """Colour and symbol of the ``k``-th group of points; the first 42 differ."""
    return {"color": PALETTE[k % 6], "symbol": SYMBOLS[k % 7]}  # the last colour is too pale for points


def even_choice(n: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` of ``n`` things, evenly spread, ascending: a picture of more says no more."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def short(name: str, length: int = 24) -> str:
    """A name that fits a small place: its beginning and its end, where names of a family differ."""
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[-end:]}"


def listed(parts: list[str], most: int = 8) -> str:
    """Parts in one sentence."""
    shown = parts[:most] + ([f"and {len(parts) - most} more"] if len(parts) > most else [])
    return ("; " if any(", " in part for part in shown) else ", ").join(shown)


def cost_label(target: str) -> str:
    """The label of an axis of cost in full runs, given the target in a few words."""
    return f"cost, in full runs ({target})"


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Those of some ascending values that are at least so many decades from the one before."""
    found = list(values[:1])
    for value in values[1:]:
        if math.log10(value / found[-1]) >= gap:
            found.append(value)
    return found


def _thousands(value: float) -> str:
    """A whole number in a few letters: 500, 10k, 2M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value:.2g}') / size:g}{letter}"
    return f"{value:.0f}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)
