"""Files of logged runs, read and checked row by row.

A tidy table (CSV with any delimiter, JSON lines, a JSON list, or Parquet; packed with gzip or not) has one row per
(mixture, scale, step):

============================  =====================================================================================
column                        content
============================  =====================================================================================
``scale``                     name of the model scale
``step`` (or ``steps``)       training steps at which the row was measured; or ``tokens``
``mixture/<domain>``          share of training tokens of each domain: a row's shares sum to 1, or to 100, or count
                              tokens; an empty cell is a share of 0
``cost_per_step``             optional: price of one step of that scale in any one unit, also under the name
                              ``relative_flops_per_step``; without it a step costs in proportion to the parameters
``parameters``                optional: number of model parameters of that scale
``run``                       optional: name of the run; rows of one run are one learning curve
all other columns of numbers  metrics; an empty cell is a metric that was not measured, and so is "nan" beside other
                              losses; an infinity, or NaN in all losses, is that of a run that diverged;
                              ``metric/step`` and the like are metrics that have the name of a column above
============================  =====================================================================================

Columns may have the names that W&B, MLflow and Tune give them, or those that ``columns.Columns`` says. RegMix's pairs
and olmix's folders are described in ``regmix`` and ``olmix``, what trackers keep in ``trackers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ray_mixopt.io import frames, olmix, regmix, tidy, trackers
from ray_mixopt.io.columns import Columns
from ray_mixopt.io.rows import Rows, check_in_tokens

PICKLES = (".pkl", ".pickle")
TABLES = (*frames.CSV, *frames.PARQUET, ".jsonl", ".ndjson")  # and a .json file that holds a list


def read_rows(
    path: Path,
    *,
    scale: str | None = None,
    steps: int | None = None,
    columns: Columns | None = None,
    tokens_per_step: Mapping[str, float] | None = None,
    rungs: Sequence[int] = (),
) -> Rows:
    """All rows of a tidy file, of olmix's or a RegMix folder, of the pair of one file, or of what a tracker kept.

    Args:
        path: of the file or folder.
        scale: the model scale of runs that do not say it.
        steps: the training steps of runs that do not say them.
        columns: what a table's columns are called, where that cannot be told.
        tokens_per_step: tokens in a step, by scale, for a table that says tokens.
        rungs: training steps of the search that the rows are for, if any, see ``tidy.rows_of``.

    Raises:
        ValueError: if the files are not as described above; names the row (the header is row 1).
    """
    one_scale, one_length = scale or tidy.ONE_SCALE, steps or tidy.ONE_LENGTH
    if path.is_dir() and (path / olmix.RATIOS).exists():
        return _in_steps(path, olmix.rows_of(path, one_scale, one_length), tokens_per_step)
    is_pairs = any(path.glob("*.csv")) if path.is_dir() else regmix.FILE.fullmatch(path.name)
    if not is_pairs and (read := trackers.reader_of(path)) is not None:
        frame = frames.frame_of(path.name, read(path))
        return tidy.rows_of(
            frames.as_table(path.name, frame),
            columns or Columns(),
            scale=scale,
            steps=steps,
            tokens_per_step=tokens_per_step,
            rungs=rungs,
            may_lack_mixtures=True,
        )
    if path.is_dir() or is_pairs:
        return _in_steps(path, regmix.rows_of(path, one_length), tokens_per_step)
    if not path.exists():
        raise ValueError(f"There is no runs file {str(path)!r}.")
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path.name} is a pickle, which can run code when it is read, and is not: the table that data-recipes "
            "published becomes a CSV file with experiments/convert_data_recipes.py."
        )
    if not is_table(path):
        raise ValueError(
            f"Unknown type of runs file {path.name!r}: use .csv, .tsv, .jsonl or .parquet, or a folder of RegMix pairs "
            "or of olmix."
        )
    table = frames.table_of(path)
    return tidy.rows_of(
        table, columns or Columns(), scale=scale, steps=steps, tokens_per_step=tokens_per_step, rungs=rungs
    )


def _in_steps(path: Path, rows: Rows, tokens_per_step: Mapping[str, float] | None) -> Rows:
    """The rows, of which nothing may be said of the tokens in a step."""
    check_in_tokens(path.name, rows.scale, tokens_per_step or {})
    return rows


def is_table(path: Path) -> bool:
    """Whether a file is a table of runs, by its name; one that ends in ``.json`` is if it holds a list."""
    kind = frames.suffix(path)
    if kind != ".json":
        return kind in TABLES
    if path.suffix.lower() == ".gz":
        return True
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError:
        return False
