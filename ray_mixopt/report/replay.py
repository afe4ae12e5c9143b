"""The result of a replay for people: tables, and a picture as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.words import amount, called, counted, fidelity
from ray_mixopt.report.drawing import BLUE, GREY, ORANGE, cost_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_replay(summary: Mapping[str, Any], path: Path) -> None:
    """Regret, or the predicted value, against cost; and where the money went by scale.

    Args:
        summary: what was searched, and what ``analysis.result.result`` says of it.
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
        x, y = [p["full_runs"] for p in known], [p["regret"] for p in known]
        axes.step(x, y, where="post", color=BLUE, marker="o", markersize=4, clip_on=False, label="recommended mixture")
        uniform = summary["uniform"]["regret"]
        if uniform is not None:
            axes.axhline(
                uniform,
                color=ORANGE,
                linestyle="--",
                label=called("uniform", tuple(summary.get("moved", ()))),
            )
        axes.set_ylim(bottom=0.0, top=max(1.0, *y) * 1.05)
        axes.set_ylabel("regret at the target\n(0: best mixture, 1: median random one)")
        axes.set_title("Regret of the recommendation", fontsize=10)
    else:
        predicted = [p for p in points if p["predicted"] is not None]
        x, band = [p["full_runs"] for p in predicted], [p["predicted"] for p in predicted]
        axes.plot(x, [b["mean"] for b in band], color=BLUE, marker="o", markersize=4, label="recommended mixture")
        axes.fill_between(x, [b["low"] for b in band], [b["high"] for b in band], color=BLUE, alpha=0.2, linewidth=0)
        axes.set_ylabel(f"predicted {summary['metric']} at the target (95%)")
        axes.set_title("Prediction for the recommendation", fontsize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, position: "")
    axes.set_xlabel(cost_label(_target(summary)))
    axes.axvline(1.0, color=GREY, linestyle=":", label="cost of one full run")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best")


def _draw_spending(axes: Axes, summary: Mapping[str, Any]) -> None:
    rows = summary["by_scale"]
    bars = axes.barh([row["scale"] for row in rows], [row["full_runs"] for row in rows], color=BLUE)
    axes.bar_label(bars, [f" {row['runs']} run{'s' * (row['runs'] != 1)}" for row in rows], fontsize=8)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.set_xlabel(cost_label(_target(summary)))
    axes.set_ylabel("model scale")
    axes.set_title("Where the money went", fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def tables(summary: Mapping[str, Any], nothing: str = "") -> Iterator[RenderableType]:
    """The answer, where the money went, and the rest in sentences.

    Args:
        summary: what was searched, and what ``analysis.result.result`` says of it.
        nothing: why there is no answer, where ``recommended`` is None.
    """
    yield _answer(summary) if summary["recommended"] is not None else Text(nothing)
    yield from _money(summary)


def _answer(summary: Mapping[str, Any]) -> Table:
    columns = [summary["recommended"], summary["uniform"]]
    answer = Table(
        title=f"{summary['metric']} ({summary['mode']}) at {_target(summary)}",
        title_justify="left",
    )
    answer.add_column("share of tokens")
    answer.add_column("recommended", justify="right", style="bold")
    answer.add_column(called("uniform", tuple(summary.get("moved", ()))).replace(" mixture", ""), justify="right")
    for domain in columns[0]["mixture"]:
        answer.add_row(domain, *(f"{column['mixture'][domain]:.1%}" for column in columns))
    answer.add_section()
    answer.add_row("predicted (95%)", *(_interval(c["predicted"]) for c in columns))
    answer.add_row("true", *(_number(c["true"]) for c in columns))
    answer.add_row("regret", *(_number(c["regret"], 3) for c in columns))
    return answer


def _money(summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    money = Table(title="Where the money went", title_justify="left")
    for name in ("scale", "runs", "cost", "share"):
        money.add_column(name, justify="left" if name == "scale" else "right")
    for row in summary["by_scale"]:
        money.add_row(row["scale"], str(row["runs"]), amount(row["spent"]), f"{row['share']:.1%}")
    money.add_section()
    money.add_row("all", str(summary["runs"]), amount(summary["spent"]), "")
    yield money

    lines = [] if summary["verdict"] is None else [f"Verdict: {summary['verdict']['text']}"]
    lines += [
        "Regret: 0 is the best mixture there is, 1 the median random one.",
        f"Spent {amount(summary['spent'])} of {amount(summary['budget'])}, {summary['target_runs']:.2f} times a full "
        "run.",
        f"{counted(summary['runs'], 'run')} and {counted(summary['continued'], 'continuation')} "
        f"in {summary['seconds']:.0f} s.",
    ]
    if summary["saving"]:
        lines.append(summary["saving"])
    if summary["gain"] is not None:
        lines.append(f"{summary['gain']}.")
    if summary["calibration"] is not None:
        lines.append(f"Fit: {summary['calibration']}.")
    if summary["hindsight"] is not None:
        lines.append(f"Calibration: {summary['hindsight']}.")
    lines += [f"{counted(summary[key], 'run')} {key}." for key in ("diverged", "failed") if summary[key]]
    yield Text("\n".join(lines))


def _interval(prediction: Mapping[str, float] | None) -> str:
    if prediction is None:
        return "-"
    return str(Prediction(**prediction))


def _number(value: float | None, digits: int = 4) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _target(summary: Mapping[str, Any]) -> str:
    target = summary["target"]
    return fidelity(target["scale"], target["steps"])
