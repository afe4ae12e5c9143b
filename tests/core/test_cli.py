"""What the command refuses, before any Ray is started."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.cli.export import FORMATS
from ray_mixopt.cli.interrupts import INTERRUPTED
from ray_mixopt.cli.main import SHORT_HELP, main
from ray_mixopt.cli.options import one_thread
from ray_mixopt.io import searches
from ray_mixopt.io.export import WRITERS
from ray_mixopt.strategies.random import RandomStrategy

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
        (["--simulator", "nonesuch"], "Unknown simulator 'nonesuch': use one of dmsl, slimpajama"),
        (["--simulator", "nonesuch.npz"], "There is no simulator file 'nonesuch.npz'"),
        (["--metric", "val_loss/nonesuch"], "Unknown metric 'val_loss/nonesuch': choose one of val_loss/arxiv"),
        (["--strategy", "nonesuch"], "Unknown strategy 'nonesuch': choose one of default, paper"),
        (["--mode", "least"], "'least' is not one of 'min', 'max'"),
        (["--budget", "much"], "'much' is not a valid float"),
        (["--budget", "0"], "Invalid value for '--budget': a budget is a finite cost above 0, got 0."),
        (["--budget", "-1"], "a budget is a finite cost above 0, got -1."),
        (["--budget", "nan"], "a budget is a finite cost above 0, got nan."),
        (["--strategy", "random", "--budget", "196"], "A budget of 196 buys no run of strategy 'random'"),
        (["--concurrency", "0"], "0 is not in the range x>=1"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--noise", "-0.5"], "must be >= 0, got -0.5"),
        (["--target", "1B"], "--target is SCALE:STEPS, for instance 1B:19700, got '1B'"),
        (["--target", "1B:many"], "--target is SCALE:STEPS"),
        (["--target", "7B:19700"], "Unknown scale '7B': the space has 122M, 310M"),
        (
            ["--simulator", "slimpajama", "--target", "1B:50000"],
            "was fitted on 100 to 19700 steps, not on 50000",
        ),
        (["--scale-cost", "1B=1"], "Options about scales, steps and columns are about logged runs: give --runs, too"),
        (["--metric-noise", "loss=1"], "--metric-noise is about earlier runs: give --from, too"),
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


@pytest.mark.parametrize("command", [[], ["simulator"]])
def test_help_is_at_hand(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def subcommand(group: click.Group, name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None, name
    return command


def subcommands(group: click.Group = main, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every subcommand."""
    for name in group.list_commands(click.Context(group)):
        command = subcommand(group, name)
        if isinstance(command, click.Group):
            yield from subcommands(command, *path, name)
        else:
            yield (*path, name)


def parsed(words: Sequence[str]) -> click.Command:
    """The subcommand that words call, with options that it has; else click raises."""
    command: click.Command = main
    while isinstance(command, click.Group):
        command, words = subcommand(command, words[0]), words[1:]
    command.make_parser(click.Context(command)).parse_args(list(words))
    return command


@pytest.mark.parametrize("words", list(subcommands()), ids=" ".join)
def test_every_command_has_examples_exit_codes_and_json(words: tuple[str, ...]) -> None:
    result = call(*words, "--help")
    assert result.exit_code == 0
    examples, _, rest = result.stdout.split("Examples:")[1].partition("Exit codes:")
    lines = [shlex.split(line) for line in examples.split("\n\n")[0].splitlines() if line.strip()]
    assert len(lines) >= 1
    for line in lines:
        assert line[: 1 + len(words)] == ["ray-mixopt", *words]
        assert parsed(line[1:]).name == words[-1]
    assert "130 ended by Ctrl-C" in " ".join(rest.split())
    assert "--json" in result.stdout


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    assert {name: subcommand(main, name).get_short_help_str(200) for name in SHORT_HELP} == SHORT_HELP
    listed = call("--help").stdout.split("Commands:")[1]
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "] == [
        *SHORT_HELP
    ]
    assert "No such command 'nonesuch'" in refused("nonesuch")


