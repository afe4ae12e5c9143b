"""Turning a stranger's pickle into a table: its numbers are taken out or it is refused, and nothing of it is run."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing._private.utils import runstring

from ray_mixopt.io.runs import Source, read_runs

SCRIPT = Path(__file__).parents[2] / "experiments" / "convert_data_recipes.py"
_spec = importlib.util.spec_from_file_location("convert_data_recipes", SCRIPT)
converter = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(converter)


def table(n: int = 4) -> pd.DataFrame:
    """Runs as data-recipes keeps them; one left nothing."""
    rng = np.random.default_rng(0)
    histories = [
        pd.DataFrame(
            {
                "_step": np.array([100, 200, 300]),
                "eval/RedPajamaGithub/CrossEntropyLoss": np.array([4.0 - i, 3.0, np.nan]),
                "eval/RedPajamaCommonCrawl/CrossEntropyLoss": np.array([5.0, 4.5, 4.0]),
                "lr": np.array([0.1, 0.2, 0.3]),
            }
        )
        for i in range(n)
    ]
    for history in histories:  # strings as pandas 2 has them
        history.columns = pd.Index(list(history.columns), dtype=object)
    frame = pd.DataFrame(
        {
            "group": pd.Series(["20M", "1B"] * (n // 2), dtype=object),
            "token_probabilities": pd.Series([rng.dirichlet(np.ones(5)) for _ in range(n)], dtype=object),
            "history": pd.Series([*histories[:-1], histories[0].iloc[:0]], dtype=object),
        }
    )
    frame.columns = pd.Index(list(frame.columns), dtype=object)
    return frame


def written(content: object, tmp_path: Path, protocol: int = 4) -> Path:
    path = tmp_path / "data_mixing_runs.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_table_of_runs_becomes_a_file_that_is_read(protocol: int, tmp_path: Path) -> None:
    out = tmp_path / "runs.csv"
    command = [sys.executable, SCRIPT, written(table(), tmp_path, protocol), out]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"9 reports of 3 runs: {out}\n"
    history = read_runs(out, Source(cost={"20M": 1.0, "1B": 50.0}))
    assert history.space.domains == ("wikipedia", "stackexchange", "github", "arxiv", "book")
    assert history.space.scale_names == ("20M", "1B")
    assert [trial.trial_id for trial in history] == ["run_0000", "run_0001", "run_0002"]
    first = next(iter(history))
    assert first.mixture == pytest.approx(np.random.default_rng(0).dirichlet(np.ones(5)))
    assert first.observations[100]["val_loss/github"] == 4.0
    assert first.observations[300]["val_loss/common_crawl"] == 4.0
    assert "val_loss/github" not in first.observations[300]
    assert not any("lr" in metrics for metrics in first.observations.values())


def test_columns_that_are_not_needed_may_hold_anything(tmp_path: Path) -> None:
    frame = table().assign(created=pd.date_range("2024-01-01", periods=4), x=np.float16(1), y=[None, 1, "a", {}])
    frame.columns = pd.Index(list(frame.columns), dtype=object)
    assert converter.read(written(frame, tmp_path)) == converter.read(written(table(), tmp_path))


class Call:
    """Reduces to a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


MALICIOUS = {
    "os.system": Call(os.system, "touch {mark}"),
    "subprocess": Call(subprocess.check_output, ["touch", "{mark}"]),
    "eval": Call(eval, "open('{mark}', 'w')"),
    "open": Call(open, "{mark}", "w"),
    "getattr": Call(getattr, "text", "upper"),
    "numpy.load": Call(np.load, "{mark}"),
    "pandas.eval": Call(pd.eval, "1 + 1"),
    "read_pickle": Call(pd.read_pickle, "{mark}"),
    "import": Call(__import__, "this"),
    "partial": Call(__import__("functools").partial, len, "x"),
    "numpy runstring": Call(runstring, "open('{mark}', 'w')", {}),  # numpy's own tests execute text
    "numpy scalar": Call(np.float64(1).__reduce__()[0], np.dtype("O"), bytes(8)),  # an object at address 0
    "numpy memmap": Call(np.memmap, "{mark}", "u1", "w+", 0, (1,)),  # writes a file
}


