"""Killed drivers, damaged files, and what comes back."""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import replay_driver
from curve import Curve, curve_tuner, load
from killing import kill_after, paused_stayed_paused, printed, saved
from ladder import LadderStrategy, observations, wait_until
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from worlds import TINY

import ray_mixopt
from ray_mixopt import MixOptScheduler, MixOptSearcher, MixtureSpace
from ray_mixopt.core.history import History
from ray_mixopt.io.lease import LeaseError
from ray_mixopt.tune import storage

BUDGET = 100.0
SEED = 11
StartDriver = Callable[..., subprocess.Popen]


@pytest.mark.slow
def test_kill_9_twice_and_restore(
    tmp_path: Path, start_driver: StartDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=SEED)
    replay_driver.make_tuner(searcher, str(tmp_path / "whole"), concurrency=1).fit()
    whole = searcher.optimizer.history

    folder = tmp_path / "killed"
    kills = [kill_after(start_driver("start", folder, 1, BUDGET, SEED), folder, 5)]
    kills.append(kill_after(start_driver("restore", folder, 1, BUDGET, SEED), folder, len(kills[0].arrivals) + 5))
    assert len(kills[0].arrivals) < len(kills[1].arrivals) < len(whole.arrivals)
    capsys.readouterr()
    replay_driver.finish(str(folder))
    end = printed(capsys.readouterr().out)
    history = History.from_state_dict(end["history"])

    assert end["errors"] == 0 and paused_stayed_paused(kills[1], end)
    assert observations(history) == observations(whole)
    assert len(set(history.arrivals)) == len(history.arrivals)
    assert [(run.steps, run.status) for run in history] == [(run.steps, run.status) for run in whole]
    assert history.n_asked == whole.n_asked and history.spent == whole.spent <= BUDGET


def test_kill_9_of_four_trials_at_once(
    tmp_path: Path, start_driver: StartDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = start_driver("start", tmp_path, 4, BUDGET, SEED)
    wait_until(lambda: saved(tmp_path), timeout_s=120, what="a first snapshot")
    with pytest.raises(LeaseError, match=f"is being searched by process {driver.pid} on .*two drivers"):
        ray_mixopt.restore(tmp_path / replay_driver.NAME, replay_driver.trainable())
    killed = kill_after(driver, tmp_path, 8)
    replay_driver.finish(str(tmp_path))
    end = printed(capsys.readouterr().out)
    history = History.from_state_dict(end["history"])
    assert end["errors"] == 0 and paused_stayed_paused(killed, end)
    assert observations(history)[: len(killed.arrivals)] == observations(killed)
    assert len(set(history.arrivals)) == len(history.arrivals) > len(killed.arrivals)
    # Tune saves the searcher before its trials: a kill between the two leaves one run that Tune does not know.
    assert sorted(run.status for run in history if run.status != "done") in ([], ["lost"])
    assert BUDGET / 2 < history.spent <= BUDGET


# -- damage


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment with two sessions of files, and all that is kept, however fast it was."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")
        patch.setattr(storage, "PERIOD_S", 0.0)
        patch.setattr(storage, "SHARE", math.inf)
        curve_tuner(folder, MixOptSearcher(strategy=LadderStrategy, budget=100), num_samples=-1).fit()
    for kind in ("experiment_state", "search_gen_state", "searcher-state"):
        file = newest(folder / "run", kind)
        file.with_name(f"{kind}-2001-01-01_00-00-00.json").write_bytes(file.read_bytes())
    return folder / "run"


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged; under a name of its own, since Tune's local cache goes by the name."""
    return Path(shutil.copytree(finished, tmp_path / f"copy-{tmp_path.name}"))


