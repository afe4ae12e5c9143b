"""States of searches in files: read without Ray, and those of version 0.1 still.

``states_0_1`` was written by version 0.1: small searches in mid-course.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_mixopt import MixOptSearcher, MixtureOptimizer, MixtureSpace
from ray_mixopt.io import searches
from ray_mixopt.io.search_state import SearchState

ROOT = Path(__file__).parents[2]
OLD = Path(__file__).parent / "states_0_1"

ANSWER_FROM_FILES = """
import sys
from ray_mixopt.io import searches

for path in sys.argv[1:]:
    optimizer = searches.load(path)
    print(len(optimizer.history), sum(optimizer.recommend().mixture.values()))
print(sorted(name for name in sys.modules if name.split(".")[0] == "ray"))
"""


def test_answers_are_read_without_ray(space: MixtureSpace, tmp_path: Path) -> None:
    experiment, replay = tmp_path / "replay" / "experiment", tmp_path / "replay"
    experiment.mkdir(parents=True)
    searcher = MixOptSearcher(strategy="random", seed=5)
    searcher.set_search_properties("loss", "min", space.param_space())
    for name in ("a", "b"):
        config = searcher.suggest(name)
        searcher.on_trial_complete(name, {"step": config["steps"], "loss": config["mixture"]["book"]})
        searcher.save_to_dir(str(experiment), "2026-01-01")
    (experiment / "searcher-state-2026-01-02.json").write_text('{"version"')  # torn
    paths = [experiment, replay, experiment / "previous-searcher-state-2026-01-01.json", tmp_path / "optimizer.json"]
    searches.save(searcher.optimizer, paths[-1])
    child = subprocess.run(
        [sys.executable, "-c", ANSWER_FROM_FILES, *map(str, paths), experiment.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["2", "1.0", "2", "1.0", "1", "1.0", "2", "1.0", "2", "1.0", "[]"]
    assert child.stderr.count("Went on from") == 3, "the torn file is passed over in a folder"


def test_a_search_that_has_not_begun_holds_nothing(tmp_path: Path) -> None:
    MixOptSearcher().save_to_dir(str(tmp_path), "2026-01-01")
    with pytest.raises(ValueError, match="holds nothing yet. No search space has been defined"):
        searches.load(tmp_path)
    with pytest.raises(ValueError, match="No readable searcher state at .*: there is none"):
        searches.load(Path(__file__).parent)


@pytest.mark.parametrize("strategy", ["default", "objective", "paper-tv", "random"])
def test_a_searcher_of_0_1_goes_on(strategy: str) -> None:
    path = OLD / f"searcher-{strategy}.json"
    state = json.loads(path.read_text())
    searcher = MixOptSearcher.load(path)
    history = searcher.optimizer.history
    assert len(history) == len(state["history"]["trials"]) and history.arrivals
    assert searches.load(path).history.state_dict() == history.state_dict()
    config = searcher.suggest("next")
    layout = searcher.layout
    assert set(config) == {layout.mixture, layout.scale, layout.steps, *(["lr"] if strategy != "objective" else [])}
    if strategy == "random":  # as 0.1 did
        assert config["mixture"] == {"web": 0.6133603742192395, "code": 0.3866396257807606}
        assert config["lr"] == 0.00017495278668713685
    other = MixOptSearcher()
    other.load_state_dict(json.loads(json.dumps(searcher.state_dict())))
    assert other.state_dict() == searcher.state_dict()


def test_points_that_waited_in_0_1_are_taken_in() -> None:
    searcher = MixOptSearcher.load(OLD / "searcher-waiting.json")
    space = MixOptSearcher.load(OLD / "searcher-random.json").optimizer.space
    searcher.set_search_properties("loss", "min", space.param_space())
    (run,) = searcher.optimizer.history
    assert run.evaluated and run.observations == {10: {"loss": 2.6}, 20: {"loss": 2.4}}


@pytest.mark.parametrize("path", sorted(OLD.glob("optimizer-*.json")), ids=lambda path: path.stem)
def test_an_optimizer_of_0_1_goes_on(path: Path) -> None:
    state = json.loads(path.read_text())
    if state.get("continuation") is False:  # its paused runs are over
        for run in state["history"]["trials"]:
            run["status"] = "done" if run["status"] == "paused" else run["status"]
    optimizer = MixtureOptimizer.from_state_dict(state)
    known = state["history"] | {"n_apart": 0}  # which 0.1 did not count
    assert optimizer.history.state_dict() == known
    assert searches.load(path).history.state_dict() == known
    suggestion = optimizer.ask("next")
    assert suggestion.mixture["web"] >= 0.1 - 1e-9 and sum(suggestion.mixture.values()) == pytest.approx(1)
    if path.stem == "optimizer-random":
        assert suggestion.mixture == {"web": 0.1693965812806606, "code": 0.8306034187193394}
    optimizer.recommend()


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (("optimizer",), "optimizer"),
        (("optimizer", "history"), "history"),
        (("searcher",), "state of a searcher"),
        (("searcher", "settings"), "settings of a search"),
        (("searcher", "evaluated", 0), "evaluated point"),
    ],
    ids=lambda part: "" if isinstance(part, str) else ".".join(map(str, part)),
)
def test_a_field_that_nobody_knows_is_an_error(space: MixtureSpace, place: tuple[str | int, ...], what: str) -> None:
    waiting = MixOptSearcher(points_to_evaluate=None, strategy="random")
    waiting.add_evaluated_point({"mixture": dict.fromkeys(space.domains, 1.0), "scale": "S", "steps": 10}, 1.0)
    states = {"optimizer": MixtureOptimizer(space).state_dict(), "searcher": waiting.state_dict()}
    state: Any = states
    for key in place:
        state = state[key]
    state["colour"] = "red"
    with pytest.raises(ValueError, match=f"Malformed {what}: it has the unknown fields colour; known are "):
        if place[0] == "optimizer":
            MixtureOptimizer.from_state_dict(states["optimizer"])
        else:
            SearchState.from_state_dict(states["searcher"])
