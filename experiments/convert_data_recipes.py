"""Turns the runs that data-recipes published, ``data_mixing_runs.pkl``, into a CSV file that ray-mixopt reads.

    python experiments/convert_data_recipes.py data_mixing_runs.pkl runs.csv
    ray-mixopt recommend --from runs.csv --scale-cost 20M=0.00013 --scale-cost 1B=0.01 --weight val_loss/github=1

Needs Python alone. Reading a pickle runs whatever it says, and even numpy's own constructors are not safe from hostile
arguments. So nothing that a pickle names is built, and nothing is unpickled in this process. A child process, which can
neither open nor write a file nor, unless it is root's, start another process, and has little memory and time, reads it
with a stand-in for every class and function of numpy and pandas, which only notes what it is called with; other names
are refused. The numbers are then decoded from the bytes of the arrays. What the child says is limited in length and
checked once more by the parent. Columns of text must be objects, as pandas 2 keeps them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import pickle
import re
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

DOMAINS = ("wikipedia", "stackexchange", "github", "arxiv", "book")  # of ``token_probabilities``
METRIC = re.compile(r"eval/RedPajama(?P<domain>\w+)/CrossEntropyLoss")
MiB = 2**20
MOST_BYTES, MOST_MEMORY, MOST_SECONDS = 256 * MiB, 4096 * MiB, 600
MOST_ANSWER = 256 * MiB  # a small pickle may name the same curve any number of times
LOSS = re.compile(r"val_loss/\w{1,40}")
SCALE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

# -- in the child


class Note:
    """Stands in for an object of pandas or numpy: its name, and what it would have been made of."""

    name = ""
    state: Any = None
    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any) -> Note:
        """Notes the arguments."""
        note = super().__new__(cls)
        note.arguments = arguments
        return note

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


_HARMLESS = ("numpy", "pandas", "datetime")  # packages whose names a table may ask for, and builtins.slice
_Unpickler: Any = pickle._Unpickler  # the one in C reserves memory for whatever index a file names


class InertUnpickler(_Unpickler):
    """Notes what a pickle asks for, and makes none of it."""

    def find_class(self, module: str, name: str) -> type[Note]:
        """A stand-in of that name.

        Raises:
            UnpicklingError: for a name that no table asks for.
        """
        if module.split(".")[0] not in _HARMLESS and (module, name) != ("builtins", "slice"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no table of runs needs")
        return type(name, (Note,), {"name": name})


def is_note(value: Any, *names: str) -> bool:
    """Whether a value stands in for one of these."""
    return isinstance(value, Note) and value.name in names


def decoded(kind: Note, raw: bytes) -> list[Any]:
    """The numbers of an array from its bytes."""
    code, order = kind.arguments[0], kind.state[1]
    letter = {"f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}.get(code)
    letter = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}.get(code, letter)
    if letter is None or order not in ("<", ">", "|", "="):
        raise ValueError(f"it has an array of type {order!r} {code!r}")
    count, rest = divmod(len(raw), int(code[1]))
    if rest:
        raise ValueError("it has an array with a torn number")
    return list(struct.unpack(f"{'>' if order == '>' else '<'}{count}{letter}", raw))


def array(value: Any) -> list[Any]:
    """The cells of an array of one dimension; of the rows, as lists, of one of two."""
    if is_note(value, "_frombuffer"):
        raw, kind, shape, order = value.arguments
    elif is_note(value, "_reconstruct"):
        _, shape, kind, is_fortran, raw = value.state
        order = "F" if is_fortran else "C"
    else:
        raise ValueError("it has something else where an array should be")
    if not is_note(kind, "dtype") or not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) not in (1, 2):
        raise ValueError("it has an array of an odd type or shape")
    cells = raw if isinstance(raw, list) else decoded(kind, bytes(raw))
    if len(cells) != math.prod(shape):
        raise ValueError("it has an array whose size is not that of its content")
    if len(shape) == 1:
        return cells
    m, n = shape
    return [cells[i::m] if order == "F" else cells[i * n : (i + 1) * n] for i in range(m)]


def labels(index: Any) -> list[Any]:
    """The names of columns."""
    if not is_note(index, "_new_Index"):
        raise ValueError("it has columns without names")
    return array(index.arguments[1]["data"])


def frame(value: Any, wanted: Callable[[str], Any]) -> dict[str, list[Any]]:
    """The columns of a data frame that are wanted, by name; what the others hold does not matter."""
    if not is_note(value, "DataFrame") or not is_note(value.state["_mgr"], "BlockManager"):
        raise ValueError("it has something else where a data frame should be")
    blocks, (columns, _) = value.state["_mgr"].arguments
    names, found = [str(name) for name in labels(columns)], {}
    for block in blocks:
        values, places, _ = block.arguments
        here = [names[k] for k in (range(*places.arguments) if is_note(places, "slice") else array(places))]
        if any(map(wanted, here)):
            found |= dict(zip(here, array(values), strict=True))
    return {name: cells for name, cells in found.items() if wanted(name)}


def numbers(value: Any) -> list[float]:
    """A mixture, however it is kept."""
    if is_note(value, "Series"):
        value = value.state["_mgr"].arguments[0].arguments[0]
    return [float(share) for share in (value if isinstance(value, list | tuple) else array(value))]


def reports(table: Any) -> Iterator[tuple[str, list[float], str, int, dict[str, float]]]:
    """Run, mixture, scale, step and losses of each report of a table of runs that has a loss."""
    needed = ("group", "token_probabilities", "history")
    columns = frame(table, needed.__contains__)
    if missing := [name for name in needed if name not in columns]:
        raise ValueError(f"it has no column {missing[0]!r}")
    for number, (group, shares, history) in enumerate(zip(*(columns[name] for name in needed), strict=True)):
        curve = frame(history, lambda name: name == "_step" or METRIC.fullmatch(name))
        steps = curve.pop("_step", ())
        for i, step in enumerate(steps):
            losses = {metric(name): float(cells[i]) for name, cells in curve.items() if math.isfinite(cells[i])}
            if losses and step >= 1:
                yield f"run_{number:04d}", numbers(shares), group, int(step), losses


def metric(name: str) -> str:
    """Our name of a loss."""
    domain = METRIC.sub(r"\g<domain>", name).lower()
    return f"val_loss/{'common_crawl' if domain == 'commoncrawl' else domain}"


def child() -> None:
    """Reads a pickle from standard input, writes a line of JSON a report, or the reason why it is refused."""
    for codec in ("raw-unicode-escape", "ascii", "latin1", "unicode-escape"):  # pickle's own, loaded while files open
        b"a".decode(codec)
    for limit, most in (("NOFILE", 3), ("FSIZE", 0), ("NPROC", 0), ("AS", MOST_MEMORY), ("CPU", MOST_SECONDS)):
        with contextlib.suppress(ValueError, OSError):  # some systems do not limit memory
            resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    try:
        for report in reports(InertUnpickler(sys.stdin.buffer).load()):
            sys.stdout.write(json.dumps(report) + "\n")
    except RecursionError:
        sys.stdout.write(json.dumps("it is nested too deep") + "\n")
    except Exception as error:  # whatever a malformed pickle leads to
        sys.stdout.write(json.dumps((str(error) or type(error).__name__)[:500]) + "\n")
    else:
        return
    sys.stdout.flush()
    sys.exit(1)


# -- in the parent


def read(path: Path) -> list[dict[str, str | float]]:
    """The reports of a published table, one row of a tidy file each.

    Raises:
        ValueError: if the file is no such table.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has more than {MOST_BYTES // MiB} MiB: a table of runs is smaller.")
    with path.open("rb") as stream:
        code, said = answer([sys.executable, "-I", "-S", __file__, "--child"], stream)
    if len(said) > MOST_ANSWER:
        raise ValueError(f"{path.name} was refused: it says more than {MOST_ANSWER // MiB} MiB.")
    try:
        lines = [json.loads(line) for line in said.splitlines()]
        if code:
            reason = lines[-1] if lines and isinstance(lines[-1], str) else f"its reader ended with code {code}"
            raise ValueError(reason)
        rows = [row(*line) for line in lines]
    except (TypeError, AttributeError, OverflowError, RecursionError, ValueError) as error:
        raise ValueError(f"{path.name} was refused: {error}.") from error
    if not rows:
        raise ValueError(f"{path.name} has no run with a loss.")
    return rows


def answer(command: list[str], stream: IO[bytes]) -> tuple[int, bytes]:
    """Exit code and output of a child process that is given nothing but a stream; killed if it says or takes too much.

    Args:
        command: what it is.
        stream: its standard input.
    """
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=stream, stdout=subprocess.PIPE, stderr=null, env={}, cwd="/") as process:
        timer = threading.Timer(2 * MOST_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            said = process.stdout.read(MOST_ANSWER + 1)
            if len(said) > MOST_ANSWER:
                process.kill()
            process.wait()
        finally:
            timer.cancel()
    return process.returncode, said


def row(run: str, shares: list[float], scale: str, step: int, losses: dict[str, float]) -> dict[str, str | float]:
    """A row of a tidy file.

    Raises:
        ValueError: if it makes no sense.
    """
    if not isinstance(run, str) or not isinstance(scale, str) or not SCALE.fullmatch(scale):
        raise ValueError(f"it has a run of the scale {scale!r:.80}")
    total = sum(map(float, shares))
    if len(shares) != len(DOMAINS) or not abs(total - 1) < 0.01 or min(shares) < 0:
        raise ValueError(f"{run}: token_probabilities is no mixture of {len(DOMAINS)} domains: {shares}")
    mixture = {f"mixture/{name}": float(share) / total for name, share in zip(DOMAINS, shares, strict=True)}
    if unknown := [name for name in losses if not LOSS.fullmatch(name)]:
        raise ValueError(f"{run}: {unknown[0]!r:.80} is no loss")
    values = {name: float(value) for name, value in losses.items()}
    if not isinstance(step, int) or not all(map(math.isfinite, values.values())):
        raise ValueError(f"{run}: step {step!r:.80} has losses {values!r:.200}")
    return {"run": run, "scale": scale, "step": step} | mixture | values


def main() -> None:
    """Converts one file."""
    if sys.argv[1:] == ["--child"]:
        child()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pickle", type=Path)
    parser.add_argument("csv", type=Path)
    arguments = parser.parse_args()
    try:
        rows = read(arguments.pickle)
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(name for found in rows for name in found)))
            writer.writeheader()
            writer.writerows(rows)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{len(rows)} reports of {len({found['run'] for found in rows})} runs: {arguments.csv}")


if __name__ == "__main__":
    main()
