"""Runs made earlier, read from every format and written again unchanged, with their noise."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import OLD, OLD_LOSS, awkward

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.settings import Settings
from ray_mixopt.io import searches
from ray_mixopt.io.cells import beside, guarded, metric_of, unguarded
from ray_mixopt.io.export import WRITERS, divergences
from ray_mixopt.io.runs import Source, read_runs
from ray_mixopt.simulators import RunTable

COST = {scale.name: scale.cost_per_step for scale in OLD.scales}
PARAMETERS = {scale.name: scale.parameters for scale in OLD.scales}


@pytest.fixture
def history() -> History:
    return awkward()


def runs(history: History) -> list:
    """What a history says, without names."""
    found = [
        (
            trial.mixture,
            trial.scale,
            tuple(sorted((s, tuple(sorted(m.items()))) for s, m in trial.observations.items())),
        )
        for trial in history
    ]
    return sorted(found)


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_history_goes_out_and_comes_back_unchanged(history, kind: str, tmp_path: Path) -> None:
    paths = WRITERS[kind](history, tmp_path)
    assert all(path.exists() for path in paths)
    place = paths[0] if kind in ("csv", "parquet") else tmp_path
    again = read_runs(place, Source(cost=COST, parameters=PARAMETERS))
    assert runs(again) == runs(history)
    assert {trial.trial_id for trial in again} == {trial.trial_id for trial in history}
    assert again.space == history.space
    assert again.spent == 0.0
    before = [path.read_bytes() for path in paths]
    with pytest.raises(ValueError, match="is there already, and nothing is written over: choose another folder"):
        WRITERS[kind](history, tmp_path)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("kind", list(WRITERS))
def test_the_answer_is_the_same_after_a_round_trip(history, kind: str, tmp_path: Path) -> None:
    paths = WRITERS[kind](history, tmp_path)
    place = paths[0] if kind in ("csv", "parquet") else tmp_path
    again = read_runs(place, Source(cost=COST, parameters=PARAMETERS))
    answers = [MixtureOptimizer.of_history(h, Settings(objective={"loss": 1.0})).recommend() for h in (history, again)]
    # The order of the reports differs between formats, and with it which of them hyper-parameters are fitted to.
    for one, other in (answers, answers[::-1]):
        assert one.uniform.low < other.uniform.mean < one.uniform.high
    assert answers[0].predicted.low < answers[1].predicted.mean < answers[0].predicted.high


@pytest.mark.parametrize(
    "about",
    [
        b"{}",
        b"[]",
        b"no JSON",
        b'{"index_columns": ["zzz"], "columns": []}',
        b'{"index_columns": [], "columns": [{"name": "step", "field_name": "step", "numpy_type": "evil[x]"}]}',
    ],
)
def test_what_pandas_wrote_about_a_table_is_not_asked(history, tmp_path: Path, about: bytes) -> None:
    (path,) = WRITERS["parquet"](history, tmp_path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"pandas": about}), path)
    assert runs(read_runs(path, Source(cost=COST, parameters=PARAMETERS))) == runs(history)


@pytest.mark.parametrize("index", [["run"], ["scale"], ["run", "step"], [None]])
def test_an_index_is_a_column(history, tmp_path: Path, index: list[str | None]) -> None:
    (path,) = WRITERS["parquet"](history, tmp_path)
    frame = pd.read_parquet(path)
    frame = frame.set_index(frame.index[::-1]) if index == [None] else frame.set_index(index)
    frame.to_parquet(path)
    again = read_runs(path, Source(cost=COST, parameters=PARAMETERS))
    assert runs(again) == runs(history) and again.metrics == history.metrics
    assert {trial.trial_id for trial in again} == {trial.trial_id for trial in history}


def test_a_table_without_rows_is_named(history, tmp_path: Path) -> None:
    (path,) = WRITERS["parquet"](history, tmp_path)
    pq.write_table(pq.read_table(path)[:0], path)
    with pytest.raises(ValueError, match="runs.parquet is empty or malformed: it has no rows"):
        read_runs(path)


# -- runs that diverged


def diverged() -> History:
    """Runs that are well, and that diverged at their first report, at a later one, and where no metric shows it."""
    history = History(MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0, 1e6),), steps=(5, 10)))
    nan, inf = math.nan, math.inf
    reports = {
        "well": {5: {"loss": 3.0, "acc": 0.5}, 10: {"loss": 2.0, "acc": 0.6, "rare": 1.0}},
        "first": {5: {"loss": nan}},
        "later": {5: {"loss": 3.5, "acc": 0.5}, 10: {"loss": inf, "acc": 0.1}},
        "seldom": {5: {"loss": 3.6, "acc": 0.5}, 10: {"loss": 1e12}},
        "hidden": {5: {"loss": 3.7, "acc": 0.5, "rare": 1.0}, 10: {"loss": 3.0, "acc": 0.4, "rare": 2.0, "gone": nan}},
    }
    for place, (name, values) in enumerate(reports.items()):
        a = place / 8
        history.add(Trial(trial_id=name, mixture=(a, 1 - a), scale="S", steps=10, status="done", evaluated=True))
        for step, metrics in values.items():
            history.observe(name, step, metrics)
    return history


@pytest.mark.parametrize("kind", list(WRITERS))
def test_that_a_run_diverged_comes_back(kind: str, tmp_path: Path) -> None:
    history = diverged()
    lost = {"first", "later", "seldom", "hidden"}
    assert {trial.trial_id for trial in history if trial.status == "diverged"} == lost
    again = back(history, kind, tmp_path)
    assert {trial.trial_id for trial in again if trial.status == "diverged"} == lost
    assert runs(again) == runs(history) and set(again.metrics) == {"loss", "acc", "rare"}


def test_a_metric_that_a_run_hardly_measured_is_none_that_it_diverged_in(tmp_path: Path) -> None:
    assert divergences(diverged()) == {
        "first": (5, ("loss", "acc", "rare")),
        "later": (10, ("loss",)),
        "seldom": (10, ("loss", "acc")),
        "hidden": (10, ("diverged",)),
    }


# -- names of others in tables


def named(
    *,
    metrics: Sequence[str] = ("loss",),
    domains: Sequence[str] = ("a", "b"),
    scales: Sequence[str] = ("S", "L"),
    runs: Sequence[str] = ("one", "two"),
) -> History:
    """A history of two runs with these names."""
    sizes = tuple(Scale(name, 1.0 + number, 10.0**number) for number, name in enumerate(scales))
    optimizer = MixtureOptimizer(
        MixtureSpace(domains=tuple(domains), scales=sizes, steps=(5,)), objective={"loss": 1.0}
    )
    for number, name in enumerate(runs):
        values = {metric: 1.5 + number + place for place, metric in enumerate(metrics)}
        mixture = dict.fromkeys(domains, 1 / len(domains))
        optimizer.add_evaluated_point(mixture, scales[number % len(scales)], 5, values, trial_id=name)
    return optimizer.history


def back(history: History, kind: str, folder: Path) -> History:
    paths = WRITERS[kind](history, folder)
    prices = {scale.name: scale for scale in history.space.scales}
    source = Source(
        cost={name: scale.cost_per_step for name, scale in prices.items()},
        parameters={name: scale.parameters or 1.0 for name, scale in prices.items()},
    )
    return read_runs(paths[0] if kind in ("csv", "parquet") else folder, source)


OWN = ("scale", "step", "steps", "run", "run_id", "name", "parameters", "cost_per_step", "mixture/a", "index")
FORMULAS = ("=1+1", "+1", "-1", "@SUM(1)", "'=1", "''-x", "＝1", "=cmd|' /C calc'!A0", "'quoted'")


@pytest.mark.parametrize("kind", list(WRITERS))
def test_names_that_a_format_or_a_spreadsheet_has_a_use_for_come_back(kind: str, tmp_path: Path) -> None:
    metrics = ("loss", *OWN, "metric/step", "Steps", *FORMULAS)
    if kind == "regmix":  # which calls every metric metric/<name>
        metrics = tuple(name for name in metrics if name != "metric/step")
    history = named(metrics=metrics, domains=("a", "=b", "-c"), runs=FORMULAS, scales=("=S", "-L", "a b"))
    again = back(history, kind, tmp_path)
    assert runs(again) == runs(history)
    assert {trial.trial_id for trial in again} == set(FORMULAS)
    assert set(again.space.domains) == {"a", "=b", "-c"}
    for path in tmp_path.glob("*.csv"):
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row if not is_number(cell)]
        assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))] == [], path.name


WORDS = ("NA", "nan", "None", "null", "<NA>", "'NA", "''", "1,5", "0.5", "Unnamed: 0", "_step", "config/lr", "steps")


@pytest.mark.parametrize("kind", list(WRITERS))
def test_names_that_say_nothing_or_something_else_come_back(kind: str, tmp_path: Path) -> None:
    """Words for a missing value, numbers, names that trackers use, slashes, blanks, codes and underscores."""
    scales = ("NA", "a/b", "x_y", "../L", "50%", "%2F", "1,5", "two words", "'nan")
    domains = ("name", "run", "RUN_ID", "NA", "scale", "step", "index", "a b")
    history = named(metrics=("loss", *WORDS, "mixture.a", "MIXTURE/a"), domains=domains, runs=WORDS, scales=scales)
    again = back(history, kind, tmp_path)
    assert runs(again) == runs(history)
    assert {trial.trial_id for trial in again} == set(WORDS) and again.space.domains == domains
    assert set(again.space.scale_names) == {trial.scale for trial in history}
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("kind", list(WRITERS))
def test_names_that_look_alike_come_back(kind: str, tmp_path: Path) -> None:
    """Of two letters that a program takes for one in names of its own."""
    history = named(metrics=("loss", "\uff4coss", "val_\u00b5", "val_\u03bc"), domains=("web", "\uff57\uff45\uff42"))
    again = back(history, kind, tmp_path)
    assert runs(again) == runs(history)
    assert (again.space.domains, again.metrics) == (history.space.domains, history.metrics)


def test_parquet_reads_like_json(tmp_path: Path) -> None:
    """Texts that are kept as bytes, numbers as names, and what is nested."""
    rows = [
        {"run": f"r{i}", "scale": 6e7, "step": 5, "mixture": {"a": i / 4, "b": 1 - i / 4}, "val": {"a": {"x": i + 0.5}}}
        for i in range(3)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.Table.from_pylist(rows)
    for kind in (pa.binary(), pa.large_binary(), pa.binary(2), pa.string()):
        typed = table.set_column(0, "run", pa.array([row["run"].encode() for row in rows]).cast(kind))
        pq.write_table(typed, tmp_path / "x.parquet")
        found, same = read_runs(tmp_path / "x.parquet"), read_runs(tmp_path / "x.jsonl")
        assert runs(found) == runs(same) and list(found.trials) == list(same.trials) == ["r0", "r1", "r2"]
        assert found.space.scale_names == same.space.scale_names == ("60000000",)
        assert found["r1"].observations == {5: {"val/a/x": 1.5}}
    bad = table.set_column(0, "run", pa.array([b"\xff"] * 3))
    pq.write_table(bad, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet is empty or malformed: run has bytes that are no text in UTF-8"):
        read_runs(tmp_path / "x.parquet")


def test_a_run_is_one_whatever_the_type_of_its_number(tmp_path: Path) -> None:
    about = {"mixture/a": 0.5, "mixture/b": 0.5, "loss": 1}
    rows = [about | {"run": run, "step": step} for step, run in ((1, 1), (2, 1.0))]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [(t.trial_id, list(t.observations)) for t in read_runs(tmp_path / "x.jsonl")] == [("1", [1, 2])]


@pytest.mark.parametrize("names", [["loss", "loss"], ["val", "val/loss"]])
def test_a_column_of_parquet_that_is_there_twice_is_refused(names: list[str], tmp_path: Path) -> None:
    about = {"mixture/a": [0.5], "mixture/b": [0.5], "step": [1]}
    cells = [pa.array([{"loss": 1.0}] if name == "val" else [2.0]) for name in names]
    table = pa.table([*map(pa.array, about.values()), *cells], names=[*about, *names])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=f"malformed: it has the column {names[1]!r} twice"):
        read_runs(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mixture": {"a": 0.5, "b": 0.5}, "mixture/a": 0.7, "loss": 1}, "line 1 says 'mixture/a' twice, 0.7 and 0.5"),
        ({"val/loss": 2, "val": {"loss": 1}, "mixture": {"a": 0.5, "b": 0.5}}, "line 1 says 'val/loss' twice, 2 and 1"),
    ],
)
def test_keys_of_json_that_become_one_are_refused(row: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"run": "r", "step": 1} | row))
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path / "x.jsonl")
    same = {"val/loss": 1, "val": {"loss": 1}, "mixture": {"a": 0.5, "b": 0.5}}
    (tmp_path / "x.jsonl").write_text(json.dumps({"run": "r", "step": 1} | same))
    assert read_runs(tmp_path / "x.jsonl").metrics == ("val/loss",)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("olmix", {"scales": ("S", "L step=3 run=x")}, "could not tell the scale 'L step=3 run=x' from the rest"),
        ("regmix", {"scales": ("S", "L" * 300)}, "rename it, to at most 200 bytes"),
        ("regmix", {"scales": ("60M", "60m")}, "'60M' and '60m' are one where capitals do not count"),
        (
            "regmix",
            {"metrics": ("loss", "the_pile_a_val_loss")},
            "read the metric 'the_pile_a_val_loss' as 'val_loss/a'",
        ),
        ("csv", {"metrics": ("loss", " ")}, "The metric ' ' would be read as a missing value in a table"),
        ("csv", {"metrics": ("loss", "loss ")}, "The metric 'loss ' would be read as 'loss' in a table: rename one"),
        ("olmix", {"domains": ("a", " b")}, "The domain ' b' would be read as 'b' in a table: rename it"),
        ("csv", {"domains": ("a", "b ")}, "The domain 'b ' would be read as 'b' in a table: rename it"),
        ("regmix", {"metrics": ("loss", "acc\t")}, r"The metric 'acc\\t' would be read as 'acc' in a table"),
        ("parquet", {"runs": ("one", "two ")}, "The run 'two ' would be read as 'two' in a table"),
        ("parquet", {"runs": ("one", " one")}, "The run ' one' would be read as 'one' in a table"),
    ],
)
def test_names_that_a_format_cannot_hold_are_refused(
    kind: str, names: dict[str, tuple[str, ...]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        WRITERS[kind](named(**names), tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(st.text(alphabet="'=+-@a \t＝/;\n\"", max_size=8))
def test_what_is_guarded_is_no_formula_and_comes_back(text: str) -> None:
    assert unguarded(guarded(text)) == text
    for cell in re.split("[;\t\n]", guarded(text)):  # whatever a spreadsheet takes for what separates cells
        assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝"))


def test_a_formula_behind_a_semicolon_is_guarded() -> None:
    assert guarded("a;=HYPERLINK(1)") == "a;'=HYPERLINK(1)" and guarded("=a;b-1;-2") == "'=a;b-1;'-2"


@given(st.lists(st.sampled_from(["metric/", "mixture/", "step", "Run", "x"]), max_size=4).map("".join))
def test_a_metric_besides_the_columns_of_a_format_comes_back(name: str) -> None:
    column = beside(name, {"step", "run"})
    assert metric_of(column, {"step", "run"}) == name
    assert column.lower() not in ("step", "run") and not column.startswith("mixture/")


def test_our_own_json_is_read(history, tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text(json.dumps(history.state_dict()))
    assert runs(read_runs(path)) == runs(history)
    searches.save(MixtureOptimizer.of_history(history, Settings(objective={"loss": 1.0})), path)
    assert runs(read_runs(tmp_path)) == runs(history)


def test_olmix_as_others_write_it(tmp_path: Path) -> None:
    (tmp_path / "ratios.csv").write_text("run_id,name,web,code\na,first,0.25,0.75\nb,second,0.5,0.5\nc,x,1,0\n")
    (tmp_path / "metrics.csv").write_text("run_id,mmlu_bpb,arc_bpb\nb,1.5,\na,1.25,0.5\n")
    history = read_runs(tmp_path, Source(scale="30M", steps=5000))
    assert runs(history) == [
        ((0.25, 0.75), "30M", ((5000, (("arc_bpb", 0.5), ("mmlu_bpb", 1.25))),)),
        ((0.5, 0.5), "30M", ((5000, (("mmlu_bpb", 1.5),)),)),
    ]


@pytest.mark.parametrize(
    ("ratios", "metrics", "message"),
    [
        ("id,a,b\n1,0.5,0.5\n", "run,x\n1,2\n", "ratios.csv needs a column 'run' or 'run_id'"),
        ("run,a,b\n1,0.5,0.5\n1,1,0\n", "run,x\n1,2\n", "row 3: run '1' is repeated"),
        ("run,a,b\n1,0.5,0.5\n", "run,x\n2,2\n", "have no run in common"),
        ("run,a,b\n1,0.5,0.7\n", "run,x\n1,2\n", "row 2: the mixture sums to 1.2"),
        ("run,a\n1,1\n", "run,x\n1,2\n", "needs two domains or more"),
        ("run,a,b\n1,0.5,0.5\n", None, "There is no metrics.csv"),
    ],
)
def test_what_is_wrong_with_olmix_files_is_said(ratios, metrics, message: str, tmp_path: Path) -> None:
    (tmp_path / "ratios.csv").write_text(ratios)
    if metrics is not None:
        (tmp_path / "metrics.csv").write_text(metrics)
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path)


def test_scales_need_a_cost_and_one_alone_has_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    pd.DataFrame({"scale": ["S", "L"], "step": 1, "mixture/a": 0.5, "mixture/b": 0.5, "x": [1.0, 2.0]}).to_csv(path)
    with pytest.raises(
        ValueError,
        match="No cost is known for the scales S, L.*--scale-cost SCALE=COST.*--scale-parameters SCALE=NUMBER",
    ):
        read_runs(path)
    with pytest.raises(ValueError, match="No cost is known for the scales L: give it") as refused:
        read_runs(path, Source(cost={"S": 1.0}, parameters=PARAMETERS))
    assert "--scale-parameters" not in str(refused.value), "with some costs they do not help"
    assert read_runs(path, Source(parameters=PARAMETERS)).space.scale("S").cost_per_step == pytest.approx(
        PARAMETERS["S"] / PARAMETERS["L"]
    )
    assert read_runs(path, Source(cost=COST)).space.target == ("L", 1)


# -- with its noise


def test_noisier_evidence_counts_for_less(tmp_path: Path) -> None:
    optimizer = MixtureOptimizer(OLD, objective={"loss": 1.0})
    for i, w in enumerate(OLD.sample(40, np.random.default_rng(0))):
        scale, step = ("S", "L")[i % 2], (100, 1000)[i // 2 % 2]
        optimizer.add_evaluated_point(OLD.named(w), scale, step, {"loss": OLD_LOSS(OLD.named(w), scale, step)})
    WRITERS["csv"](optimizer.history, tmp_path)
    wrong = pd.read_csv(tmp_path / "runs.csv")
    wrong["loss"] += 2 * wrong["mixture/web"]  # an evaluation that dislikes web
    wrong.to_csv(tmp_path / "wrong.csv", index=False)
    given = {"cost": COST, "parameters": PARAMETERS}

    def contrast(*sources: History) -> Prediction:
        """Of a mixture of much web with one of much code."""
        optimizer = MixtureOptimizer(OLD, objective={"loss": 1.0})
        for number, source in enumerate(sources):
            optimizer.absorb(source, source=str(number))
        return optimizer.predict(np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2]])).difference(0, 1)

    right = read_runs(tmp_path / "runs.csv", Source(**given))
    trusted, doubted = (
        contrast(right, read_runs(tmp_path / "wrong.csv", Source(**given, noise={"loss": sd}))) for sd in (0.0, 0.5)
    )
    alone = contrast(right)
    assert abs(doubted.mean - alone.mean) < 0.5 * abs(trusted.mean - alone.mean)
    assert doubted.high - doubted.low < 0.5 * (trusted.high - trusted.low)  # the contradiction is explained


def test_noise_is_part_of_a_history(history, tmp_path: Path) -> None:
    state = history.state_dict()
    assert all("noise" not in trial for trial in state["trials"])  # as it ever was
    (tmp_path / "history.json").write_text(json.dumps(state))
    noisy = read_runs(tmp_path / "history.json", Source(noise={"loss": 0.1, "acc": 0.01}))
    again = History.from_state_dict(json.loads(json.dumps(noisy.state_dict())))
    assert all(trial.noise == {"loss": 0.1, "acc": 0.01} for trial in again)
    assert again.state_dict() == noisy.state_dict()
    broken = noisy.state_dict()
    broken["trials"][0]["noise"] = {"loss": -1.0}
    with pytest.raises(ValueError, match="has a noise that is no standard deviation"):
        History.from_state_dict(broken)


def test_noise_is_checked(history, tmp_path: Path) -> None:
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="The noise of loss must be a standard deviation, 0 or more"):
            Source(noise={"loss": value})
    (tmp_path / "history.json").write_text(json.dumps(history.state_dict()))
    with pytest.raises(ValueError, match="The noise is of accuracy, which no run reports: they have loss"):
        read_runs(tmp_path / "history.json", Source(noise={"accuracy": 0.1}))


@pytest.mark.parametrize("costs", [(1, 1), (0.1, 0.3)])
def test_the_target_of_a_table_is_its_largest_scale_not_its_dearest(tmp_path: Path, costs: tuple[float, float]) -> None:
    rows = [
        f"{name},{size},{cost},{step},0.{i + 2},0.{8 - i},{2 + i}"
        for i, (name, size, cost) in enumerate(zip(("1B", "60M"), (1e9, 6e7), costs, strict=True))
        for step in (100, 1000)
    ]
    (tmp_path / "runs.csv").write_text(
        "\n".join(["scale,parameters,cost_per_step,step,mixture/a,mixture/b,loss", *rows]) + "\n"
    )
    assert read_runs(tmp_path / "runs.csv").space.target == ("1B", 1000)


def test_of_scales_of_a_table_that_cost_the_same_the_target_must_be_said(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(
        "scale,cost_per_step,step,mixture/a,mixture/b,loss\n1B,1,9,0.2,0.8,2\n60M,1,9,0.3,0.7,3\n"
    )
    for read in (read_runs, RunTable.read):
        with pytest.raises(ValueError, match="The scales 1B and 60M cost the same"):
            read(tmp_path / "runs.csv")
    assert read_runs(tmp_path / "runs.csv", Source(target=("1B", 9))).space.target == ("1B", 9)
    assert RunTable.read(tmp_path / "runs.csv", target=("60M", 9)).space.target == ("60M", 9)
