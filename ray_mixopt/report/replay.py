"""The result of a replay for people: tables, and a picture as PNG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.words import called, counted, fidelity, full_runs, price
from ray_mixopt.report.drawing import BLUE, GREEN, GREY, ORANGE, cost_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WAYPOINTS = 6  # recommendations on the way that are shown
_NOTHING = 1e-6  # difference of shares


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
    x = [point["full_runs"] for point in points]
    y = [math.nan if point["regret"] is None else point["regret"] for point in points]
    known = [regret for regret in y if not math.isnan(regret)]
    if known:  # where the truth of a recommendation is not known, the line is broken
        axes.step(x, y, where="post", color=BLUE, marker="o", markersize=4, label="recommended mixture")
        uniform = summary["uniform"]["regret"]
        if uniform is not None:
            known.append(uniform)
            label = called("uniform", tuple(summary.get("moved", ())))
            axes.axhline(uniform, color=ORANGE, linestyle="--", label=label)
        axes.axhline(0.0, color=GREEN, linewidth=1, label=f"best mixture {_there_is(summary)}")
        top = max(known) or 1.0
        axes.set_ylim(bottom=min(-0.04 * top, *known), top=1.15 * top)
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
    """The verdict and the truth, the mixtures, how the answer came about, where the money went, and the rest.

    Args:
        summary: what was searched, and what ``analysis.result.result`` says of it.
        nothing: why there is no answer, where ``recommended`` is None.
    """
    if summary["recommended"] is None:
        yield Text(nothing)
    else:
        if summary["verdict"] is not None:
            yield Text(f"Verdict: {summary['verdict']['text']}")
        yield Text(_truth(summary))
        yield _answer(summary)
        yield from _way(summary)
    yield _money(summary)
    yield Text("\n".join(_rest(summary)))


def _truth(summary: Mapping[str, Any]) -> str:
    """What is true of the answer, which the search has not seen."""
    best, name = summary["recommended"], summary["against"] or "uniform"
    other, label = summary["baselines"][name], called(name, tuple(summary["moved"]))
    if best["true"] is None or other["true"] is None:
        unknown = "recommended mixture" if best["true"] is None else label
        return f"In truth: not known, since the {unknown} has no run at the target."
    difference, predicted = best["true"] - other["true"], summary["difference"]
    if _same(best["mixture"], other["mixture"]):
        text = f"In truth: {best['true']:.4f}; it is the {label} itself"
    else:
        text = f"In truth: {difference:+.4f}, from {other['true']:.4f} to {best['true']:.4f}"
        if predicted is not None:
            inside = predicted["low"] <= difference <= predicted["high"]
            text += f", {'inside' if inside else 'OUTSIDE'} the interval"
    if best["regret"] is None or other["regret"] is None:
        return f"{text}."
    return (
        f"{text}. Regret {best['regret']:.3f} against {other['regret']:.3f} of the {label}: 0 is the best mixture "
        f"{_there_is(summary)}, {summary['best_known']:.4f}, and 1 the median random one."
    )


def _there_is(summary: Mapping[str, Any]) -> str:
    return "there is" if summary["logged"] is None else f"of the {summary['logged']:,} logged at the target"


def _answer(summary: Mapping[str, Any]) -> Table:
    columns = {"recommended": summary["recommended"], **summary["baselines"]}
    moved = tuple(summary["moved"])
    answer = Table(title=f"{summary['metric']} ({summary['mode']}) at {_target(summary)}", title_justify="left")
    answer.add_column("share of tokens")
    for name in columns:
        bold = "bold" if name == "recommended" else ""
        answer.add_column(called(name, moved).replace(" mixture", ""), justify="right", style=bold)
    for domain in summary["recommended"]["mixture"]:
        answer.add_row(domain, *(f"{column['mixture'][domain]:.1%}" for column in columns.values()))
    answer.add_section()
    answer.add_row("predicted (95%)", *(_interval(c["predicted"]) for c in columns.values()))
    better = [summary["probability_better"].get(name) for name in summary["baselines"]]
    answer.add_row("recommended is better", "", *("-" if p is None else f"{p:.0%}" for p in better))
    answer.add_row("true", *(_number(c["true"]) for c in columns.values()))
    answer.add_row("regret", *(_number(c["regret"], 3) for c in columns.values()))
    return answer


def _way(summary: Mapping[str, Any]) -> Iterator[Table]:
    """A few of the recommendations on the way, from the first to the last; nothing where there is only one."""
    points = summary["trajectory"]
    if len(points) < 2:
        return
    last, reference = len(points) - 1, summary["baselines"][summary["against"] or "uniform"]["mixture"]
    way = Table(title="How it got better", title_justify="left")
    for heading in ("full runs spent", "difference predicted then", "true", "regret"):
        way.add_column(heading, justify="right")
    for k in sorted({round(i * last / (_WAYPOINTS - 1)) for i in range(_WAYPOINTS)}):
        point = points[k]
        way.add_row(
            f"{point['full_runs']:.2g}",
            "same mixture" if _same(point["mixture"], reference) else _interval(point["difference"]),
            _number(point["true"]),
            _number(point["regret"], 3),
        )
    yield way


def _same(mixture: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(abs(share - other[domain]) < _NOTHING for domain, share in mixture.items())


def _money(summary: Mapping[str, Any]) -> Table:
    money = Table(title="Where the money went", title_justify="left")
    for name in ("scale", "runs", "full runs", "share"):
        money.add_column(name, justify="left" if name == "scale" else "right")
    for row in summary["by_scale"]:
        money.add_row(row["scale"], str(row["runs"]), f"{row['full_runs']:.3f}", f"{row['share']:.1%}")
    money.add_section()
    money.add_row("all", str(summary["runs"]), f"{summary['target_runs']:.3f}", "")
    return money


def _rest(summary: Mapping[str, Any]) -> list[str]:
    full_run = summary["target"]["cost"]
    lines = [
        f"Spent {price(summary['spent'], full_run)} of {full_runs(summary['budget'], full_run)}.",
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
    return lines


def _interval(prediction: Mapping[str, float] | None) -> str:
    if prediction is None:
        return "-"
    return str(Prediction(**prediction))


def _number(value: float | None, digits: int = 4) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _target(summary: Mapping[str, Any]) -> str:
    target = summary["target"]
    return fidelity(target["scale"], target["steps"])
