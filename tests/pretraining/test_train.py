"""The training loop: it learns, it goes on bit by bit as if never interrupted, and it says what does not fit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from runs import Recorder, alone, run_in, same, timeless, tiny_run

from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.huggingface import write_model
from ray_mixopt.pretraining.training.session import check_writable
from ray_mixopt.pretraining.training.settings import Execution
from ray_mixopt.pretraining.training.train import main, train
from ray_mixopt.pretraining.training.validation import ValidationSet
from ray_mixopt.pretraining.training.workers import Workers

HERE = Path(__file__).parent


def launched(*command: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_it_learns_what_it_is_shown(small: Path, tmp_path: Path) -> None:
    reports = run_in(tmp_path / "run", tiny_run(small, steps=40, rungs=(1, 40), mixture={"a": 1.0, "b": 0.0}))
    assert [report["step"] for report in reports] == [1, 40]
    assert reports[1]["train_loss"] < 0.8 * reports[0]["train_loss"]
    assert reports[0]["train_loss"] == pytest.approx(math.log(320), rel=0.05)  # 257 tokens, padded
    last = reports[1]
    assert last["tokens/a"] == 40 * 64 and last["tokens/b"] == 0
    assert last["epochs/a"] == pytest.approx(40 * 4 / 312) and last["epochs/b"] == 0
    assert {"val_loss/a", "val_loss/b", "flops", "seconds", "tokens_per_second"} <= set(last)
    assert "mfu" not in last
    assert last["tokens_per_second"] == pytest.approx(39 * 64 / (last["seconds"] - reports[0]["seconds"]))


@pytest.mark.parametrize(
    "changes", [{}, {"execution": {"micro_batch": 4}}, {"supply_fraction": 0.2}, {"anneal": {"share": 0.34}}]
)
def test_going_on_equals_one_go(small: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = run_in(tmp_path / "whole", tiny_run(small, steps=9, **changes))
    parts = [
        report for steps in (3, 6, 9) for report in run_in(tmp_path / "parts", tiny_run(small, steps=steps, **changes))
    ]
    assert len(whole) == 3 and timeless(whole) == timeless(parts)
    assert same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("n_workers", "ways"),
    [
        (2, {"ddp": {}, "fsdp": {"parallel": "fsdp"}}),
        pytest.param(2, {"tensor": {"parallel": "fsdp", "tensor": 2}}, marks=pytest.mark.slow),
        pytest.param(
            4,
            {
                "hsdp": {"parallel": "fsdp", "shards": 2},
                "both": {"parallel": "fsdp", "tensor": 2},
                "all": {"parallel": "fsdp", "tensor": 2, "shards": 1},
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_going_on_equals_one_go_on_several_workers(
    small: Path, tmp_path: Path, n_workers: int, ways: dict[str, Any]
) -> None:
    command = ("-m", "torch.distributed.run", "--nproc-per-node", n_workers, HERE / "two_workers.py")
    child = launched(*command, small, tmp_path, json.dumps(ways))
    assert child.returncode == 0, child.stderr[-3000:]
    lines = [line.split() for line in child.stdout.splitlines()]
    parts = ("1", "2", "2-annealed")
    assert [line[:2] for line in lines] == [[f"{way}-{part}", "equal"] for way in ways for part in parts]
    # However the work is shared out, the data are the same, and so is the result up to rounding.
    for line in lines:
        decay = {"steps": 3} if line[0].endswith("annealed") else None
        (alone_report,) = run_in(tmp_path / f"one-{line[0]}", tiny_run(small, steps=9, rungs=(), decay=decay))
        assert float(line[2]) == pytest.approx(alone_report["val_loss/a"], rel=1e-4)
        # And whatever its parts were, a checkpoint is a model of one process that scores the losses reported.
        write_model(str(tmp_path / f"{line[0]}-whole"), small, tmp_path / f"model-{line[0]}")
        found = ValidationSet(Corpus(small), tiny_run(small)).metrics(
            model.Olmo2ForCausalLM.from_pretrained(tmp_path / f"model-{line[0]}"), alone()
        )
        assert found["val_loss/a"] == pytest.approx(float(line[2]), rel=1e-6)


def test_an_annealed_report_is_of_a_run_that_ended_there(small: Path, tmp_path: Path) -> None:
    """And the branches leave no trace in the run itself."""
    annealed = run_in(tmp_path / "annealed", tiny_run(small, steps=9, anneal={"share": 0.34}))
    for report, steps, decayed in zip(annealed, (3, 6, 9), (1, 2, 3), strict=True):
        (ended,) = run_in(tmp_path / f"to-{steps}", tiny_run(small, steps=steps, rungs=(), decay={"steps": decayed}))
        for name in ("step", "val_loss/a", "val_loss/b", "tokens/a", "epochs/b"):
            assert report[name] == ended[name]
    run_in(tmp_path / "plain", tiny_run(small, steps=6, rungs=()))
    assert same(tmp_path / "annealed", tmp_path / "plain")  # the branch to 9 leaves after 6 steps
    flops = {report["step"]: report["flops"] for report in annealed}
    assert flops[9] / flops[3] == pytest.approx((6 + 1 + 2 + 3) / 3)


LATE = [{"begins": 0.8, "mixture": {"a": 0.1, "b": 0.9}}]


def test_a_report_of_two_phases_is_of_a_run_that_ended_there(small: Path, tmp_path: Path) -> None:
    """And the second phase leaves no trace in the run itself, which goes on with the first one."""
    phased = run_in(tmp_path / "phased", tiny_run(small, steps=10, rungs=(5, 10), later=LATE))
    for report, steps in zip(phased, (5, 10), strict=True):
        (ended,) = run_in(tmp_path / f"to-{steps}", tiny_run(small, steps=steps, rungs=(), later=LATE))
        for name in ("step", "val_loss/a", "val_loss/b", "tokens/a", "epochs/b"):
            assert report[name] == ended[name]
    run_in(tmp_path / "main", tiny_run(small, steps=8, rungs=()))
    assert same(tmp_path / "phased", tmp_path / "main"), "the branch to 10 leaves after 8 steps"
    flops = {report["step"]: report["flops"] for report in phased}
    assert flops[10] / flops[5] == pytest.approx((8 + 1 + 2) / 5)
    (one,) = run_in(tmp_path / "one", tiny_run(small, steps=10, rungs=(), later=[{**LATE[0], "mixture": MAIN}]))
    (plain,) = run_in(tmp_path / "plain", tiny_run(small, steps=10, rungs=()))
    assert timeless([one]) == timeless([plain]), "of one mixture in both phases"


MAIN = {"a": 0.6, "b": 0.4}


@pytest.mark.parametrize("anneal", [None, {"share": 0.1}])
def test_a_branch_of_another_run_is_what_it_would_be_from_its_start(small: Path, tmp_path: Path, anneal) -> None:
    changes = {"steps": 10, "rungs": (5, 10), "anneal": anneal}
    run_in(tmp_path / "parent", tiny_run(small, **changes, later=LATE))
    (begins,) = (tmp_path / "parent").glob("step-*")
    other = tiny_run(small, **changes, later=[{"begins": 0.8, "mixture": {"a": 1.0, "b": 0.0}}])
    session = Recorder(tmp_path / "child", begins=begins)
    train(other, session, alone())
    whole = run_in(tmp_path / "whole", other)
    assert [report["step"] for report in session.reports] == [10], "it passes no other rung"
    named = [name for name in whole[-1] if name.startswith(("val_loss", "tokens/", "epochs"))]
    assert [session.reports[0][name] for name in named] == [whole[-1][name] for name in named]
    assert same(tmp_path / "child", tmp_path / "whole")
    again = Recorder(tmp_path / "child", begins=begins)
    train(other, again, alone())
    assert timeless(again.reports) == [], "it goes on from its own checkpoint, and has reported"
    stranger = tiny_run(small, **changes, mixture={"a": 0.5, "b": 0.5}, later=LATE)
    with pytest.raises(ValueError, match="comes from a run with another mixture"):
        train(stranger, Recorder(tmp_path / "stranger", begins=begins), alone())


@pytest.mark.parametrize(
    ("later", "sentence"),
    [
        ([*LATE, {**LATE[0], "begins": 0.5}], "later phases begin one after the other"),
        ([{"begins": 0.8, "mixture": {"a": 1.0}}], "all phases have the domains of the first"),
        ([{"begins": 0.8, "mixture": {"a": 0.0, "b": 0.0}}], "not all zero"),
    ],
)
def test_phases_that_make_no_sense(small: Path, later, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_run(small, later=later)


def test_a_crash_after_a_branch_changes_nothing(small: Path, tmp_path: Path) -> None:
    run = tiny_run(small, steps=9, checkpoint_every=5, anneal={"share": 0.34})
    whole = run_in(tmp_path / "whole", run)
    crashing = Crash(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(run, crashing, alone())
    assert [report["step"] for report in crashing.reports] == [3, 6]
    rest = run_in(tmp_path / "parts", run)
    assert timeless([*crashing.reports, *rest]) == timeless(whole)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_a_branch_that_is_not_finite_ends_the_run(small: Path, tmp_path: Path) -> None:
    run = tiny_run(small, steps=9, anneal={}, optimization={"learning_rate": 1e30, "warmup_steps": 0})
    (report,) = run_in(tmp_path / "run", run)
    assert report["step"] <= 3 and math.isnan(report["val_loss/a"])


class Crash(Recorder):
    """Breaks down after the checkpoint at a step, as if the process were killed."""

    def checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        super().checkpoint(step, write)
        if step == 5:
            raise KeyboardInterrupt


def test_a_crash_between_rungs_changes_nothing(small: Path, tmp_path: Path) -> None:
    run = tiny_run(small, steps=9, checkpoint_every=5)
    whole = run_in(tmp_path / "whole", run)
    crashing = Crash(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(run, crashing, alone())
    unfinished = tmp_path / "parts" / "step-000000007"
    unfinished.mkdir()
    (unfinished / "shard.safetensors").write_bytes(b"half")
    rest = run_in(tmp_path / "parts", run)
    assert timeless([*crashing.reports, *rest]) == timeless(whole)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_reports_that_got_lost_come_again(small: Path, tmp_path: Path) -> None:
    run = tiny_run(small, steps=6)
    first = run_in(tmp_path / "run", run)
    assert run_in(tmp_path / "run", run) == []
    (tmp_path / "run" / "reports.jsonl").unlink()
    assert run_in(tmp_path / "run", run) == first


def test_a_run_that_is_not_finite_ends_and_says_so(small: Path, tmp_path: Path) -> None:
    run = tiny_run(small, steps=9, optimization={"learning_rate": 1e30, "warmup_steps": 0})
    (report,) = run_in(tmp_path / "run", run)
    assert report["step"] < 9 and math.isnan(report["val_loss/a"]) and math.isnan(report["val_loss/b"])
    assert list((tmp_path / "run").glob("step-*")) == []


def test_options_of_computing(small: Path, tmp_path: Path) -> None:
    plain = run_in(tmp_path / "plain", tiny_run(small))
    saving = {"micro_batch": 1, "activation_checkpointing": True, "peak_flops": 1e12}
    again = run_in(tmp_path / "saving", tiny_run(small, execution=saving))
    assert same(tmp_path / "plain", tmp_path / "saving")
    assert 0 < again[-1]["mfu"] < 1
    low = run_in(tmp_path / "bf16", tiny_run(small, execution={"micro_batch": 4, "precision": "bf16"}))
    assert low[-1]["val_loss/a"] == pytest.approx(plain[-1]["val_loss/a"], rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"a": 0.5, "b": 0.5}}, "another mixture"),
        ({"seed": 1}, "another seed: 0, not 1"),
        ({"shape": {"d_model": 32, "heads": 2, "layers": 2}}, "another shape"),
        ({"optimization": {"learning_rate": 0.1}}, "another optimization"),
        ({"batch_tokens": 128}, "another batch_tokens: 64, not 128"),
        ({"anneal": {}}, "another anneal: None, not"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    small: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run_in(tmp_path / "run", tiny_run(small, steps=3))
    with pytest.raises(ValueError, match=message):
        run_in(tmp_path / "run", tiny_run(small, steps=6, **changes))


def test_a_checkpoint_of_other_data_is_refused(small: Path, tmp_path: Path, corpus_folder: Callable[..., Path]) -> None:
    run_in(tmp_path / "run", tiny_run(small, steps=3))
    from conftest import make_corpus

    other = make_corpus(tmp_path / "other", {"a": [1 + i % 50 for i in range(5000)], "b": [7] * 1000})
    with pytest.raises(ValueError, match="comes from a run with another data"):
        run_in(tmp_path / "run", tiny_run(other, steps=6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"a": 0.5, "c": 0.5}}, "has no domain 'c'"),
        ({"sequence_length": 256, "batch_tokens": 256}, "has 200 validation tokens, too few for one window of 256"),
        ({"sequence_length": 1024, "batch_tokens": 1024}, "'b' has 1000 training tokens, too few for one sequence"),
        ({"fingerprint": "0" * 64}, "The data in .* have changed: .* planned with 000000000000"),
        ({"max_repetition_ratio": 1, "steps": 100}, "more than max_repetition_ratio=1"),
        ({"data": "/nonesuch"}, "/nonesuch holds no manifest.json"),
    ],
)
def test_data_that_do_not_suffice(small: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_in(tmp_path / "run", tiny_run(small, **changes))


def test_a_batch_must_be_shared_out_evenly(small: Path) -> None:
    run = tiny_run(small)
    assert Workers(rank=0, world=2, device=torch.device("cpu")).micro_batches(run) == (2, 1)
    with pytest.raises(ValueError, match="4 sequences cannot be dealt out to 3 workers evenly"):
        Workers(rank=0, world=3, device=torch.device("cpu")).micro_batches(run)
    shared = Execution(parallel="fsdp", tensor=2, shards=2)
    workers = Workers(rank=5, world=8, device=torch.device("cpu")).grouped(shared)
    assert (workers.groups, workers.group, workers.micro_batches(run)) == (4, 2, (1, 1))
    with pytest.raises(ValueError, match="6 workers cannot be grouped by 2 tensor-parallel workers x 2 shards"):
        shared.groups(6)
    with pytest.raises(ValueError, match="shards and tensor are ways to hold a part of the model"):
        Execution(tensor=2)


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/run cannot be written to: Not a directory"):
        check_writable(tmp_path / "file" / "run")


def test_a_full_disk_leaves_the_checkpoint_before(
    small: Path, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    whole = run_in(tmp_path / "whole", tiny_run(small))
    (tmp_path / "run.json").write_text(tiny_run(small).model_dump_json())
    run_in(tmp_path / "parts", tiny_run(small, steps=3))
    with full_disk():
        refused = CliRunner().invoke(main, [str(tmp_path / "run.json"), "--out", str(tmp_path / "parts")])
    assert refused.exit_code == 1 and "step-000000006 cannot be written: [Errno 27]" in refused.output
    assert [path.name for path in (tmp_path / "parts").glob("step-*")] == ["step-000000003"]
    assert timeless(run_in(tmp_path / "parts", tiny_run(small))) == timeless(whole[1:])
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_without_ray(small: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(tiny_run(small, steps=3).model_dump_json())
    child = launched("-m", "ray_mixopt.pretraining.training.train", tmp_path / "run.json", "--out", tmp_path / "out")
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout)["step"] == 3
    (tmp_path / "run.json").write_text(tiny_run(tmp_path, steps=3).model_dump_json())
    refused = CliRunner().invoke(main, [str(tmp_path / "run.json"), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1 and refused.output.strip().endswith("make it with `ray-mixopt prepare`.")


def test_a_report_that_was_cut_off_is_reported_again(tmp_path: Path) -> None:
    for content in ({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}):
        Recorder(tmp_path).report(content, None)
        with (tmp_path / "reports.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')  # the process was killed here
    Recorder(tmp_path).report({"step": 2, "loss": 1.0}, None)
    session = Recorder(tmp_path)
    session.report({"step": 3, "loss": 1.0}, None)
    assert [json.loads(line)["step"] for line in (tmp_path / "reports.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert [report["step"] for report in session.reports] == [3]