def test_every_format_can_be_asked_for() -> None:
    assert tuple(WRITERS) == FORMATS


def test_every_command_and_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command.md").read_text()
    assert [words for words in subcommands() if f"`ray-mixopt {' '.join(words)}`" not in page] == []
    assert [code for code in (0, 1, 2, INTERRUPTED) if f"| {code} |" not in page] == []


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> str:
        environment = {**os.environ, "_RAY_MIXOPT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"}
        code = "import sys; sys.argv[0] = 'ray-mixopt'; from ray_mixopt.cli.main import main; main()"
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        return child.stdout

    assert completed("ray-mixopt rep").split() == ["plain,replay", "plain,report"]


# -- benchmarks


def test_a_benchmark_for_a_program(tmp_path: Path) -> None:
    arguments = ["benchmark", "--problems", "synthetic/mixing_law", "--methods", "random", "--budget", "1x"]
    result = call(*arguments, "--seeds", "0-1", "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    scores = answer["groups"]["synthetic/mixing_law"]["random"]["synthetic/mixing_law"]
    assert scores["seeds"] == [0, 1] and scores["budget"] == 1.0 and scores["costs"][-1] == 1.0
    assert len(scores["mean_regret"]) == len(scores["costs"])
    assert scores["worst_regret"][-1] >= scores["mean_regret"][-1] > 0
    assert answer["failures"] == [] and all(Path(path).is_file() for path in answer["figures"])
    again = call("benchmark", "--report", "--out", tmp_path, "--json")
    assert json.loads(again.stdout) == answer
    listed = json.loads(call("benchmark", "--list", "--json").stdout)
    assert "slimpajama/val_loss/arxiv" in listed["suites"]["headline"] and listed["methods"]["random"]["about"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nonesuch"], "Unknown suite 'nonesuch': choose one of headline"),
        (["--problems", "nonesuch/loss"], "Unknown family in 'nonesuch/loss'"),
        (["--methods", "nonesuch"], "nonesuch"),
        (["--seeds", "b"], "--seeds is A-B or a single A, for instance 100-119, got 'b'"),
        (["--seeds", "3-1"], "--seeds runs from small to large"),
        (["--budget", "-1"], "--budget is a positive cost"),
        (["--workers", "fast"], "fast"),
    ],
)
def test_bad_benchmarks_are_usage_errors(arguments: list[str], message: str, folder: Path) -> None:
    assert message in refused("benchmark", *arguments)
    assert list(folder.iterdir()) == []


def test_a_benchmark_cannot_go_into_a_file(runs: Path) -> None:
    message = refused("benchmark", "--problems", "synthetic/mixing_law", "--out", runs / "out")
    assert f"{runs / 'out'}: Not a directory." in message


def test_ctrl_c_keeps_what_a_benchmark_has_finished(tmp_path: Path) -> None:
    some = ["--problems", "synthetic/mixing_law", "--budget", "1x", "--out", str(tmp_path)]
    code = "from ray_mixopt.cli.main import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "benchmark", *some, "--methods", "random,default", "--seeds", "0-7", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("*/*.json")):
        assert child.poll() is None
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # to all its processes, as a terminal does
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (INTERRUPTED, ""), err
    assert f"finished searches are kept in {tmp_path}, give the same command again" in err
    n_kept = len(list(tmp_path.glob("*/*.json")))
    assert 1 <= n_kept < 16
    again = call("benchmark", *some, "--methods", "random", "--seeds", "0")
    assert again.exit_code == 0 and "1 search is there, 0 to do" in again.stderr


@pytest.mark.parametrize("option", ["--problems", "--methods"])
def test_a_benchmark_of_nothing_is_refused(tmp_path: Path, option: str) -> None:
    result = call("benchmark", option, "", "--out", str(tmp_path))
    assert result.exit_code == 2 and f"{option} names none" in result.stderr


# -- answers from old runs


