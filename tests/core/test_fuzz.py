"""Readers of files that others may have written: whatever is in them, they say what is wrong or give what is right.

MIXOPT_FUZZ_EXAMPLES sets how many cases each test tries, 60 by default.
"""

from __future__ import annotations

import copy
import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs
from worlds import TINY

from ray_mixopt import MixOptSearcher, MixtureOptimizer, MixtureSpace, simulators
from ray_mixopt.benchmark.record import Point, Record
from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.merging import DomainMap
from ray_mixopt.core.objective import Guardrail, Objective
from ray_mixopt.core.pool import Pool
from ray_mixopt.core.safety import check_size, parse_json
from ray_mixopt.io import by_hand, snapshots
from ray_mixopt.io.bookkeeping import Books
from ray_mixopt.io.by_hand import AskedRun, ByHand
from ray_mixopt.io.space_file import read_space
from ray_mixopt.simulators import RunTable
from ray_mixopt.simulators.simulator import Simulator
from ray_mixopt.testing import violations
from ray_mixopt.tune import restore as restoration

fuzz = settings(
    max_examples=int(os.environ.get("MIXOPT_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(), st.just(10**400))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
SPACE = replace(
    TINY,
    token_supply={"web": 1e9, "code": 1e8, "math": 1e7},
    target_tokens=1e8,
    max_epochs=4,
    lower={"web": 0.1},
)


def filled() -> MixOptSearcher:
    """A searcher with runs in every state."""
    searcher = MixOptSearcher(strategy="random", seed=1, budget=1e6)
    searcher.set_search_properties("loss", "min", SPACE.param_space())
    optimizer = searcher.optimizer
    for name in ("done", "paused", "running", "failed", "lost", "diverged"):
        optimizer.ask(name)
        if name not in ("failed", "lost"):
            optimizer.tell(name, 10, {"loss": 1.5})
    optimizer.finish("done", continuable=False)
    optimizer.finish("paused")
    optimizer.finish("failed", failed=True)
    optimizer.finish("lost", lost=True)
    optimizer.tell("diverged", 20, {"loss": math.nan})
    optimizer.add_evaluated_point({"web": 1, "code": 1, "math": 1}, "20M", 10, {"loss": 2.0})
    return searcher


STATE = json.loads(json.dumps(filled().state_dict()))
RECORD = Record(
    problem="p",
    group="g",
    method="m",
    seed=0,
    budget=1.0,
    settings={},
    logged=False,
    cost_unit="u",
    target_cost=1.0,
    score_costs=(1.0,),
    best=0.0,
    median=1.0,
    trace=(Point(cost=0.0, time=0.0, regret=1.0, trained=False, mixture=(1.0,)),),
    spent=0.0,
    spent_by_scale={},
    runs=1,
    failed=0,
    seconds={},
    versions={},
    commit="c",
    machine={},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inside for found in places(part, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """A JSON value with one to three parts replaced, dropped, doubled or added."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from([path for path in places(value) if path] or [("",)]))
        parent = value
        for step in above:
            parent = parent[step]
        what = draw(st.sampled_from(["replace", "drop", "add", "copy"]))
        if not isinstance(parent, dict | list) or not len(parent):
            continue
        if what == "drop":
            del parent[key]
        elif what == "replace":
            parent[key] = draw(VALUES)
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = draw(VALUES)
        else:
            parent.append(copy.deepcopy(parent[key]) if what == "copy" else draw(VALUES))
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; a truth value is no number, and text is none either."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or (one != one and other != other)
    return type(one) is type(other) and one == other


def taken_as_it_is(said: dict[str, Any], written: Any, *, but: tuple[str, ...] = ()) -> None:
    """What was read is what is written again: nothing was taken for something else.

    Left out are names that a reader does not know, and what stands for a default: null, or nothing.
    """
    again = json.loads(json.dumps(written))
    for name, value in said.items():
        if name in again and name not in but and value not in (None, {}, []):
            assert same(value, again[name]), f"{name}: {value!r} was taken for {again[name]!r}"


def without_empty(history: dict[str, Any]) -> dict[str, Any]:
    """A history's state whose runs say nothing of noise where there is none."""
    runs = [{name: part for name, part in run.items() if (name, part) != ("noise", {})} for run in history["trials"]]
    return history | {"trials": runs}


def refuses_or_reads(read: Callable[[], Any]) -> Any:
    """What is read, None where it is refused with a sentence."""
    try:
        return read()
    except ValueError as error:
        assert str(error)
        return None


@fuzz
@given(damaged(STATE["space"]) | VALUES)
def test_spaces(data: Any) -> None:
    space = refuses_or_reads(lambda: MixtureSpace.from_dict(data))
    again = refuses_or_reads(lambda: MixtureSpace.from_json(json.dumps(data)))
    if space is not None:
        assert again == space == MixtureSpace.from_dict(space.to_dict())
        said = data | {"groups": [{"least": 0.0, "most": 1.0, **group} for group in data.get("groups", [])]}
        for name in ("scales", "earlier_scales"):
            said[name] = [{"parameters": None, **scale} for scale in data.get(name, [])]
        taken_as_it_is(said, space.to_dict())
        assert space.simplex.project(space.uniform()[None])[0] == pytest.approx(space.uniform())


@fuzz
@given(damaged(STATE["history"]) | VALUES)
def test_histories(data: Any) -> None:
    history = refuses_or_reads(lambda: History.from_state_dict(data))
    if history is not None:
        assert not violations(history)
        taken_as_it_is(without_empty(data), history.state_dict(), but=("space",))


@fuzz
@given(damaged(json.loads(json.dumps(filled().optimizer.state_dict()))) | VALUES)
def test_optimizers(data: Any) -> None:
    optimizer = refuses_or_reads(lambda: MixtureOptimizer.from_state_dict(data))
    if optimizer is not None:
        written = optimizer.state_dict()
        taken_as_it_is(data, written, but=("history", "reference"))  # a reference is normalised
        taken_as_it_is(without_empty(data["history"]), written["history"], but=("space",))
        optimizer.ask()


@fuzz
@given(damaged(STATE) | st.dictionaries(st.sampled_from(sorted(STATE)), VALUES))
def test_searcher_states(data: Any) -> None:
    searcher = MixOptSearcher()
    before = searcher.state_dict()
    if refuses_or_reads(lambda: searcher.load_state_dict(data) or True) is None:
        assert searcher.state_dict() == before, "a refused state has changed the searcher"
    else:
        taken_as_it_is(data, searcher.state_dict(), but=("space", "history", "evaluated", "settings"))
        taken_as_it_is(data["settings"], searcher.state_dict()["settings"], but=("reference",))


@fuzz
@given(damaged(STATE["space"]).map(yaml.safe_dump) | VALUES.map(yaml.safe_dump) | st.text(max_size=80))
def test_spaces_in_yaml(tmp_path: Path, text: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    space = refuses_or_reads(lambda: read_space(file))
    assert space is None or MixtureSpace.from_dict(space.to_dict()) == space


ASKED = AskedRun(
    run="hand-0001", round=1, mixture={"web": 0.5, "code": 0.5, "math": 0.0}, scale="20M", start=0, steps=10, why="so"
)
FURTHER = replace(ASKED, run="hand-0001", start=10, steps=20, known=(10,), failed=True, handed="/jobs", acquisition=1.0)
BY_HAND = json.loads(json.dumps(ByHand(space=SPACE, runs=(ASKED, FURTHER)).to_dict()))


@fuzz
@given(damaged(BY_HAND) | VALUES, st.booleans())
def test_searches_by_hand(data: Any, honest: bool) -> None:
    if honest and isinstance(data, dict):
        data["checksum"] = by_hand._checksum({key: value for key, value in data.items() if key != "checksum"})
    search = refuses_or_reads(lambda: ByHand.from_dict(data))
    if search is None:
        return
    assert honest or data == BY_HAND, "a state that was changed is refused"
    defaults = {field.name: field.default for field in fields(AskedRun) if field.default is not MISSING}
    taken_as_it_is(
        data | {"runs": [defaults | run for run in data["runs"]]}, search.to_dict(), but=("space", "checksum")
    )
    if refuses_or_reads(lambda: search.check_fits(search.space, "by-hand.json") or True):
        assert not violations(Books(search, {}, search.space).history())


@fuzz
@given(st.binary(max_size=200) | st.integers(0, 4000).map(lambda n: json.dumps(STATE).encode()[:n]))
def test_state_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "searcher-state-2026.json"
    file.write_bytes(content)
    state = refuses_or_reads(lambda: snapshots.read(fs.LocalFileSystem(), str(file)))
    assert state is None or isinstance(state, dict)
    restored = MixOptSearcher()
    restored.restore_from_dir(str(tmp_path))  # Tune would start anew if it raised
    assert restored.damage is not None or state is not None


@fuzz
@given(st.binary(max_size=200))
def test_files_of_tune_are_judged_without_being_run(content: bytes) -> None:
    for check in (restoration._check_trials, restoration._check_pickle):
        assert check(content) is None or isinstance(check(content), str)


@fuzz
@given(damaged(json.loads(json.dumps(RECORD.__dict__ | {"version": 1, "trace": [RECORD.trace[0].__dict__]}))) | VALUES)
def test_records(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(data))
    record = refuses_or_reads(lambda: Record.read(file))
    if record is not None:
        taken_as_it_is(data, asdict(record))


OBJECTIVE = Objective(
    weights={"a": 1.0, "b": 2.0},
    directions={"b": "max"},
    relative_to={"web": 0.5, "code": 0.5},
    guardrails=(Guardrail(metric="c", tolerance=0.1), Guardrail(metric="d", baseline={"web": 1.0}, mode="max")),
    closeness=0.1,
)
POOL = {"mixtures": [[0.5, 0.5], [1.0, 0.0]], "available": [[[True]], [[False]]], "scales": ["S"], "steps": [10]}
MAP = {"renamed": {"a": "b"}, "split": {"c": {"d": 0.5, "e": 0.5}}, "dropped": ["f"]}


@fuzz
@given(damaged(OBJECTIVE.to_dict()) | VALUES)
def test_objectives(data: Any) -> None:
    objective = refuses_or_reads(lambda: Objective.from_dict(data))
    if objective is not None:
        defaults = Guardrail(metric="").__dict__
        said = data | {"guardrails": [defaults | rail for rail in data.get("guardrails", [])]}
        taken_as_it_is(said, objective.to_dict())


@fuzz
@given(damaged(POOL) | VALUES)
def test_pools(data: Any) -> None:
    pool = refuses_or_reads(lambda: Pool.from_dict(data))
    if pool is not None:
        taken_as_it_is(data, pool.to_dict())


@fuzz
@given(damaged(MAP) | VALUES)
def test_domain_maps(data: Any) -> None:
    changes = refuses_or_reads(lambda: DomainMap.from_dict(data))
    if changes is not None:
        taken_as_it_is(data, asdict(changes))


LONG = History(TINY)
LONG.add(Trial(trial_id="long", mixture=(0.5, 0.25, 0.25), scale="20M", steps=40))
for _step in range(1, 200):
    LONG.observe("long", _step, {"loss": 1 / _step} | ({"other": 0.1} if _step % 3 else {}))
LONG.n_asked = 1
PACKED = json.loads(json.dumps(LONG.state_dict()))


@fuzz
@given(damaged(PACKED["trials"][0]["observations"]), st.integers(0, 5000), st.characters(max_codepoint=127))
def test_packed_reports(data: Any, where: int, patch: str) -> None:
    text = json.dumps(data)
    try:
        patched = json.loads(text[:where] + patch + text[where + 1 :])
    except ValueError:
        patched = None
    for said in (data, patched):
        state = PACKED | {"trials": [PACKED["trials"][0] | {"observations": said}]}
        history = refuses_or_reads(partial(History.from_state_dict, state))
        if history is not None:
            assert not violations(history)


CELLS = st.one_of(
    st.sampled_from(["20M", "10", "0.5", "0.25", "", "nan", "inf", "-1", "1e400", '"', "\0", "é"]), st.text(max_size=5)
)
COLUMNS = ["scale", "step", "mixture/a", "mixture/b", "loss", "cost_per_step", "parameters"]


@fuzz
@given(st.permutations(COLUMNS), st.lists(st.lists(CELLS, min_size=5, max_size=8), max_size=4), st.binary(max_size=20))
def test_run_tables(tmp_path: Path, columns: list[str], rows: list[list[str]], tail: bytes) -> None:
    file = tmp_path / "runs.csv"
    good = {"scale": "20M", "step": "10", "mixture/a": "0.5", "mixture/b": "0.5", "loss": "2", "cost_per_step": "1"}
    lines = [",".join(columns), ",".join(good.get(name, "1e6") for name in columns), *map(",".join, rows)]
    file.write_bytes("\n".join(lines).encode("utf-8", "replace") + tail)
    table = refuses_or_reads(lambda: RunTable.read(file))
    assert table is None or np.allclose(table.mixtures.sum(1), 1)


@fuzz
@given(st.binary(max_size=300))
def test_parquet_tables(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "runs.parquet"
    file.write_bytes(b"PAR1" + content + b"PAR1")
    assert refuses_or_reads(lambda: RunTable.read(file)) is None


@pytest.fixture(scope="module", params=simulators.names())
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("simulator") / "s.npz"
    simulators.load(request.param).save(file)
    return file.read_bytes()


@fuzz
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.booleans())
def test_simulators(weights: bytes, tmp_path: Path, where: int, patch: bytes, cut: bool) -> None:
    where %= len(weights)
    file = tmp_path / "damaged.npz"
    file.write_bytes(weights[:where] if cut else weights[:where] + patch + weights[where + len(patch) :])
    refuses_or_reads(lambda: Simulator.read(file))


@fuzz
@given(damaged(json.loads(str(np.load(Path(simulators.__file__).parent / "slimpajama.npz")["header"]))))
def test_headers_of_simulators(weights: bytes, tmp_path: Path, header: Any) -> None:
    arrays = dict(np.load(BytesIO(weights)))
    file = tmp_path / "header.npz"
    np.savez(file, **(arrays | {"header": np.array(json.dumps(header))}))
    refuses_or_reads(lambda: Simulator.read(file))


# -- sizes, depth, pickles


def test_files_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_size("a", None, 1)
    check_size("a", 1, 1)
    with pytest.raises(ValueError, match=r"a has 2.0 MiB, which is more than the 1 MiB that are read"):
        check_size("a", 2**21, 2**20)
    large = tmp_path / "searcher-state-2026.json"
    with large.open("wb") as file:
        file.truncate(snapshots.MOST_BYTES + 1)  # sparse
    with pytest.raises(ValueError, match="more than the 512 MiB"):
        snapshots.read(fs.LocalFileSystem(), str(large))
    with pytest.raises(ValueError, match="more than the 512 MiB"):
        MixOptSearcher.load(tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "bomb.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("header.npy", "w") as entry:
        for _ in range(300):
            entry.write(bytes(2**20))
    assert file.stat().st_size < 2**20
    with pytest.raises(ValueError, match="300.0 MiB, which is more than the 256 MiB"):
        Simulator.read(file)


def test_depth_is_an_error_and_no_crash(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(deep)
    with pytest.raises(ValueError, match="nested too deeply"):
        MixtureSpace.from_json(deep)
    (tmp_path / "searcher-state-2026.json").write_text('{"version": ' + deep + "}")
    with pytest.raises(ValueError, match="nested too deeply"):
        MixOptSearcher.load(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """An object array in an .npz file is a pickle."""
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {ran}",))

    file = tmp_path / "pickled.npz"
    np.savez(file, header=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Simulator.read(file)
    import pickle

    assert restoration._check_pickle(pickle.dumps(Bomb())) is None, "it is looked through, and not run"
    assert not ran.exists()