def newest(folder: Path, kind: str) -> Path:
    return max(folder.glob(f"{kind}-*.json"))


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["experiment_state", "search_gen_state"])
def test_a_damaged_file_of_tune_gives_way_to_its_copy(
    experiment: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    broken = newest(experiment, kind)
    whole, before = broken.read_bytes(), load(experiment).optimizer.history
    cut(broken)
    with caplog.at_level(logging.WARNING):
        tuner = ray_mixopt.restore(experiment, Curve)
    assert f"{broken.name} is damaged" in caplog.text and f"copy-of-{broken.name} serves, written 20" in caplog.text
    assert broken.with_name(f"damaged-{broken.name}").exists()
    if kind == "experiment_state":
        assert broken.read_bytes() == whole
    results = tuner.fit()
    history = load(experiment).optimizer.history
    assert len(results) == len(history) == len(before) and observations(history) == observations(before)


def test_a_file_and_the_copy_torn_by_the_same_kill_give_way_to_the_one_that_is_kept(experiment: Path) -> None:
    before = load(experiment).optimizer.history
    broken = newest(experiment, "search_gen_state")
    for file in (broken, broken.with_name(f"copy-of-{broken.name}")):
        file.write_bytes(b"")
    results = ray_mixopt.restore(experiment, Curve).fit()
    history = load(experiment).optimizer.history
    assert len(results) == len(history) == len(before) and observations(history) == observations(before)


@pytest.mark.parametrize("kind", ["experiment_state", "search_gen_state"])
def test_a_damaged_file_and_copy_give_way_to_the_session_before(
    experiment: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    broken = newest(experiment, kind)
    cut(broken)
    cut(broken.with_name(f"copy-of-{broken.name}"))
    cut(experiment / "kept" / broken.name)
    with caplog.at_level(logging.WARNING):
        tuner = ray_mixopt.restore(experiment, Curve)
    assert f"{broken.name} is damaged" in caplog.text and "are lost" in caplog.text
    assert not broken.exists() and broken.with_name(f"damaged-{broken.name}").exists()
    results = tuner.fit()
    history = load(experiment).optimizer.history
    assert len(results) == len(history) and all(run.status == "done" for run in history)


@pytest.mark.parametrize("status", ["TERMINATED", "PAUSED"])
def test_trials_that_an_older_searcher_state_lacks_are_taken_over(experiment: Path, status: str) -> None:
    whole = load(experiment).optimizer.history
    state = json.loads(newest(experiment, "searcher-state").read_text())
    history = state["history"]
    gone = {trial["trial_id"] for trial in history["trials"][-2:]}
    history["trials"] = history["trials"][:-2]
    history["arrivals"] = [arrival for arrival in history["arrivals"] if arrival[0] not in gone]
    newest(experiment, "searcher-state").write_text(json.dumps(state))
    set_status(experiment, gone, status)
    unfinish(experiment)
    ray_mixopt.restore(experiment, Curve).fit()
    history = load(experiment).optimizer.history
    for name in gone:
        assert history[name].reached == whole[name].reached and history[name].status == "done"
        assert history[name].mixture == whole[name].mixture


def test_runs_that_an_older_experiment_state_lacks_are_lost(experiment: Path) -> None:
    state = json.loads(newest(experiment, "searcher-state").read_text())
    more = [state["history"]["trials"][-1] | {"trial_id": f"gone_{status}"} for status in ("running", "paused", "done")]
    for trial, status in zip(more, ("running", "paused", "done"), strict=True):
        trial.update(status=status, observations=[[10, {"loss": 2.5}]] if status == "paused" else [])
    state["history"]["trials"] += more
    state["history"]["arrivals"].append(["gone_paused", 10])
    state["settings"]["budget"] += 60
    newest(experiment, "searcher-state").write_text(json.dumps(state))
    unfinish(experiment)
    before = len(load(experiment).optimizer.history.arrivals)
    ray_mixopt.restore(experiment, Curve).fit()
    history = load(experiment).optimizer.history
    assert [history[f"gone_{status}"].status for status in ("running", "paused", "done")] == ["lost", "lost", "done"]
    assert len(history.arrivals) > before and 150 < history.spent <= 160


def test_a_restored_errored_trial_is_wanted_again(
    make_tuner: Callable[..., tune.Tuner], tmp_path: Path, space: MixtureSpace
) -> None:
    class FailsOnce(Curve):
        def step(self) -> dict[str, Any]:
            mark = tmp_path / "failed"
            if self.reached == 10 and not mark.exists():
                mark.touch()
                raise RuntimeError("node lost")
            return super().step()

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=100)
    make_tuner(searcher, None, FailsOnce, num_samples=-1).fit()
    (failed,) = [run.trial_id for run in searcher.optimizer.history if run.status == "failed"]
    tuner = ray_mixopt.restore(tmp_path / "run", FailsOnce, resume_errored=True, param_space=space.param_space())
    assert not tuner.fit().errors
    run = load(tmp_path / "run").optimizer.history[failed]
    assert run.status == "done" and run.reached == run.steps


def test_a_damaged_searcher_state_gives_way_to_the_previous_one(
    experiment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load(experiment)
    broken = newest(experiment, "searcher-state")
    cut(broken)
    with caplog.at_level(logging.WARNING):
        ray_mixopt.restore(experiment, Curve).fit()
    assert "what is newer is damaged" in caplog.text and broken.name in caplog.text
    searcher = load(experiment)
    assert searcher.n_recoveries >= 1
    assert searcher.optimizer.history.spent <= whole.optimizer.history.spent


def test_without_a_good_session_restore_says_what_is_safe(experiment: Path) -> None:
    for file in experiment.rglob("*experiment_state-*.json"):
        cut(file)
    with pytest.raises(ValueError, match=r"experiment_state.* can be read .*MixOptSearcher\.load\("):
        ray_mixopt.restore(experiment, Curve)
    assert len(list(experiment.glob("experiment_state-*.json"))) == 2, "nothing was renamed"


def test_what_is_no_experiment_is_refused(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the folder of a Tune experiment"):
        ray_mixopt.restore(tmp_path, Curve)
    for file in experiment.rglob("*searcher-state-*.json"):
        file.unlink()
    with pytest.raises(ValueError, match="No readable searcher state"):
        ray_mixopt.restore(experiment, Curve)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it ends early or is no pickle"),
        (b"\x80\x05]\x94.", "it describes no Tuner"),
        (b"cnowhere\nNothing\n.", "ModuleNotFoundError: No module named 'nowhere'"),
        (b"\x80\x05K\x01K\x02R.", "TypeError: argument list must be a tuple"),
    ],
)
def test_a_damaged_tuner_is_said_and_the_one_kept_takes_its_place(
    experiment: Path, caplog: pytest.LogCaptureFixture, content: bytes, why: str
) -> None:
    whole = (experiment / "tuner.pkl").read_bytes()
    (experiment / "tuner.pkl").write_bytes(content)
    assert searcher_of(ray_mixopt.restore(experiment, Curve))._search.settings.budget == 100
    assert "tuner.pkl is not of the Tuner that searched here, but of another one" in caplog.text
    assert (experiment / "tuner.pkl").read_bytes() == whole
    assert (experiment / "damaged-tuner.pkl").read_bytes() == content
    for file in experiment.rglob("tuner.pkl"):
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"tuner.pkl is damaged \({why}.*MixOptSearcher\.load\("):
        ray_mixopt.restore(experiment, Curve)


