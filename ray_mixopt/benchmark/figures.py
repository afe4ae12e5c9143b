"""The figures of a benchmark, from the records alone: regret against cost by method, for a group and by problem."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.benchmark.markdown import OURS
from ray_mixopt.benchmark.methods import registry
from ray_mixopt.benchmark.record import Record
from ray_mixopt.benchmark.scores import Curve, grouped
from ray_mixopt.report.drawing import PALETTE

FLOOR = 1e-4  # regrets below are drawn there: the axis is logarithmic
BAND = 0.1, 0.9  # quantiles over seeds
COLUMNS = 4
MOST_POINTS = 300
DASHES = ("-", "--", ":", "-.")


def draw(records: Sequence[Record], out: Path) -> list[Path]:
    """Draws two figures for each group, and gives their paths.

    Args:
        records: what was measured.
        out: folder of the figures.
    """
    paths = []
    for group, by_method in grouped(records).items():
        name = re.sub(r"[^A-Za-z0-9_.=+@-]", "-", group)
        problems = list(dict.fromkeys(problem for by_problem in by_method.values() for problem in by_problem))
        paths.append(_figure(out / f"{name}.png", [(group, by_method)]))
        if len(problems) > 1:
            panels = [
                (problem, {m: {problem: curves[problem]} for m, curves in by_method.items() if problem in curves})
                for problem in problems
            ]
            paths.append(_figure(out / f"{name}-by-problem.png", panels))
    return paths


def _figure(path: Path, panels: Sequence[tuple[str, Mapping[str, Mapping[str, Curve]]]]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (7.0, 4.5) if len(panels) == 1 else (3.4 * columns, 2.6 * rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    # A method has one style in all figures; what is not a method, like a number of workers, gets one in this figure.
    names = list(dict.fromkeys([*registry(), *(method for _, by_method in panels for method in by_method)]))
    for ax, (title, by_method) in zip(axes, panels, strict=False):
        for method, by_problem in by_method.items():
            style = {"color": "black"} if method == OURS else _style(names.index(method))
            _line(ax, method, style, list(by_problem.values()))
        first = next(iter(next(iter(by_method.values())).values())).records[0]
        ax.set(xscale="log", yscale="log", xlabel=f"cost ({first.cost_unit})", ylabel="regret")
        ax.set_title(title if len(panels) == 1 else title.partition("/")[2], fontsize="small")
        ax.grid(alpha=0.3)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    legend = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    n_columns = int(width / (0.6 + 0.08 * max(map(len, legend))))  # inches of a handle and of a letter
    n_columns = max(1, min(n_columns, 5, len(legend)))
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=n_columns, fontsize="small")
    figure.savefig(path, dpi=150)
    return path


def _style(k: int) -> dict[str, str]:
    """Colour and dashes of the ``k``-th of many lines; the first 24 differ."""
    return {"color": PALETTE[k % 6], "linestyle": DASHES[k // 6 % 4]}  # thin lines in the last colour are too pale


def _line(ax: Any, method: str, style: Mapping[str, str], curves: Sequence[Curve]) -> None:
    """The mean over problems and seeds, and a band over seeds of the mean over problems."""
    budget = min(curve.budget for curve in curves)
    costs = np.unique(np.concatenate([[budget], *(curve.costs for curve in curves)]))
    costs = costs[costs <= budget]
    if len(costs) > MOST_POINTS:
        costs = np.geomspace(costs[0], budget, MOST_POINTS)
    n_seeds = min(len(curve.records) for curve in curves)
    by_seed = np.mean([curve.regrets(costs)[:n_seeds] for curve in curves], axis=0)  # (n_seeds, n_costs)
    mean = np.mean([curve.regrets(costs).mean(axis=0) for curve in curves], axis=0)
    ax.step(costs, np.maximum(mean, FLOOR), where="post", label=method, **style, lw=2.5 if method == OURS else 1.5)
    if n_seeds > 1:
        low, high = np.maximum(np.quantile(by_seed, BAND, axis=0), FLOOR)
        ax.fill_between(costs, low, high, step="post", alpha=0.15, color=style["color"], linewidth=0)
