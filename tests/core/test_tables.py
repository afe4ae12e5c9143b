"""Tables of runs as people have them: every way to write the same runs reads the same."""

from __future__ import annotations

import gzip
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ray_mixopt.core.history import History
from ray_mixopt.core.safety import TooMuchError
from ray_mixopt.io import frames
from ray_mixopt.io.columns import Columns
from ray_mixopt.io.numerals import notation, parsed
from ray_mixopt.io.runs import Source, read_runs
from ray_mixopt.simulators import RunTable

DOMAINS = ("prose", "forum", "maths")
SHARES = [f"mixture/{name}" for name in DOMAINS]
CASES = Path(__file__).parents[3] / "shared" / "cases" / "tables"


def table() -> pd.DataFrame:
    """Six runs at two scales, each seen twice; shares of two digits that sum to 1."""
    rows = []
    for i, parts in enumerate(([50, 30, 20], [10, 60, 30], [34, 33, 33], [70, 25, 5], [20, 20, 60], [45, 55, 0])):
        scale, size = (("90M", 9e7), ("800M", 8e8))[i % 2]
        for step in (400, 1200):
            shares = dict(zip(SHARES, np.array(parts) / 100, strict=True))
            about = {"run": f"r{i}", "scale": scale, "step": step, "parameters": size, "cost_per_step": size / 8e8}
            rows.append(about | shares | {"val_loss/wiki": 3.25 + i / 8 - step / 4096, "acc": 0.125 + i / 16})
    return pd.DataFrame(rows)


def said(history: History) -> list:
    """What runs say, without their order and to eight digits."""
    return sorted(
        (
            t.trial_id,
            t.scale,
            tuple(np.round(t.mixture, 8)),
            sorted((s, sorted(m.items())) for s, m in t.observations.items()),
        )
        for t in history
    )


@pytest.fixture
def plain(tmp_path: Path) -> History:
    table().to_csv(tmp_path / "plain.csv", index=False)
    return read_runs(tmp_path / "plain.csv")


def as_text(frame: pd.DataFrame, change: Callable[[object], object], columns: list[str]) -> pd.DataFrame:
    return frame.assign(**{name: [change(value) for value in frame[name]] for name in columns})


def nested(frame: pd.DataFrame) -> list[dict]:
    """Rows as a program writes them, with a configuration."""
    found = []
    for row in frame.to_dict("records"):
        config = {"mixture": {name: row.pop(f"mixture/{name}") for name in DOMAINS}, "scale": row.pop("scale")}
        found.append(row | {"config": config | {"lr": 3e-4, "layers": [1, 2]}})
    return found


def comma(value: object) -> str:
    return str(value).replace(".", ",")


T = table()
NUMBERS = [name for name in T.columns if name not in ("run", "scale")]
WANDB = {"run": "Name", "scale": "model_size", "step": "_step"} | {n: n.replace("/", ".") for n in SHARES}
TUNE = {"run": "trial_id", "scale": "config/scale", "step": "training_iteration"} | {n: f"config/{n}" for n in SHARES}
MLFLOW = {"run": "run_id", "scale": "params.scale", "val_loss/wiki": "metrics.val_loss/wiki", "acc": "metrics.acc"}
MLFLOW |= {"cost_per_step": "params.cost_per_step", "parameters": "params.parameters"}
MLFLOW |= {n: f"params.{n}" for n in SHARES}