@pytest.fixture
def swarm(tmp_path: Path) -> Path:
    """Twelve runs with a loss that is lowest at 60% of b, in olmix's files."""
    folder = tmp_path / "swarm"
    folder.mkdir()
    shares = [(i / 11, 1 - i / 11) for i in range(12)]
    ratios = "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(shares))
    losses = "".join(f"{i},{2 + (b - 0.6) ** 2},{a}\n" for i, (a, b) in enumerate(shares))
    (folder / "ratios.csv").write_text("run,a,b\n" + ratios)
    (folder / "metrics.csv").write_text("run,x,y\n" + losses)
    return folder


@pytest.mark.parametrize("option", ["--scale-cost", "--scale-parameters", "--tokens-per-step"])
def test_a_scale_that_no_run_is_of_is_refused(swarm: Path, option: str) -> None:
    result = call("recommend", "--from", swarm, "--weight", "x=1", option, "9B=1e9")
    assert result.exit_code == 2
    assert f"{option} 9B=1e+09: No run is of scale '9B': there are" in " ".join(result.stderr.split())


def test_a_target_that_nobody_named_is_said(swarm: Path) -> None:
    asked = ["recommend", "--from", swarm, "--weight", "x=1"]
    result = call(*asked)
    assert result.exit_code == 0, result.output
    target = result.stdout.splitlines()[1].removeprefix("Recommended mixture for ")
    assert f"The target is {target}: --target SCALE:STEPS asks about another." in result.stderr


