"""Searches of several phases in which a script trains: each rung from where the main phase of another ended."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import branching
import pytest
from branching import SPACE, TreeStrategy, check_tree, paid
from click.testing import CliRunner
from ray import tune

from ray_mixopt import MixOptScheduler, MixOptSearcher
from ray_mixopt.cli.main import main
from ray_mixopt.command.search import RUNS, CommandSearch
from ray_mixopt.command.settings import Command
from ray_mixopt.command.trainable import command_trainable
from ray_mixopt.core.settings import Settings
from ray_mixopt.testing import check_history

TRAIN = """
import json, sys
mixture, steps, folder, resume = *sys.argv[1:4], sys.argv[4:]
mixture, steps = json.load(open(mixture)), int(steps)
begun, weights = json.load(open(resume[0])) if resume else (0, 1.0)
border = round(0.8 * steps)
for step in range(begun + 1, steps + 1):
    share = mixture["main" if step <= border else "anneal"]
    weights = 0.95 * weights + 0.05 * (share["web"] - 2 * share["math"])
    if step == border:
        json.dump([step, weights], open(f"{folder}/at-{step}.json", "w"))
    print(json.dumps({"step": step, "loss": weights, "steps_trained": step - begun}))
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "train.py").write_text(TRAIN)
    return Command(
        program=(sys.executable, str(tmp_path / "train.py"), "{mixture}", "{steps}", "{folder}"),
        directory=str(tmp_path),
        resume=("{resume}",),
        checkpoint="{folder}/at-{step}.json",
    )


def test_a_command_branches_and_goes_on(tmp_path: Path, command: Command) -> None:
    search = MixOptSearcher(strategy=TreeStrategy, budget=branching.BUDGET, seed=3)
    tuner = tune.Tuner(
        command_trainable(command, SPACE, tmp_path / "runs", ["loss"]),
        param_space=SPACE.param_space(),
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=search,
            scheduler=MixOptScheduler(),
            num_samples=-1,
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    assert not tuner.fit().errors
    history = search.optimizer.history
    check_history(history, budget=branching.BUDGET)
    check_tree(history, within=1e-4)  # files have rounded shares
    assert max(Counter(run.branch.parent for run in history if run.branch).values()) > 1
    assert history.spent == pytest.approx(paid(history)), "the script says what it trained"


def test_a_checkpoint_that_was_not_made_is_said(tmp_path: Path, command: Command) -> None:
    (tmp_path / "train.py").write_text(TRAIN.replace("if step == border", "if step == 1"))
    trainable = command_trainable(command, SPACE, tmp_path / "runs", ["loss"])
    config = {"mixture": SPACE.named(SPACE.uniform()), "scale": "20M", "steps": 20}
    run_config = tune.RunConfig(storage_path=str(tmp_path), verbose=0)
    (error,) = tune.Tuner(trainable, param_space=config, run_config=run_config).fit().errors
    assert "is to go on from step 8 on the way to 10, where a phase ended, and there is no checkpoint" in str(error)


def test_the_search_command_takes_phases(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(
        "domains: [web, code, math]\n"
        "scales: [{name: 20M, cost_per_step: 1}]\n"
        "steps: [10, 20]\n"
        "phases: [{name: main, fraction: 0.8}, {name: anneal, fraction: 0.2}]\n"
        "command: {resume: ['{resume}'], checkpoint: '{folder}/at-{step}.json'}\n"
    )
    words = ["search", "space.yaml", "--weight", "loss=1", "--budget", "80", "--concurrency", "1", "--json"]
    result = CliRunner().invoke(main, [*words, "--", *command.program])
    assert result.exit_code == 0, result.output[-3000:]
    answer = json.loads(result.stdout)
    assert set(answer["recommendation"]["mixture"]) == {"main", "anneal"}
    mixtures = [json.loads(path.read_text()) for path in (tmp_path / "results/space" / RUNS).glob("*/mixture.json")]
    assert mixtures and all(set(mixture) == {"main", "anneal"} for mixture in mixtures)


def test_what_cannot_go_on_from_a_border_has_one_rung_and_no_branches(tmp_path: Path, command: Command) -> None:
    plain = Command(program=command.program, directory=str(tmp_path))
    with pytest.raises(ValueError, match="nothing says how the command goes on from where one begins: say resume and"):
        plain.check(SPACE)
    one = replace(SPACE, steps=(20,), target=None)
    plain.check(one)
    for able, branches in ((plain, False), (command, True)):
        search = CommandSearch(
            command=able, space=one, settings=Settings(objective={"loss": 1.0}, budget=99.0), folder=tmp_path
        )
        assert search._searcher().optimizer.settings.branches == branches
