"""What trackers kept of runs: TensorBoard, Tune, MLflow and W&B, read without their help where that is possible."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorboardX import SummaryWriter

from ray_mixopt.core.history import History
from ray_mixopt.core.safety import TooMuchError
from ray_mixopt.io import searches
from ray_mixopt.io.columns import Columns
from ray_mixopt.io.runs import Source, are_tables, read_runs
from ray_mixopt.io.trackers import events, mlflow, wandb
from ray_mixopt.simulators import RunTable

SHARES = {"r0": (0.75, 0.25), "r1": (0.5, 0.5), "r2": (0.125, 0.875)}
SCALES = {"r0": "S", "r1": "S", "r2": "L"}
SIZES = {"S": 1e6, "L": 4e6}


def reports(run: str) -> Iterator[tuple[int, dict[str, float]]]:
    for step in (10, 40):
        yield step, {"val_loss/wiki": 3.0 - step / 64 + SHARES[run][0], "acc": step / 64}


def config(run: str) -> dict:
    web, code = SHARES[run]
    return {"mixture": {"web": web, "code": code}, "scale": SCALES[run], "parameters": SIZES[SCALES[run]], "lr": 3e-4}


def flat(run: str) -> dict:
    settings = config(run)
    return {f"mixture/{k}": v for k, v in settings.pop("mixture").items()} | settings


def with_hparams(folder: Path) -> Path:
    """As ``add_hparams`` does it: a folder below the run's, with the metrics once more."""
    for run in SHARES:
        writer = SummaryWriter(str(folder / run))
        writer.add_hparams(flat(run), {"final": 1.0}, name="0")
        for step, values in reports(run):
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)
        writer.close()
    return folder


def with_a_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for run in SHARES:
            writer = SummaryWriter(str(folder / "deep" / run))
            for step, values in reports(run):
                for tag, value in values.items():
                    writer.add_scalar(tag, value, step)
            writer.close()
            (folder / "deep" / run / name).write_text(json.dumps(config(run)))
        return folder

    return write


def of_tune(folder: Path) -> Path:
    """Trials of a search that was not ours."""
    for run in SHARES:
        (folder / run).mkdir(parents=True)
        lines = [
            json.dumps(values | {"training_iteration": i, "step": step, "config": config(run), "pid": 7})
            for i, (step, values) in enumerate(reports(run), 1)
        ]
        (folder / run / "result.json").write_text("\n".join(lines) + "\n")
    (folder / "r2" / "result.json").open("a").write('{"step": 50, "acc"')  # being written
    return folder


def of_mlflow(folder: Path) -> Path:
    for number, run in enumerate(SHARES):
        place = folder / "42" / f"{number:032x}"
        (place / "metrics" / "val_loss").mkdir(parents=True)
        (place / "params" / "mixture").mkdir(parents=True)
        (place / "meta.yaml").write_text(f"run_name: {run}\nlifecycle_stage: active\nstatus: 3\n")
        for key, value in flat(run).items():
            (place / "params" / key).write_text(str(value))
        for key in ("val_loss/wiki", "acc"):
            lines = [f"170000000{step} {values[key]} {step}" for step, values in reports(run)]
            (place / "metrics" / key).write_text("\n".join(lines) + "\n")
    gone = folder / "42" / ("f" * 32)
    (gone / "metrics").mkdir(parents=True)
    (gone / "meta.yaml").write_text("run_name: gone\nlifecycle_stage: deleted\n")
    (folder / "42" / "meta.yaml").write_text("name: sweep\n")
    return folder


