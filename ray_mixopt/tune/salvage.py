"""Training that an experiment's log files know of and its state does not: how much was paid for and is not kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from pyarrow import fs
from ray.tune.utils import flatten_dict

from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import History
from ray_mixopt.core.trial import is_far
from ray_mixopt.io import snapshots
from ray_mixopt.tune.layout import Layout
from ray_mixopt.tune.reports import training_step

logger = logging.getLogger(__name__)

LOG = "result.json"  # that Tune's own logger writes for each trial: a JSON object a report


def unkept(
    filesystem: fs.FileSystem, folder: str, history: History, layout: Layout, written: float | None
) -> dict[str, float]:
    """The cost of what trials reported after a state was written, which is lost or will be trained again, by trial.

    Args:
        filesystem: where the experiment lies.
        folder: of the experiment.
        history: of the state.
        layout: of its configurations.
        written: when it was written, in seconds since 1970; None for "before all reports".
    """
    over = [run.trial_id for run in history if run.status not in ("running", "paused")]
    found: dict[str, float] = {}
    for entry in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        log = f"{entry.path}/{LOG}"
        if entry.type != fs.FileType.Directory or any(name in entry.base_name for name in over):
            continue
        if not filesystem.get_file_info(log).is_file:
            continue
        for report in _reports(filesystem, log):
            if written is not None and not report.get("timestamp", 0) >= int(written):  # which Tune cuts to seconds
                continue
            step, trial_id = training_step(report), str(report.get("trial_id"))
            try:
                run = history.trials.get(trial_id) or layout.trial(trial_id, layout.config_of(report), history.space)
            except ValueError:
                continue  # of another search
            if step is not None and is_far(step, (*history.space.rungs(run.scale), run.steps)):
                step = run.steps  # in another unit: paid for as it would have been
            if step is not None and step > run.reached and not run.evaluated:
                cost = cost_of(history.space, run, step, start=run.reached)
                found[trial_id] = max(cost, found.get(trial_id, 0.0))
    return found


def _reports(filesystem: fs.FileSystem, log: str) -> Iterator[dict[str, Any]]:
    """The reports in a log, flattened; a kill may have torn one."""
    try:
        content = snapshots.content(filesystem, log)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): what that trial trained is not counted.", log, error)
        return
    for line in content.splitlines():
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(report, dict):
            yield flatten_dict(report)