WAYS: dict[str, tuple[str, str | bytes]] = {
    "semicolons": ("x.csv", T.to_csv(index=False, sep=";")),
    "tabs": ("x.tsv", T.to_csv(index=False, sep="\t")),
    "bars": ("x.txt", T.to_csv(index=False, sep="|")),
    "Excel says what separates": ("x.csv", "sep=;\n" + T.to_csv(index=False, sep=";")),
    "decimal commas": ("x.csv", as_text(T, comma, NUMBERS).to_csv(index=False, sep=";")),
    "decimal commas in quotes": ("x.csv", as_text(T, comma, NUMBERS).to_csv(index=False)),
    "thousands": ("x.csv", as_text(T, lambda v: f"{v:,.0f}", ["step", "parameters"]).to_csv(index=False)),
    "a byte order mark": ("x.csv", b"\xef\xbb\xbf" + T.to_csv(index=False).encode()),
    "UTF-16": ("x.csv", T.to_csv(index=False, sep="\t").encode("utf-16")),
    "gzip": ("x.csv.gz", gzip.compress(T.to_csv(index=False).encode())),
    "gzip that is not called so": ("x.csv", gzip.compress(T.to_csv(index=False).encode())),
    "an index": ("x.csv", T.to_csv()),
    "an index read as a column": ("x.csv", T.reset_index().rename(columns={"index": "Unnamed: 0"}).to_csv(index=False)),
    "percentages": ("x.csv", T.assign(**{n: T[n] * 100 for n in SHARES}).to_csv(index=False)),
    "per cent signs": ("x.csv", as_text(T, lambda v: f"{100 * v:.0f} %", SHARES).to_csv(index=False)),
    "numbers of tokens": (
        "x.csv",
        T.assign(**{n: (T[n] * T["step"] * 1000).round() for n in SHARES}).to_csv(index=False),
    ),
    "no share is an empty cell": ("x.csv", T.replace(dict.fromkeys(SHARES, {0.0: None})).to_csv(index=False)),
    "JSON lines": ("x.jsonl", T.to_json(orient="records", lines=True)),
    "nested JSON lines": ("x.ndjson", "\n".join(map(json.dumps, nested(T)))),
    "packed JSON lines": ("x.jsonl.gz", gzip.compress("\n".join(map(json.dumps, nested(T))).encode())),
    "a JSON list": ("x.json", json.dumps(nested(T))),
    "capitals": ("x.csv", T.rename(columns={"scale": "Scale", "step": "Step", "run": "RUN"}).to_csv(index=False)),
    "W&B's export": ("x.csv", T.rename(columns=WANDB).assign(State="finished", _runtime=5.5).to_csv(index=False)),
    "Tune's data frame": ("x.csv", T.rename(columns=TUNE).assign(time_total_s=7.25, done=True).to_csv(index=False)),
    "MLflow's export": ("x.csv", T.rename(columns=MLFLOW).assign(status="FINISHED").to_csv(index=False)),
    "a row before training": (
        "x.csv",
        pd.concat([T.iloc[:1].assign(step=0, **{"val_loss/wiki": 11.0}), T]).to_csv(index=False),
    ),
    "the mixture said once": (
        "x.csv",
        T.assign(**{n: T[n].where(T["step"] == 400) for n in [*SHARES, "scale", "parameters"]}).to_csv(index=False),
    ),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_to_write_the_same_runs_reads_the_same(way: str, plain: History, tmp_path: Path) -> None:
    name, content = WAYS[way]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_runs(path)
    assert said(found) == said(plain)
    assert found.space == plain.space and found.metrics == plain.metrics
    assert RunTable.read(path).space == RunTable.read(tmp_path / "plain.csv").space


@pytest.mark.skipif(not CASES.exists(), reason="needs the tables that people brought")
@pytest.mark.parametrize("path", sorted(CASES.glob("*")), ids=lambda path: path.name)
def test_the_tables_that_people_brought_are_read(path: Path) -> None:
    columns = Columns(mixture=("web,code,math,books",)) if path.name == "plainnames.csv" else Columns()
    history = read_runs(path, Source(columns=columns))
    assert len(history) == (24 if path.name in ("noscale.csv", "olmix_index") else 35)
    assert [name.lower() for name in history.space.domains] == ["web", "code", "math", "books"]
    assert sum(trial.status == "diverged" for trial in history) == (path.name == "infinity.csv")
    assert np.allclose(history.mixtures().sum(1), 1)


@pytest.mark.parametrize(
    ("columns", "asked"),
    [
        ({n: n.removeprefix("mixture/") for n in SHARES}, {"mixture": ("prose,forum", "maths")}),
        ({n: n.replace("mixture", "data.weights") for n in SHARES}, {"mixture": ("data.weights/*",)}),
        ({"scale": "arch", "step": "k", "run": "who"}, {"scale": "arch", "step": "k", "run": "who"}),
    ],
)
def test_columns_are_what_one_says_they_are(
    columns: dict[str, str], asked: dict, plain: History, tmp_path: Path
) -> None:
    table().rename(columns=columns).to_csv(tmp_path / "x.csv", index=False)
    found = read_runs(tmp_path / "x.csv", Source(columns=Columns(**asked)))
    assert said(found) == said(plain) and found.metrics == plain.metrics


# -- what is done to the numbers is said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({n: T[n] * 100 for n in SHARES}, "shares are in per cent"),
        ({n: T[n] * 1e9 for n in SHARES}, "in proportion to numbers of 1e+09 to 1e+09 a row"),
        ({SHARES[2]: T[SHARES[2]].replace(0.0, None)}, "empty shares in 2 of 12 rows are 0"),
        ({"step": T["step"].replace(400, 0)}, "left out 6 rows at step 0"),
    ],
)
def test_what_is_done_to_the_numbers_is_said(change: dict, sentence: str, tmp_path: Path, caplog) -> None:
    frame = table().assign(**change)
    frame.to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        read_runs(tmp_path / "x.csv")
    assert sentence in caplog.text