def database(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT, name TEXT, lifecycle_stage TEXT)")
        connection.execute("CREATE TABLE params (run_uuid TEXT, key TEXT, value TEXT)")
        connection.execute("CREATE TABLE metrics (run_uuid TEXT, key TEXT, step INT, value REAL, is_nan INT)")
        for run in SHARES:
            connection.execute("INSERT INTO runs VALUES (?, ?, 'active')", (f"id-{run}", run))
            for key, value in flat(run).items():
                connection.execute("INSERT INTO params VALUES (?, ?, ?)", (f"id-{run}", key, str(value)))
            for step, values in reports(run):
                for key, value in values.items():
                    connection.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, 0)", (f"id-{run}", key, step, value))
        connection.execute("INSERT INTO runs VALUES ('x', 'gone', 'deleted')")
        connection.execute("INSERT INTO metrics VALUES ('x', 'acc', 1, 1.0, 0)")
        connection.execute("INSERT INTO runs VALUES ('y', 'of another project', 'active')")
        connection.execute("INSERT INTO metrics VALUES ('y', 'acc', 1, 1.0, 0)")
    connection.close()
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "TensorBoard, hparams": with_hparams,
    "TensorBoard, params.json": with_a_file("params.json"),
    "TensorBoard, config.json": with_a_file("config.json"),
    "trials of Tune": of_tune,
    "MLflow's folder": of_mlflow,
    "an experiment of it": lambda folder: of_mlflow(folder) / "42",
    "MLflow's database": database,
}


@pytest.mark.parametrize("place", list(PLACES))
def test_what_a_tracker_kept_is_read(place: str, tmp_path: Path) -> None:
    path = PLACES[place](tmp_path / "kept")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert are_tables(path)
    history = read_runs(path)
    assert {trial.trial_id.rpartition("/")[2] for trial in history} == set(SHARES)
    assert history.metrics[:2] == ("val_loss/wiki", "acc") or history.metrics[:2] == ("acc", "val_loss/wiki")
    assert set(history.space.domains) == {"web", "code"} and history.space.target == ("L", 40)
    assert [scale.parameters for scale in history.space.scales] == [1e6, 4e6]
    for trial in history:
        run = trial.trial_id.rpartition("/")[2]
        assert history.space.named(trial.mixture) == dict(zip(("web", "code"), SHARES[run], strict=True))
        seen = {step: {k: v for k, v in m.items() if k != "loss"} for step, m in trial.observations.items()}
        assert seen == dict(reports(run)) and trial.scale == SCALES[run]
    assert RunTable.read(path).space.target == ("L", 40)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_shares_may_be_scalars_or_a_file_of_their_own(tmp_path: Path) -> None:
    for run in SHARES:
        writer = SummaryWriter(str(tmp_path / run))
        for step, values in reports(run):
            writer.add_scalar("loss", values["val_loss/wiki"], step)
        if run == "r0":
            for name, share in config(run)["mixture"].items():
                writer.add_scalar(f"mixture/{name}", share, 0)
        else:
            (tmp_path / run / "mixture.json").write_text(json.dumps(config(run)["mixture"]))
        writer.close()
    history = read_runs(tmp_path, Source(scale="S"))
    assert [trial.mixture for trial in history] == list(SHARES.values())


def test_a_folder_of_ours_stays_a_search(tmp_path: Path) -> None:
    of_tune(tmp_path)
    (tmp_path / "searcher-state-x.json").write_text("{}")
    assert searches.is_folder(tmp_path) and not are_tables(tmp_path)


def test_events_that_end_early_and_that_are_none(tmp_path: Path) -> None:
    with_a_file("params.json")(tmp_path)
    (file,) = (tmp_path / "deep" / "r2").glob("events*")
    content = file.read_bytes()
    file.write_bytes(content[:-7])
    assert sum(len(trial.observations) for trial in read_runs(tmp_path)) == 6
    file.write_bytes(b"\x04" + b"\0" * 11 + b"\xff" * 8)
    with pytest.raises(ValueError, match="r2/events.out.tfevents.* holds no events"):
        read_runs(tmp_path)
    file.write_bytes(b"\xff" * 7 + b"\0" * 5)
    with pytest.raises(TooMuchError, match="A record of events.out.tfevents"):
        read_runs(tmp_path)
    (tmp_path / "deep" / "r2" / "params.json").write_text("[")
    file.write_bytes(content)
    with pytest.raises(ValueError, match="r2/params.json holds no configuration"):
        read_runs(tmp_path)


