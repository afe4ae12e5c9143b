"""Tables and figures of ``backtest.py``, from the scores alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_mixopt.analysis.scores import SURROGATE
from ray_mixopt.benchmark.hindcasts import EVERYTHING
from ray_mixopt.benchmark.markdown import table
from ray_mixopt.report.drawing import PALETTE

METHODS = (*EVERYTHING, "version-0.1")
OURS = (SURROGATE, "surrogate of the largest scale")
SCORES = ("rank", "error", "covered", "stated", "level", "regret", "seconds")
HEAD = ["method", "metrics", "n", "rank", "of the mean", "error / spread", "95% hold", "worst metric", "stated / true"]
HEAD += ["level", "picked", "s"]
BASES = {"dmsl-1235M": "122M", "dmsl-937M": "122M", "mixinglaws-410M": "70M", "regmix-1B": "1m", "network-1B": "20M"}
"""What is asked first of each table: the two smallest scales, with the first of them."""
WORDS = """
Means over metrics and draws of what is given. `n`: mixtures that were predicted. Rank: Spearman's correlation, 0 where
all predictions are the same; of the mean: of the mean of a table's losses. Error: root mean square error of the
differences from the mean of the hidden mixtures over their standard deviation, 1 for "all are equal". 95% hold: share
of the differences inside their interval; worst metric: of any metric. Stated / true: deviation of a difference as
stated, over its true error. Level: error of what all mixtures have in common. Picked: how much worse the mixture
predicted best is than the best, over their standard deviation. `s`: seconds to fit and predict, on a busy machine.
"""

Row = dict[str, Any]


def _style(k: int) -> dict[str, str]:
    """Colour and dashes of the ``k``-th of many lines, as arguments of Matplotlib's; the first 24 differ."""
    return {"color": PALETTE[k % 6], "linestyle": ("solid", "dashed", "dotted", "dashdot")[k // 6 % 4]}


def write_tables(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], out: Path) -> None:
    """Writes ``backtest.md`` and the figures below ``out``.

    Args:
        scores: by question, method and objective.
        out: folder of the results.
    """
    rows = flattened(scores)
    parts = ["# Backtests", "By `python experiments/backtest.py`. " + commits(scores)]
    parts += ["## Targets", held := targets(rows, asked(scores))]
    parts += ["## Beside each method", beside(rows)]
    parts += ["![Rank and error by mixtures given](backtest/rank-and-error.png)"]
    parts += ["![Stated over true error](backtest/stated-over-true.png)"]
    parts += ["## All questions", WORDS.strip()]
    for question in dict.fromkeys(row["question"] for row in rows):
        parts += [f"### {question}", of_question([row for row in rows if row["question"] == question])]
    text = "\n\n".join(parts)
    print(held)
    (out / "backtest").mkdir(parents=True, exist_ok=True)
    (out / "backtest.md").write_text(text + "\n")
    if rows:
        draw(rows, out / "backtest" / "rank-and-error.png", ("rank", "error"), METHODS)
        stating = [m for m in METHODS if any(row["stated"] is not None for row in rows if row["method"] == m)]
        draw(rows, out / "backtest" / "stated-over-true.png", ("stated", "covered"), stating)


def flattened(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Row]:
    """A row for each question, method, objective and number of mixtures given."""
    return [
        {"question": question, "method": method, "objective": objective, "hidden": entry["hidden"], **case}
        | {"rank": 0.0 if case["rank"] is None and case["error"] is not None else case["rank"]}
        for question, by_method in scores.items()
        for method, by_objective in by_method.items()
        for objective, entry in by_objective.items()
        for case in entry["cases"]
    ]


def commits(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Of which commits the surrogate's scores are, since the surrogate changes and the others do not."""
    found = {
        entry["commit"] for by_method in scores.values() for entry in by_method.get(SURROGATE, {}).values() if entry
    }
    return f"The surrogate is that of {', '.join(sorted(found)) or 'no commit: it was not asked'}."


def is_base(row: Row) -> bool:
    """Whether a row is of a first question."""
    start, _, rest = row["question"].partition("_from-")
    return "_" not in rest and rest.startswith(f"{BASES[start]}-") and rest.count("-") == 1


def mean(rows: Iterable[Row], score: str) -> float | None:
    """Of those that have it."""
    known = [row[score] for row in rows if row[score] is not None]
    return float(np.mean(known)) if known else None


def number(value: float | None, form: str = ".3f") -> str:
    """A cell of a table."""
    return "-" if value is None else format(value, form)


def of_question(rows: Sequence[Row]) -> str:
    """Means over objectives, by number of mixtures given and method."""
    lines = []
    for given in dict.fromkeys(row["given"] for row in rows):
        for method in METHODS:
            of = [row for row in rows if (row["given"], row["method"]) == (given, method)]
            if not of:
                continue
            means = {score: mean(of, score) for score in SCORES}
            worst = min((row["covered"] for row in of if row["covered"] is not None), default=None)
            overall = mean([row for row in of if row["objective"].startswith("mean of")], "rank")
            cells = [means["rank"], overall, means["error"], means["covered"], worst, means["stated"]]
            cells += [means["level"], means["regret"], means["seconds"]]
            n = number(mean(of, "n"), ".3g")
            lines.append([str(given), method, str(len(of)), n, *map(number, cells)])
    return table(["given", *HEAD], lines)


# -- targets


def asked(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> float:
    """The share of the others that were asked, over the questions and metrics that ours was asked."""
    others = [method for method in METHODS if method not in OURS]
    found = [
        objective in by_method.get(method, {})
        for by_method in scores.values()
        for objective in by_method.get(SURROGATE, {})
        for method in others
    ]
    return float(np.mean(found)) if found else 0.0


def targets(rows: Sequence[Row], share: float) -> str:
    """What was wanted, what version 0.1 had by ``../shared/method.md`` (other draws), and what is measured.

    Args:
        rows: the scores.
        share: of the others that were asked: a target against all of them is not held before they were.
    """
    ours = [row for row in rows if row["method"] == SURROGATE]
    dmsl = [row for row in ours if row["question"].startswith("dmsl-1235M") and is_base(row)]
    of_mean = [row for row in dmsl if row["objective"].startswith("mean of")]
    lines = []

    def line(
        what: str,
        before: str,
        wanted: str,
        found: Sequence[float | None],
        form: str,
        holds: Any,
        *,
        against: bool = False,
    ) -> None:
        known = bool(found) and None not in found
        verdict = ("held" if all(map(holds, found, range(len(found)))) else "missed") if known else "not measured"
        if against and verdict == "held" and share < 1:
            verdict = f"open: {share:.0%} of the others asked"
        lines.append([what, before, wanted, " / ".join(number(value, form) for value in found) or "-", verdict])

    def by_size(of: Sequence[Row], score: str) -> list[float | None]:
        return [mean([row for row in of if row["given"] == given], score) for given in (8, 16, "all")]

    limits = ((0.82, 0.92, 0.98), (0.50, 0.35, 0.22))
    text = "dmsl 1,235M from two scales, 8 / 16 / all"
    line(
        f"rank, mean of 7, {text}",
        "0.59 / 0.86 / 0.98",
        ">= 0.82 / 0.92 / 0.98",
        by_size(of_mean, "rank"),
        ".2f",
        lambda x, i: x >= limits[0][i] - 0.005,
    )
    line(
        f"error / spread, mean of the metrics, {text}",
        "0.69 / 0.53 / 0.47",
        "<= 0.50 / 0.35 / 0.22",
        by_size(dmsl, "error"),
        ".2f",
        lambda x, i: x <= limits[1][i] + 0.005,
    )
    ratios = error_ratios(rows)
    over = [ratio for ratio in ratios.values() if ratio > 1.1]
    line(
        f"cells (of {len(ratios)}) worse than the best of the others in hindsight by more than a tenth; worst ratio",
        "-",
        "0",
        [float(len(over)), max(ratios.values())] if ratios else [],
        ".3g",
        lambda x, i: i == 1 or x == 0,
        against=True,
    )
    compared = comparison(rows)
    line(
        f"others (of {len(compared)}) that are better on average, by error or by rank",
        "-",
        "0",
        [float(sum(not (e[0] < e[1] and r[0] > r[1]) for _, e, r, *_ in compared.values()))] if compared else [],
        ".0f",
        lambda x, i: x == 0,
        against=True,
    )
    base = [row for row in ours if is_base(row)]
    by_metric = [
        mean([r for r in base if (r["question"], r["objective"]) == key], "covered")
        for key in dict.fromkeys((r["question"], r["objective"]) for r in base)
    ]
    known = [value for value in by_metric if value is not None]
    line(
        "95% intervals of differences hold, least and most of any metric and table",
        "15% to 100%",
        "90 to 98%",
        [min(known), max(known)] if known else [],
        ".0%",
        lambda x, i: 0.895 <= x < 0.985,
    )
    stated = [
        mean([r for r in base if r["question"] == q], "stated") for q in dict.fromkeys(r["question"] for r in base)
    ]
    known = [value for value in stated if value is not None]
    line(
        "stated over true error, least and most of any table",
        "0.2 to 2.8",
        "0.8 to 1.5",
        [min(known), max(known)] if known else [],
        ".2f",
        lambda x, i: 0.795 <= x < 1.505,
    )
    levels = [r["level"] for r in base if r["question"].startswith(("dmsl", "mixinglaws")) and r["level"] is not None]
    line(
        "level of dmsl and mixinglaws from two scales, mean and most of any cell",
        "1.5% (0.2 to 4%)",
        "1.2%, 2%",
        [float(np.mean(levels)), max(levels)] if levels else [],
        ".1%",
        lambda x, i: x <= (0.0125, 0.0205)[i],
    )
    swag = [r for r in base if r["question"].startswith("network") and "hellaswag" in r["objective"]]
    covered = mean(swag, "covered")
    line(
        "HellaSwag of the network from 20M and 60M: differences covered",
        "97%",
        ">= 90%",
        [] if covered is None else [covered],
        ".0%",
        lambda x, i: x >= 0.895,
    )
    lines.append(
        [
            "error with the same rows in another order",
            "0.25 to 0.46",
            "equal to 1%",
            "tests/core/test_backtest.py",
            "held",
        ]
    )
    return table(["target", "0.1 (other draws)", "wanted", "measured", ""], lines)


def error_ratios(rows: Sequence[Row]) -> dict[tuple[str, Any], float]:
    """By question and number given: our error over that of the best other method that predicts all hidden mixtures."""
    found = {}
    for key in dict.fromkeys((row["question"], row["given"]) for row in rows):
        of = [row for row in rows if (row["question"], row["given"]) == key]
        ours = {row["objective"]: row["error"] for row in of if row["method"] == SURROGATE}
        ratios = []
        for method in set(METHODS) - set(OURS):
            theirs = {row["objective"]: row["error"] for row in of if row["method"] == method and _whole(row)}
            both = [o for o in ours if theirs.get(o) is not None and ours[o] is not None]
            if both and len(both) == len(ours):
                ratios.append(np.mean([ours[o] for o in both]) / np.mean([theirs[o] for o in both]))
        if ratios:
            found[key] = float(max(ratios))
    return found


def _whole(row: Row) -> bool:
    return bool(row["n"] >= row["hidden"] - 0.5)


Pair = tuple[float, float]


def comparison(rows: Sequence[Row]) -> dict[str, tuple[int, Pair, Pair, float, Pair]]:
    """By other method, where both predict all hidden mixtures: cells, errors, ranks (ours first), wins, medians."""
    ours = {(r["question"], r["objective"], r["given"]): r for r in rows if r["method"] == SURROGATE}
    found = {}
    for method in METHODS:
        pairs = [
            (ours[key], r)
            for r in rows
            if r["method"] == method != SURROGATE
            and _whole(r)
            and (key := (r["question"], r["objective"], r["given"])) in ours
            and r["error"] is not None
        ]
        if pairs:
            errors, ranks = (
                tuple(float(np.mean([pair[i][score] for pair in pairs])) for i in (0, 1)) for score in ("error", "rank")
            )
            wins = float(np.mean([a["error"] < b["error"] for a, b in pairs]))
            medians = tuple(float(np.median([pair[i]["error"] for pair in pairs])) for i in (0, 1))
            found[method] = (len(pairs), errors, ranks, wins, medians)
    return {method: row for method, row in found.items() if method not in OURS} | {
        method: row for method, row in found.items() if method in OURS
    }


def beside(rows: Sequence[Row]) -> str:
    """The comparison as a table."""
    lines = [
        [method, str(n), *(f"{x:.2f}" for x in (*errors, *medians, *ranks)), f"{wins:.0%}"]
        for method, (n, errors, ranks, wins, medians) in comparison(rows).items()
    ]
    head = [
        "method",
        "cells of both",
        "error of ours",
        "error",
        "median of ours",
        "median",
        "rank of ours",
        "rank",
        "smaller error",
    ]
    return (
        "Over the metrics, questions and numbers of mixtures given of which both have predicted all hidden mixtures; "
        f"the last column is how often `{SURROGATE}` has the smaller error.\n\n" + table(head, lines)
    )


# -- figures

LABELS = {
    "rank": "rank correlation",
    "error": "error / spread",
    "stated": "stated / true error",
    "covered": "95% intervals hold",
}
LIMITS: Mapping[str, tuple[float, float]] = {"rank": (-0.1, 1.03), "error": (0.1, 3.0), "stated": (0.2, 5.0)}
WANTED = {"stated": (0.8, 1.5), "covered": (0.9, 0.98)}
LOGARITHMIC = ("error", "stated")


def draw(rows: Sequence[Row], path: Path, scores: tuple[str, str], methods: Sequence[str]) -> None:
    """Two scores by number of mixtures given, a column for each first question and a line for each method.

    Means are over the metrics that every method drawn there was asked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    base = [row for row in rows if is_base(row)]
    questions = list(dict.fromkeys(row["question"] for row in base))
    figure = Figure(figsize=(2.3 * max(3, len(questions)), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, max(1, len(questions)), squeeze=False, sharey="row", sharex="col")
    for j, question in enumerate(questions):
        of = [row for row in base if row["question"] == question and row["method"] in methods]
        common = asked_of_all(of)
        of = [row for row in of if row["objective"] in common]
        for ax, score in zip(axes[:, j], scores, strict=True):
            _panel(ax, of, score, methods)
        name = question.partition("_")[0].replace("-", ", ")
        axes[0, j].set_title(f"{name} ({len(common)} metrics)", fontsize="small")
        axes[1, j].set_xlabel("mixtures given", fontsize="small")
    for ax, score in zip(axes[:, 0], scores, strict=True):
        ax.set_ylabel(LABELS[score], fontsize="small")
    legend = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.savefig(path, dpi=130)


def asked_of_all(rows: Sequence[Row]) -> set[str]:
    """The objectives that each method in the rows was asked."""
    by_method: dict[str, set[str]] = {}
    for row in rows:
        by_method.setdefault(row["method"], set()).add(row["objective"])
    return set.intersection(*by_method.values()) if by_method else set()


def _panel(ax: Any, rows: Sequence[Row], score: str, methods: Sequence[str]) -> None:
    names = METHODS
    ticks = sorted({row["mixtures"] for row in rows})
    for method in methods:
        sizes = sorted({row["mixtures"] for row in rows if row["method"] == method and _whole(row)})
        of: Callable[[int], float | None] = lambda size, method=method: mean(  # noqa: E731
            [r for r in rows if r["method"] == method and r["mixtures"] == size and _whole(r)], score
        )
        points = [(size, value) for size in sizes if (value := of(size)) is not None]
        if points:
            style = {"color": "black", "lw": 2.2} if method == SURROGATE else {**_style(names.index(method)), "lw": 1.2}
            ax.plot(*zip(*points, strict=True), marker="o", ms=3, label=method, **style)
    if score in WANTED:
        ax.axhspan(*WANTED[score], color="0.9", zorder=0)
    ax.set(xscale="log", yscale="log" if score in LOGARITHMIC else "linear")
    if score in LIMITS:
        ax.set_ylim(*LIMITS[score])
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    if score in LOGARITHMIC:
        low, high = LIMITS[score]
        values = [value for value in (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0) if low <= value <= high]
        ax.set_yticks(values, [f"{value:g}" for value in values])
        ax.set_yticks([], minor=True)
    ax.tick_params(labelsize="small")
    ax.grid(alpha=0.3)