def test_a_tuner_made_later_in_the_folder_does_not_replace_the_one_that_searched_there(experiment: Path) -> None:
    settings = {"name": experiment.name, "num_samples": 3, "param_space": edited(upper={"web": 0.2}).param_space()}
    curve_tuner(experiment.parent, MixOptSearcher(strategy="random", budget=7), FIFOScheduler(), **settings)
    tuner = ray_mixopt.restore(experiment, Curve)
    assert searcher_of(tuner)._search.settings.budget == 100
    assert isinstance(tuner._local_tuner._tune_config.scheduler, MixOptScheduler)
    (experiment / "tuner.pkl").unlink()
    assert searcher_of(ray_mixopt.restore(experiment, Curve))._search.settings.budget == 100


def searcher_of(tuner: tune.Tuner) -> MixOptSearcher:
    return tuner._local_tuner._tune_config.search_alg


def test_tune_does_not_quietly_start_anew(experiment: Path) -> None:
    """Tuner.restore itself goes on after a failed restore, with an empty space and a single sample."""
    for file in experiment.rglob("*searcher-state-*.json"):
        file.write_text("{")
    with pytest.raises(RuntimeError, match="No readable searcher state"):
        unfinish(experiment)
        tune.Tuner.restore(str(experiment), Curve).fit()


def set_status(experiment: Path, trial_ids: Collection[str], status: str) -> None:
    """Makes Tune know these trials by that status: its last snapshot may be older than the end of a trial."""
    file = newest(experiment, "experiment_state")
    state = json.loads(file.read_text())
    for entry in state["trial_data"]:
        trial = json.loads(entry[0])
        if trial["trial_id"] in trial_ids:
            entry[0] = json.dumps(trial | {"status": status})
    file.write_text(json.dumps(state))


def unfinish(experiment: Path) -> None:
    """Makes the search generator ask for more."""
    file = newest(experiment, "search_gen_state")
    state = cloudpickle.loads(file.read_bytes())
    file.write_bytes(cloudpickle.dumps(state | {"finished": False}))


def test_a_finished_search_goes_on_in_a_new_tuner(experiment: Path, make_tuner: Callable[..., tune.Tuner]) -> None:
    searcher = load(experiment)
    before = observations(searcher.optimizer.history)
    assert searcher.recommend().mixture == load(experiment).recommend().mixture
    make_tuner(searcher, name="more", num_samples=2).fit()
    assert observations(searcher.optimizer.history)[: len(before)] == before


# -- an edited param_space


def edited(**changes: Any) -> MixtureSpace:
    return replace(TINY, **changes)


def test_a_changed_cap_holds_from_the_restore_on(experiment: Path) -> None:
    state = json.loads(newest(experiment, "searcher-state").read_text())
    state["settings"]["budget"] += 60
    newest(experiment, "searcher-state").write_text(json.dumps(state))
    unfinish(experiment)
    before = observations(load(experiment).optimizer.history)
    assert any(mixture[0] > 0.2 for mixture, *_ in before)
    space = edited(upper={"web": 0.2})
    assert not ray_mixopt.restore(experiment, Curve, param_space=space.param_space()).fit().errors
    history = load(experiment).optimizer.history
    assert observations(history)[: len(before)] == before and history.space == space
    new = observations(history)[len(before) :]
    assert new and all(mixture[0] <= 0.2 + 1e-9 for mixture, *_ in new)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (edited(domains=("web", "code", "math", "books")), r"has the domains .*'math'\], param_space has .*'books'"),
        (edited(steps=(10, 20, 40, 80), target=("60M", 80)), r"has the steps \[10, 20, 40\], param_space has .*80"),
        (edited(scales=TINY.scales[:1], target=("20M", 40)), r"has the scales .*'60M'"),
    ],
    ids=["domains", "steps", "scales"],
)
def test_what_cannot_be_edited_is_said(experiment: Path, space: MixtureSpace, message: str) -> None:
    before = sorted(file.name for file in experiment.iterdir())
    with pytest.raises(ValueError, match=f"(?s){message}.*cannot be changed.*add_evaluated_point"):
        ray_mixopt.restore(experiment, Curve, param_space=space.param_space())
    assert sorted(file.name for file in experiment.iterdir()) == before
