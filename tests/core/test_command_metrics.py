"""What a command says of its training, in every format, while it is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ladder import wait_until
from tensorboardX import SummaryWriter

from ray_mixopt.command.metrics import Progress, Reader


def read(reader: Reader) -> list[tuple[int, dict[str, float]]]:
    return list(reader.poll())


def awaited(reader: Reader, writer: SummaryWriter | None = None) -> list[tuple[int, dict[str, float]]]:
    """What comes first: events are written by a thread, which a flush does not wait for."""
    found: list[tuple[int, dict[str, float]]] = []

    def came() -> bool:
        if writer is not None:
            writer.flush()
        found.extend(reader.poll())
        return bool(found)

    wait_until(came, timeout_s=20, what="an event")
    return found


def test_json_lines_among_other_text(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    reader = Reader(file, "json", step="iteration", names={"val_loss": "eval/loss", "guard": "eval/loss"})
    assert read(reader) == [], "it is not there yet"
    file.write_text(
        'loading\n[rank 0] {"iteration": 10, "loss": 2.5, "eval": {"loss": 3, "note": "x"}, "ok": true}\n{"it'
    )
    assert read(reader) == [(10, {"loss": 2.5, "val_loss": 3.0, "guard": 3.0})]
    with file.open("a") as stream:
        stream.write(
            'eration": "20", "loss": NaN}\r{"loss": 1}\n{"iteration": true}\n{broken\n'
            '{"iteration": 30, "loss": "inf"}\n'
        )
    (first, values), second = read(reader)
    assert first == 20 and math.isnan(values["loss"])
    assert second == (30, {"loss": math.inf})
    assert list(reader.seen)[:3] == ["iteration", "loss", "eval/loss"]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    reader = Reader(file, "json")
    file.write_text('{"step": 1, "loss": 9}\n{"step": 2, "loss": 8}\n')
    assert [step for step, _ in read(reader)] == [1, 2]
    file.write_text('{"step": 2, "loss": 7}\n{"step": 3, "loss": 6}\n{"step": 4, "loss": 5}\n')
    assert read(reader) == [(2, {"loss": 7.0}), (3, {"loss": 6.0}), (4, {"loss": 5.0})]
    file.write_text("")
    assert read(reader) == []
    file.write_text('{"step": 5, "loss": 4}\n')
    assert read(reader) == [(5, {"loss": 4.0})]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    file = tmp_path / "metrics.csv"
    lines = ['"step",loss,name', "10,2.5,a", "20,,b", "torn", "step,loss", "30,nan", "40,1e400", "fifty,1"]
    file.write_text("\n".join(lines).replace(",", delimiter) + "\n60,")
    found = read(Reader(file, "csv"))
    assert [step for step, _ in found] == [10, 20, 30, 40]
    assert found[0][1] == {"loss": 2.5} and found[1][1] == {} and math.isnan(found[2][1]["loss"])
    assert found[3][1] == {"loss": math.inf}


def test_csv_without_the_step_shows_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("iteration,loss\n1,2\n")
    reader = Reader(file, "csv")
    assert read(reader) == [] and list(reader.seen)[:2] == ["iteration", "loss"]


def test_tensorboard_events(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "events", "tensorboard", names={"val_loss": "eval/loss"})
    assert read(reader) == []
    with SummaryWriter(str(tmp_path / "events" / "run")) as writer:
        writer.add_scalar("eval/loss", 2.5, 10)
        writer.add_text("note", "words", 10)
        writer.add_histogram("weights", [1.0, 2.0], 10)
        assert awaited(reader, writer) == [(10, {"val_loss": 2.5})]
        writer.add_scalar("eval/loss", float("nan"), 20)
    ((step, values),) = awaited(reader)
    assert step == 20 and math.isnan(values["val_loss"])
    (file,) = (tmp_path / "events" / "run").iterdir()
    whole = file.read_bytes()
    again = Reader(tmp_path / "again", "tensorboard")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / file.name).write_bytes(whole[:-5])
    assert [step for step, _ in again.poll()] == [10], "the last one is not whole"
    (tmp_path / "again" / file.name).write_bytes(whole)
    assert [step for step, _ in again.poll()] == [20]
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "events.out.tfevents.1").write_bytes(b"\xff" * 1000)
    assert read(Reader(tmp_path / "junk", "tensorboard")) == []


def test_the_parts_of_a_step_come_one_by_one() -> None:
    progress = Progress(["loss", "guard"])
    progress.add((100, {"loss": 2.0}))
    progress.add((110, {"loss": 1.9}))
    assert progress.reached(100) is None
    progress.add((100, {"guard": 1.0, "other": 5.0}))
    assert progress.reached(100) == 100 and progress.reached(101) is None
    assert progress.report(100) == {"step": 100, "loss": 2.0, "guard": 1.0, "other": 5.0}
    assert progress.diverged(0) is None
    progress.add((120, {"guard": math.nan}))
    progress.add((130, {"other": math.nan}))
    assert progress.diverged(0) == 120 and progress.diverged(120) is None


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("json", '{"step": 7, "loss": 1, "loss": 2}\n'),
        ("json", '{"step": 7, "loss": 1, "step": 8}\n'),
        ("json", '{"step": 7, "val": {"loss": 1, "loss": 2}, "val/loss": 3, "val": {"loss": 4}}\n'),
        ("json", '{"val/loss": 1, "step": 7, "val": {"loss": 2}}\n'),
        ("json", '{"step": 7.9, "loss": 1}\n'),
        ("csv", "step,loss,loss\n7,1,2\n"),
        ("csv", "loss,step,loss,step\n1,7,2,8\n"),
    ],
)
def test_what_is_said_first_stays(tmp_path: Path, format: Any, text: str) -> None:
    (tmp_path / "log").write_text(text)
    ((step, values),) = read(Reader(tmp_path / "log", format))
    assert step == 7 and list(values.values()) == [1.0]


@pytest.mark.parametrize("line", ['{"step": 1, "loss": 9, "val/loss": 2}', '{"val/loss": 2, "loss": 9, "step": 1}'])
def test_a_metric_that_is_renamed_is_no_other_of_that_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(f'{line}\n{{"step": 2, "loss": 9}}\n')
    assert read(Reader(tmp_path / "log", "json", names={"loss": "val/loss"})) == [(1, {"loss": 2.0}), (2, {})]


def test_a_step_that_is_reported_again_stays_as_it_was() -> None:
    progress = Progress(["loss"])
    progress.add((100, {"loss": 2.0}))
    progress.add((100, {"loss": 9.0, "other": 1.0}))
    assert progress.report(100) == {"step": 100, "loss": 2.0, "other": 1.0}
    progress.diverge(100)
    assert progress.diverged(0) == 100


@pytest.mark.parametrize(
    "line", ["{" * 100_000, '{"step": 1e30, "loss": 1}', '{"step": -1}', "{}" * 2**20, "x" * 2**21]
)
def test_what_makes_no_sense_says_nothing(tmp_path: Path, line: str) -> None:
    file = tmp_path / "log.txt"
    file.write_text(f'{line}\n{{"step": 7, "loss": 1}}\n')
    assert read(Reader(file, "json")) == [(7, {"loss": 1.0})]