def test_old_runs_alone_answer(swarm: Path) -> None:
    result = call("recommend", "--from", swarm, "--weight", "x=1", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["mixture"]["b"] == pytest.approx(0.6, abs=0.05)
    assert answer["details"]["ranges"]["b"][0] < 0.6 < answer["details"]["ranges"]["b"][1]
    width = answer["predicted"]["high"] - answer["predicted"]["low"]
    doubted = json.loads(
        call("recommend", "--from", swarm, "--weight", "x=1", "--metric-noise", "x=0.5", "--json").stdout
    )
    assert doubted["predicted"]["high"] - doubted["predicted"]["low"] > 2 * width
    asked = ["--from", swarm, "--weight", "y=1", "--mode", "max", "--cap", "a=0.7"]
    as_yaml = call("recommend", *asked, "--as", "yaml").stdout.splitlines()
    assert as_yaml[0].startswith("# Verdict for y, maximised: ") and as_yaml[1:] == ['"a": 0.700000', '"b": 0.300000']
    other = call("recommend", *asked, "--as", "megatron", "--path", "a=/d/x=1", "--path", "a=/d/2")
    assert other.stdout == "0.3500000000 /d/x=1\n0.3500000000 /d/2\n0.300000 b\n"
    assert "No path is known for 'b': the name stands where Megatron-LM looks" in other.stderr
    assert "The share of 'a' is divided equally among its paths" in other.stderr
    packed = call("recommend", *asked, "--as", "ray-data", "--tokens-per-document", "2048")
    assert json.loads(packed.stdout)["weights"] == [0.7, 0.3]
    lengths = ["--tokens-per-document", "a=700", "--tokens-per-document", "b=100"]
    assert json.loads(call("recommend", *asked, "--as", "ray-data", *lengths).stdout)["weights"] == [0.25, 0.75]
    own = ["--reference", "a=0.5", "--reference", "b=0.5"]
    text = call("recommend", "--from", swarm, "--weight", "x=1", "--floor", "a=0.6", *own)
    assert "Limit: a at least 60.00% costs" in text.stdout
    assert "Better than the reference mixture" in text.stdout
    assert "\nCost of the runs that were given: 12.00 full runs (cost 12)\n" in text.stdout
    equal = call("recommend", "--from", swarm, "--weight", "x=1", "--reference", "uniform", "--json")
    answer = json.loads(equal.stdout)
    assert answer["reference"] == answer["uniform"] is not None


@pytest.mark.parametrize("command", ["recommend", "backtest"])
def test_runs_that_all_diverged_leave_nothing_to_go_by(command: str, runs: Path) -> None:
    runs.write_text(re.sub(r"[\d.]+$", "inf", RUNS, flags=re.MULTILINE))
    said = refused(command, "--from", runs)
    assert "No run has a number of any metric, so that there is nothing to go by: of 3 runs 3 diverged." in said


def test_a_report_compares_with_a_mixture_of_ones_own(swarm: Path, tmp_path: Path) -> None:
    asked = ["report", swarm, "--weight", "x=1", "--out", tmp_path / "report", "--json"]
    result = call(*asked, "--reference", "a=75", "--reference", "b=25")
    assert result.exit_code == 0, result.output
    page = tmp_path / "report" / "report.html"
    assert json.loads(result.stdout) == {"page": str(page)}
    text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert "It beats the reference mixture with probability" in text and "<td>75.0%</td>" in text
    # No length of these runs is known: none is made up.
    assert "1 step" not in text and "step 1" not in text
    message = "--reference is uniform, proportional or DOMAIN=SHARE once a domain, got 'even'."
    assert message in refused(*asked, "--reference", "even")
    assert "--reference is DOMAIN=SHARE, for instance web=0.7, got 'much'" in refused(
        *asked, "--reference", "a=1", "--reference", "much"
    )
    for a, b, total in ((0.9, 0.9, "1.8"), (90, 1, "91"), (0.6, "nan", "nan"), (0, 0, "0")):
        message = refused(*asked, "--reference", f"a={a}", "--reference", f"b={b}")
        assert f"--reference b={b}: the shares of a mixture sum to 1, or in per cent to 100, and these sum" in message
        assert f"and these sum to {total}. Name every domain once." in message


def test_a_flip_of_a_metric_without_weight_is_refused(swarm: Path) -> None:
    message = refused("recommend", "--from", swarm, "--weight", "x=1", "--flip", "y")
    assert "--flip y turns the direction of a metric of the objective, which has x: correct it, or add" in message


def test_runs_are_exported(swarm: Path, tmp_path: Path) -> None:
    result = call("export", "--from", swarm, "--format", "csv", "--out", tmp_path / "new", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"runs": 12, "files": [str(tmp_path / "new" / "runs.csv")]}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_runs_that_a_table_has_no_row_of_are_said_and_not_counted(kind: str, runs: Path, tmp_path: Path) -> None:
    rows = ["S,1,100,0.5,0.5,4,a", "S,1,100,1,0,,b", "S,1,200,1,0,NA,b", "S,1,100,0.2,0.8,nan,c"]
    runs.write_text("\n".join(["scale,cost_per_step,step,mixture/web,mixture/code,val_loss/web,run", *rows]))
    result = call("export", "--from", runs, "--format", kind, "--out", tmp_path / "new", "--json")
    assert json.loads(result.stdout)["runs"] == 2, "c diverged"
    assert "Left out, with no number of any metric: b.\n" in result.stderr


def test_a_blend_needs_no_costs_of_scales(runs: Path, tmp_path: Path) -> None:
    runs.write_text(RUNS.replace("cost_per_step,", "").replace("S,1,", "S,").replace("L,10,", "L,"))
    given = ["export", "--from", runs, "--out"]
    result = call(*given, tmp_path / "new", "--format", "json", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["runs"] == 3
    assert "No cost is known for the scales S, L" in refused(*given, tmp_path / "new", "--format", "csv")
    space = tmp_path / "space.yaml"
    space.write_text(
        "domains: [code, math, web]\nscales: [{name: S, cost_per_step: 2}, {name: L, cost_per_step: 9}]\nsteps: [100]\n"
        "token_supply: {web: 100, code: 50, math: 10}\ntarget_tokens: 100\nmax_epochs: 3\n"
    )
    table = call(*given, tmp_path / "priced", "--format", "csv", "--space", space)
    assert table.exit_code == 0, table.output
    assert (tmp_path / "priced" / "runs.csv").read_text().splitlines()[:2] == [
        "run,scale,step,cost_per_step,mixture/code,mixture/math,mixture/web,val_loss/web,loss",
        "run_00000,S,100,2.0,0.5,0.0,0.5,4.0,4.0",
    ]
    space.write_text(space.read_text().replace(", {name: L, cost_per_step: 9}", ""))  # a blend is of any scale
    blends = call(*given, tmp_path / "sources", "--format", "olmo-core", "--space", space)
    assert blends.exit_code == 0, blends.output
    assert "max_repetition_ratio: 3" in (tmp_path / "sources" / "run_00000.yaml").read_text()


@pytest.mark.parametrize(("kind", "name"), [("csv", "runs.csv"), ("parquet", "runs.parquet"), ("olmix", "ratios.csv")])
def test_files_that_are_there_are_left_alone_before_any_run_is_read(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    found = refused("export", "--from", "nowhere.csv", "--format", kind, "--out", tmp_path)
    assert f"{name} is there already, and nothing is written over" in found
    assert (tmp_path / name).read_text() == "mine"


def test_the_blends_of_runs_are_exported(swarm: Path, tmp_path: Path) -> None:
    given = ["export", "--from", swarm, "--format", "nemo", "--path", "a=/d/a"]
    result = call(*given, "--out", tmp_path / "all", "--json")
    assert result.exit_code == 0, result.output
    files = [Path(file) for file in json.loads(result.stdout)["files"]]
    assert json.loads(result.stdout)["runs"] == len(files) == 12
    assert "No path is known for 'b'" in result.stderr
    result = call(*given, "--run", files[3].stem, "--out", tmp_path / "one")
    assert result.stdout == f"1 run: {tmp_path / 'one' / files[3].name}\n"
    assert (tmp_path / "one" / files[3].name).read_text() == files[3].read_text()
    assert "nothing is written over" in refused(*given, "--out", tmp_path / "all")
    assert "There is no run 'x': there are " in refused(*given, "--run", "x", "--out", tmp_path / "two")
    assert "--run chooses a blend, and --format csv" in refused(
        *given[:4], "csv", "--run", "x", "--out", tmp_path / "two"
    )


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("runs.csv", ["--scale", "30M"], "--scale 30M is for files that do not say it, and these do: their"),
        ("runs.csv", ["--steps", 7], "--steps 7 is for files that do not say it, and these do: their"),
        ("history.json", ["--scale", "30M"], "their runs are of scale S. Drop it."),
        ("history.json", ["--steps", 7], "their runs were seen at 10 steps. Drop it."),
        ("history.json", ["--scale-cost", "S=5"], "--scale-cost S=5 is for tables of runs, and a saved search says it"),
        ("history.json", ["--tokens-per-step", "S=5"], "--tokens-per-step S=5 is for tables that say tokens, and"),
        ("history.json", ["--scale-parameters", "S=5"], "says it itself: there it is unknown. Drop it."),
    ],
)
@pytest.mark.parametrize("command", ["recommend", "backtest", "export"])
def test_what_runs_say_themselves_is_not_said_again(
    command: str, source: str, arguments: list[object], message: str, runs: Path
) -> None:
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10,))
    optimizer = MixtureOptimizer(space, strategy="random", objective={"loss": 1.0})
    optimizer.add_evaluated_point({"a": 1, "b": 1}, "S", 10, {"loss": 1.0})
    searches.save(optimizer, runs.parent / "history.json")
    more = ["--format", "csv", "--out", runs.parent / "new"] if command == "export" else []
    assert message in refused(command, "--from", runs.parent / source, *arguments, *more)


