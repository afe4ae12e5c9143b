"""Searches in which an external script trains: interrupted, killed, and gone on with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from click.testing import CliRunner
from ladder import wait_until
from ray.exceptions import RayTaskError, WorkerCrashedError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from small_ray import all_given_back

from ray_mixopt.cli.main import main
from ray_mixopt.command.arguments import filled
from ray_mixopt.command.nodes import NodeGroup, fitting, placement
from ray_mixopt.command.search import RUNS, CommandSearch
from ray_mixopt.command.settings import Command, Needs, read_command
from ray_mixopt.command.trainable import CommandLostError
from ray_mixopt.core.history import History
from ray_mixopt.core.settings import Settings
from ray_mixopt.io import searches
from ray_mixopt.io.space_file import read_space
from ray_mixopt.testing import check_history

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "command.md"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the script and the space of the documentation."""
    (script,) = re.findall(r"^```py\n(# train\.py\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    space, *_ = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "space.yaml").write_text(space)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_SECRET", "sesame open")
    return tmp_path


def program(job: Path) -> tuple[str, ...]:
    (line,) = [line for line in PAGE.read_text().splitlines() if "--budget 9000" in line]
    words = line.partition(" -- ")[2].split()
    assert words[:2] == ["python", "train.py"]
    return (sys.executable, str(job / "train.py"), *words[2:])


