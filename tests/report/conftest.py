"""One search that has everything a report shows, and its report; made once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from worlds import given, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.analysis.result import Course, Known
from ray_mixopt.analysis.study import Study
from ray_mixopt.core.objective import Guardrail, Objective
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.io import searches
from ray_mixopt.report.page import write_report

WAY = "ray_mixopt.analysis.study.N_POINTS"  # of the way there, each of which takes a fit
HOSTILE = "<img src=x onerror=alert(1)>"
DOMAINS = ("web", "code & <math>", "books", HOSTILE)


def metrics(mixture, scale: str, step: int) -> dict[str, float]:
    w = np.array([mixture[name] for name in DOMAINS])
    size = 0.5 * (scale == "S") + 0.2 * (step == 100)
    return {
        "loss": float(2.0 + size + 2.0 * np.square(w - [0.1, 0.6, 0.2, 0.1]).sum()),
        "acc": float(0.6 - size / 5 - 0.3 * np.square(w - [0.5, 0.1, 0.4, 0.0]).sum()),
    }


def searched() -> MixtureOptimizer:
    """Paid and given runs, a paused, a diverged, a failed and a lost one; two metrics, a guardrail and a cap."""
    space = two_scales(
        *DOMAINS,
        token_supply=dict(zip(DOMAINS, (70e9, 20e9, 5e9, 5e9), strict=True)),
        upper={"code & <math>": 0.3},
    )
    objective = Objective(
        weights={"loss": 1.0, "acc": 0.5},
        directions={"acc": "max"},
        guardrails=(Guardrail(metric="acc", mode="max", tolerance=0.05, baseline="uniform"),),
    )
    optimizer = MixtureOptimizer(space, objective=objective, strategy="default", budget=1e4, seed=1)
    given(optimizer, 6, metrics, cells=[("S", 1000), ("L", 1000)], among=replace(space, upper={}))
    for number in range(9):
        run = optimizer.ask()
        assert run is not None
        for step in (s for s in space.steps if s <= run.steps):
            seen = metrics(run.mixture, run.scale, step)
            optimizer.tell(run.trial_id, step, seen | ({"loss": float("nan")} if number == 3 else {}))
        if number != 5:
            optimizer.finish(run.trial_id, failed=number == 4)
    optimizer.history[run.trial_id].status = "lost"
    optimizer.history.unkept = 50.0
    optimizer.history.note("The disk <b>of the storage</b> was full.</script><script>alert(1)</script>")
    return optimizer


@pytest.fixture(scope="session")
def optimizer() -> MixtureOptimizer:
    return searched()


@pytest.fixture(scope="session")
def report(optimizer: MixtureOptimizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report."""
    folder = tmp_path_factory.mktemp("report")
    searches.save(optimizer, folder / "history.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WAY, 5)
        write_report(Study(optimizer, "a <b>search</b>"), folder)
    return folder


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Six scales with eleven lengths of their own each, and 16 domains with long names, of which one is far the best.

    The truth is known, as that of a replay.
    """
    names = tuple(f"a domain with a rather long name {i}" for i in range(16))
    scales = tuple(Scale(f"<i>a scale</i> of {10**k:,}M", 10.0**k, 10.0 ** (6 + k)) for k in range(6))
    lengths = {scale.name: tuple(1000 * (k + 2) * (i + 1) + k for i in range(11)) for k, scale in enumerate(scales)}
    rungs = sorted({step for own in lengths.values() for step in own})
    space = MixtureSpace(domains=names, scales=scales, steps=rungs)
    metric = "val_loss/all of the text </script><script>alert(1)</script>"
    optimizer = MixtureOptimizer(space, objective={metric: 1.0}, strategy="random")  # which buys nothing
    monkeypatch.setattr(WAY, 3)
    mixtures = space.sample(3, np.random.default_rng(0), 0.3)
    for scale in scales:
        for w in mixtures:
            run = optimizer.accept(Proposal(mixture=w, scale=scale.name, steps=lengths[scale.name][-1]))
            for step in lengths[scale.name]:
                loss = 2 - 0.1 * np.log10(scale.cost_per_step * step) + np.square(w - np.eye(16)[0]).sum()
                optimizer.tell(run.trial_id, step, {metric: float(loss)})
            optimizer.finish(run.trial_id)
    points = [
        Known(mixture=space.named(w), true=1.5 - cost, regret=0.3 - cost / 5, full_runs=cost)
        for cost, w in zip((0.01, 0.1, 1.0), mixtures, strict=True)
    ]
    course = Course(
        metric=metric, mode="min", recommended=points[-1], uniform=points[0], best=0.4, points=tuple(points), saving=""
    )
    return Study(optimizer, "crowded", course=course)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Headless Chromium; .ci/run installs it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def load(path: Path) -> dict:
    return json.loads(path.read_text())
