"""Branches under Tune: one main run, several children of its checkpoint, and what is left of them after a kill."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import branching
import pytest
from branching import BUDGET, SPACE, check_tree, make_tuner, paid, searcher
from curve import load
from killing import kill_after, paused_stayed_paused, printed, saved
from ray import tune
from ray.tune.experiment import Trial
from replay_driver import NAME

from ray_mixopt import MixOptScheduler, MixOptSearcher
from ray_mixopt.core.branches import cost_of
from ray_mixopt.core.history import History
from ray_mixopt.testing import check_history


def tree(history: History) -> list[Any]:
    """What the history knows but for the names of its runs."""
    numbers = {name: i for i, name in enumerate(history.trials)}
    parents = [run.branch and (numbers[run.branch.parent], run.branch.from_step, run.branch.steps) for run in history]
    return [(r.mixture, r.scale, r.steps, r.status, p) for r, p in zip(history, parents, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, History]:
    """A search that went through, in its folder."""
    folder, search = tmp_path_factory.mktemp("undisturbed"), searcher()
    assert not make_tuner(search, str(folder)).fit().errors
    return folder, search.optimizer.history


def check_search(history: History) -> None:
    """One checkpoint has several children, at the last rung, too; and what was trained is what is paid."""
    check_history(history, budget=BUDGET)
    check_tree(history)
    assert max(Counter(run.branch.parent for run in history if run.branch).values()) > 1
    assert any(run.branch and run.branch.steps == 40 for run in history)
    assert history.spent == pytest.approx(paid(history)) and history.spent > 0.8 * BUDGET
    assert not any(run.status == "paused" for run in history), "the search is over"


def test_children_begin_at_the_checkpoint_of_their_parent(undisturbed: tuple[Path, History]) -> None:
    check_search(undisturbed[1])


def test_the_last_checkpoint_is_not_replaced_while_a_child_needs_it(tmp_path: Path) -> None:
    search = searcher()
    assert not make_tuner(search, str(tmp_path), at_once=3, num_to_keep=1).fit().errors
    check_search(search.optimizer.history)


class Interrupted(tune.Callback):
    """Ends Tune's loop with an error after some reports, once, though a restored Tuner has it as it was made."""

    def __init__(self, reports: int, mark: Path) -> None:
        self.left, self.mark = reports, mark

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        self.left -= 1
        if not self.left and not self.mark.exists():
            self.mark.touch()
            raise RuntimeError("interrupted")


def check_restored(before: History, end: dict[str, Any], undisturbed: History) -> None:
    history = History.from_state_dict(end["history"])
    assert any(run.branch for run in before) and len(before.arrivals) < len(history.arrivals)
    assert end["errors"] == 0 and paused_stayed_paused(before, end)
    check_search(history)
    assert tree(history) == tree(undisturbed)
    assert history.spent == undisturbed.spent


def test_an_interrupted_search_goes_on_with_its_tree(
    tmp_path: Path,
    undisturbed: tuple[Path, History],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")
    with pytest.raises(Exception, match="interrupted"):
        make_tuner(searcher(), str(tmp_path), callbacks=[Interrupted(14, tmp_path / "interrupted")]).fit()
    before = saved(tmp_path)
    capsys.readouterr()
    branching.finish(str(tmp_path))
    check_restored(before, printed(capsys.readouterr().out), undisturbed[1])


@pytest.mark.slow
def test_kill_9_twice_keeps_the_tree(
    tmp_path: Path, undisturbed: tuple[Path, History], start_driver, capsys: pytest.CaptureFixture[str]
) -> None:
    first = kill_after(start_driver("start", tmp_path, script="branching.py"), tmp_path, 8)
    driver = start_driver("restore", tmp_path, script="branching.py")
    second = kill_after(driver, tmp_path, len(first.arrivals) + 6)
    capsys.readouterr()
    branching.finish(str(tmp_path))
    check_restored(second, printed(capsys.readouterr().out), undisturbed[1])


def test_a_trial_that_the_state_does_not_know_keeps_its_place(undisturbed: tuple[Path, History]) -> None:
    known = load(undisturbed[0] / NAME)
    history, layout = known.optimizer.history, known.layout
    child = next(run for run in history if run.branch)
    config = {
        "mixture": SPACE.named(child.mixture),
        "scale": child.scale,
        "steps": child.steps,
        "branch": {**vars(child.branch), "checkpoint": "x"},
    }
    flat = {f"config/mixture/{p}/{d}": share for p, of in config["mixture"].items() for d, share in of.items()}
    flat |= {f"config/{key}": config[key] for key in ("scale", "steps")}
    flat |= {f"config/branch/{key}": value for key, value in config["branch"].items()}
    assert layout.config_of(flat) == config
    again = layout.adopted("again", config, history)
    assert again.branch == child.branch
    assert cost_of(SPACE, again, child.steps) == cost_of(SPACE, child, child.steps)
    config["branch"]["parent"] = "unknown"
    assert layout.adopted("alone", config, history).branch is None


class Unaware(branching.Trainer):
    """Trains all its steps, whatever it is told of a parent."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return super().reset_config({key: value for key, value in new_config.items() if key != "branch"})


def test_what_begins_anew_all_the_same_is_paid_for_so(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(branching, "Trainer", Unaware)
    search = searcher()
    assert not make_tuner(search, str(tmp_path)).fit().errors
    history = search.optimizer.history
    check_tree(history)
    anew = [run for run in history if run.branch is None and len(run.observations) > 1]
    assert anew and "it trains, and pays for, all its steps" in caplog.text


def test_the_trainable_of_the_page_branches(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/phases.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if "optimizer.tell" not in block:
            exec(compile(block.split("optimizer = ")[0], "phases.md", "exec"), names)
    main, late = {"web": 0.8, "code": 0.1, "math": 0.1}, {"web": 0.0, "code": 0.5, "math": 0.5}
    points = [
        {"mixture": {"main": main, "anneal": {**late, "code": 1 - x, "math": x}}, "scale": "60M", "steps": 2000}
        for x in (0.1, 0.4, 0.7)
    ]
    space = names["both"]
    search = MixOptSearcher(space, points_to_evaluate=points)
    tuner = tune.Tuner(
        names["Phased"],
        param_space=space.param_space(),
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=search,
            scheduler=MixOptScheduler(),
            num_samples=3,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    assert not tuner.fit().errors
    runs = list(search.optimizer.history)
    assert [run.branch and (run.branch.parent, run.branch.from_step) for run in runs] == [
        None,
        *[(runs[0].trial_id, 1600)] * 2,
    ]
    losses = [run.observations[2000]["loss"] for run in runs]
    assert losses == pytest.approx([4 - (1600 * 0.8 + 400 * x) / 2000 for x in (0.1, 0.4, 0.7)])
