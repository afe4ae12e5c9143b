"""Trains one language model on one mixture.

Runs without Ray: ``torchrun --nproc-per-node 2 -m ray_mixopt.pretraining.training.train run.json --out folder``.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from ray_mixopt.core.safety import MiB, check_size
from ray_mixopt.pretraining.data.sampler import Mixture, MixtureSampler, PhasedSampler
from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.mistakes import explain
from ray_mixopt.pretraining.training import checkpoint, model
from ray_mixopt.pretraining.training.downstream import Downstream
from ray_mixopt.pretraining.training.loop import Loop
from ray_mixopt.pretraining.training.session import FolderSession, Session, check_writable
from ray_mixopt.pretraining.training.settings import TrainingRun
from ray_mixopt.pretraining.training.validation import ValidationSet
from ray_mixopt.pretraining.training.workers import Workers, torchrun_group


def open_data(run: TrainingRun) -> tuple[Corpus, MixtureSampler, ValidationSet]:
    """The data of a run, checked against all that it will ask of them.

    Raises:
        ValueError: if the data are damaged or changed, or do not suffice; the message says how.
    """
    corpus = Corpus(run.data)
    if run.fingerprint is not None and corpus.manifest.fingerprint != run.fingerprint:
        raise ValueError(
            f"The data in {run.data} have changed: their fingerprint is {corpus.manifest.fingerprint[:12]}, the run "
            f"was planned with {run.fingerprint[:12]}."
        )
    if run.document_attention and corpus.manifest.tokenizer.eos_id is None:
        raise ValueError(
            f"document_attention needs to know where documents end, and the data in {run.data} have no token for that: "
            "prepare them with --eos."
        )
    mixtures = [
        Mixture(
            weights=weights,
            sequence_length=run.sequence_length,
            seed=run.seed,
            supply_fraction=run.supply_fraction,
        )
        for weights in run.mixtures
    ]
    sampler = MixtureSampler(corpus, mixtures[0])
    if run.later:
        begins = [0.0, *(stage.begins for stage in run.later)]
        sampler = PhasedSampler(corpus, mixtures, begins, steps=run.steps, batch_sequences=run.batch_sequences)
    if run.max_repetition_ratio is not None:
        sampler.check_supply(run.steps * run.batch_sequences, run.max_repetition_ratio)
    return corpus, sampler, ValidationSet(corpus, run)


def train(run: TrainingRun, session: Session, workers: Workers) -> None:
    """Trains to ``run.steps``, from the session's last checkpoint if it has one, and reports at every rung.

    A run that begins at the checkpoint of another passes over the rungs whose branches leave before that.

    A report holds "step"; "val_loss/<domain>" and "train_loss" (mean since the last report) in nats a token, and what
    else ``ValidationSet.metrics`` says;
    "tokens/<domain>" and "epochs/<domain>" that the reported model has seen; "flops" and "seconds" of training so far,
    on branches, too; "tokens_per_second" since the last report or the start of this process, and "mfu" where the
    device's peak is known; and what ``run.evaluation`` adds. With ``run.anneal`` the losses are of the branches' ends.
    A run whose loss is no longer finite reports that as its validation losses, and ends.

    Raises:
        ValueError: if the data or the checkpoint do not fit the run.
    """
    workers = workers.grouped(run.execution)
    corpus, sampler, validation = open_data(run)
    downstream = None if run.evaluation is None else Downstream(run, corpus, workers)
    identity = run.identity() | {"data": corpus.manifest.fingerprint}
    tokenizer, execution = corpus.manifest.tokenizer, run.execution
    flops_per_token = model.cost(run.shape, tokenizer.vocab_size, run.sequence_length).flops_per_token
    loop = Loop(run, sampler, tokenizer, workers)
    with session.last_checkpoint() as folder:
        if folder is not None:
            loop.progress = checkpoint.load(folder, loop.network, loop.optimizer, identity, workers)
    if not loop.progress.step:
        with session.beginning() as folder:
            if folder is not None:
                begun = checkpoint.load(folder, loop.network, loop.optimizer, identity, workers)
                loop.progress = checkpoint.TrainingProgress(step=begun.step)
    progress = loop.progress

    def write(folder: Path) -> None:
        if run.branches and progress.reports and run.leaves(max(progress.reports)) == progress.step:
            with loop.at_branch_end():
                checkpoint.save_weights(folder, loop.network)
        checkpoint.save(folder, loop.network, loop.optimizer, progress, identity, workers)

    reported = loop.steps, progress.seconds

    def report(val: dict[str, float]) -> dict[str, float]:
        """The report of the model as it is."""
        n_sequences = progress.step * run.batch_sequences
        speed = (loop.steps - reported[0]) * run.batch_tokens / (progress.seconds - reported[1])
        found = {"step": progress.step, "train_loss": progress.loss_sum / progress.loss_steps}
        found |= val
        if downstream is not None and all(map(math.isfinite, val.values())):
            found |= downstream.metrics(loop.network)
        seen = sampler.to(rung)
        found |= {f"tokens/{name}": tokens for name, tokens in seen.tokens(n_sequences).items()}
        found |= {f"epochs/{name}": epochs for name, epochs in seen.epochs(n_sequences).items()}
        trained = progress.step + branched
        found |= {
            "flops": trained * run.batch_tokens * flops_per_token,
            "seconds": progress.seconds,
            "tokens_per_second": speed,
        }
        if execution.peak_flops is not None:
            found["mfu"] = speed * flops_per_token / (execution.peak_flops * workers.world)
        return found

    for step in sorted(progress.reports):  # a driver that crashed may have missed some; the session knows
        if step <= run.steps:
            session.report(progress.reports[step], None)

    for rung in run.reports:
        branched = progress.branch_steps
        if rung in progress.reports or run.leaves(rung) < progress.step:
            continue
        finite = True
        while finite and progress.step < run.leaves(rung):
            finite = loop.advance(run.next_stop(progress.step, rung))
            if finite and progress.step < rung and run.saves(progress.step):
                session.checkpoint(progress.step, write)
        with loop.branch() if run.branches else contextlib.nullcontext():
            if finite and run.branches:
                finite = loop.advance(rung, rung=rung)
            nowhere = {f"val_loss/{name}": math.nan for name in validation.windows}
            found = report(validation.metrics(loop.network, workers) if finite else nowhere)
        if not finite:
            session.report(found, None)
            return
        progress.reports[rung] = found
        progress.loss_sum, progress.loss_steps = 0.0, 0
        reported = loop.steps, progress.seconds
        session.report(found, write)


def read_run(path: Path) -> TrainingRun:
    """The settings of a run from a JSON file.

    Raises:
        ValueError: if it is malformed; the message says where.
    """
    check_size(path, path.stat().st_size, MiB)
    try:
        return TrainingRun.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(explain(error, TrainingRun, path)) from error


@click.command()
@click.argument("run", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Reports and checkpoints.")
def main(run: Path, out: Path) -> None:
    """Trains the run that the JSON file RUN describes; goes on from the last checkpoint in the folder OUT."""
    with torchrun_group() as device:
        workers = Workers.current(device)
        try:
            check_writable(out)
            train(read_run(run), FolderSession(out, workers, _print), workers)
        except (ValueError, OSError) as error:
            sys.exit(f"Error: {error}" if workers.rank == 0 else 1)


def _print(metrics: Any) -> None:
    click.echo(json.dumps(dict(metrics)))


if __name__ == "__main__":
    main()