def test_what_is_said_of_some_of_the_runs_is_heeded(swarm: Path, runs: Path) -> None:
    given = ["--from", swarm, "--scale", "S", "--steps", 100, "--scale-cost", "S=1", "--out", runs.parent / "new"]
    assert call("export", *given, "--format", "csv").exit_code == 0
    given[-1] = runs.parent / "another"
    assert "--target says where" in refused("export", *given, "--format", "csv", "--target", "S:100")
    assert "--metric-noise says how" in refused("export", *given, "--format", "csv", "--metric-noise", "x=1")
    assert "--every is about --follow" in refused("report", runs, "--every", 5)


LENGTH = ("--tokens-per-document",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say what the mixture is to be best for, --weight METRIC=1: x, y"),
        (["--weight", "z=1"], "No run reported z: they have x, y"),
        (["--weight", "x"], "--weight is METRIC=WEIGHT, for instance loss=1, got 'x'"),
        (["--weight", "x=1", "--weight", "x=2"], "--weight names 'x' twice"),
        (["--weight", "x=-1"], "must be above 0"),
        (["--flip", "x"], "need --weight"),
        (["--weight", "x=1", "--guard-max", "y"], "have no --guardrail"),
        (["--weight", "x=1", "--guardrail", "y=0.1"], "proportional mixture is not known"),
        (["--weight", "x=1", "--group", "a+b=1"], "--group is A+B=LEAST:MOST"),
        (["--weight", "x=1", "--cap", "c=1"], "--cap names the unknown domain 'c'"),
        (["--weight", "x=1", "--cap", "a=2"], "--cap a is a share of the tokens and cannot be above 1"),
        (["--weight", "x=1", "--floor", "a=-1"], "--floor a must be a finite number >= 0"),
        (["--weight", "x=1", "--supply", "c=1"], "--supply names the unknown domain 'c'"),
        (["--weight", "x=1", "--max-epochs", "3"], "--max-epochs 3 caps nothing without --target-tokens: give the"),
        (["--weight", "x=1", "--target-tokens", "9"], "--target-tokens caps nothing without --supply: give the"),
        (["--weight", "x=1", "--cap", "a=0.1", "--cap", "b=0.1"], "The caps sum to 0.2"),
        (["--weight", "x=1", "--target", "model:7"], "not one of the rungs"),
        (["--weight", "x=1", "--metric-noise", "x"], "--metric-noise is METRIC=DEVIATION, for instance loss=0.01"),
        (["--weight", "x=1", "--metric-noise", "x=-1"], "The noise of x must be a standard deviation"),
        (["--weight", "x=1", "--metric-noise", "x=1e300"], "The noise of x must be a standard deviation"),
        (["--weight", "x=1", "--baseline", "zz"], "--baseline zz is what --guardrail and --closeness compare with"),
        (["--weight", "x=1", "--as", "yaml", "--json"], "--as does not go with --json: drop one of them"),
        (["--weight", "x=1", "--path", "a=b"], "are about a blend: give --as FORMAT, or drop them"),
        (["--weight", "x=1", "--as", "json", "--path", "a=b"], "--path says where data are, for which --as json has"),
        (["--weight", "x=1", "--as", "nemo", "--tokens-per-document", "1"], "those of nemo count tokens: drop it"),
        (["--weight", "x=1", "--as", "mosaic"], "MosaicML Streaming draws documents, not tokens"),
        (["--weight", "x=1", "--as", "nemo", "--path", "a"], "--path is DOMAIN=PATH, for instance web=/data/web, got"),
        (["--weight", "x=1", "--as", "nemo", "--path", "c=b"], "--path 'c=b' begins with no domain: there are a, b"),
        (["--weight", "x=1", "--as", "mosaic", *LENGTH, "a=x"], "--tokens-per-document is DOMAIN=TOKENS, for instance"),
        (["--weight", "x=1", "--as", "mosaic", *LENGTH, "a=1", *LENGTH, "2"], "names 'a' twice"),
        (["--weight", "x=1", "--metric-noise", "z=1"], "The noise is of z, which no run reports: they have x, y"),
    ],
)
def test_bad_questions_about_old_runs_are_usage_errors(arguments: list[str], message: str, swarm: Path) -> None:
    assert message in refused("recommend", "--from", swarm, *arguments)


