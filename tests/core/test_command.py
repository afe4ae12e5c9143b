"""A command that trains: its arguments, its processes and its folder, without Ray."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ladder import wait_until

from ray_mixopt import MixtureSpace, Scale
from ray_mixopt.command.arguments import checkpoints, filled
from ray_mixopt.command.process import CommandError, Process
from ray_mixopt.command.run import CommandRun, FailedRunError, LostRunError, Order
from ray_mixopt.command.settings import Command, Metrics, Needs, read_command
from ray_mixopt.command.supervisor import Secrets, is_secret
from ray_mixopt.io.space_file import read_space

SPACE = MixtureSpace(domains=("web", "code"), scales=(Scale("S", 1.0), Scale("L", 9.0)), steps=(10, 20, 40))
FILE = """
domains: [web, code]
scales: [{name: S, cost_per_step: 1}, {name: L, cost_per_step: 9}]
steps: [10, 20, 40]
command:
  blend: yaml
  arguments: {L: [--layers, "8"]}
  resume: [--resume, "{resume}"]
  checkpoint: "{folder}/step-{step}/model.pt"
  metrics: {file: "{folder}/metrics.csv", step: iteration, names: {loss: eval/loss}}
  resources: {L: {nodes: 2, cpus: 8, gpus: 4, labels: {zone: a}}}
  diverged_codes: [3]
  silence_seconds: 6e2
"""


def processes(mark: str) -> list[int]:
    """Processes that have a word among their arguments, as a system without /proc cannot say."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes()
            state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in words and state != "Z" and int(name) != os.getpid():
            found.append(int(name))
    return found


def none_left(mark: str) -> bool:
    wait_until(lambda: not processes(mark), timeout_s=20, what=f"the end of {processes(mark)}")
    return True


# -- what is said of it


def test_the_section_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(FILE)
    command = read_command(file, ("train", "--data", "{mixture}"), tmp_path)
    command.check(read_space(file))
    assert command.arguments == {"L": ("--layers", "8")} and command.resume == ("--resume", "{resume}")
    assert command.metrics == Metrics(file="{folder}/metrics.csv", step="iteration", names={"loss": "eval/loss"})
    assert (command.metrics.known_format, command.suffix, command.continues) == ("csv", ".yaml", True)
    assert command.needs("L") == Needs(nodes=2, cpus=8, gpus=4, labels={"zone": "a"})
    assert command.needs("S") == Needs() and command.needs("S").each == {"CPU": 1.0}
    assert command.diverged_codes == (3,) and command.silence_seconds == 600


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("blend: yaml", "blend: nonesuch", "Unknown format 'nonesuch' of a blend: choose one of json"),
        ("blend: yaml", "blends: yaml", "unknown fields blends; known are"),
        (
            "--layers",
            "{layers}",
            "arguments, L must be text, and YAML takes what is in braces for settings: put it in qu",
        ),
        ("--layers", "'{layers}'", r"arguments of L has the placeholder {layers} in '{layers}'.*twice"),
        ('"8"', "8", "arguments, L must be text, and YAML takes 8 for something else: put it in quotes"),
        ("{L: [--layers", "{M: [--layers", "arguments are for the scale 'M', which the space has not: it has S, L"),
        ("  resume:", "  # resume:", "nothing says how a run goes on from one: add resume"),
        ("  checkpoint:", "  # checkpoint:", "resume speaks of a checkpoint: say where these are"),
        ('"{folder}/step-{step}/model.pt"', "ckpt/{step}", "must be an absolute path or begin with {folder}"),
        ("diverged_codes: [3]", "diverged_codes: [0]", "The exit code 0 means that a run is done"),
        ("diverged_codes: [3]", "diverged_codes: [75]", "75 cannot be both"),
        ("silence_seconds: 6e2", "silence_seconds: -1", "silence_seconds must be above 0, got -1"),
        ("silence_seconds: 6e2", "silence_seconds: 0", "silence_seconds must be above 0, got 0"),
        ("silence_seconds: 6e2", "end_seconds: -1", "end_seconds must not be negative"),
        ("step: iteration", "step: ''", "step and names are keys or columns"),
        ("loss: eval/loss", "loss: ''", "step and names are keys or columns"),
        ("loss: eval/loss", "loss: iteration", "names: loss cannot be 'iteration', which is the training step"),
        ("nodes: 2", "nodes: 0", "at least one node"),
        ("nodes: 2", "node: 2", "unknown fields node; known are nodes"),
        ("metrics: {file", "metrics: {files", "unknown fields files"),
        ("step: iteration", "format: tensorboard, file: null", "is given twice|events are in a folder"),
        ("silence_seconds: 6e2", "program: rm", "program is not said here"),
    ],
)
def test_what_is_wrong_in_it_is_said(tmp_path: Path, before: str, after: str, what: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(FILE.replace(before, after))
    assert after in file.read_text()
    with pytest.raises(ValueError, match=what.replace("{", r"\{")):
        read_command(file, ("train",), tmp_path).check(read_space(file))


@pytest.mark.parametrize("word", ["{nonesuch}", "{mixture!r}", "{steps:5}", "{", '{"a": 1}', "{0}", "{}", "{resume}"])
def test_other_placeholders_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="which is not known: there are {mixture}"):
        Command(program=("train", word), directory="/")


