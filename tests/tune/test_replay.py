"""``ray-mixopt replay`` as a user runs it: its own process, its own Ray."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from ray_mixopt import MixOptSearcher, MixtureOptimizer, simulators
from ray_mixopt.cli.main import main
from ray_mixopt.core.settings import Settings
from ray_mixopt.io import searches
from ray_mixopt.simulators.replay import Replay
from ray_mixopt.strategies.paper import paper_rungs

Command = Callable[..., Any]
COMMAND = Path(sys.executable).with_name("ray-mixopt")
RUNS = """scale,cost_per_step,step,mixture/web,mixture/code,loss
S,1,100,1,0,4.0
S,1,100,0,1,4.5
S,1,100,0.5,0.5,3.9
L,10,100,1,0,3.0
L,10,100,0,1,3.5
L,10,100,0.5,0.5,2.5
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(*arguments, **environment)``: the command in a process group of its own."""
    children = []

    def begin(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [str(COMMAND), "replay", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.fixture
def replay(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """``replay(*arguments, **environment)``: exit code, stdout and stderr."""

    def finish(*arguments: object, **environment: str) -> tuple[int, str, str]:
        child = start(*arguments, **environment)
        out, err = child.communicate(timeout=300)
        return child.returncode, out, err

    return finish


def test_a_replay_says_the_same_to_machines_and_in_its_files(tmp_path: Path) -> None:
    """In this process and its Ray."""
    folder = tmp_path / "out"
    options = (
        "--simulator slimpajama --strategy random --budget 600 --metric val_loss/book --concurrency 1 --json --out"
    )
    replayed = CliRunner().invoke(main, ["replay", *options.split(), str(folder)])
    assert replayed.exit_code == 0, replayed.output
    result = json.loads(replayed.stdout)
    assert result == json.loads((folder / "result.json").read_text())
    assert (result["source"], result["metric"], result["mode"]) == ("slimpajama", "val_loss/book", "min")
    assert (result["runs"], result["spent"], result["failed"]) == (3, pytest.approx(591), 0)
    wanted = {"scale": "1B", "runs": 3, "full_runs": 3, "spent": pytest.approx(591), "share": 1.0}
    assert result["by_scale"][-1] == wanted
    assert result["trajectory"][-1]["mixture"] == result["recommended"]["mixture"]

    history = searches.load(folder).history
    simulator = simulators.load("slimpajama")
    for trial in history:
        for step, seen in trial.observations.items():
            assert seen == simulator.observe(trial.mixture, trial.scale, step)  # all that was reported
    best = min(history, key=lambda trial: trial.observations[19700]["val_loss/book"])
    assert result["recommended"]["mixture"] == pytest.approx(history.space.named(best.mixture))
    assert result["recommended"]["true"] == pytest.approx(best.observations[19700]["val_loss/book"])
    assert 0 < result["recommended"]["regret"] < result["uniform"]["regret"] * 3
    assert imread(folder / "replay.png").shape[2] == 4
    assert len(MixOptSearcher.load(folder / "experiment").optimizer.history) == 3


def test_the_default_strategy_runs_small_and_continues(tmp_path: Path) -> None:
    """In this process and its Ray."""
    arguments = ["replay", "--budget", "60", "--concurrency", "1", "--json", "--out", str(tmp_path / "out")]
    replayed = CliRunner().invoke(main, arguments)
    assert replayed.exit_code == 0, replayed.output
    result = json.loads(replayed.stdout)
    assert 0 < result["spent"] <= 60
    assert result["runs"] > 5
    assert result["recommended"]["predicted"]["low"] < result["recommended"]["predicted"]["high"]


FIRST, WAIT = "Preparing the replay.", "Starting Ray, which takes some seconds."


def test_people_get_tables_and_no_word_from_ray(tmp_path: Path, replay: Command) -> None:
    (tmp_path / "runs.csv").write_text(RUNS)
    code, out, err = replay(
        "--runs", tmp_path / "runs.csv", "--strategy", "random", "--budget", 3000, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "loss (min) at L x 100 steps" in out
    assert "50.0%" in out  # the best logged mixture, found
    told = " ".join(out.split())
    assert (
        "In truth: 2.5000; it is the uniform mixture itself. Regret 0.000 against 0.000 of the uniform mixture" in told
    )
    assert "0 is the best mixture of the 3 logged at the target, 2.5000, and 1 the median random one." in told
    assert "Spent 3.00 full runs (cost 3,000) of 3.00 full runs." in told
    assert "All 6 logged runs cost 3.3 full runs, of which the search paid 3: 9.1% saved." in told
    assert f"Results: {tmp_path / 'out'}/" in out.replace("\n", "")
    first, second, *rest = err.splitlines()
    assert (first, second) == (FIRST, WAIT) and all(line.startswith("spent: ") for line in rest), err


def test_a_terminal_sees_the_search_go_on(tmp_path: Path) -> None:
    """On a pseudo-terminal of 80 columns, for which all of it is written."""
    (tmp_path / "runs.csv").write_text(RUNS)
    words = ["replay", "--runs", tmp_path / "runs.csv", "--budget", 2000, "--concurrency", 1, "--out", tmp_path / "out"]
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    sizeless = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    child = subprocess.Popen(
        [str(COMMAND), *map(str, words)], stdin=its, stdout=its, stderr=its, env={**sizeless, "TERM": "xterm"}
    )
    os.close(its)
    seen = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    assert child.wait(timeout=60) == 0, seen
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    assert lines[:2] == [FIRST, WAIT]
    live = text[: text.index("In truth: ")]
    assert "of 2.00 full runs, 0%" in live and re.search(r"runs +1 run, now \S+ to step 100 *[\r\n]", live)
    result = text[text.index("In truth: ") : text.index("Results: ")]
    assert max(map(len, result.splitlines())) <= 80
    assert "\x1b[?25h" in seen.decode().rpartition("\x1b[?25l")[2]  # the cursor is back


def test_ctrl_c_ends_it_with_what_is_known(tmp_path: Path, start: Command) -> None:
    folder = tmp_path / "out"
    child = start("--budget", 1e6, "--concurrency", 1, "--json", "--strategy", "random", "--out", folder)
    assert [child.stderr.readline() for _ in range(2)] == [f"{FIRST}\n", f"{WAIT}\n"]
    assert "spent: " in child.stderr.readline()  # the first run
    assert "predicted at" not in child.stderr.readline()  # and more of them; the strategy predicts nothing
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    result = json.loads(out)
    assert result["interrupted"]
    assert 0 < result["spent"] < 1e6
    (line,) = [line for line in err.splitlines() if "To go on: " in line]
    words = shlex.split(line.partition("To go on: ")[2])
    assert words[:2] == ["ray-mixopt", "replay"]
    given = dict(zip(words[-6::2], words[-5::2], strict=True))  # of an option that stands there twice the last counts
    assert given["--from"] == str(folder) and given["--out"] == f"{folder}-2"
    assert float(given["--budget"]) == pytest.approx(1e6 - result["spent"])


def test_a_search_that_breaks_down_is_no_usage_error(tmp_path: Path, replay: Command) -> None:
    code, out, err = replay(
        "--strategy", "random", "--budget", 400, "--out", tmp_path / "out", RAY_TMPDIR="/dev/null/ray"
    )
    assert (code, out) == (1, "")
    assert "The search broke down" in err


def test_it_runs_on_a_ray_that_is_there_already(tmp_path: Path) -> None:
    settings = Settings(objective={"loss": 1.0}, strategy="random", budget=400.0)
    search = Replay(source=simulators.load("slimpajama"), settings=settings, concurrency=4)
    seen: list[float] = []
    outcome = search.run(tmp_path / "experiment", lambda optimizer: seen.append(optimizer.history.spent))
    assert not outcome.errors and not outcome.interrupted
    assert outcome.optimizer.history.spent == pytest.approx(394)
    assert seen[-1] == pytest.approx(394)
    assert len(set(seen)) > 2


def test_with_one_run_at_a_time_it_is_the_search_without_tune(tmp_path: Path) -> None:
    source = simulators.load("slimpajama", steps=paper_rungs(19700))
    settings = Settings(objective={"loss": 1.0}, strategy="paper", budget=40.0)
    search = Replay(source=source, settings=settings)
    outcome = search.run(tmp_path / "experiment", lambda optimizer: None)
    alone: MixtureOptimizer = search.optimizer()
    while (run := alone.ask()) is not None:
        for step in source.space.steps:
            if alone.history[run.trial_id].reached < step <= run.steps:
                alone.tell(run.trial_id, step, source.observe(run.mixture, run.scale, step))
        alone.finish(run.trial_id)
    runs, expected = outcome.optimizer.history, alone.history
    assert [(t.mixture, t.scale, t.steps) for t in runs] == [(t.mixture, t.scale, t.steps) for t in expected]
    assert [t.observations for t in runs] == [t.observations for t in expected]
    assert len(runs) > 20
    assert outcome.optimizer.recommend().mixture == alone.recommend().mixture


def test_the_papers_rungs_are_in_proportion() -> None:
    assert paper_rungs(19700) == (*range(100, 1000, 100), 6000, 12000, 19700)
    assert paper_rungs(1970) == (*range(10, 100, 10), 600, 1200, 1970)