@pytest.mark.parametrize("command", [["recommend", "--from"], ["replay", "--runs"]], ids=" ".join)
def test_a_pickle_is_not_read(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs.pkl").write_bytes(b"cos\nsystem\n(Vtouch ran\ntR.")
    message = refused(*command, tmp_path / "runs.pkl")
    assert "runs.pkl is a pickle, which can run code when it is read" in message
    assert "experiments/convert_data_recipes.py" in message
    assert not Path("ran").exists()


def test_there_is_no_report_of_nothing(tmp_path: Path) -> None:
    assert "There is no search at" in refused("report", tmp_path / "nonesuch")
    assert "No readable searcher state" in refused("report", tmp_path)
    (tmp_path / "broken.json").write_text("{")
    assert "broken.json is not JSON" in refused("report", tmp_path / "broken.json")


@pytest.mark.parametrize("command", [["recommend", "--from"], ["report"]])
def test_a_search_with_a_strategy_of_ones_own_is_answered_by_ours_which_is_said(
    command: list[str], tmp_path: Path
) -> None:
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10,))
    optimizer = MixtureOptimizer(space, strategy=partial(RandomStrategy), objective={"loss": 1.0})
    for share in (0.2, 0.5, 0.9):
        optimizer.add_evaluated_point({"a": share, "b": 1 - share}, "S", 10, {"loss": 1 + share})
    searches.save(optimizer, tmp_path / "history.json")
    result = call(*command, tmp_path / "history.json")
    assert result.exit_code == 0, result.output
    assert "searched with a strategy of your own: the default strategy answers here" in result.stderr