def test_metrics_in_per_cent_are_fractions_which_is_said(plain: History, tmp_path: Path, caplog) -> None:
    frame = as_text(table(), lambda v: f"{100 * v:g} %", ["acc"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        history = read_runs(tmp_path / "x.csv")
    assert said(history) == said(plain) and "x.csv: acc is in per cent, and divided by 100" in caplog.text
    frame.loc[3, "acc"] = "0.1875"
    frame.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="x.csv, row 5: acc is '0.1875', and other cells have a per cent sign"):
        read_runs(tmp_path / "x.csv")
    frame.assign(acc="", step="400%").to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="x.csv, row 2: step must be a finite number, got '400%'"):
        read_runs(tmp_path / "x.csv")


@pytest.mark.parametrize("unit", [None, "percent"])
def test_shares_with_signs_are_said_to_be_per_cent(unit, plain: History, tmp_path: Path, caplog) -> None:
    as_text(table(), lambda v: f"{100 * v:.0f}%", SHARES).to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        history = read_runs(tmp_path / "x.csv", Source(columns=Columns(unit=unit)))
    assert said(history) == said(plain) and "x.csv: shares are in per cent" in caplog.text


def test_rounded_shares_are_scaled_and_by_how_much_is_said(tmp_path: Path, caplog) -> None:
    table().assign(**{SHARES[0]: T[SHARES[0]] + 0.01}).to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        history = read_runs(tmp_path / "x.csv")
    assert "12 of 12 mixtures did not sum to 1 and are scaled, by up to 1%" in caplog.text
    assert history["r0"].mixture == pytest.approx((0.51 / 1.01, 0.3 / 1.01, 0.2 / 1.01))
    table().assign(**{SHARES[0]: T[SHARES[0]] + 0.05}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="row 2: the mixture sums to 1.05 instead of 1"):
        read_runs(tmp_path / "x.csv")  # two digits are no excuse for that


def test_counts_that_grow_are_one_mixture(tmp_path: Path) -> None:
    """As a trainer writes them: documents are drawn at random, and so the shares of a run change a little."""
    frame = table()
    jitter = np.random.default_rng(0).integers(-300, 300, (len(frame), 3))
    counts = np.rint(frame[SHARES].to_numpy() * 1e6) + jitter * (frame[SHARES].to_numpy() > 0)
    frame.assign(**dict(zip(SHARES, counts.T, strict=True))).to_csv(tmp_path / "x.csv", index=False)
    history = read_runs(tmp_path / "x.csv")
    assert len(history) == 6
    assert history["r3"].mixture == pytest.approx((0.7, 0.25, 0.05), abs=1e-3)


def test_tokens_stand_for_steps(tmp_path: Path, caplog) -> None:
    path = tmp_path / "x.csv"
    frame = table().rename(columns={"step": "tokens"}).assign(tokens=T["step"] * 500_000)
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match="says 'tokens' instead of steps.*give --tokens-per-step SCALE=TOKENS"):
        read_runs(path)
    sizes = {"90M": 250_000, "800M": 500_000}
    assert read_runs(path, Source(tokens_per_step=sizes)).space.steps == (400, 800, 1200, 2400)
    frame.drop(columns="cost_per_step").to_csv(path, index=False)
    with caplog.at_level(logging.WARNING):
        assert read_runs(path).space.steps == (200_000_000, 600_000_000)
    assert "lengths are in tokens" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "column", "message"),
    [
        ({"90M": -100}, "tokens", "The tokens in a step of scale 90M must be a finite number above 0, got -100 .--tok"),
        ({"90M": math.inf}, "tokens", "of scale 90M must be a finite number above 0, got inf"),
        ({"90M": 0}, "tokens", "of scale 90M must be a finite number above 0, got 0"),
        ({"90M": math.nan}, "tokens", "of scale 90M must be a finite number above 0, got nan"),
        ({"90M": 350, "800M": 400}, "tokens", "row 2: tokens is 400, and with .* 90M=350 that is 1.14 steps, no whole"),
        ({"90M": 800, "800M": 400}, "tokens", "row 2: tokens is 400, and with .* 90M=800 that is 0.5 steps, no whole"),
        ({"90M": 400}, "step", "--tokens-per-step 90M=400 is for tables that say tokens, and x.csv says steps: drop"),
    ],
)
def test_tokens_in_a_step_that_cannot_be_are_refused(sizes: dict, column: str, message: str, tmp_path: Path) -> None:
    table().rename(columns={"step": column}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path / "x.csv", Source(tokens_per_step=sizes))


def test_costs_follow_parameters_where_nothing_else_is_known(tmp_path: Path, caplog) -> None:
    table().drop(columns="cost_per_step").to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        scales = read_runs(tmp_path / "x.csv").space.scales
    assert [scale.cost_per_step for scale in scales] == [0.1125, 1.0]
    assert "No cost is known, and so a step costs in proportion to the parameters" in caplog.text
    assert read_runs(tmp_path / "x.csv", Source(cost={"90M": 3, "800M": 5})).space.cost("90M", 1) == 3