def test_there_must_be_a_command() -> None:
    with pytest.raises(ValueError, match="write it after --"):
        Command(program=(), directory="/")


def test_values_take_the_place_of_placeholders_once() -> None:
    assert filled(["{a}-{b}", "{{a}}", '{{"x": {b}}}'], {"a": "{b}", "b": 1}) == ["{b}-1", "{a}", '{"x": 1}']


def test_the_newest_checkpoint_is_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]{x}"
    for step in ("0000900", "0001000", "x"):
        (folder / f"iter_{step}").mkdir(parents=True)
        (folder / f"iter_{step}" / f"model_{step}.pt").touch()
    (folder / "iter_0001100").mkdir()
    (folder / "iter_0001200").mkdir()
    (folder / "iter_0001200" / "model_1.pt").touch()
    values = {"folder": folder}
    found = checkpoints("{folder}/iter_{step}/model_{step}.pt", values)
    assert [(path.name, step) for path, step in found.items()] == [
        ("model_0000900.pt", 900),
        ("model_0001000.pt", 1000),
    ]
    assert list(checkpoints("{folder}/iter_{step}", values).values()) == [900, 1000, 1100, 1200]
    assert checkpoints("{folder}/iter_x", values) == {folder / "iter_x": None}
    assert checkpoints("{folder}/latest", values) == {} == checkpoints("{folder}/no/{step}", values)


# -- its processes

FAMILY = """
import os, signal, subprocess, sys, time
mark = sys.argv[1]
for stubborn in (False, True):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if stubborn:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        os._exit(0)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", mark], start_new_session=True)
print("up", flush=True)
if len(sys.argv) > 2:
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A word by which processes are known; none of them is left in the end."""
    if not Path("/proc/self").exists():
        pytest.skip("processes are looked for in /proc")
    word = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    yield word
    assert none_left(word)


def started(tmp_path: Path, *words: str, grace_seconds: float = 0.3) -> Process:
    arguments = [sys.executable, "-c", FAMILY, *words]
    process = Process(arguments, directory=tmp_path, log=tmp_path / "log", grace_seconds=grace_seconds)
    wait_until(lambda: "up" in process.tail(), timeout_s=20, what="the command")
    return process


def test_all_of_a_command_ends_with_it(tmp_path: Path, mark: str) -> None:
    process = started(tmp_path, mark)
    wait_until(lambda: len(processes(mark)) == 4, timeout_s=20, what="all of it")
    assert process.poll() is None
    assert process.stop() == 128 + signal.SIGKILL and processes(mark) == []
    process = started(tmp_path, mark, "7", grace_seconds=0.1)
    wait_until(lambda: process.poll() is not None, timeout_s=20, what="its end")
    assert process.poll() == 7 == process.stop() and processes(mark) == []


