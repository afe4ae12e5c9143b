"""What the command refuses, before any Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ray_mixopt.cli import main

RUNS = """scale,cost_per_step,step,mixture/web,mixture/code,val_loss/web
S,1,100,0.5,0.5,4.0
S,1,100,1,0,3.9
L,10,100,0.5,0.5,3.0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(RUNS)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """What the command says when it refuses the arguments, as it must."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return " ".join(result.stderr.replace("\n", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulator", "nonesuch"], "Unknown simulator 'nonesuch': use one of slimpajama"),
        (["--simulator", "nonesuch.npz"], "There is no simulator file 'nonesuch.npz'"),
        (["--metric", "val_loss/nonesuch"], "Unknown metric 'val_loss/nonesuch': choose one of train_loss"),
        (["--strategy", "nonesuch"], "'nonesuch' is not one of 'default', 'paper'"),
        (["--mode", "least"], "'least' is not one of 'min', 'max'"),
        (["--budget", "much"], "'much' is not a valid float"),
        (["--budget", "0"], "budget must be a positive finite cost"),
        (["--budget", "-1"], "budget must be a positive finite cost"),
        (["--budget", "nan"], "budget must be a positive finite cost"),
        (["--strategy", "random", "--budget", "196"], "A budget of 196 buys no run of strategy 'random'"),
        (["--concurrency", "0"], "0 is not in the range x>=1"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--noise", "-0.5"], "must be >= 0, got -0.5"),
        (["--target", "1B"], "--target is SCALE:STEPS, for instance 1B:19700, got '1B'"),
        (["--target", "1B:many"], "--target is SCALE:STEPS"),
        (["--target", "7B:19700"], "Unknown scale '7B': the space has 20M, 60M"),
        (["--target", "1B:50000"], "was fitted on 100 to 19700 steps, not on 50000"),
        (["--scale-cost", "1B=1"], "--scale-cost is about logged runs: give --runs, too"),
        (["--runs", "nonesuch.csv"], "'nonesuch.csv' does not exist"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: list[str], message: str, folder: Path) -> None:
    assert message in refused("replay", *arguments)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulator", "slimpajama"], "--simulator and --noise do not go with --runs"),
        (["--noise", "0"], "--simulator and --noise do not go with --runs"),
        (["--metric", "acc"], "Unknown metric 'acc': choose one of val_loss/web, loss"),
        (["--scale-cost", "S"], "--scale-cost is SCALE=COST, for instance 60M=0.03, got 'S'"),
        (["--scale-cost", "S=cheap"], "--scale-cost is SCALE=COST"),
        (["--scale-cost", "S=1"], "Every scale needs a cost per step"),
        (["--target", "L:200"], "target's steps 200 are not one of the rungs"),
    ],
)
def test_bad_arguments_about_logged_runs_are_usage_errors(arguments: list[str], message: str, runs: Path) -> None:
    assert message in refused("replay", "--runs", runs, *arguments)


def test_a_malformed_row_is_named(runs: Path) -> None:
    runs.write_text(RUNS.replace("L,10,100,0.5,0.5", "L,10,100,0.5,0.7"))
    assert "runs.csv, row 4: the mixture sums to 1.2 instead of 1" in refused("replay", "--runs", runs)


def test_the_folder_of_another_replay_is_left_alone(tmp_path: Path) -> None:
    earlier = tmp_path / "out" / "result.json"
    earlier.parent.mkdir()
    earlier.write_text("{}")
    assert "holds the results of another replay" in refused("replay", "--out", earlier.parent)
    assert earlier.read_text() == "{}"


def test_results_cannot_go_below_a_file(runs: Path) -> None:
    assert f"since {runs} is a file" in refused("replay", "--out", runs / "out")


def test_a_damaged_simulator_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK\x03\x04 and no more")
    assert "not a zip file" in refused("replay", "--simulator", damaged)


def test_a_fit_needs_a_reference_network(tmp_path: Path) -> None:
    reference = tmp_path / "reference.npz"
    assert "does not exist" in refused("simulator", "fit", "--reference", reference, "--out", tmp_path / "new.npz")
    reference.write_bytes(b"PK")
    assert "Missing option '--out'" in refused("simulator", "fit", "--reference", reference)
    message = refused("simulator", "fit", "--reference", reference, "--out", tmp_path / "new.txt")
    assert "The simulator is written as .npz" in message


@pytest.mark.parametrize("command", [[], ["replay"], ["simulator"], ["simulator", "fit"]])
def test_help_is_at_hand(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert call("--version").stdout.strip().endswith(version("ray-mixopt"))
