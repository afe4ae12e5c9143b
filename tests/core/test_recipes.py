"""Reading a stranger's pickle: rebuilt or refused, and never run."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ray_mixopt.io.recipes import RestrictedUnpickler
from ray_mixopt.io.runs import Source, read_runs

TRUSTED = Source(cost={"20M": 1.0, "1B": 50.0}, unpickle=True)


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
def test_a_table_of_runs_is_read(protocol: int, tmp_path: Path) -> None:
    history = read_runs(written(table(), tmp_path, protocol), TRUSTED)
    assert history.space.domains == ("wikipedia", "stackexchange", "github", "arxiv", "book")
    assert history.space.scale_names == ("20M", "1B")
    assert [trial.trial_id for trial in history] == ["run_0000", "run_0001", "run_0002"]
    first = next(iter(history))
    assert first.mixture == pytest.approx(np.random.default_rng(0).dirichlet(np.ones(5)))
    assert first.observations[100]["val_loss/github"] == 4.0
    assert first.observations[300]["val_loss/common_crawl"] == 4.0
    assert "val_loss/github" not in first.observations[300]
    assert not any("lr" in metrics for metrics in first.observations.values())


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a pickle, which can run code when it is read"):
        read_runs(written(table(), tmp_path))


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
    "partial": Call(__import__("functools").partial, print, "x"),
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
    with pytest.raises(ValueError, match="was refused: it asks for .*, which no table of runs needs"):
        read_runs(written(content, tmp_path), TRUSTED)
    assert not mark.exists()


def test_a_class_is_never_changed() -> None:
    """BUILD on a class would set attributes of pandas itself."""
    code = b"cpandas.core.indexes.range\nRangeIndex\nN}Vnew\nVvalue\ns\x86b."
    with pytest.raises(pickle.UnpicklingError, match="it changes a class"):
        RestrictedUnpickler(io.BytesIO(code)).load()
    assert not hasattr(pd.RangeIndex, "new")


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
        read_runs(written(content, tmp_path), TRUSTED)


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has no column 'history'"):
        read_runs(written(table().drop(columns="history"), tmp_path), TRUSTED)


FUZZ = """
import sys
from pathlib import Path
import numpy as np, pandas as pd, pandas.core.indexes.range
from ray_mixopt.io.recipes import read_recipes

good, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
path.write_bytes(good)
read_recipes(path, unpickle=True)  # whatever is imported late is now there
for codec in ("raw-unicode-escape", "ascii", "latin1", "unicode-escape"):  # of pickle's own opcodes
    b"a".decode(codec)
forbidden = ("os.", "subprocess.", "socket.", "exec", "compile", "shutil.", "ctypes.", "import")
armed = False

def hook(event, arguments):
    if not armed:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith(forbidden):
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
    path.write_bytes(bytes(bad))
    armed = True
    try:
        read_recipes(path, unpickle=True)
    except ValueError:
        refused += 1
    finally:
        armed = False
print("refused", refused)
"""


def test_no_mutated_pickle_runs_anything(tmp_path: Path) -> None:
    """400 damaged files: each is refused with a ValueError or read, and nothing is run, imported or written."""
    good = written(table(), tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", FUZZ, str(good), str(tmp_path / "bad.pkl")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert "CAUGHT" not in child.stdout, child.stdout[:2000]
    assert "boom" not in child.stdout
    assert int(child.stdout.split()[-1]) > 200