def test_what_heeds_sigterm_is_not_killed(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; signal.signal(15, lambda *_: (print('saved'), sys.exit(9)))\nprint('up', flush=True)"
    )
    arguments = [sys.executable, "-c", f"{program}\ntime.sleep(600)"]
    process = Process(arguments, directory=tmp_path, log=tmp_path / "log", grace_seconds=30)
    wait_until(lambda: "up" in process.tail(), timeout_s=20, what="the command")
    assert process.stop() == 9 and "saved" in process.tail()


STARTER = """
import sys, time
from pathlib import Path
from ray_mixopt.command.process import Process
folder, program, mark = sys.argv[1:]
process = Process([sys.executable, "-c", program, mark], directory=folder, log=Path(folder, "log"), grace_seconds=0.3)
time.sleep(600)
"""


def test_it_does_not_outlive_who_started_it(tmp_path: Path, mark: str) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path), FAMILY, mark])
    try:
        wait_until(lambda: len(processes(mark)) == 5, timeout_s=60, what="the command")
        # As Ray does with a worker that ends: first its children, which those that do the work are not.
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
        for child in map(int, children):
            os.kill(child, signal.SIGKILL)
    finally:
        starter.kill()
        starter.wait()
    assert none_left(mark)


def test_a_command_whose_supervisor_is_killed_is_ended(tmp_path: Path, mark: str) -> None:
    arguments = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)", mark]
    process = Process(arguments, directory=tmp_path, log=tmp_path / "log")
    wait_until(lambda: "up" in process.tail(), timeout_s=20, what="the command")
    (command,) = processes(mark)
    supervisor = int(Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: process.poll() is not None, timeout_s=20, what="word of it")
    assert process.poll() == 128 + signal.SIGKILL == process.stop()


def test_no_shell_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sesame open")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "in any case")
    program = "import os, sys; print(sys.argv[1:], dict(os.environ))"
    words = ["$HOME", "`id`", "a; b", "*", ""]
    process = Process([sys.executable, "-c", program, *words], directory=tmp_path, log=tmp_path / "log")
    wait_until(lambda: process.poll() is not None, timeout_s=20, what="its end")
    process.stop()
    log = (tmp_path / "log").read_text()
    assert str(words) in log and "in any case" in log
    assert "sesame" not in log and "[hidden]" in log


@pytest.mark.parametrize(
    "name",
    [
        *("WANDB_API_KEY", "SERVICE_TOKENS", "API_KEYS", "GITHUBTOKEN", "dbPassword", "dbPasswordOld", "PGPASSWORD"),
        *("client-secret", "token2", "KEY_FILE", "AWS_CREDENTIALS", "apiKeyId"),
    ],
)
def test_names_that_say_secret(name: str) -> None:
    assert is_secret(name, "sesame open")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("TOKENIZERS_PARALLELISM", "in any case"), ("KEYBOARD", "qwertyuiop"), ("tokenizerPath", "/a/long/path")),
        *(("MAX_TOKENS", "100000000"), ("SECRETARY", "Miss Moneypenny"), ("PATH", "/usr/local/bin")),
    ],
)
def test_names_that_do_not(name: str, value: str) -> None:
    assert not is_secret(name, value)
    assert Secrets({name: value}).hidden_in(value.encode()) == value.encode()


PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("values", "printed", "shown"),
    [
        (["sesame open"], "open sesame sesame open, sesame", "open sesame [hidden], sesame"),
        (["hide me, hide me not"], "hide me, hide me, hide me not\n", "hide me, [hidden]\n"),
        (["sesame open", "sesame open wide"], "a sesame open, a sesame open wide", "a [hidden], a [hidden]"),
        (["token123t"], "token123t", "[hidden]"),  # its end is also its beginning
        (["sesame open"], "a sesame op", "a [hidden]"),  # killed in the middle of it
        (["sesame open"], "a sesa", "a sesa"),  # which tells nothing
        ([PEM], f"key: {PEM}\n", "key: [hidden]\n"),
        ([PEM], "  " + PEM.replace("\n", "\n  "), "  [hidden]\n  [hidden]\n  [hidden]\n  [hidden]"),
        (["short"], "short", "short"),
    ],
)
def test_a_secret_is_hidden_in_whatever_parts_it_comes(values: list[str], printed: str, shown: str, size: int) -> None:
    hide = Secrets({f"KEY_{i}": value for i, value in enumerate(values)})
    parts = [printed[i : i + size].encode() for i in range(0, len(printed), size)]
    assert b"".join([*map(hide.hidden_in, parts), hide.rest()]).decode() == shown