@pytest.mark.parametrize("missing", ["scale", "step"])
def test_a_table_says_its_scales_and_steps_or_has_one_row_a_run(missing: str, tmp_path: Path, caplog) -> None:
    path = tmp_path / "x.csv"
    frame = table().drop(columns=[missing, "parameters", "cost_per_step"]).assign(run="")
    frame = frame.drop(columns="run")
    frame.to_csv(path, index=False)
    option = {"scale": "--scale NAME", "step": "--steps NUMBER"}[missing]
    if missing == "step":
        with pytest.raises(ValueError, match=f"needs a column 'step': row 3 .*--step-column COLUMN.*{option}"):
            read_runs(path)
        frame = frame.iloc[::2]
        frame.to_csv(path, index=False)
    costs = {} if missing == "scale" else {"90M": 1.0, "800M": 2.0}
    with caplog.at_level(logging.WARNING):
        history = read_runs(path, Source(cost=costs))
    assert f"no column says the {missing}" in caplog.text and option in caplog.text
    assert history.space.scale_names == (("model",) if missing == "scale" else ("90M", "800M"))
    given = {"scale": Source(scale="7B"), "step": Source(steps=300, cost=costs)}[missing]
    space = read_runs(path, given).space
    assert space.scale_names == ("7B",) if missing == "scale" else space.steps == (300,)


# -- runs that diverged


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("value", "diverged"), [(math.inf, True), (-math.inf, True), (math.nan, True), (None, False), (1e12, True)]
)
def test_what_is_no_number_is_a_run_that_diverged(
    value: float | None, diverged: bool, kind: str, tmp_path: Path
) -> None:
    frame = table().astype({"val_loss/wiki": object})
    frame.loc[1, "val_loss/wiki"] = value
    path = tmp_path / f"x.{kind}"
    if kind == "csv":
        frame["val_loss/wiki"] = ["" if v is None else str(v) for v in frame["val_loss/wiki"]]
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: pa.array(frame[name].tolist(), from_pandas=False) for name in frame.columns}
        pq.write_table(pa.table(columns), path)
    history = read_runs(path)
    assert [trial.trial_id for trial in history if trial.status == "diverged"] == ["r0"] * diverged
    assert history["r0"].observations[1200] == {"acc": 0.125}
    assert RunTable.read(path).space.steps == (400, 1200)


def test_a_loss_that_was_not_measured_beside_others_is_no_divergence(tmp_path: Path) -> None:
    frame = table().assign(**{"val_loss/books": ["nan"] * 6 + ["2.5"] * 6})
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert all(trial.status == "done" for trial in read_runs(tmp_path / "x.csv"))


@pytest.mark.parametrize("kind", ["csv", "olmix", "regmix"])
@pytest.mark.parametrize("other", ["2.5", "nan", ""])
def test_nan_is_read_alike_in_every_format(kind: str, other: str, tmp_path: Path) -> None:
    """A run whose losses are all NaN has diverged; one that has another loss, or says nothing, has not."""
    shares = {"a": [0.5, 0.25], "b": [0.5, 0.75]}
    losses = {"web": [2.0, "nan"], "books": [2.25, other]}
    place = tmp_path / "runs.csv" if kind == "csv" else tmp_path
    if kind == "csv":
        columns = {f"mixture/{n}": v for n, v in shares.items()} | {f"val_loss/{n}": v for n, v in losses.items()}
        pd.DataFrame({"run": ["r", "q"], "scale": "S", "step": 1} | columns).to_csv(place, index=False)
    elif kind == "olmix":
        pd.DataFrame({"run": ["r", "q"]} | shares).to_csv(tmp_path / "ratios.csv", index=False)
        columns = {f"val_loss/{n}": v for n, v in losses.items()}
        pd.DataFrame({"run": ["r", "q"]} | columns).to_csv(tmp_path / "metrics.csv", index=False)
    else:
        columns = {f"train_the_pile_{n}": v for n, v in shares.items()}
        pd.DataFrame({"index": [1, 2]} | columns).to_csv(tmp_path / "train_mixture_1m.csv", index=False)
        columns = {f"metric/the_pile_{n}_val_loss": v for n, v in losses.items()}
        pd.DataFrame({"index": [1, 2]} | columns).to_csv(tmp_path / "train_pile_loss_1m.csv", index=False)
    assert [trial.status for trial in read_runs(place)] == ["done", "done" if other == "2.5" else "diverged"]