@pytest.mark.parametrize("name", list(MALICIOUS))
@pytest.mark.parametrize("where", ["alone", "in the table"])
def test_a_malicious_pickle_is_refused(name: str, where: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = MALICIOUS[name]
    evil = Call(evil.function, *(str(a).format(mark=mark) if isinstance(a, str) else a for a in evil.arguments))
    content: object = evil
    if where == "in the table":
        frame = table()
        frame.loc[0, "history"] = evil
        content = frame
    inert = name.startswith(("numpy", "pandas", "read_pickle"))  # a stand-in is called, which is no table
    message = "it has something else where" if inert else "it asks for .*, which no table of runs needs"
    with pytest.raises(ValueError, match=f"was refused: {message}"):
        converter.read(written(content, tmp_path))
    assert not mark.exists()


class Hostile:
    """An array whose arguments would make numpy read or write memory that is not its own."""

    def __init__(self, function, arguments, state=None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


_make, _given, _ = np.arange(3.0).__reduce__()
_buffer = np.arange(3.0).__reduce_ex__(5)[0]


@pytest.mark.parametrize(
    "shares",
    [
        Hostile(_buffer, (bytes(40), np.dtype("O"), (5,), "C")),
        Hostile(_buffer, (bytes(8), np.dtype("f8"), (2**40,), "C")),
        Hostile(_buffer, (bytes(40), np.dtype("f8"), (-5,), "C")),
        Hostile(_make, _given, (1, (5,), np.dtype("O"), False, bytes(40))),
        Hostile(_make, _given, (1, (5,), np.dtype("f8"), False, bytes(39))),
        Hostile(_make, _given, (1, (2**62, 2**62), np.dtype("f8"), False, b"")),
    ],
)
def test_hostile_arrays_are_refused(shares: Hostile, tmp_path: Path) -> None:
    frame = table()
    frame["token_probabilities"] = pd.Series([shares] * 4, dtype=object)
    frame.columns = pd.Index(list(frame.columns), dtype=object)
    with pytest.raises(ValueError, match="was refused: it has an array"):
        converter.read(written(frame, tmp_path))


def test_a_class_is_never_changed(tmp_path: Path) -> None:
    """BUILD on a class would set its attributes."""
    code = b"cpandas.core.indexes.range\nRangeIndex\nN}Vnew\nVvalue\ns\x86b."
    with pytest.raises(ValueError, match="was refused"):
        converter.read(written(code, tmp_path))


def test_whoever_takes_over_the_child_can_neither_open_nor_be_believed(tmp_path: Path) -> None:
    load = f"import sys; sys.argv[1:] = ['--child']; sys.path.insert(0, {str(SCRIPT.parent)!r}); "
    takes_over = "import convert_data_recipes as c; c.InertUnpickler = lambda stream: open({!r}, 'w'); c.main()"
    mark = tmp_path / "mark"
    child = subprocess.run(
        [sys.executable, "-c", load + takes_over.format(str(mark))], capture_output=True, text=True, check=False
    )
    assert child.returncode == 1 and "Too many open files" in child.stdout
    assert not mark.exists()
    one = [1, 0, 0, 0, 0]
    for said in (
        ["a", one, "S", "x", {}],
        ["a", [2, 0, 0, 0, 0], "S", 1, {}],
        ["a", [1], "S", 1, {}],
        ["a", [float("nan"), 1, 0, 0, 0], "S", 1, {}],
        ["a", one, "=1+1", 1, {}],
        ["a", one, 5, 1, {}],
        ["a", one, "S", 1.5, {}],
        ["a", one, "S", 1, {"=1+1": 1.0}],
        ["a", one, "S", 1, {"val_loss/book": float("inf")}],
    ):
        with pytest.raises(ValueError):
            converter.row(*said)
    assert converter.row("a", one, "S", 1, {"val_loss/book": 2.0})["val_loss/book"] == 2.0


def test_a_child_that_says_or_takes_too_much_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "MOST_ANSWER", 2**20)
    with SCRIPT.open("rb") as stream:
        code, said = converter.answer([sys.executable, "-c", "while True: print('x' * 1000)"], stream)
        assert (code, len(said)) == (-signal.SIGKILL, 2**20 + 1)
        monkeypatch.setattr(converter, "MOST_SECONDS", 0.2)
        code, said = converter.answer([sys.executable, "-c", "import os, time; os.close(1); time.sleep(60)"], stream)
        assert (code, said) == (-signal.SIGKILL, b"")
    monkeypatch.undo()
    monkeypatch.setattr(converter, "MOST_ANSWER", 1000)
    with pytest.raises(ValueError, match="was refused: it says more than"):
        converter.read(written(table(20), tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "was refused"),
        (b"not a pickle", "was refused"),
        (pickle.dumps([1, 2]), "was refused"),
        (pickle.dumps(np.arange(3)), "was refused"),
        (b"\x80\x04" + b"(" * 100_000 + b".", "was refused"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        converter.read(written(content, tmp_path))


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has no column 'history'"):
        converter.read(written(table().drop(columns="history"), tmp_path))


FUZZ = """
import io, sys
from pathlib import Path
import numpy as np

script, file = map(Path, sys.argv[1:])
sys.path.insert(0, str(script.parent))
from convert_data_recipes import InertUnpickler, reports

good = file.read_bytes()

def read(content):
    return list(reports(InertUnpickler(io.BytesIO(content)).load()))

read(good)  # whatever is imported late is now there
for codec in ("raw-unicode-escape", "ascii", "latin1", "unicode-escape"):  # of pickle's own opcodes
    b"a".decode(codec)
forbidden = ("os.", "subprocess.", "socket.", "exec", "compile", "shutil.", "ctypes.", "import", "open")
armed = False

def hook(event, arguments):
    if not armed:
        return
    if event.startswith(forbidden):
        print("CAUGHT", event, arguments, flush=True)

sys.addaudithook(hook)
rng = np.random.default_rng(0)
names = [b"posix\\nsystem", b"os\\nsystem", b"builtins\\neval", b"builtins\\nexec", b"subprocess\\nPopen"]
refused = 0
for i in range(400):
    bad = bytearray(good)
    for _ in range(rng.integers(1, 8)):
        where = int(rng.integers(len(bad)))
        kind = rng.integers(4)
        if kind == 0:
            bad[where] = int(rng.integers(256))
        elif kind == 1:
            del bad[where : where + int(rng.integers(1, 40))]
        elif kind == 2:
            bad[where:where] = b"c" + names[rng.integers(len(names))] + b"\\n(Vecho boom\\ntR"
        else:
            bad[where:where] = bad[int(rng.integers(len(bad))) :][: int(rng.integers(1, 60))]
    armed = True
    try:
        read(bytes(bad))
    except Exception:
        refused += 1
    finally:
        armed = False
print("refused", refused)
"""


def test_no_mutated_pickle_runs_anything(tmp_path: Path) -> None:
    """400 damaged files: each is refused or read, and nothing is run, imported, opened or written."""
    child = subprocess.run(
        [sys.executable, "-c", FUZZ, str(SCRIPT), str(written(table(), tmp_path))],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert "CAUGHT" not in child.stdout, child.stdout[:2000]
    assert "boom" not in child.stdout
    assert int(child.stdout.split()[-1]) > 200
