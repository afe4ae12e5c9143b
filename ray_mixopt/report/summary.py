"""The result of a replay: one JSON-able dict, and the same as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ray_mixopt.analysis.truth import Truth
from ray_mixopt.core.recommendation import Recommendation

if TYPE_CHECKING:
    from ray_mixopt.simulators.replay import Outcome, Replay

FORMAT_VERSION = 1


def summarise(replay: Replay, outcome: Outcome, trajectory: Sequence[Recommendation]) -> dict[str, Any]:
    """What was searched, found and paid, JSON-able.

    ``true`` values and regrets are those without noise, None where a mixture was not logged at the target.

    Args:
        replay: the settings.
        outcome: of the search.
        trajectory: its answers along the way, for the picture.
    """
    space, history = replay.source.space, outcome.optimizer.history
    recommendation = outcome.optimizer.recommend()
    truth = Truth(replay.source, replay.metric, replay.mode)
    runs = [trial for trial in history if not trial.evaluated]
    spent = history.spent_by_scale()
    return {
        "version": FORMAT_VERSION,
        "source": replay.source.name,
        "metric": replay.metric,
        "mode": replay.mode,
        "strategy": replay.strategy,
        "budget": replay.budget,
        "concurrency": replay.concurrency,
        "seed": replay.seed,
        "target": {"scale": space.target_scale, "steps": space.target_steps, "cost": space.target_cost},
        "recommended": _answer(space.mixture(recommendation.mixture), recommendation, "predicted", truth),
        "uniform": _answer(space.uniform(), recommendation, "uniform", truth),
        "best_known": truth.best,
        "spent": recommendation.spent,
        "target_runs": recommendation.target_runs,
        "value_of_next_run": recommendation.value_of_next_run,
        "calibration": None if recommendation.calibration is None else str(recommendation.calibration),
        "by_scale": [
            {"scale": name, "runs": sum(trial.scale == name for trial in runs), "spent": spent[name]}
            for name in space.scale_names
        ],
        "runs": len(runs),
        "continued": history.n_asked - len(runs),
        "diverged": recommendation.diverged,
        "failed": len(outcome.errors),
        "interrupted": outcome.interrupted,
        "seconds": outcome.seconds,
        "trajectory": [
            {"spent": point.spent} | _answer(space.mixture(point.mixture), point, "predicted", truth)
            for point in trajectory
        ],
    }


def _answer(mixture: np.ndarray, recommendation: Recommendation, which: str, truth: Truth) -> dict[str, Any]:
    return {
        "mixture": dict(zip(recommendation.mixture, mixture.tolist(), strict=True)),
        "predicted": recommendation.to_dict()[which],
        "true": truth.value(mixture),
        "regret": truth.regret(mixture),
    }


def tables(summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The same for people."""
    target, columns = summary["target"], [summary["recommended"], summary["uniform"]]
    answer = Table(
        title=f"{summary['metric']} ({summary['mode']}) at {target['scale']} x {target['steps']:,} steps",
        title_justify="left",
    )
    answer.add_column("share of tokens")
    answer.add_column("recommended", justify="right", style="bold")
    answer.add_column("uniform", justify="right")
    for domain in columns[0]["mixture"]:
        answer.add_row(domain, *(f"{column['mixture'][domain]:.1%}" for column in columns))
    answer.add_section()
    answer.add_row("predicted (95%)", *(_interval(c["predicted"]) for c in columns))
    answer.add_row("true", *(_number(c["true"]) for c in columns))
    answer.add_row("regret", *(_number(c["regret"], 3) for c in columns))
    yield answer

    money = Table(title="Where the money went", title_justify="left")
    for name in ("scale", "runs", "cost", "share"):
        money.add_column(name, justify="left" if name == "scale" else "right")
    for row in summary["by_scale"]:
        share = row["spent"] / summary["spent"] if summary["spent"] else 0.0
        money.add_row(row["scale"], str(row["runs"]), f"{row['spent']:.4g}", f"{share:.1%}")
    money.add_section()
    money.add_row("all", str(summary["runs"]), f"{summary['spent']:.4g}", "")
    yield money

    lines = [
        "Regret: 0 is the best mixture there is, 1 the median random one.",
        f"Spent {summary['spent']:.4g} of {summary['budget']:.4g}, {summary['target_runs']:.2f} times a full run.",
        f"{summary['runs']} runs and {summary['continued']} continuations in {summary['seconds']:.0f} s.",
    ]
    if summary["value_of_next_run"] is not None:
        lines.append(f"Expected gain of the next run: {summary['value_of_next_run']:.2g}.")
    if summary["calibration"] is not None:
        lines.append(f"Calibration: {summary['calibration']}.")
    lines += [f"{summary[key]} runs {key}." for key in ("diverged", "failed") if summary[key]]
    yield Text("\n".join(lines))


def _interval(prediction: Mapping[str, float] | None) -> str:
    if prediction is None:
        return "-"
    return f"{prediction['mean']:.4f} [{prediction['low']:.4f}, {prediction['high']:.4f}]"


def _number(value: float | None, digits: int = 4) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