def test_reports_without_any_number_are_said(tmp_path: Path, caplog) -> None:
    frame = table().assign(acc="", **{"val_loss/wiki": [3.0, 2.5, "", *["NA"] * 6, 2.0, 2.0, 2.0]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        read_runs(tmp_path / "x.csv")
    assert "x.csv: 7 reports say nothing, with no number of any metric (rows 4, 5, 6, 7, 8, ...)" in caplog.text


# -- which rows are of one run


def rows(*lines: str) -> str:
    return "\n".join(["run,scale,step,parameters,mixture/a,mixture/b,loss", *lines])


@pytest.mark.parametrize(
    ("lines", "found", "told"),
    [
        (["r,S,1,9,.5,.5,1", "r,S,2,9,.5,.5,2", "r,S,1,9,.5,.5,3", "r,S,2,9,.5,.5,4"], {"r": [1, 2], "r_1": [3, 4]}, 1),
        (["r,S,1,9,.5,.5,1", "r,S,1,9,.5,.5,3", "r,S,2,9,.5,.5,2", "r,S,2,9,.5,.5,4"], {"r": [1, 2], "r_1": [3, 4]}, 1),
        (["r,S,1,9,.5,.5,1", "r,L,1,99,.5,.5,3", "r,L,2,99,.5,.5,4"], {"r": [1], "r_1": [3, 4]}, 1),
        (["r_1,S,1,9,.5,.5,0", "r,S,1,9,.5,.5,1", "r,S,1,9,.2,.8,2"], {"r_1": [0], "r": [1], "r_2": [2]}, 1),
        (["r,S,1,9,.5,.5,0", "r,S,1,9,.5,.5,1", "r_1,S,1,9,.2,.8,2"], {"r": [0], "r_2": [1], "r_1": [2]}, 1),
        ([",S,1,9,.5,.5,1", ",S,2,9,.5,.5,2", ",S,1,9,.1,.9,3"], {"run_00000": [1, 2], "run_00001": [3]}, 0),
    ],
    ids=["one after the other", "step by step", "another scale", "a name of before", "a name to come", "no names"],
)  # fmt: skip
def test_which_rows_are_of_one_run(lines: list[str], found: dict, told: int, tmp_path: Path, caplog) -> None:
    (tmp_path / "x.csv").write_text(rows(*lines))
    with caplog.at_level(logging.WARNING):
        history = read_runs(tmp_path / "x.csv")
    assert {t.trial_id: [values["loss"] for values in t.observations.values()] for t in history} == found
    assert caplog.text.count("are of a run of their own: r is r_") == told


def test_rows_that_repeat_a_step_keep_their_own_shares(tmp_path: Path) -> None:
    """The others of a run are counted anew at each report, and have the last ones."""
    lines = [f"r,S,{step},9,{a},{1 - a:.3f},2" for step, a in ((1, 0.5), (1, 0.505), (1, 0.507), (2, 0.501))]
    lines += ["r,S,2,9,,,2"]
    (tmp_path / "x.csv").write_text(rows(*lines))
    found = {t.trial_id: (t.mixture[0], list(t.observations)) for t in read_runs(tmp_path / "x.csv")}
    assert found == {"r": (0.501, [1, 2]), "r_1": (0.505, [1, 2]), "r_2": (0.507, [1])}


# -- what is refused, and what helps


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.csv",
            T.rename(columns={n: n.removeprefix("mixture/") for n in SHARES}).to_csv(index=False),
            r"no mixture columns.*--mixture-columns prose,forum,maths, if these are it \(in Python Columns",
        ),
        (
            "x.csv",
            T.assign(**{n: T[n] * 7.5 for n in SHARES}).to_csv(index=False),
            "row 2: the mixture sums to 7.5 instead of 1. If the numbers count in proportion.*--mixture-unit weights",
        ),
        (
            "x.csv",
            as_text(T, lambda v: f"{v:.0%}" if v > 0.3 else v, SHARES).to_csv(index=False),
            "row 4: mixture/prose is '0.1', and other cells have a per cent sign",
        ),
        (
            "x.csv",
            as_text(T, comma, ["acc"]).to_csv(index=False, sep=";"),
            "a decimal comma in the column 'acc', as in '0,125', and with a point in 'parameters'",
        ),
        (
            "x.csv",
            "Step,r1 - val_loss,r1 - val_loss__MIN\n1,2,2\n",
            "table of a chart of W&B.*export the table of runs",
        ),
        (
            "x.csv",
            T.assign(**{"val_loss/wiki": "3,005"}).to_csv(index=False),
            "row 2: val_loss/wiki is '3,005', in a table with decimal points: that may be 3005 or 3.005. Write the one",
        ),
        (
            "x.csv",
            as_text(T, comma, NUMBERS).assign(acc="3.005").to_csv(index=False, sep=";"),
            "row 2: acc is '3.005', in a table with decimal commas: that may be 3005 or 3,005. Write the one",
        ),
        (
            "x.csv",
            'run,scale,step,mixture/a,mixture/b,loss,n\nr,S,1,50,50,"3,005",7\nq,S,1,40,60,"2,990",8\n',
            "row 2: loss must be a number or empty, got '3,005', which may be in thousands or have a decimal comma",
        ),
        ("x.csv", T.assign(**{SHARES[0]: "1,000"}).to_csv(index=False), "row 2: mixture/prose is '1,000', in a table"),
        ("x.csv", T.assign(run=["r0", "", *T["run"][2:]]).to_csv(index=False), "row 3: the name of the run is missing"),
        (
            "x.csv",
            T.assign(scale=["90M", "", *T["scale"][2:]], run=range(12)).to_csv(index=False),
            "say with --scale-c",
        ),
        (
            "x.csv",
            T.drop(columns=SHARES[1:]).to_csv(index=False),
            "has the shares of one domain only, in mixture/prose, and a mixture is of two or more: add a column",
        ),
        (
            "x.csv",
            T.rename(columns={n: n[8:] for n in SHARES}).assign(step=100, size=0).to_csv(index=False),
            "--mixture-columns prose,forum,maths, if these are it",
        ),
        ("x.csv", T.to_csv(index=False).replace("r0,90M,1200,", "r0,1200,"), "row 3 has 9 cells, and the header 10. E"),
        ("x.csv", T.to_csv(index=False).replace("r0,90M", "r0,x,90M"), "row 2 has 11 cells, and the header 10. Every"),
        (
            "x.csv",
            T.to_csv(index=False).replace("r5,800M,1200", 'r5,800M,"1200'),
            "row 13 has 3 cells, and the header 10",
        ),
        ("x.csv", "", "x.csv is empty or malformed: there is nothing in it."),
        ("x.csv", T.assign(run="\x1b[31mred").to_csv(index=False), r"The run '\\x1b\[31mred' has control characters"),
        ("x.csv", T.rename(columns={"acc": "\x07"}).to_csv(index=False), "The metric '.*x07' has control characters"),
        ("x.csv", T.assign(step="1_0").to_csv(index=False), "row 2: step must be a finite number, got '1_0'"),
        ("x.csv", T.assign(**{n: 1e308 for n in SHARES}).to_csv(index=False), "row 2: the mixture sums to more than a"),
        ("x.csv", T.assign(steps=T["step"]).to_csv(index=False), "both columns 'step' and 'steps': say which it is"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "line 2: "),
        (
            "x.jsonl",
            T.assign(acc="3,005").to_json(orient="records", lines=True),
            "row 1: acc is '3,005', in a table with decimal points: that may be 3005 or 3.005.",
        ),
        ("x.jsonl", "[1]\n", "item 1 is of type int, not a JSON object"),
        ("x.csv.gz", gzip.compress(T.to_csv().encode())[:-20], "the packed file ends early or is damaged"),
        ("x.csv", "größe,mixture/a\n".encode("latin-1"), "it is not UTF-8"),
    ],
)
def test_what_is_refused_says_what_helps(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path / name)


