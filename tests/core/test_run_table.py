"""Logged runs, tidy and from RegMix pairs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_mixopt.simulators import RunTable

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs the published run tables")

HEADER = "scale,parameters,cost_per_step,step,mixture/web,mixture/code,val_loss/web,val_loss/code,acc\n"
ROWS = [
    "L,1e9,10,100,0.5,0.5,3.0,2.0,0.3",
    "S,1e8,1,100,0.5,0.5,4.0,3.0,0.2",
    "S,1e8,1,200,0.5,0.5,3.5,2.5,0.25",
    "S,1e8,1,100,1,0,3.9,5.0,0.2",
    "L,1e9,10,100,1,0,2.9,4.0,nan",
    "S,1e8,1,100,0.25,0.75,4.4,2.6,",
]


def write(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "runs.csv"
    path.write_text(header + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> RunTable:
    return RunTable.read(write(tmp_path, ROWS))


# -- tidy tables


def test_a_tidy_table(table: RunTable) -> None:
    space = table.space
    assert space.domains == ("web", "code")
    assert [(s.name, s.cost_per_step, s.parameters) for s in space.scales] == [("S", 1, 1e8), ("L", 10, 1e9)]
    assert space.steps == (100, 200)
    assert space.target == ("L", 100)  # L was never logged at 200
    assert table.metrics == ("val_loss/web", "val_loss/code", "acc", "loss")
    assert table.modes == {"val_loss/web": "min", "val_loss/code": "min", "acc": "max", "loss": "min"}
    assert table.default_metric == "loss"
    np.testing.assert_array_equal(table.mixtures, [[0.5, 0.5], [1, 0], [0.25, 0.75]])
    wanted = [[[1, 1], [1, 0]], [[1, 0], [1, 0]], [[1, 0], [0, 0]]]
    np.testing.assert_array_equal(table.available, np.array(wanted, dtype=bool))


def test_looking_up_runs(table: RunTable) -> None:
    values = table.evaluate([[0.5, 0.5], [1.0, 0.0]], "S", 100)
    np.testing.assert_allclose(values, [[4, 3, 0.2, 3.5], [3.9, 5, 0.2, 4.45]])
    assert table.observe({"code": 2, "web": 2}, "L", 100) == {
        "val_loss/web": 3.0,
        "val_loss/code": 2.0,
        "acc": 0.3,
        "loss": 2.5,
    }
    assert np.isnan(table.observe([1, 0], "L", 100)["acc"])
    assert table.rungs([0.5, 0.5], "S") == (100, 200)
    assert table.rungs([0.25, 0.75], "L") == ()
    assert table.evaluate(np.empty((0, 2)), "S", 100).shape == (0, 4)


def test_what_was_not_logged_is_refused(table: RunTable) -> None:
    with pytest.raises(ValueError, match=r"Mixture \{'web': 0.4, 'code': 0.6\} is not among the 3 logged"):
        table.evaluate([[0.4, 0.6]], "S", 100)
    for scale, steps in (("L", 200), ("S", 150)):
        with pytest.raises(
            ValueError, match=rf"\{{'web': 0.5, 'code': 0.5\}} is logged at scale '{scale}' and {steps}"
        ):
            table.evaluate([[0.5, 0.5]], scale, steps)
    with pytest.raises(ValueError, match="Unknown scale 'M'"):
        table.observe([0.5, 0.5], "M", 100)
    with pytest.raises(ValueError, match="n x 2, got shape"):
        table.evaluate([0.5, 0.5], "S", 100)


def test_the_pool_holds_the_logged_runs(table: RunTable) -> None:
    pool = table.pool
    np.testing.assert_array_equal(pool.mixtures, table.mixtures)
    np.testing.assert_array_equal(pool.available, table.available)


def test_repeats_are_averaged_and_counted(tmp_path: Path) -> None:
    extra = ["S,1e8,1,100,0.5,0.5,5.0,3.0,0.4", "S,1e8,1,100,0.5,0.5,6.0,3.0,"]
    table = RunTable.read(write(tmp_path, ROWS + extra))
    assert table.counts[0, 0, 0] == 3 and table.counts.sum() == len(ROWS) + 2
    report = table.observe([0.5, 0.5], "S", 100)
    assert report["val_loss/web"] == pytest.approx(5.0)
    assert report["acc"] == pytest.approx(0.3)  # over the two that have it


def test_a_mixture_that_was_rounded_is_the_same_mixture(tmp_path: Path) -> None:
    """As in published tables, where one scale's rows have more digits than another's."""
    table = RunTable.read(write(tmp_path, [*ROWS, "L,1e9,10,200,0.500005,0.499995,2.5,1.5,0.4"]))
    np.testing.assert_array_equal(table.mixtures, [[0.5, 0.5], [1, 0], [0.25, 0.75]])
    assert table.rungs([0.5, 0.5], "L") == table.rungs([0.5004, 0.4996], "L") == (100, 200)


def test_choices_of_the_reader(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    table = RunTable.read(path, target=("S", 200), metrics=["acc"], modes={"acc": "min"}, scale_cost={"L": 7, "S": 8})
    assert table.space.target == ("S", 200)
    assert table.metrics == ("acc",) and table.modes == {"acc": "min"} and table.default_metric == "acc"
    assert table.space.scale_names == ("S", "L"), "by their parameters, whatever they cost"
    assert table.space.cost("S", 2) == 16


def test_aliases_and_other_columns(tmp_path: Path) -> None:
    header = "scale,relative_flops_per_step,steps,mixture/a,mixture/b,perplexity,note,loss,empty\n"
    table = RunTable.read(write(tmp_path, ["x,3,7,0.501,0.5,11,fine,2,", "x,3,9,0.2,0.8,12,,3,"], header))
    assert table.metrics == ("perplexity", "loss")
    assert table.space.scales[0].cost_per_step == 3 and table.space.scales[0].parameters is None
    np.testing.assert_allclose(table.mixtures[0], [0.501 / 1.001, 0.5 / 1.001])


def test_parquet_is_csv(tmp_path: Path, table: RunTable) -> None:
    pd.read_csv(write(tmp_path, ROWS)).to_parquet(tmp_path / "runs.parquet")
    other = RunTable.read(tmp_path / "runs.parquet")
    assert other.space == table.space and other.metrics == table.metrics
    np.testing.assert_array_equal(other.values, table.values)


def test_blank_lines_are_skipped(tmp_path: Path, table: RunTable) -> None:
    other = RunTable.read(write(tmp_path, ["", *ROWS, "", ""]))
    np.testing.assert_array_equal(other.values, table.values)


def test_tables_pickle(table: RunTable) -> None:
    table.observe([0.5, 0.5], "S", 100)
    copy = pickle.loads(pickle.dumps(table))
    assert copy.observe([0.5, 0.5], "S", 200) == table.observe([0.5, 0.5], "S", 200)


@given(seed=st.integers(0, 10_000), d=st.integers(2, 8), n=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_every_row_is_found_again(seed: int, d: int, n: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.full(d, 0.4), n).round(3)
    frame = pd.DataFrame(mixtures, columns=[f"mixture/{i}" for i in range(d)])
    frame = frame.assign(scale=rng.choice(["s", "l"], n), step=rng.integers(1, 4, n), y=rng.normal(size=n))
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    frame.to_csv(path, index=False)
    table = RunTable.read(path, scale_cost={name: 1 + i for i, name in enumerate(frame["scale"].unique())})
    groups = frame.groupby([*frame.columns[:d], "scale", "step"])["y"].mean()
    for row, (_, record) in enumerate(frame.iterrows()):
        seen = table.observe(mixtures[row], record["scale"], record["step"])["y"]
        assert seen == pytest.approx(groups[(*mixtures[row], record["scale"], record["step"])])
    assert table.counts.sum() == n


# -- tables that are wrong


def changed(row: int, cell: int, value: str) -> list[str]:
    rows = [line.split(",") for line in ROWS]
    rows[row - 2][cell] = value
    return [",".join(line) for line in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(4, 4, "0.x5"), "row 4: mixture/web must be a finite number or empty, for no share, got '0.x5'"),
        (changed(4, 4, ""), "row 4: the mixture sums to 0.5 instead of 1, with mixture/web empty"),
        (changed(3, 5, "4,5"), "row 3 has 10 cells, and the header 9"),
        (changed(3, 6, "1.2.3"), "row 3: val_loss/web must be a number or empty, got '1.2.3'"),
        (changed(5, 4, "0.9"), "row 5: the mixture sums to 0.9 instead of 1"),
        (changed(5, 5, "-0.005"), "row 5: mixture/code is negative, -0.005"),
        (changed(6, 3, "1.5"), "row 6: step must be a whole number above 0, got 1.5"),
        (changed(6, 3, "-5"), "row 6: step must be a whole number above 0, got -5"),
        ([*ROWS[:2], "", ROWS[2], "S,1e8"], "row 6 has 2 cells, and the header 9"),
        (changed(6, 3, ""), "row 6: step must be a finite number, got ''"),
        (changed(6, 0, " "), "row 6: the scale is missing"),
        (changed(5, 2, "2"), "row 5: cost_per_step of scale 'S' is 2.0, but 1.0 above"),
        (changed(2, 2, "-1"), "row 2: cost_per_step must be above 0, got -1"),
        ([], "has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    path = write(tmp_path, rows) if rows else tmp_path / "runs.csv"
    if not rows:
        path.write_text(HEADER)
    with pytest.raises(ValueError, match=message):
        RunTable.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "runs.csv is empty"),
        ("scale,step,loss\ns,1,2\n", "no mixture columns: name them mixture/<domain>"),
        ("step,mixture/a,mixture/b,loss\n1,0,1,2\n1,0,1,3\n", "needs a column 'scale'.*--scale-column COLUMN"),
        ("scale,mixture/a,mixture/b,loss\ns,0,1,2\ns,0,1,3\n", "a column 'step'.*--steps NUMBER"),
        ("scale,step,mixture/a,mixture/b,note\ns,1,0,1,hello\n", "has no metric"),
        ("scale,step,mixture/a,mixture/b,loss\ns,1,0,1,2\nl,1,0,1,2\n", r"a label never implies one.*cost: l, s"),
        ("scale,step,mixture/a,mixture/a,loss\ns,1,0,1,2\n", "column 'mixture/a' twice"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunTable.read(tmp_path / "runs.csv")


def test_bad_paths_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs file"):
        RunTable.read(tmp_path / "absent.csv")
    (tmp_path / "runs.xlsx").write_text("x")
    with pytest.raises(ValueError, match="Unknown type of runs file 'runs.xlsx'"):
        RunTable.read(tmp_path / "runs.xlsx")
    with pytest.raises(ValueError, match="No RegMix pair"):
        RunTable.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": ("L", 200)}, r"No run is logged at the target \('L', 200\)"),
        ({"target": ("M", 200)}, "target's scale 'M' is unknown"),
        ({"metrics": ["bleu"]}, r"No metric \['bleu'\] in the runs: they have val_loss/web"),
        ({"metrics": []}, "No metric"),
        ({"modes": {"acc": "up"}}, "modes must give 'min' or 'max'"),
        ({"modes": {"bleu": "max"}}, "modes must give"),
        ({"scale_cost": {"S": 1}}, r"Without a cost: L; unknown scales: none"),
        ({"scale_cost": {"S": 1, "L": 2, "M": 3}}, r"unknown scales: M"),
    ],
)
def test_bad_choices_are_explained(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunTable.read(write(tmp_path, ROWS), **arguments)


# -- RegMix pairs


def write_pair(folder: Path, part: str, scale: str, indexes: list[int], losses: list[int] | None = None) -> None:
    shares = [f"{i},{0.1 * i:.1f},{1 - 0.1 * i:.1f}" for i in indexes]
    header = "index,train_the_pile_arxiv,train_the_pile_github\n"
    (folder / f"{part}_mixture_{scale}.csv").write_text(header + "\n".join(shares) + "\n")
    values = [f"{i},{i + 0.5},{i + 1.5}" for i in (indexes if losses is None else losses)]
    header = "index,metric/the_pile_arxiv_val_loss,metric/the_pile_books_val_loss\n"
    (folder / f"{part}_pile_loss_{scale}.csv").write_text(header + "\n".join(values) + "\n")


COST = {"1m": 1.0, "1B": 500.0}


def test_regmix_pairs_are_joined(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "1m", [1, 2, 3], losses=[3, 1, 2])
    write_pair(tmp_path, "test", "1m", [4, 5])
    write_pair(tmp_path, "test", "1B", [2, 5])
    table = RunTable.read(tmp_path, scale_cost=COST)
    assert table.space.domains == ("arxiv", "github") and table.space.scale_names == ("1m", "1B")
    assert table.space.steps == (1,) and table.space.target_cost == 500
    assert table.metrics == ("val_loss/arxiv", "val_loss/books", "loss")
    assert table.available[:, :, 0].sum(axis=0).tolist() == [5, 2]
    for i in range(1, 6):
        assert table.observe([0.1 * i, 1 - 0.1 * i], "1m", 1)["val_loss/arxiv"] == i + 0.5
    single = RunTable.read(tmp_path / "test_pile_loss_1B.csv", scale_cost={"1B": 1})
    assert len(single.mixtures) == 2


def test_regmix_needs_costs(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "1m", [1, 2, 3])
    assert RunTable.read(tmp_path).space.target_cost == 1  # counted in the steps of the only scale
    write_pair(tmp_path, "train", "1B", [1, 2, 3])
    with pytest.raises(ValueError, match=r"a label never implies one: give --scale-cost.*Without a cost: 1B, 1m"):
        RunTable.read(tmp_path)


@pytest.mark.parametrize(
    ("indexes", "losses", "message"),
    [
        ([1, 2, 3], [1, 2, 4], r"train_mixture_1m.csv, row 4: index '3' is not in train_pile_loss_1m.csv"),
        ([1, 2], [1, 2, 4], r"train_pile_loss_1m.csv, row 4: index '4' is not in train_mixture_1m.csv"),
        ([1, 2, 2], [1, 2], r"train_mixture_1m.csv, row 4: index '2' is repeated"),
    ],
)
def test_pairs_must_match(tmp_path: Path, indexes: list[int], losses: list[int], message: str) -> None:
    write_pair(tmp_path, "train", "1m", indexes, losses)
    with pytest.raises(ValueError, match=message):
        RunTable.read(tmp_path, scale_cost=COST)


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", "1m", [1, 2])
    (tmp_path / "train_pile_loss_1m.csv").unlink()
    with pytest.raises(ValueError, match=r"train_mixture_1m.csv has no partner train_pile_loss_1m.csv"):
        RunTable.read(tmp_path, scale_cost=COST)


# -- published tables


@needs_data
def test_mixinglaws() -> None:
    path = DATA / "mixinglaws" / "redpajama_runs.csv"
    table = RunTable.read(path, target=("410M", 30000))
    assert table.space.scale_names == ("70M", "160M", "305M", "410M", "1B")
    assert len(table.metrics) == 23 and table.counts.max() == 1 and table.counts.sum() == 1161
    at = [table.available[:, i, table.space.steps.index(30000)] for i in range(4)]
    assert np.logical_and.reduce(at).sum() == 20
    frame = pd.read_csv(path)
    record = frame.iloc[700]
    mixture = record[[f"mixture/source_{i}" for i in range(1, 8)]].to_numpy(dtype=float)
    report = table.observe(mixture, record["scale"], record["step"])
    assert report["val_loss/ArXiv"] == record["val_loss/ArXiv"]
    assert RunTable.read(path).space.target == ("1B", 100000)


@needs_data
def test_regmix() -> None:
    table = RunTable.read(DATA / "regmix", scale_cost={"1m": 1, "60m": 60, "1B": 1000})
    assert table.space.n_domains == 17
    assert table.available[:, :, 0].sum(axis=0).tolist() == [768, 256, 64]
    assert table.available[:, :2, 0].all(axis=1).sum() == 256
    np.testing.assert_allclose(table.mixtures.sum(axis=1), 1, atol=1e-12)
    values = table.evaluate(table.mixtures[table.available[:, 2, 0]], "1B", 1)
    np.testing.assert_allclose(values[:, -1], values[:, :-1].mean(axis=1))