@pytest.mark.parametrize("value", ["'much'", "NULL", "x'00ff'"])
@pytest.mark.parametrize("column", ["step", "value"])
def test_what_is_no_measurement_of_mlflow_is_named(column: str, value: str, tmp_path: Path) -> None:
    path = database(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE metrics SET {column} = {value} WHERE run_uuid = 'id-r2' AND key = 'acc'")
    connection.close()
    with pytest.raises(ValueError, match="mlflow.db, run id-r2, acc: .* is no measurement"):
        read_runs(path)


def test_a_folder_of_nothing_that_is_read_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is none, nor a table of runs .*, or anything that a tracker keeps"):
        read_runs(tmp_path)


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "MOST_CELLS", 5)
    for make in (of_mlflow, database):
        with pytest.raises(TooMuchError, match="more than the 5 that are read"):
            read_runs(make(tmp_path / make.__name__))
    monkeypatch.setattr(events, "MOST_BYTES", 100)
    with pytest.raises(TooMuchError, match="that are read"):
        read_runs(of_tune(tmp_path / "tune"))
    (tmp_path / "x.db").write_text("no database")
    with pytest.raises(ValueError, match="x.db is no store of MLflow: file is not a database"):
        read_runs(tmp_path / "x.db")


def test_runs_without_a_mixture_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_runs(database(tmp_path), Source(steps=None))) == 3
    assert "left out 1 run without a mixture" in caplog.text


# -- Weights & Biases


def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package wandb that knows one project."""

    class Run:
        def __init__(self, name: str) -> None:
            self.name, self.config = name, config(name)

        def scan_history(self) -> list[dict]:
            return [{"_step": 0, "acc": None}] + [
                {"_step": step, "_runtime": 3.5, "_timestamp": 1.7e9} | values for step, values in reports(self.name)
            ]

    class Api:
        def runs(self, path: str) -> list[Run]:
            if path != "team/mixes":
                raise fake.errors.Error("no such project")
            return [Run(name) for name in SHARES]

    fake = types.SimpleNamespace(Api=Api, errors=types.SimpleNamespace(Error=type("Error", (Exception,), {})))
    monkeypatch.setitem(sys.modules, "wandb", fake)


def test_a_project_is_read_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    project(monkeypatch)
    history: History = read_runs("wandb:team/mixes")
    assert [trial.mixture for trial in history] == list(SHARES.values())
    assert set(history.metrics) == {"val_loss/wiki", "acc", "loss"}
    with pytest.raises(ValueError, match="The project 'team/none' of W&B cannot be read: no such project"):
        read_runs("wandb:team/none")


def test_without_the_package_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    place = tmp_path / "wandb" / "offline-run-1-abc"
    place.mkdir(parents=True)
    (place / "run-abc.wandb").write_bytes(b"\0")
    for path in ("wandb:team/mixes", tmp_path, tmp_path / "wandb"):
        with pytest.raises(ImportError, match=r"pip install 'ray-mixopt\[trackers\]', or export the project's table"):
            read_runs(path)


def test_the_log_that_wandb_writes_is_taken_apart() -> None:
    long = bytes(range(256)) * 400  # of several blocks
    content, wanted = b":W&B\xe1\xbe\0", [b"one", long, b"", b"last"]
    for record in wanted:
        rest, first = record, True
        while first or rest:
            left = 2**15 - len(content) % 2**15
            if left < 7:
                content += b"\0" * left
                left = 2**15
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (3 if rest else 4)
            content, first = content + struct.pack("<IHB", 0, len(part), kind) + part, False
    assert list(wandb._framed(content)) == wanted
    assert list(wandb._framed(content[:-1])) == wanted[:-1], "the last one is being written"
    for wrong in (b"", b"PK", content[:7] + b"\xff" * 9):
        with pytest.raises(ValueError):
            list(wandb._framed(wrong))


def test_runs_on_this_machine_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = pytest.importorskip("wandb")
    for name in SHARES:
        settings = package.Settings(silent=True, mode="offline")
        run = package.init(project="mixes", name=name, config=config(name), dir=str(tmp_path), settings=settings)
        for step, values in reports(name):
            run.log(values, step=step)
        run.finish()
    history = read_runs(tmp_path, Source(columns=Columns()))
    assert {trial.trial_id: trial.mixture for trial in history} == SHARES
