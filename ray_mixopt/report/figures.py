"""Pictures of a search, as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
FLOOR = 1e-3  # regret below it is drawn at it: the axis is logarithmic


def draw_replay(summary: Mapping[str, Any], path: Path) -> None:
    """Regret, or the predicted value, against cost; and where the money went by scale.

    Args:
        summary: see ``summary.summarise``.
        path: where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_progress(left, summary)
    _draw_spending(right, summary)
    figure.suptitle(f"{summary['source']}: {summary['metric']}, strategy {summary['strategy']}", fontsize=11)
    figure.savefig(path)


def _draw_progress(axes: Axes, summary: Mapping[str, Any]) -> None:
    points = summary["trajectory"]
    known = [point for point in points if point["regret"] is not None]
    if known:
        x, y = [_full_runs(summary, p) for p in known], [max(p["regret"], FLOOR) for p in known]
        axes.step(x, y, where="post", color=BLUE, marker="o", markersize=4, label="recommended mixture")
        uniform = summary["uniform"]["regret"]
        if uniform is not None:
            axes.axhline(max(uniform, FLOOR), color=ORANGE, linestyle="--", label="uniform mixture")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
        axes.yaxis.set_minor_formatter(_unlabelled)
        axes.set_ylim(bottom=min(0.08, min(y) * 0.6), top=max(2.0, max(y) * 1.5))  # at least the decade below 1
        axes.set_ylabel("regret at the target\n(0: best mixture, 1: median random one)")
        axes.set_title("Regret of the recommendation", fontsize=10)
    else:
        predicted = [p for p in points if p["predicted"] is not None]
        x, band = [_full_runs(summary, p) for p in predicted], [p["predicted"] for p in predicted]
        axes.plot(x, [b["mean"] for b in band], color=BLUE, marker="o", markersize=4, label="recommended mixture")
        axes.fill_between(x, [b["low"] for b in band], [b["high"] for b in band], color=BLUE, alpha=0.2, linewidth=0)
        axes.set_ylabel(f"predicted {summary['metric']} at the target (95%)")
        axes.set_title("Prediction for the recommendation", fontsize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    axes.xaxis.set_minor_formatter(_unlabelled)
    axes.axvline(1.0, color=GREY, linestyle=":", label="cost of one full run")
    axes.set_xlabel(_cost_label(summary))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best")


def _draw_spending(axes: Axes, summary: Mapping[str, Any]) -> None:
    rows = summary["by_scale"]
    bars = axes.barh([row["scale"] for row in rows], [_full_runs(summary, row) for row in rows], color=BLUE)
    axes.bar_label(bars, [f" {row['runs']} run{'s' * (row['runs'] != 1)}" for row in rows], fontsize=8)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.set_xlabel(_cost_label(summary))
    axes.set_ylabel("model scale")
    axes.set_title("Where the money went", fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _plain(value: float, position: float) -> str:
    return f"{value:g}"


def _unlabelled(value: float, position: float) -> str:
    return ""


def _full_runs(summary: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    cost: float = row["spent"] / summary["target"]["cost"]
    return cost


def _cost_label(summary: Mapping[str, Any]) -> str:
    target = summary["target"]
    return f"cost, in full runs ({target['scale']} x {target['steps']:,} steps)"
