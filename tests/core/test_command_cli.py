"""``ray-mixopt search`` as far as it goes without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ray_mixopt.cli.main import main

SPACE = """
domains: [web, code]
scales: [{name: S, cost_per_step: 1}, {name: L, cost_per_step: 9}]
steps: [10, 20]
command: {arguments: {L: [--layers, "8"]}, resources: {L: {nodes: 2, gpus: 8}}}
"""
PROGRAM = ("--", "train", "--data", "{mixture}", "--dir={folder}", "{scale}:{steps}", "{{x}}", "--weight", "$HOME")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    return tmp_path


def search(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["search", "space.yaml", *words])
    return result.exit_code, result.output


def test_a_dry_run_shows_the_command_of_each_scale() -> None:
    code, output = search("--weight", "loss=1", "--dry-run", "--json", *PROGRAM)
    assert code == 0, output
    commands = json.loads(output[output.index("{") :])["commands"]
    run = "results/space/runs/NAME"
    shown = ["train", "--data", f"{run}/mixture.json", f"--dir={run}/1", "S:10", "{x}", "--weight", "$HOME"]
    assert commands["S"] == shown
    assert commands["L"][4:] == ["L:10", "{x}", "--weight", "$HOME", "--layers", "8"]
    code, output = search("--weight", "loss=1", "--dry-run", *PROGRAM)
    assert code == 0 and "L, on 2 nodes with 1 CPU, 8 GPUs each: train --data" in output and "'$HOME'" in output
    assert "There is no program 'train' on this machine: it must be on those that train" in output
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (PROGRAM, "--weight METRIC=1"),
        (("--weight", "loss=1"), "write it after --"),
        (("--weight", "loss=1", "--", "train", "{nonesuch}"), "which is not known: there are {mixture}"),
        (("--weight", "loss=1", "--resume", *PROGRAM), "results/space holds no search"),
        (("--weight", "loss=1", "--resume", "--from", "x.csv", *PROGRAM), "about the start of a search"),
        (("--weight", "loss=1", "--metric-noise", "loss=1", *PROGRAM), "give --from"),
        (("--weight", "loss=1", "--budget", "1", *PROGRAM), "budget"),
        (("--weight", "step=1", "--dry-run", *PROGRAM), "name in each report. It says how far a run is"),
        (("--weight", "time_total_s=1", "--dry-run", *PROGRAM), "'time_total_s' can be no metric"),
        (("--weight", "done=1", "--dry-run", *PROGRAM), "names: {my_done: done}"),
        (("--weight", "loss=1", "--dry-run", "--", ""), "write it after --"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(words: tuple[str, ...], what: str) -> None:
    code, output = search(*words)
    assert code == 2 and what in " ".join(output.split()), output
    assert not Path("results").exists()


def test_a_folder_with_a_search_is_not_begun_again() -> None:
    Path("results/space/experiment").mkdir(parents=True)
    Path("results/space/experiment/tuner.pkl").touch()
    code, output = search("--weight", "loss=1", *PROGRAM)
    assert code == 2 and "holds a search already: add --resume, or choose another --out" in " ".join(output.split())


def test_old_runs_in_files_of_one_name_are_all_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_mixopt.command.search import CommandSearch

    monkeypatch.setattr(CommandSearch, "arguments", lambda self, scale: [*(self.earlier or {}), str(taken(self))])
    taken = lambda asked: sum(map(len, asked.earlier.values()))  # noqa: E731
    places = ("a/runs.csv", "b/runs.csv", "runs.csv.csv", "other.csv")
    for i, place in enumerate(places):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_text(f"mixture/web,mixture/code,scale,step,loss\n0.{i + 1},0.{9 - i},S,10,1\n")
    given = [word for place in places for word in ("--from", place)]
    code, output = search("--weight", "loss=1", *given, "--dry-run", "--json", *PROGRAM)
    assert code == 0, output
    assert json.loads(output[output.index("{") :])["commands"]["S"] == [*places, "4"]
    code, output = search("--weight", "loss=1", "--from", "other.csv", "--from", "./other.csv", *PROGRAM)
    assert code == 2 and "./other.csv is given twice: its runs would count twice" in " ".join(output.split())
