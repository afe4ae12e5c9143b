"""Which rows are of which suggested run, whether tables name runs or not."""

from __future__ import annotations

from typing import Any

import pytest

from ray_mixopt.core.history import History, Trial
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.bookkeeping import Books
from ray_mixopt.io.by_hand import AskedRun, ByHand

SPACE = MixtureSpace(domains=("a", "b"), scales=(Scale("s", 1.0), Scale("l", 10.0)), steps=(10, 20))


def history_of(*runs: tuple[str, float, str, tuple[int, ...]]) -> Any:
    """A table of runs: name, share of a, scale, steps seen."""

    history = History(SPACE)
    for name, share, scale, steps in runs:
        mixture = (share, 1 - share)
        history.add(Trial(trial_id=name, mixture=mixture, scale=scale, steps=max(steps), status="done", evaluated=True))
        for step in steps:
            history.observe(name, step, {"loss": 1.0})
    return history


def asked(run: str, share: float, steps: int, *, start: int = 0, known: tuple[int, ...] = ()) -> AskedRun:
    return AskedRun(
        run=run, round=1, mixture={"a": share, "b": 1 - share}, scale="s", start=start, steps=steps, why="", known=known
    )


def books_of(runs: list[AskedRun], histories: dict[str, History], space: MixtureSpace) -> Books:
    return Books(ByHand(space=space, runs=tuple(runs)), histories, space)


CASES = {
    "nearest first": (
        [asked("hand-0001", 0.300, 10), asked("hand-0002", 0.305, 10)],
        [("x", 0.304, "s", (10,)), ("y", 0.302, "s", (10,))],
        {"hand-0001": [10], "hand-0002": [10]},
        [],
    ),
    "another scale": ([asked("hand-0001", 0.3, 10)], [("x", 0.3, "l", (10,))], {"hand-0001": []}, ["x"]),
    "too far": ([asked("hand-0001", 0.3, 10)], [("x", 0.31, "s", (10,))], {"hand-0001": []}, ["x"]),
    "there before": (
        [asked("hand-0001", 0.3, 10, known=(10,))],
        [("x", 0.3, "s", (10,))],
        {"hand-0001": []},
        ["x"],
    ),
    "a twin of one that was there before": (
        [asked("hand-0001", 0.3, 10, known=(10,))],
        [("x", 0.3, "s", (10,)), ("y", 0.3, "s", (10,))],
        {"hand-0001": [10]},
        ["x"],
    ),
    "added to one that was there before": (
        [asked("hand-0001", 0.3, 20, known=(10,))],
        [("x", 0.3, "s", (10, 20))],
        {"hand-0001": [20]},
        ["x"],
    ),
    "added to a suggested one": (
        [asked("hand-0001", 0.3, 10), asked("hand-0002", 0.3, 20, known=(10,))],
        [("x", 0.3, "s", (10, 20))],
        {"hand-0001": [10], "hand-0002": [20]},
        [],
    ),
    "goes on in its own row": (
        [asked("hand-0001", 0.3, 10), asked("hand-0001", 0.3, 20, start=10)],
        [("x", 0.3, "s", (10, 20))],
        {"hand-0001": [10, 20]},
        [],
    ),
    "goes on, and repeats a step": (
        [asked("hand-0001", 0.3, 10), asked("hand-0001", 0.3, 20, start=10)],
        [("x", 0.3, "s", (10,)), ("y", 0.3, "s", (10, 20))],
        {"hand-0001": [10, 20]},
        ["y"],
    ),
    "a name goes before a mixture": (
        [asked("hand-0001", 0.3, 10), asked("hand-0002", 0.3, 10)],
        [("hand-0002", 0.3, "s", (10,))],
        {"hand-0001": [], "hand-0002": [10]},
        [],
    ),
}


@pytest.mark.parametrize(("runs", "rows", "found", "others"), CASES.values(), ids=CASES.keys())
def test_whose_rows(runs: Any, rows: Any, found: dict[str, list[int]], others: list[str]) -> None:

    given = history_of(*rows)
    books = books_of(runs, {"t": given}, given.space)
    assert {name: list(books.reports(name)) for name in found} == found
    history = books.history()
    assert [trial.trial_id.removeprefix("t:") for trial in history if trial.evaluated] == others
    assert sum(len(trial.observations) for trial in history) == sum(len(steps) for *_, steps in rows)


