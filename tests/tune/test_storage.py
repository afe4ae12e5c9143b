"""What becomes of a search when its storage is out of reach, full, torn or deleted."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from curve import Curve, load
from ladder import LadderStrategy, observations
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from worlds import TINY

import ray_mixopt
from ray_mixopt import MixOptSearcher
from ray_mixopt.core.history import History
from ray_mixopt.io import searches, snapshots
from ray_mixopt.tune import storage

BUDGET = 120
MakeTuner = Callable[..., tune.Tuner]


class Meddler(tune.Callback):
    """Does something once each, one after the other, at the end of a step of Tune's loop: when a condition holds."""

    def __init__(self, *deeds: tuple[Callable[[int], bool], Callable[[], Any]]) -> None:
        self.deeds, self.n_reports = list(deeds), 0

    def __getstate__(self) -> dict[str, Any]:
        return {"deeds": [], "n_reports": 0}

    def on_trial_result(self, **info: Any) -> None:
        self.n_reports += 1

    def on_step_end(self, **info: Any) -> None:
        if self.deeds and self.deeds[0][0](self.n_reports):
            self.deeds.pop(0)[1]()


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and looks at the storage in every step."""
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")
    monkeypatch.setattr(storage, "PERIOD_S", 0.0)
    monkeypatch.setattr(storage, "SHARE", math.inf)


def test_a_storage_that_cannot_be_written_to_for_a_while_does_not_end_the_search(
    make_tuner: MakeTuner, tmp_path: Path, attentive: None, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "run" / "kept"

    def block() -> None:
        shutil.rmtree(kept)
        kept.touch()

    searcher = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=1)
    meddler = Meddler((lambda n: n == 3, block), (lambda n: bool(searcher.optimizer.history.incidents), kept.unlink))
    assert not make_tuner(searcher, num_samples=-1, callbacks=[meddler]).fit().errors
    history = searcher.optimizer.history
    assert history.spent > BUDGET - 10
    begun, ended = history.incidents
    assert "run cannot be written to" in begun and "is written again, after" in ended
    assert begun.split(": ", 1)[1] in caplog.text and len(list(kept.glob("searcher-state-*.json"))) == 1
    assert load(tmp_path / "run").optimizer.history.incidents == history.incidents


@pytest.mark.parametrize("scheduler", [None, FIFOScheduler()], ids=["ours", "fifo"])
def test_a_deleted_folder_ends_the_search_with_a_sentence(
    make_tuner: MakeTuner, tmp_path: Path, attentive: None, monkeypatch: pytest.MonkeyPatch, scheduler: Any
) -> None:
    monkeypatch.setattr(storage, "GONE_S", 1.0)
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=10 * BUDGET, seed=1)
    meddler = Meddler((lambda n: n == 3, lambda: (tmp_path / "run").rename(tmp_path / "away")))
    with pytest.raises(
        RuntimeError, match=r"folder .*run has been missing for .*, as if deleted: .*MixOptSearcher.load"
    ) as info:
        make_tuner(searcher, scheduler, num_samples=-1, callbacks=[meddler]).fit()
    history = searcher.optimizer.history
    assert len(history.arrivals) <= 6, "nothing is begun once the folder is missing"
    staging = str(info.value).split("MixOptSearcher.load('")[1].split("'")[0]
    assert len(load(staging).optimizer.history.arrivals) >= 1


# -- full


@pytest.fixture
def searcher() -> MixOptSearcher:
    made = MixOptSearcher(TINY, "loss", "min", strategy="random", seed=5)
    made.suggest("a")
    return made


def test_a_full_disk_is_said_once_and_leaves_what_was_there(
    searcher: MixOptSearcher, tmp_path: Path, full_disk: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    searcher.save_to_dir(str(tmp_path), "2026")
    (whole,) = tmp_path.iterdir()
    before = whole.read_bytes()
    searcher.suggest("b")
    with full_disk():
        for _ in range(2):
            searcher.save_to_dir(str(tmp_path), "2026")
        with pytest.raises(OSError, match="File too large"):
            searcher.save(str(tmp_path / "wanted.json"))  # asked for, it says so
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
    (incident,) = searcher.optimizer.history.incidents
    assert "cannot be written to" in incident and "File too large" in incident and caplog.text.count("goes on") == 1


# -- torn


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


@pytest.fixture
def generations(searcher: MixOptSearcher, tmp_path: Path) -> Path:
    """An experiment's folder with all that is kept of two sessions, one more trial known in each."""
    for number, session in enumerate(["2026-01-01", "2026-01-01", "2026-01-02", "2026-01-02"]):
        searcher.suggest(str(number))
        searcher.save_to_dir(str(tmp_path), session)
        (tmp_path / f"experiment_state-{session}.json").write_text(json.dumps({"n": number}))
        snapshots.keep(tmp_path, str(tmp_path))
    return tmp_path