UNREAD = ["1 200.0", "1'200.0", "1\u202f200", "\N{MINUS SIGN}1.5", "3.1±0.1", "50\N{FULLWIDTH PERCENT SIGN}", "%50"]
UNREAD += ["1_200", "(1.5)", "2×10^3", "1.5E\N{MINUS SIGN}3", "#N/A", "#DIV/0!", "$5"]


@pytest.mark.parametrize("cell", [*UNREAD, "OOM", "1.9 nats", "3k"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_loss_without_any_number_that_is_read_is_not_left_out(cell: str, kind: str, tmp_path: Path) -> None:
    frame = T.assign(**{"val_loss/books": cell})
    (tmp_path / f"x.{kind}").write_text(
        frame.to_csv(index=False) if kind == "csv" else frame.to_json(orient="records", lines=True)
    )
    with pytest.raises(ValueError, match=f"row {2 if kind == 'csv' else 1}: val_loss/books is .* and no cell of that"):
        read_runs(tmp_path / f"x.{kind}")


@pytest.mark.parametrize("cell", UNREAD)
def test_a_metric_that_is_written_as_no_number_is_read_is_refused(cell: str, tmp_path: Path) -> None:
    T.assign(mmlu=[cell, "", *[cell] * 9, "OOM"]).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="row 2: mmlu is .*: write numbers as in 1250.5, or take the column out"):
        read_runs(tmp_path / "x.csv")


def test_thousands_parted_by_blanks_beside_decimal_commas_are_refused(tmp_path: Path) -> None:
    as_text(T, comma, NUMBERS).assign(mmlu="1 250,5").to_csv(tmp_path / "x.csv", index=False, sep=";")
    with pytest.raises(ValueError, match="row 2: mmlu is '1 250,5', .* as in 1250,5"):
        read_runs(tmp_path / "x.csv")


def test_numbers_in_the_texts_of_json_have_a_point(tmp_path: Path) -> None:
    T.assign(acc="0,5").to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    with pytest.raises(ValueError, match="acc is '0,5', .* that is read, where numbers have a decimal point: write"):
        read_runs(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("cell", "told"),
    [("3k", True), ("1.9 nats", True), ("2026-01-05", True), ("10.0.0.1", True), ("2.1.0", True), ("h100", False)],
)
def test_what_is_no_metric_and_begins_with_digits_is_named(cell: str, told: bool, tmp_path: Path, caplog) -> None:
    T.assign(note=cell).to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        assert "note" not in read_runs(tmp_path / "x.csv").metrics
    assert (f"no metric is in note ('{cell}')" in caplog.text) is told


def test_without_one_of_the_validation_losses_there_is_no_mean_of_them(tmp_path: Path, caplog) -> None:
    T.assign(**{"val_loss/books": ""}).to_csv(tmp_path / "x.csv", index=False)
    with caplog.at_level(logging.WARNING):
        history = read_runs(tmp_path / "x.csv")
    assert set(history.metrics) == {"val_loss/wiki", "acc"}
    assert "val_loss/books is empty in all rows, so that the mean" in caplog.text


@pytest.mark.parametrize("cell", ["OOM", "1 200.0"])
def test_a_metric_of_olmix_without_any_number_that_is_read_is_refused(cell: str, tmp_path: Path) -> None:
    (tmp_path / "ratios.csv").write_text("run,web,code\na,0.25,0.75\nb,0.5,0.5\n")
    (tmp_path / "metrics.csv").write_text(f"run,mmlu_bpb,arc_bpb\nb,{cell},1\na,{cell},2\n")
    with pytest.raises(ValueError, match=f"metrics.csv, row 2: mmlu_bpb is '{cell}', and no cell"):
        read_runs(tmp_path)


@pytest.mark.parametrize("role", ["scale", "step", "run"])
def test_a_column_that_is_asked_for_must_be_there(role: str, tmp_path: Path) -> None:
    table().to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match=f"no column 'zzz', which --{role}-column names: it has run, scale"):
        read_runs(tmp_path / "x.csv", Source(columns=Columns(**{role: "zzz"})))