def test_lines_of_a_secret_that_come_slowly_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKENS", PEM)
    program = """
import os, sys, time
for line in os.environ["SERVICE_TOKENS"].splitlines():
    for part in ("> " + line[:9], line[9:] + chr(10)):
        print(part, end="", flush=True)
        time.sleep(0.12)
print("done")
"""
    process = Process([sys.executable, "-c", program], directory=tmp_path, log=tmp_path / "log")
    wait_until(lambda: process.poll() is not None, timeout_s=20, what="its end")
    process.stop()
    assert (tmp_path / "log").read_text() == "> [hidden]\n" * 4 + "done\n"


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    for program, folder in (("nonesuch", tmp_path), (sys.executable, tmp_path / "missing")):
        with pytest.raises(CommandError, match="cannot be run: .*No such file"):
            Process([program, "-c", ""], directory=folder, log=tmp_path / "log")


# -- one run

TRAIN = """
import json, os, sys, time
mixture, steps, folder, *rest = sys.argv[1:]
kind, resumed = os.environ["KIND"], int(rest[0]) if rest else 0
web = json.load(open(mixture))["web"]
step = resumed
print("from", step, flush=True)
if kind == "fails": sys.exit(4)
if kind == "tokens": print(json.dumps({"step": 10**12, "loss": 1}), flush=True); time.sleep(600)
if kind == "silent": time.sleep(600)
if kind == "long": print(json.dumps({"step": 10, "loss": 1, "note": "x" * 2**21})); sys.exit()
while step < int(steps) or kind == "endless":
    step += 5
    loss = float("nan") if kind == "nan" and step == 15 else web + step
    print(json.dumps({"step": step, "loss": loss} if kind != "mute" else {"iter": step, "loss": loss}), flush=True)
    open(f"{folder}/{step}.pt", "w").close()
    if kind == "preempted" and not resumed and step == 15: os.kill(os.getpid(), 15)
    if kind == "code" and step == 15: sys.exit(3)
    if kind == "endless": time.sleep(0.02)
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(
        program=(sys.executable, "-c", TRAIN.replace("{", "{{").replace("}", "}}"), "{mixture}", "{steps}", "{folder}"),
        directory=str(tmp_path),
        resume=("{resume_step}",),
        checkpoint="{folder}/{step}.pt",
        diverged_codes=(3,),
        end_seconds=20,
        grace_seconds=0.3,
    )


def run_of(command: Command, folder: Path, steps: int = 20, session: str = "one") -> CommandRun:
    order = Order(mixture={"web": 1.0, "code": 3.0}, scale="S", steps=steps)
    return CommandRun(command, SPACE, order, folder=folder / "run-1", wanted=("loss",), session=session)


def kind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND", name)


def test_a_run_reports_its_rungs_and_goes_on(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind("well", monkeypatch)
    run = run_of(command, tmp_path)
    assert run.next_report(0) == {"step": 10, "loss": 10.25}
    assert run.next_report(10) == {"step": 20, "loss": 20.25}
    assert run.can_go_on() and run.stop() is None
    again = run_of(command, tmp_path)
    assert again.next_report(0)["step"] == 10 and again.next_report(10)["step"] == 20, "known, without training"
    longer = run_of(command, tmp_path, steps=40)
    assert longer.next_report(20) == {"step": 40, "loss": 40.25}
    folder = tmp_path / "run-1"
    assert {path.name for path in folder.iterdir()} == {"1", "log-1.txt", "mixture.json", "state.json"}
    assert [line for line in (folder / "log-1.txt").read_text().splitlines() if "from" in line] == ["from 0", "from 20"]


def test_a_command_that_goes_on_and_on_is_ended(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("endless", monkeypatch)
    run = run_of(command, tmp_path)
    assert [run.next_report(0)["step"], run.next_report(10)["step"]] == [10, 20]
    assert run.stop() is None, "it has ended"


@pytest.mark.parametrize(("name", "step"), [("nan", 15), ("code", 15)])
def test_divergence(name: str, step: int, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind(name, monkeypatch)
    run = run_of(command, tmp_path)
    assert run.next_report(0)["step"] == 10
    report = run.next_report(10)
    assert report["step"] in (step, step + 1) and math.isnan(report["loss"]) and run.stop() is None
    assert math.isnan(run_of(command, tmp_path).next_report(10)["loss"]), "it is not tried again"


def test_what_is_worth_another_try_goes_on_from_its_checkpoint(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("preempted", monkeypatch)
    run = run_of(command, tmp_path)
    assert run.next_report(0)["step"] == 10
    with pytest.raises(LostRunError, match=r"(?s)exit code 143 after step 15 of 20\. .*log-1.txt ends with:.*from 0"):
        run.next_report(10)
    again = run_of(command, tmp_path)
    assert [again.next_report(0)["step"], again.next_report(10)["step"]] == [10, 20]
    assert "from 15" in (tmp_path / "run-1" / "log-1.txt").read_text()


def test_without_checkpoints_it_starts_anew_in_a_new_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("preempted", monkeypatch)
    plain = replace(command, resume=None, checkpoint=None)
    run = run_of(plain, tmp_path)
    assert run.next_report(0)["step"] == 10 and not run.can_go_on()
    with pytest.raises(LostRunError):
        run.next_report(10)
    kind("well", monkeypatch)
    assert run_of(plain, tmp_path).next_report(10)["step"] == 20
    assert {"1", "2", "log-1.txt", "log-2.txt"} < {path.name for path in (tmp_path / "run-1").iterdir()}


def test_what_failed_is_not_tried_again_in_the_same_search(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("fails", monkeypatch)
    with pytest.raises(
        FailedRunError, match=r"exit code 4 without a report of any step\. The step is looked for as 's"
    ):
        run_of(command, tmp_path).next_report(0)
    kind("well", monkeypatch)
    with pytest.raises(FailedRunError, match="exit code 4"):
        run_of(command, tmp_path).next_report(0)
    assert run_of(command, tmp_path, session="two").next_report(0)["step"] == 10


def test_a_command_that_says_nothing_of_its_steps(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("mute", monkeypatch)
    with pytest.raises(
        FailedRunError, match=r"The step is looked for as 'step' in what it prints, which has iter, loss"
    ):
        run_of(command, tmp_path).next_report(0)
    kind("silent", monkeypatch)
    run = run_of(replace(command, silence_seconds=0.5), tmp_path, session="two")
    with pytest.raises(LostRunError, match=r"was ended, for it had shown no new step for 0\.5 s without a report"):
        run.next_report(0)
    failing = replace(command, silence_seconds=0.5, retry_codes=())
    with pytest.raises(FailedRunError, match="no new step"):
        run_of(failing, tmp_path, session="two").next_report(0)


def test_a_report_on_too_long_a_line_is_said_to_be_lost(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("long", monkeypatch)
    with pytest.raises(FailedRunError, match=r"lines of more than 1 MiB were passed over: report in less") as caught:
        run_of(command, tmp_path).next_report(0)
    assert len(str(caught.value)) < 2000 and str(caught.value).endswith("xx...")


def test_a_step_that_cannot_be_one_fails_the_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind("tokens", monkeypatch)
    run = run_of(command, tmp_path)
    with pytest.raises(FailedRunError, match=r"run-1: the command reported step 1,000,000,000,000, far beyond"):
        run.next_report(0)
    assert run.stop() is None, "it has ended"


def test_a_checkpoint_that_is_gone_is_said(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind("well", monkeypatch)
    run = run_of(command, tmp_path)
    assert [run.next_report(0)["step"], run.next_report(10)["step"]] == [10, 20]
    for file in (tmp_path / "run-1" / "1").iterdir():
        file.unlink()
    assert not run.can_go_on()
    with pytest.raises(FailedRunError, match="to go on after step 20, and there is no checkpoint"):
        run_of(command, tmp_path, steps=40).next_report(20)
