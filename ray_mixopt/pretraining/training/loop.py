"""The steps of a training run: forward, backward, update, and back again from a branch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch.distributed.tensor import DTensor

from ray_mixopt.pretraining.data.batches import batches
from ray_mixopt.pretraining.data.manifest import TokenizerCard
from ray_mixopt.pretraining.data.sampler import MixtureSampler, key_seed
from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.checkpoint import TrainingProgress
from ray_mixopt.pretraining.training.settings import TrainingRun
from ray_mixopt.pretraining.training.workers import (
    Workers,
    autocast,
    clip_gradients,
    distribute,
    gradient_sync,
)


def learning_rate(run: TrainingRun, step: int, rung: int | None = None) -> float:
    """Rate of the step that follows ``step`` steps, on the branch that ends at ``rung`` if it is given."""
    optimization = run.optimization
    rate = optimization.learning_rate
    if step < optimization.warmup_steps:
        rate *= (step + 1) / optimization.warmup_steps
    if run.decay is not None:
        rate *= _fallen(run.decay.final_share, step, run.steps - run.decay.steps, run.steps)
    if run.anneal is not None and rung is not None:
        rate *= _fallen(run.anneal.final_share, step, run.anneal.leaves(rung), rung)
    return rate


def _fallen(final_share: float, step: int, start: int, end: int) -> float:
    """What is left of a rate that falls linearly from step ``start`` to ``final_share`` of itself at step ``end``."""
    return 1 - (1 - final_share) * max(0.0, (step + 1 - start) / (end - start))


class Loop:
    """The model of a run, its optimizer, and how far it is.

    Args:
        run: its settings.
        sampler: gives its sequences.
        tokenizer: of the data.
        workers: that compute it together.

    Attributes:
        network: as it is trained.
        optimizer: of its parameters.
        progress: how far the run is.
        steps: done in this process, those on branches included.
    """

    def __init__(self, run: TrainingRun, sampler: MixtureSampler, tokenizer: TokenizerCard, workers: Workers) -> None:
        self._run, self._sampler, self._workers = run, sampler, workers
        self._document_end = tokenizer.eos_id if run.document_attention else None
        torch.manual_seed(run.seed)  # the same weights on every worker
        built = model.build(run.shape, tokenizer.vocab_size, run.sequence_length)
        self.network = distribute(built, workers, run.execution)
        self._branched: list[torch.Tensor] = []  # weights at the end of the last branch
        self.optimizer = torch.optim.AdamW(
            model.parameter_groups(
                self.network,
                run.optimization.weight_decay,
                embeddings=run.optimization.decay_embeddings,
                norms=run.optimization.decay_norms,
            ),
            lr=run.optimization.learning_rate,
            betas=(run.optimization.beta1, run.optimization.beta2),
            eps=run.optimization.epsilon,
            fused=workers.device.type == "cuda",
        )
        self.progress = TrainingProgress()
        self.steps = 0
        self._micro = workers.micro_batches(run)

    def advance(self, end: int, *, rung: int | None = None) -> bool:
        """Trains to step ``end``, or until the loss or a gradient is not finite.

        Args:
            end: step to stop after.
            rung: at which the branch ends that these steps are on; None for the run itself.

        Returns:
            Whether all was finite.
        """
        run, progress, workers = self._run, self.progress, self._workers
        n_micro, size = self._micro
        losses = torch.zeros(2, dtype=torch.float64, device=workers.device)  # their sum and number since the last look
        clock, begun = time.perf_counter(), progress.step
        firsts = (
            step * run.batch_sequences + (workers.group * n_micro + micro) * size
            for step in range(begun, end)
            for micro in range(n_micro)
        )
        sampler = self._sampler if rung is None else self._sampler.to(rung)
        with contextlib.closing(batches(sampler, firsts, size, workers.device)) as stream:
            for step in range(begun, end):
                self._step(stream, step, rung, losses)
                progress.step = step + 1
                if progress.step % run.log_every and progress.step < end:
                    continue
                total, count = (workers.total(losses) / workers.groups).tolist()
                losses.zero_()
                progress.loss_sum += total
                progress.loss_steps += round(count)
                self.steps += round(count)
                if not math.isfinite(total):
                    break
        progress.seconds += time.perf_counter() - clock
        return math.isfinite(progress.loss_sum)

    def _step(self, stream: Iterator[torch.Tensor], step: int, rung: int | None, losses: torch.Tensor) -> None:
        run, network, n_micro = self._run, self.network, self._micro[0]
        torch.manual_seed(key_seed(run.seed, step, self._workers.group) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(run, step, rung)
        for micro in range(n_micro):
            batch = next(stream)  # (m, T + 1)
            with gradient_sync(network, last=micro == n_micro - 1):
                with autocast(self._workers, run.execution):
                    each, logs = model.token_losses(network, batch, self._document_end)  # (m, T)
                loss = each.mean()
                ((loss + run.optimization.z_loss * logs.square().mean()) / n_micro).backward()
            losses[0] += loss.detach().double() / n_micro
        losses[0] += 0.0 * clip_gradients(network, run.optimization.clip)  # NaN if a gradient is not finite
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        losses[1] += 1

    @contextlib.contextmanager
    def branch(self) -> Iterator[None]:
        """Steps in this context are on a branch: weights, optimizer and step are then as before, bit by bit.

        What is kept of them meanwhile lies in the memory of the host, and so do the weights of the branch's end later.
        """
        begun = self.progress.step
        kept = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in self._tensors()]
        yield
        self._branched = [tensor.detach().to("cpu", copy=True) for tensor in self._weights()]
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        self.progress.branch_steps += self.progress.step - begun
        self.progress.step = begun

    @contextlib.contextmanager
    def at_branch_end(self) -> Iterator[None]:
        """In this context the weights are those of the end of the last branch."""
        kept = [tensor.detach().to("cpu", copy=True) for tensor in self._weights()]
        with torch.no_grad():
            for tensor, value in zip(self._weights(), self._branched, strict=True):
                tensor.copy_(value)
        yield
        with torch.no_grad():
            for tensor, value in zip(self._weights(), kept, strict=True):
                tensor.copy_(value)

    def _weights(self) -> Iterator[torch.Tensor]:
        """This worker's parts of all weights."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                yield parameter.to_local() if isinstance(parameter, DTensor) else parameter

    def _tensors(self) -> Iterator[torch.Tensor]:
        """This worker's parts of all weights and of the optimizer's state."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                for tensor in (parameter, *self.optimizer.state[parameter].values()):
                    yield tensor.to_local() if isinstance(tensor, DTensor) else tensor