@pytest.mark.parametrize("run", ["and no other row of the run r0 has them", None])
def test_a_row_without_any_share_is_named(run: str | None, tmp_path: Path) -> None:
    frame = table().astype(dict.fromkeys(SHARES, object))
    frame.loc[[0, 1], SHARES] = ""
    (frame if run else frame.drop(columns="run")).to_csv(tmp_path / "x.csv", index=False)
    shares = "mixture/prose, mixture/forum, mixture/maths"
    with pytest.raises(
        ValueError, match=rf"x.csv, row 2: all shares are empty \({shares}\){f', {run}' if run else ':'}"
    ):
        read_runs(tmp_path / "x.csv")


def test_weights_are_what_one_says_they_are(plain: History, tmp_path: Path) -> None:
    table().assign(**{n: T[n] * 7.5 for n in SHARES}).to_csv(tmp_path / "x.csv", index=False)
    assert said(read_runs(tmp_path / "x.csv", Source(columns=Columns(unit="weights")))) == said(plain)


def test_a_packed_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 2**22)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1" * 2**23))
    with pytest.raises(TooMuchError, match="x.csv.gz, unpacked, has 4.0 MiB"):
        read_runs(tmp_path / "x.csv.gz")


@pytest.mark.parametrize(
    ("cell", "comma", "value"),
    [
        ("0,5", True, 0.5),
        ("1.250,5", True, 1250.5),
        ("-1,5e-3", True, -0.0015),
        ("0.5", True, None),
        ("1,250.5", False, 1250.5),
        ("1,25", False, None),
        ("1,250", None, None),
        ("1250", None, 1250.0),
        ("Infinity", True, math.inf),
        ("12 %", False, None),
    ],
)
def test_numbers_in_cells(cell: str, comma: bool | None, value: float | None) -> None:
    assert parsed(cell, comma) == value


@pytest.mark.parametrize(
    ("columns", "comma"),
    [
        ({"a": ["0,5", "1"]}, True),
        ({"a": ["1,250"]}, None),
        ({"a": ["1,250"], "b": ["0.5"]}, False),
        ({"a": ["1.250,5"], "b": ["1.000"]}, True),
        ({"names": ["x", "0,5"], "b": ["0.5"]}, False),
        ({"a": ["1,250"], "b": ["1,250,000"]}, False),
    ],
)
def test_whether_a_table_writes_decimal_commas(columns: dict[str, list[str]], comma: bool | None) -> None:
    assert notation(columns.items()).comma is comma