def test_odd_files_are_refused_in_a_sentence(swarm: Path, tmp_path: Path) -> None:
    deep, empty, typo = (tmp_path / name for name in ("deep.json", "empty.npz", "typo.json"))
    deep.write_text("[" * 100_000)
    empty.touch()
    typo.write_text('{"renamed": {"c": "a"}}')
    assert "it is nested too deeply" in refused("recommend", "--from", deep)
    assert "it is nested too deeply" in refused("report", deep)
    assert "deep.json holds no domain map" in refused("recommend", "--from", swarm, "--domains", deep)
    message = refused("recommend", "--from", swarm, "--weight", "x=1", "--domains", typo)
    assert "The map changes c, which no runs have." in message
    message = refused("simulator", "fit", "--reference", empty, "--out", tmp_path / "new.npz")
    assert "is no reference network: it is not an .npz file, or damaged" in message
    assert "There are no results of a benchmark below" in refused("benchmark", "--report", "--out", tmp_path / "none")
    message = refused("recommend", "--from", swarm, "--weight", "x=1", "--report", empty / "report")
    assert "Not a directory" in message


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert call("--version").stdout.strip().endswith(version("ray-mixopt"))


def test_a_command_takes_one_thread_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    one_thread()
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    one_thread()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("told", "why"),
    [(False, "no run has reported"), (True, "no report has a number for loss")],
    ids=["no report", "a divergence"],
)
def test_a_replay_that_knows_nothing_yet_has_no_answer(
    monkeypatch: pytest.MonkeyPatch, folder: Path, told: bool, why: str
) -> None:
    from ray_mixopt.simulators.replay import Outcome, Replay

    def interrupted(search: Replay, experiment: Path, watch: object) -> Outcome:
        optimizer = search.optimizer()
        run = optimizer.ask()
        assert run is not None
        if told:
            optimizer.tell(run.trial_id, run.steps, {"loss": float("nan")})
        return Outcome(optimizer=optimizer, errors=(), interrupted=True, seconds=1.0)

    monkeypatch.setattr(Replay, "run", interrupted)
    result = call("replay", "--strategy", "random", "--budget", 400, "--out", "out")
    assert result.exit_code == INTERRUPTED, result.output
    assert f"Nothing is known yet: {why}, so that there is no mixture to recommend." in " ".join(result.stdout.split())
    assert "14.3%" not in result.stdout and "known so far" not in result.stderr
    assert json.loads((folder / "out" / "result.json").read_text())["recommended"] is None
    assert json.loads(call("replay", "--strategy", "random", "--budget", 400, "--json").stdout)["recommended"] is None


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Twelve runs with an accuracy that is best at 0.6 of code, and two losses."""
    lines = ["mixture/web,mixture/code,acc,val_loss/web,val_loss/code"]
    for i in range(12):
        code = i / 11
        lines.append(f"{1 - code},{code},{0.6 - (code - 0.6) ** 2},{2 + code},{3 - 2 * code}")
    path = tmp_path / "acc.csv"
    path.write_text("\n".join(lines))
    return path


def test_an_accuracy_is_not_minimised_unless_that_is_said(scores: Path) -> None:
    where = ("recommend", "--from", scores)
    sentence = refused(*where, "--weight", "acc=1")
    assert "More of acc is better by its name, and no direction was said: give --mode max" in sentence
    both = refused(*where, "--weight", "val_loss/web=1", "--weight", "acc=1")
    assert "--flip acc if it is to be maximised while the others are minimised" in both
    best = call(*where, "--weight", "acc=1", "--mode", "max")
    assert best.stdout.startswith("Objective: acc, maximised\nRecommended mixture"), best.output
    worst = call(*where, "--weight", "acc=1", "--mode", "min")
    assert worst.stdout.startswith("Objective: acc, minimised\n")
    weighed = call(*where, "--weight", "val_loss/web=2", "--weight", "acc=1", "--flip", "acc")
    assert weighed.stdout.startswith("Objective: 2 val_loss/web, minimised; 1 acc, maximised\n")
    alone = scores.with_name("alone.csv")
    alone.write_text("\n".join(line.rsplit(",", 2)[0] for line in scores.read_text().splitlines()))
    assert "More of acc is better by its name" in refused("recommend", "--from", alone)
    assert "the objective is acc; it is maximised." in call("recommend", "--from", alone, "--mode", "max").stderr


def test_which_objective_was_taken_is_said_where_none_was_given(scores: Path) -> None:
    mean = call("recommend", "--from", scores)
    said = "the objective is loss, the mean of val_loss/web, val_loss/code; it is minimised."
    assert f"No --weight is given, and so {said}" in mean.stderr
    assert mean.stdout.startswith("Objective: loss, minimised\n")
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join([lines[0] + ",loss", *(f"{line},{2 + i % 5}" for i, line in enumerate(lines[1:]))]))
    column = call("recommend", "--from", scores).stderr
    assert "the objective is loss as the runs have it, which is not the mean of val_loss/web, val_loss/code;" in column
    assert "No --weight" not in call("recommend", "--from", scores, "--weight", "loss=1").stderr


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_blend_comes_with_the_verdict(scores: Path, kind: str) -> None:
    result = call("recommend", "--from", scores, "--weight", "acc=1", "--mode", "max", "--as", kind)
    verdict = next(line for line in result.stderr.splitlines() if line.startswith("Verdict"))
    assert verdict.startswith("Verdict for acc, maximised: ")
    assert result.stdout.splitlines()[0] == (f"# {verdict}" if kind == "yaml" else "{")


def test_export_says_that_it_adds_the_mean_of_the_losses(scores: Path) -> None:
    added = call("export", "--from", scores, "--format", "csv", "--out", "a")
    assert "The column loss is the mean of all val_loss/*." in added.stderr
    scores.write_text(scores.read_text().replace("val_loss/code", "loss"))
    assert "The column loss" not in call("export", "--from", scores, "--format", "csv", "--out", "b").stderr


def test_a_blend_beyond_the_supply_says_so(scores: Path) -> None:
    space = "domains: [web, code]\nscales: [{name: model, cost_per_step: 1}]\nsteps: [1]\ntarget_tokens: 1e9\n"
    Path("space.yaml").write_text(space + "token_supply: {web: 2e9, code: 2.5e8}\nmax_epochs: 2\n")
    asked = ("export", "--from", scores, "--space", "space.yaml", "--format", "olmo-core", "--out")
    result = call(*asked, "all")
    assert "takes 1e+09 tokens of code in a run of 1e+09, of which there are 2.5e+08: 4 times, and the" in result.stderr
    assert "space allows 2 (max_epochs)." in result.stderr and "tokens of web" not in result.stderr
    without = call(*asked, "one", "--run", "run_00000")  # which has no code
    assert without.exit_code == 0 and "max_epochs" not in without.stderr
