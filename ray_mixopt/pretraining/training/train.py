"""Trains one language model on one mixture.

Runs without Ray: ``torchrun --nproc-per-node 2 -m ray_mixopt.pretraining.training.train run.json --out folder``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from pydantic import ValidationError
from torch.distributed.tensor import DTensor
from torch.nn import functional

from ray_mixopt.core.safety import MiB, check_size
from ray_mixopt.pretraining.data.sampler import Mixture, MixtureSampler, key_seed
from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.training import checkpoint, model
from ray_mixopt.pretraining.training.checkpoint import TrainingProgress
from ray_mixopt.pretraining.training.downstream import Downstream
from ray_mixopt.pretraining.training.session import FolderSession, Session, check_writable
from ray_mixopt.pretraining.training.settings import TrainingRun, explain
from ray_mixopt.pretraining.training.validation import ValidationSet
from ray_mixopt.pretraining.training.workers import Workers, autocast, distribute, gradient_sync, torchrun_group


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
    mixture = Mixture(
        weights=run.mixture,
        sequence_length=run.sequence_length,
        seed=run.seed,
        supply_fraction=run.supply_fraction,
    )
    sampler = MixtureSampler(corpus, mixture)
    if run.max_repetition_ratio is not None:
        sampler.check_supply(run.steps * run.batch_sequences, run.max_repetition_ratio)
    return corpus, sampler, ValidationSet(corpus, run.sequence_length, run.validation_sequences)


def learning_rate(run: TrainingRun, step: int) -> float:
    """Rate of the step that follows ``step`` steps."""
    optimization = run.optimization
    rate = optimization.learning_rate
    if step < optimization.warmup_steps:
        rate *= (step + 1) / optimization.warmup_steps
    if run.decay is not None:
        done = (step + 1 - (run.steps - run.decay.steps)) / run.decay.steps
        rate *= 1 - (1 - run.decay.final_share) * max(0.0, done)
    return rate


def train(run: TrainingRun, session: Session, workers: Workers) -> None:
    """Trains to ``run.steps``, from the session's last checkpoint if it has one, and reports at every rung.

    A report holds "step"; "val_loss/<domain>" and "train_loss" (mean since the last report) in nats a token;
    "tokens/<domain>" and "epochs/<domain>" so far; "flops" and "seconds" of training so far; "tokens_per_second" since
    the last report or the start of this process, and "mfu" where the device's peak is known; and what
    ``run.evaluation`` adds. A run whose loss is no longer finite reports that as its validation losses, and ends.

    Raises:
        ValueError: if the data or the checkpoint do not fit the run.
    """
    corpus, sampler, validation = open_data(run)
    downstream = None if run.evaluation is None else Downstream(run, corpus, workers)
    identity = run.identity() | {"data": corpus.manifest.fingerprint}
    vocab_size = corpus.manifest.tokenizer.vocab_size
    flops_per_token = model.cost(run.shape, vocab_size, run.sequence_length).flops_per_token
    n_micro, micro_size = workers.micro_batches(run)
    execution, device = run.execution, workers.device

    torch.manual_seed(run.seed)  # the same weights on every worker
    network = distribute(model.build(run.shape, vocab_size, run.sequence_length), workers, execution)
    optimizer = torch.optim.AdamW(
        model.parameter_groups(network, run.optimization.weight_decay),
        lr=run.optimization.learning_rate,
        betas=(run.optimization.beta1, run.optimization.beta2),
        eps=run.optimization.epsilon,
        fused=device.type == "cuda",
    )
    progress = TrainingProgress()
    with session.last_checkpoint() as folder:
        if folder is not None:
            progress = checkpoint.load(folder, network, optimizer, identity, workers)

    def write(folder: Path) -> None:
        checkpoint.save(folder, network, optimizer, progress, identity, workers)

    for step in sorted(progress.reports):  # a driver that crashed may have missed some; the session knows
        if step <= run.steps:
            session.report(progress.reports[step], None)

    losses = torch.zeros(2, dtype=torch.float64, device=device)  # sum and number of losses that were not looked at yet
    clock, reported = time.perf_counter(), (progress.step, progress.seconds)
    while progress.step < run.steps:
        step = progress.step
        torch.manual_seed(key_seed(run.seed, step, workers.rank) % 2**63)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)

        for micro in range(n_micro):
            first = step * run.batch_sequences + (workers.rank * n_micro + micro) * micro_size
            batch = torch.from_numpy(sampler.sequences(np.arange(first, first + micro_size)))  # (m, T + 1)
            batch = batch.to(device, non_blocking=True)
            with gradient_sync(network, last=micro == n_micro - 1):
                with autocast(workers, execution):
                    scores = model.logits(network, batch[:, :-1])  # (m, T, V)
                loss = functional.cross_entropy(scores.float().flatten(0, 1), batch[:, 1:].flatten())
                (loss / n_micro).backward()
            losses[0] += loss.detach().double() / n_micro

        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), run.optimization.clip)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        losses[0] += 0.0 * whole  # NaN if a gradient is not finite
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses[1] += 1
        progress.step = step + 1

        at_rung = progress.step in run.reports
        saves = run.checkpoint_every is not None and progress.step % run.checkpoint_every == 0
        if not (at_rung or saves or progress.step % run.log_every == 0):
            continue

        total, count = (workers.total(losses) / workers.world).tolist()
        losses.zero_()
        progress.loss_sum += total
        progress.loss_steps += round(count)
        finite = math.isfinite(total)
        now = time.perf_counter()
        progress.seconds += now - clock
        if at_rung or not finite:
            val = dict.fromkeys(validation.windows, math.nan)
            if finite:
                val = validation.losses(network, workers, execution)
            n_sequences = progress.step * run.batch_sequences
            speed = (progress.step - reported[0]) * run.batch_tokens / (progress.seconds - reported[1])
            report = {"step": progress.step, "train_loss": progress.loss_sum / progress.loss_steps}
            report |= {f"val_loss/{name}": loss for name, loss in val.items()}
            if downstream is not None and finite:
                report |= downstream.metrics(network)
            report |= {f"tokens/{name}": tokens for name, tokens in sampler.tokens(n_sequences).items()}
            report |= {f"epochs/{name}": epochs for name, epochs in sampler.epochs(n_sequences).items()}
            report |= {
                "flops": n_sequences * run.sequence_length * flops_per_token,
                "seconds": progress.seconds,
                "tokens_per_second": speed,
            }
            if execution.peak_flops is not None:
                report["mfu"] = speed * flops_per_token / (execution.peak_flops * workers.world)
            if not finite:
                session.report(report, None)
                return
            progress.reports[progress.step] = report
            progress.loss_sum, progress.loss_steps = 0.0, 0
            reported = progress.step, progress.seconds
            session.report(report, write)
        elif saves:
            session.checkpoint(progress.step, write)
        clock = time.perf_counter()


def read_run(path: Path) -> TrainingRun:
    """The settings of a run from a JSON file.

    Raises:
        ValueError: if it is malformed; the message says where.
    """
    check_size(path, path.stat().st_size, MiB)
    try:
        return TrainingRun.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from error


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
        except ValueError as error:
            sys.exit(f"Error: {error}" if workers.rank == 0 else 1)


def _print(metrics: Any) -> None:
    click.echo(json.dumps(dict(metrics)))


if __name__ == "__main__":
    main()