@pytest.mark.parametrize("clear", [["1,250,000", "3"], ["1,250.5", "0.5"]])
def test_numbers_that_are_clearly_in_thousands_tell_of_others(clear: list[str], tmp_path: Path) -> None:
    lines = ["run,scale,step,mixture/a,mixture/b,loss,n"]
    lines += [f'r{i},s,"1,500",0.5,0.5,"{i + 2},005","{n}"' for i, n in enumerate(clear)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    assert [t.observations[1500]["loss"] for t in read_runs(tmp_path / "x.csv")] == [2005, 3005]


# -- olmix


def test_the_sizes_of_olmix_are_the_supply(tmp_path: Path, caplog) -> None:
    (tmp_path / "ratios.csv").write_text(",run,web,code\n0,a,0.25,0.75\n1,b,0.5,0.5\n")
    (tmp_path / "metrics.csv").write_text(",run,mmlu_bpb\n0,b,1.5\n1,a,1.25\n")
    assert read_runs(tmp_path).space.domains == ("web", "code")
    meta = tmp_path / "meta.json"
    meta.write_text(
        json.dumps({"token_counts": {"web": 3e9, "code": 1e9}, "relative_sizes": {"web": 0.75, "code": 0.25}})
    )
    space = read_runs(tmp_path).space
    assert space.token_supply == {"web": 3e9, "code": 1e9} and space.proportional() == pytest.approx([0.75, 0.25])
    meta.write_text(json.dumps({"priors": {"relative_sizes": {"web": 0.6, "code": 0.4}}}))
    with caplog.at_level(logging.WARNING):
        assert read_runs(tmp_path).space.proportional() == pytest.approx([0.6, 0.4])
    assert "the sizes are relative" in caplog.text
    for wrong in ('{"token_counts": {"web": "many"}}', '{"token_counts": {"web": -1}}', "[", '{"token_counts": [1]}'):
        meta.write_text(wrong)
        with pytest.raises(ValueError, match="meta.json is no description of olmix's data"):
            read_runs(tmp_path)


def test_tokens_are_not_taken_for_the_steps_of_a_space(tmp_path: Path) -> None:
    frame = table().rename(columns={"step": "tokens"}).drop(columns="cost_per_step")
    frame["tokens"] *= 524288
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(
        ValueError, match=r"209,715,200 tokens, of the column tokens, are no training steps.*up to 1,200"
    ):
        read_runs(tmp_path / "t.csv", Source(rungs=(400, 1200)))
    sizes = {"90M": 524288, "800M": 524288}
    steps = read_runs(tmp_path / "t.csv", Source(rungs=(400, 1200), tokens_per_step=sizes))
    assert {step for trial in steps for step in trial.observations} == {400, 1200}
    assert len(read_runs(tmp_path / "t.csv", Source(rungs=(400 * 524288, 1200 * 524288)))) == 6


@pytest.mark.parametrize("unit", [None, "weights"])
@pytest.mark.parametrize("factor", [1, 100, 12345])
def test_a_total_of_the_shares_is_no_domain(unit: str | None, factor: int, tmp_path: Path) -> None:
    frame = table()
    frame[SHARES] *= factor
    frame.assign(**{"mixture/total": frame[SHARES].sum(axis=1)}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="mixture/total is the sum of the other shares in every row"):
        read_runs(tmp_path / "t.csv", Source(columns=Columns(unit=unit)))


def test_a_domain_may_have_half_of_every_mixture(tmp_path: Path) -> None:
    frame = table()
    frame[SHARES] /= 2
    frame.assign(**{"mixture/half": 0.5}).to_csv(tmp_path / "t.csv", index=False)
    assert {trial.mixture[-1] for trial in read_runs(tmp_path / "t.csv")} == {0.5}


@pytest.mark.parametrize("orient", ["columns", "index", "split"])
def test_json_by_columns_says_how_to_write_it(orient: str, tmp_path: Path) -> None:
    table().to_json(tmp_path / "t.json", orient=orient)
    with pytest.raises(ValueError, match="write it with orient='records'"):
        read_runs(tmp_path / "t.json")


def test_why_rows_of_one_run_are_several_runs_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = table()
    again = frame.iloc[[0]].assign(**{"val_loss/wiki": 1.0})
    other = frame.iloc[[4]].assign(run="r1", step=800)
    pd.concat([frame, again, other]).to_csv(tmp_path / "t.csv", index=False)
    assert len(read_runs(tmp_path / "t.csv")) == 8
    said = [record.getMessage() for record in caplog.records if "of their own" in record.getMessage()]
    assert said == [
        "Rows of one run that repeat a step are of a run of their own: r0 is r0_6, too.",
        "Rows of one run that say another mixture or scale are of a run of their own: r1 is r1_7, too.",
    ]