def test_rows_that_are_not_as_suggested() -> None:

    given = history_of(("hand-0001", 0.4, "s", (10,)), ("hand-0001_7", 0.4, "s", (10,)))
    books = books_of([asked("hand-0001", 0.3, 10)], {"t": given}, given.space)
    assert books.history()["hand-0001"].mixture == (0.4, 0.6)
    assert [trial.trial_id for trial in books.history()] == ["hand-0001"]
    assert "hand-0001 was trained on another mixture than suggested, with shares that differ by up to 0.100" in str(
        books.notices
    )
    assert "t has rows of hand-0001 that repeat a step: the first of them count." in books.notices
    with pytest.raises(ValueError, match="t has hand-0001 at scale l, and it was suggested at s: correct the scale"):
        books_of([asked("hand-0001", 0.3, 10)], {"t": history_of(("hand-0001", 0.3, "l", (10,)))}, given.space)


def test_what_cannot_be_a_training_step_is_not_paid_for() -> None:
    far = history_of(("hand-0001", 0.3, "s", (10**12,)))
    with pytest.raises(ValueError, match=r"t has hand-0001 at step 1,000,000,000,000, far beyond the last rung 20\."):
        books_of([asked("hand-0001", 0.3, 10)], {"t": far}, SPACE)
    unnamed = history_of(("x", 0.3, "s", (10**12,)))
    assert books_of([asked("hand-0001", 0.3, 10)], {"t": unnamed}, SPACE).history().spent == 0


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (("hand-0001_1", 0.6, "s", (20,)), "their shares differ from it by up to 0.300"),
        (("hand-0001_1", 0.6, "s", (10,)), "their shares differ from it by up to 0.300"),
        (("hand-0001_1", 0.3, "l", (10,)), "they are of scale l, and not of s"),
        (("hand-0001_1", 0.3, "s", (20,)), "no row of that name goes with them"),
    ],
)
def test_rows_of_another_run_by_a_suggested_name_are_kept_and_it_is_said_why(other: Any, why: str) -> None:
    books = books_of([asked("hand-0001", 0.3, 20)], {"t": history_of(("hand-0001", 0.3, "s", (10,)), other)}, SPACE)
    history = books.history()
    assert [(t.trial_id, list(t.observations)) for t in history if t.evaluated] == [("t:hand-0001_1", list(other[3]))]
    assert list(history["hand-0001"].observations) == [10]
    assert len(books.notices) == 1 and f"do not count as those of hand-0001, since {why}: they are" in books.notices[0]
    alone = books_of([asked("hand-0001", 0.3, 20)], {"t": history_of(other)}, SPACE)
    assert sum(len(trial.observations) for trial in alone.history()) == 1


def test_what_tables_say_differently_of_a_run_is_said_and_the_first_counts() -> None:
    one, other = (history_of(("hand-0001", 0.3, "s", (10, 20))) for _ in range(2))
    other["hand-0001"].observations |= {10: {"loss": 2.0, "acc": 0.5}}
    books = books_of([asked("hand-0001", 0.3, 20)], {"one": one, "other": other}, SPACE)
    assert books.reports("hand-0001") == {10: {"loss": 1.0, "acc": 0.5}, 20: {"loss": 1.0}}
    assert books.notices == [
        "one and other say different things of hand-0001 at step 10, loss 1 and 2: the first counts. Take the wrong "
        "rows out."
    ]


def test_a_diverged_run_is_over() -> None:
    given = history_of(("hand-0001", 0.3, "s", (10,)))
    given["hand-0001"].status = "diverged"
    books = books_of([asked("hand-0001", 0.3, 20)], {"t": given}, SPACE)
    assert (books.status("hand-0001"), books.under_way()) == ("diverged", [])
    assert books.history()["hand-0001"].status == "diverged"


def test_steps_counted_from_0_reach_their_rung() -> None:
    given = history_of(
        ("hand-0001", 0.3, "s", (249, 499)), ("hand-0002", 0.6, "s", (498,)), ("hand-0003", 0.9, "s", (9,))
    )
    runs = [asked("hand-0001", 0.3, 500), asked("hand-0002", 0.6, 500), asked("hand-0003", 0.9, 10)]
    books = books_of(runs, {"t": given}, given.space)
    assert [books.status(run.run) for run in runs] == ["paused", "running", "running"]
    assert list(books.reports("hand-0001")) == [249, 500] and books.history()["hand-0001"].reached == 500
    said = "The last rows of hand-0001 are of the step before the one to reach: are steps counted from 0?"
    assert [said in notice for notice in books.notices] == [True]