def running(program: str) -> list[int]:
    """Processes of a Python program, given by the end of its path."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")[:5]
        except OSError:
            continue
        if any(word.endswith(os.fsencode(program)) for word in words):
            found.append(int(name))
    return found


def trainers(job: Path) -> list[int]:
    return running(str(job / "train.py"))


def supervisors() -> list[int]:
    return running("/ray_mixopt/command/supervisor.py")


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def none_left(job: Path) -> bool:
    wait_until(lambda: not trainers(job) and not supervisors(), timeout_s=30, what="the end of the command")
    return True


@pytest.fixture
def start(job: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts ``ray-mixopt search`` in the folder; nothing is left of it in the end."""
    begun: list[subprocess.Popen] = []

    def run(*options: str) -> subprocess.Popen:
        driver = str(ROOT / "tests" / "command_driver.py")
        words = [sys.executable, driver, "space.yaml", "--weight", "val_loss=1", "--budget", "30000", *options]
        child = subprocess.Popen(
            [*words, "--", *program(job)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        begun.append(child)
        return child

    yield run
    for child in begun:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert none_left(job)


def history(job: Path) -> History | None:
    try:
        return searches.load_history(job / "results" / "space" / searches.EXPERIMENT)
    except (ValueError, OSError, RuntimeError):
        return None


def has_reported(job: Path, n: int) -> bool:
    known = history(job)
    return known is not None and len(known.arrivals) >= n


def test_ctrl_c_and_resume_then_kill_9(job: Path, start: Callable[..., subprocess.Popen]) -> None:
    script = job / "train.py"
    script.write_text(script.read_text().replace("sleep(0.02)", "sleep(0.4)"))
    options = ("--strategy", "random", "--num-samples", "4", "--concurrency", "1")
    first = start(*options)
    wait_until(lambda: has_reported(job, 1), timeout_s=120, what="a report")
    wait_until(lambda: bool(trainers(job)), timeout_s=60, what="a run")
    first.send_signal(signal.SIGINT)
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 130, errors[-3000:]
    assert errors.startswith("Checking the command, the space and the folder.\nStarting Ray, which takes some seconds.")
    assert "on with: ray-mixopt search space.yaml" in errors and "--resume -- " in errors
    assert none_left(job) and "did not complete" not in errors
    before = history(job)
    assert before is not None
    space = job / "space.yaml"
    space.write_text(space.read_text().replace("math]", "maths]"))
    words = ["search", "space.yaml", "--weight", "val_loss=1", "--budget", "30000", *options, "--resume"]
    refused = CliRunner().invoke(main, [*words, "--", *program(job)])
    assert refused.exit_code == 2 and "has domains ('web', 'code', 'math'), not ('web', 'code', 'maths')" in (
        " ".join(refused.stderr.split())
    )
    space.write_text(space.read_text().replace("maths]", "math]"))

    second = start(*options, "--resume")
    wait_until(lambda: has_reported(job, len(before.arrivals) + 1), timeout_s=120, what="more")
    wait_until(lambda: bool(trainers(job)), timeout_s=60, what="a run")
    second.kill()
    assert none_left(job)
    after = history(job)
    assert after is not None and len(after) >= len(before)


def searched(job: Path, **settings: object) -> CommandSearch:
    space = job / "space.yaml"
    return CommandSearch(
        command=read_command(space, program(job), job),
        space=read_space(space),
        settings=Settings(objective={"val_loss": 1.0}, mode="min", **settings),  # type: ignore[arg-type]
        folder=job / "search",
        concurrency=2,
    )


def test_the_python_of_the_page(job: Path) -> None:
    (code,) = re.findall(r"^```py\n(from pathlib.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    code = code.replace('"python"', repr(sys.executable)).replace("budget=9000.0", "budget=400.0")
    assert "budget=400.0" in code
    names: dict[str, object] = {}
    exec(code.replace("num_samples=-1,", "num_samples=2,"), names)
    results = names["results"]
    assert not results.errors and [len(result.metrics_dataframe) for result in results] == [1, 1]
    shutil.rmtree(results.experiment_path)  # the page leaves that to Ray
    assert none_left(job)


def test_the_final_run_is_set_against_the_prediction(job: Path) -> None:
    """In this process and its Ray; asked for again, it is not trained again."""
    words = ["search", "space.yaml", "--weight", "val_loss=1", "--budget", "4000", "--num-samples", "12", "--json"]
    answers = []
    for more in ([], ["--resume"]):
        result = CliRunner().invoke(main, [*words, *more, "--final", "--", *program(job)])
        assert result.exit_code == 0, result.output[-3000:]
        answers.append(json.loads(result.stdout))
        assert "The final run, large x 800 steps, has val_loss 2.1" in " ".join(result.stderr.split())
    assert "Final run, step 800 of 800: val_loss" not in result.stderr
    first, second = (answer["final"] for answer in answers)
    assert first == second and first["mixture"] == answers[0]["recommendation"]["mixture"]
    code = first["mixture"]["code"]
    assert first["value"] == pytest.approx(2 + 8 / 64 + 30 / 900 + (code - 0.5) ** 2)
    assert first["predicted"] == answers[0]["recommendation"]["predicted"]
    assert json.loads((job / "results" / "space" / "final.json").read_text())["value"] == first["value"]
    assert none_left(job) and all_given_back()


def test_a_search_whose_worker_is_killed(job: Path) -> None:
    killed: list[int] = []

    def kill_once(optimizer: object) -> None:
        """Kills the process of the trial, which is not that of the script."""
        if not killed and (found := trainers(job)):
            supervisor, keeper = parent(found[0]), parent(parent(found[0]))
            assert {supervisor, keeper} <= set(supervisors())
            killed.append(parent(keeper))
            os.kill(killed[0], signal.SIGKILL)

    search = searched(job, budget=2000.0, seed=1)
    outcome = search.run(kill_once)
    assert outcome.errors == () and not outcome.interrupted and killed
    known = outcome.searcher.optimizer.history
    check_history(known, budget=2000.0)
    assert {run.scale for run in known} >= {"small"} and len(known.arrivals) > 5
    assert none_left(job) and all_given_back()
    everything = b"".join(path.read_bytes() for path in job.rglob("*") if path.is_file())
    assert b"sesame" not in everything
    folders = {path.name for path in (job / "search" / RUNS).iterdir()}
    assert folders == {run.trial_id for run in known}


@pytest.mark.slow
def test_a_lost_node(job: Path) -> None:
    words = [sys.executable, str(ROOT / "tests" / "command_nodes.py"), str(job), *program(job)]
    child = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
    result = json.loads(child.stdout.splitlines()[-1])
    assert result["errors"] == [] and result["known"]
    known = History.from_state_dict(result["history"])
    check_history(known, budget=4000.0)
    assert len(known.arrivals) > result["known"][0] and all(run.status in ("done", "paused") for run in known)
    assert none_left(job)


def test_a_command_on_several_nodes_ends_on_all(tmp_path: Path) -> None:
    program = (
        "import sys, time; print(*sys.argv[1:], flush=True); time.sleep(600 if sys.argv[1] == '0' else 1); exit(5)"
    )
    words = (sys.executable, "-c", program, "{node}", "{nodes}", "{address}", "{port}", str(tmp_path))
    command = Command(program=words, directory=str(tmp_path), grace_seconds=1, resources={"L": Needs(nodes=2)})
    assert placement(command.needs("L")).strategy == "STRICT_SPREAD"

    class Trial:
        def run(self) -> tuple[int | None, int | None, int]:
            processes = NodeGroup(
                command, lambda node: filled(words, node), lambda node: tmp_path / f"log-{node}", nodes=2
            )
            first = processes.poll()
            while (code := processes.poll()) is None:
                time.sleep(0.1)
            return first, code, processes.stop()

    group = placement_group([{"CPU": 1}] * 2)  # as the trial's is, but on the one node that there is
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    trial = ray.remote(num_cpus=1)(Trial).options(scheduling_strategy=strategy).remote()
    first, code, end = ray.get(trial.run.remote(), timeout=120)
    assert first is None and code == 5 and end in (5, 143)
    one, two = ((tmp_path / f"log-{node}").read_text().split() for node in (0, 1))
    assert (one[:2], two[:2]) == (["0", "2"], ["1", "2"]) and one[2:] == two[2:]
    remove_placement_group(group)
    assert none_left(tmp_path) and all_given_back()


def test_a_lost_run_counts_as_a_lost_machine() -> None:
    error = RayTaskError("step", "traceback", CommandLostError("Run x: exit code 75"))
    cause = error.as_instanceof_cause()
    assert isinstance(cause, WorkerCrashedError) and "exit code 75" in str(error.cause)
    again = ray.cloudpickle.loads(ray.cloudpickle.dumps(error)).as_instanceof_cause()
    assert isinstance(again, WorkerCrashedError)


def test_room_on_nodes() -> None:
    nodes = [
        {"Alive": alive, "Resources": {"CPU": cpus, "GPU": 8.0}, "Labels": {"zone": zone}}
        for alive, cpus, zone in ((True, 16.0, "a"), (True, 8.0, "a"), (False, 64.0, "a"), (True, 4.0, "b"))
    ]
    assert [fitting(Needs(nodes=n, cpus=4), nodes) for n in (1, 2, 3, 4)] == [7, 3, 1, 0]
    assert fitting(Needs(gpus=8, labels={"zone": "b"}), nodes) == 1
    assert placement(Needs(labels={"zone": "b"})) != placement(Needs())