def test_a_generation_outlives_an_upload_that_tears_every_file(
    generations: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in generations.glob("*.json"):
        tear(file)
    with caplog.at_level(logging.WARNING):
        history = searches.load(generations).history
    assert len(history) == 5, "nothing is lost"
    (incident,) = history.incidents
    assert "kept/searcher-state-2026-01-02.json, written 20" in incident and " s before it" in incident
    assert incident.split(": ", 1)[1] in caplog.text
    for file in generations.glob("kept/*02.json"):
        tear(file)
    assert len(searches.load(generations).history) == 3, "the session before"


def test_a_generation_is_not_replaced_before_the_next_is_whole(generations: Path, full_disk: Callable[[], Any]) -> None:
    kept = generations / "kept"
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    assert sorted(before) == sorted(
        name.format(session)
        for name in ("searcher-state-{}.json", "experiment_state-{}.json")
        for session in ("2026-01-01", "2026-01-02")
    )
    for file in generations.glob("searcher-state-*.json"):
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 5))
    with full_disk(), pytest.raises(OSError, match="File too large"):
        snapshots.keep(generations, str(generations))
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before


def test_two_kills_at_a_bad_moment_and_what_they_cost(
    make_tuner: MakeTuner, tmp_path: Path, attentive: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Each tears all that Tune uploads; the second before the restored session has kept anything of its own."""
    whole = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=1)
    make_tuner(whole, name="whole", num_samples=-1).fit()
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=BUDGET, seed=1)
    stop = Meddler((lambda n: n == 6, lambda: os.kill(os.getpid(), signal.SIGUSR1)))
    make_tuner(searcher, num_samples=-1, callbacks=[stop]).fit()
    folder = tmp_path / "run"
    before = load(folder).optimizer.history
    # Reported after the state was written: a run that goes on, and one that nothing else knows.
    run = before.paused()[0]
    (log,) = folder.glob(f"{run.trial_id}/result.json")
    report = json.loads(log.read_text().splitlines()[-1])
    later = report | {"timestamp": report["timestamp"] + 1000, "step": 40}
    log.write_text(log.read_text() + json.dumps(later) + "\n" + json.dumps(later)[:40])
    (folder / "orphan").mkdir()
    (folder / "orphan" / "result.json").write_text(json.dumps(later | {"trial_id": "orphan", "step": 20}))
    for torn in list(folder.glob("*state-*.json")):
        torn.write_bytes(b"{")
        torn.with_name(torn.name.replace("-20", "-2999-20", 1)).write_bytes(b"{")
    kept = load(folder).optimizer.history
    assert kept.incidents and len(kept.arrivals) >= len(before.arrivals) - 2
    price = {scale.name: scale.cost_per_step for scale in TINY.scales}[run.scale]
    lost = before.spent - kept.spent + price * (40 - run.reached) + price * 20
    with caplog.at_level(logging.WARNING):
        tuner = ray_mixopt.restore(folder, Curve)
    assert f"Trained and not kept: {lost:.4g} of cost" in caplog.text and ", orphan." in caplog.text
    assert not tuner.fit().errors
    history: History = load(folder).optimizer.history
    assert observations(history) == observations(whole.optimizer.history)
    assert history.unkept == lost and any("before it, since what is newer is damaged" in i for i in history.incidents)
