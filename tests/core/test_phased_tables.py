"""Runs of several phases in tables: launched by hand, read, exported, and asked what to train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from worlds import DOMAINS, search, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, Phase
from ray_mixopt.cli.main import main
from ray_mixopt.io.by_hand import ByHand
from ray_mixopt.io.export import tidy, write_olmix
from ray_mixopt.io.runs import Source, read_runs
from ray_mixopt.simulators import RunTable
from ray_mixopt.strategies.details import binding
from tests.core.test_phased import LATE, PHASES, loss, make

SPACE = """
domains: [web, code, math]
scales: [{name: S, cost_per_step: 0.1, parameters: 1e7}, {name: L, cost_per_step: 1, parameters: 1e8}]
steps: [100, 1000]
phases:
  - {name: main, fraction: 0.8}
  - {name: anneal, fraction: 0.2, upper: {web: 0.5}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def said(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def row(run: dict, step: int) -> dict:
    """The row of a run in a table."""
    shares = {f"mixture/{phase}/{name}": share for phase, of in run["mixture"].items() for name, share in of.items()}
    return {"run": run["run"], "scale": run["scale"], "step": step} | shares


def test_runs_of_two_phases_are_launched_by_hand(folder: Path) -> None:
    (folder / "job.sh.j2").write_text(
        "train --mixture {{ blend }} --late {{ mixture.anneal.math }} --to {{ steps }} {{ from_step }}\n"
    )
    ask = ("suggest", "--space", "space.yaml", "--weight", "loss=1", "--budget", "2000", "-n", "4")
    rows = []
    for round_ in range(2):
        known = ("--from", "runs.csv") if rows else ()
        answer = json.loads(said(*ask, *known, "--json", "--launch", "job.sh.j2", "--out", "jobs"))
        assert answer["round"] == round_ + 1 and len(answer["runs"]) == 4
        assert not any(run["parent"] for run in answer["runs"]), "the template does not heed it"
        for run in answer["runs"]:
            assert json.loads(Path(run["blend"]).read_text()).keys() == {"main", "anneal"}
            assert f"--late {run['mixture']['anneal']['math']}" in Path(run["launch"]).read_text()
            rows += [
                row(run, z) | {"loss": loss(run["mixture"], run["scale"], z)} for z in (100, 1000) if z <= run["steps"]
            ]
        pd.DataFrame(rows).to_csv("runs.csv", index=False)
    text = said(*ask, "--from", "runs.csv")
    assert "Round 3" in text and "8 runs finished" in text and "  anneal: web 0." in text
    text = said("recommend", "--space", "space.yaml", "--from", "runs.csv", "--weight", "loss=1")
    assert "mixtures of main and anneal" in text and "math in anneal: " in text.split("As good within")[1]


def test_by_hand_a_run_begins_at_the_checkpoint_of_another(folder: Path) -> None:
    """Where the template says at which; its row is that of its rung alone."""
    (folder / "job.sh.j2").write_text(
        "train {{ blend }} --to {{ steps }} --from-step {{ from_step }}"
        "{% if parent %} --begin {{ parent }} {{ parent_folder }}{% endif %}\n"
    )
    ask = ("suggest", "--space", "space.yaml", "--weight", "loss=1", "--budget", "4000", "-n", "9", "--json")
    rows, suggested = [], {}
    for _ in range(5):
        known = ("--from", "runs.csv") if rows else ()
        answer = json.loads(said(*ask, *known, "--launch", "job.sh.j2", "--out", "jobs"))
        assert answer["spent"] == pytest.approx(sum(run["cost"] for run in suggested.values()))
        for run in answer["runs"]:
            suggested[run["run"], run["steps"]] = run
            passed = [z for z in (100, 1000) if run["from_step"] < z <= run["steps"]]
            rows += [row(run, z) | {"loss": loss(run["mixture"], run["scale"], z)} for z in passed]
        pd.DataFrame(rows).to_csv("runs.csv", index=False)
    branches = [run for run in suggested.values() if run["parent"]]
    assert branches, "of some rounds"
    for run in branches:
        border = round(0.8 * run["steps"])
        assert run["cost"] == pytest.approx((run["steps"] - border) * {"S": 0.1, "L": 1.0}[run["scale"]])
        begun = f"--from-step {border} --begin {run['parent']} {Path('jobs').resolve()}/{run['parent']}\n"
        assert Path(run["launch"]).read_text().endswith(begun)
    known = ByHand.from_dict(json.loads(Path("by-hand.json").read_text()))
    assert [run.parent for run in known.runs if run.parent] == [run["parent"] for run in branches]
    for change in ({"begins": 0}, {"begins": 1000}, {"parent": "hand-9999"}):
        wrong = tuple(replace(run, **change) if run.parent else run for run in known.runs)
        with pytest.raises(ValueError, match="cannot begin at step"):
            ByHand.from_dict(replace(known, runs=wrong).to_dict())


def test_a_table_does_not_say_the_fractions_of_its_phases(folder: Path) -> None:
    run = {"run": "a", "scale": "S", "mixture": LATE}
    pd.DataFrame([row(run, 100) | {"loss": 2.0}]).to_csv("runs.csv", index=False)
    known = Source(cost={"S": 1.0}, phases=PHASES)
    assert read_runs("runs.csv", known).space.phases == PHASES
    for source, sentence in (
        (Source(), r"shares of the phases main, anneal, and the space has none: give the space .* --space FILE"),
        (Source(phases=(Phase("a", 0.5), Phase("b", 0.5))), "and the space has a, b"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_runs("runs.csv", source)
    with pytest.raises(ValueError, match="a replay is of runs of one mixture"):
        RunTable.read("runs.csv")
    pd.read_csv("runs.csv").drop(columns="mixture/main/web").to_csv("short.csv", index=False)
    with pytest.raises(ValueError, match="no column of main/web: add it"):
        read_runs("short.csv", known)


def test_an_exported_table_is_read_as_it_was(folder: Path) -> None:
    optimizer = MixtureOptimizer(make(), objective={"loss": 1.0}, seed=1)
    search(optimizer, 5, lambda *run: {"loss": loss(*run)})
    table = tidy(optimizer.history)
    order = [name for name in table.columns if not name.startswith("mixture/main")]
    order += [name for name in table.columns if name.startswith("mixture/main")]  # anneal first
    table[order].to_csv("runs.csv", index=False)
    again = read_runs("runs.csv", Source(phases=PHASES))
    assert again.space.phase_names == ("main", "anneal")
    np.testing.assert_allclose(again.mixtures(), optimizer.history.mixtures(), atol=1e-12)
    with pytest.raises(ValueError, match="olmix has one mixture for the whole of a run"):
        write_olmix(optimizer.history, folder)


def test_limits_of_phases_have_a_price() -> None:
    space = make(
        Phase("main", 0.8, domains=("web", "code"), lower={"web": 0.4}),
        Phase("anneal", 0.2, upper={"math": 0.6}, groups=()),
        token_supply={"code": 20.0},
        target_tokens=100.0,
    )
    optimizer = MixtureOptimizer(space, seed=1)
    held = space.mixture(
        {"main": {"web": 0.8, "code": 0.2, "math": 0}, "anneal": {"web": 0.2, "code": 0.2, "math": 0.6}}
    )
    found = {limit.name: limit.relaxed.space for limit in binding(optimizer.problem, held)}
    assert list(found) == [
        "math in main at most 0.00%",
        "math in anneal at most 60.00%",
        "code at most 20.00% of all phases (at most 1 epochs)",
    ]
    assert found["math in main at most 0.00%"].simplex.upper[2] == 1
    assert found["math in anneal at most 60.00%"].simplex.upper.tolist() == [1, 1, 0, 1, 1, 1]
    assert MixtureSpace.from_dict(space.to_dict()) == space and two_scales().phases == ()
    search(optimizer, 6, loss)
    details = optimizer.recommend(details=True).details
    assert list(details.ranges) == [f"{name} in {phase}" for phase in ("main", "anneal") for name in DOMAINS]
    assert all(0 <= low <= high <= 1 for low, high in details.ranges.values())
