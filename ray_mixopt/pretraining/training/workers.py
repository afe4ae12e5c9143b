"""The processes that train one model together: who they are, and how they share the work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from ray_mixopt.pretraining.training.settings import Execution, TrainingRun

_TENSOR_PLAN = {
    # OLMo 2 normalises queries and keys over all heads together: each worker gets them whole, and attends on its own.
    **{f"self_attn.{name}_proj": ColwiseParallel(output_layouts=Replicate()) for name in "qkv"},
    "self_attn.o_proj": RowwiseParallel(input_layouts=Replicate()),
    "mlp.gate_proj": ColwiseParallel(),
    "mlp.up_proj": ColwiseParallel(),
    "mlp.down_proj": RowwiseParallel(),
}


@dataclass(frozen=True, kw_only=True)
class Workers:
    """This process among those that train together.

    Args:
        rank: number of this process.
        world: number of processes.
        device: on which this one computes.
        tensor: how many neighbours compute the same sequences together, see ``Execution``.
    """

    rank: int
    world: int
    device: torch.device
    tensor: int = 1

    @classmethod
    def current(cls, device: torch.device) -> Workers:
        """What ``torch.distributed`` says, or a single process where it was not set up."""
        if not dist.is_initialized():
            return cls(rank=0, world=1, device=device)
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), device=device)

    @property
    def groups(self) -> int:
        """Number of groups that compute sequences of their own."""
        return self.world // self.tensor

    @property
    def group(self) -> int:
        """Number of the group that this process is in."""
        return self.rank // self.tensor

    def grouped(self, execution: Execution) -> Workers:
        """The same processes, which share their work in that way.

        Raises:
            ValueError: if they are too few or too many for it.
        """
        execution.groups(self.world)
        return replace(self, tensor=execution.tensor)

    def micro_batches(self, run: TrainingRun) -> tuple[int, int]:
        """Number of micro-batches of a step, and sequences in each.

        Raises:
            ValueError: if the sequences of a step cannot be dealt out evenly.
        """
        if run.batch_sequences % self.groups:
            of = f"groups of {self.tensor} workers" if self.tensor > 1 else "workers"
            raise ValueError(
                f"A step's {run.batch_sequences} sequences cannot be dealt out to {self.groups} {of} evenly: change "
                "batch_tokens or workers."
            )
        mine = run.batch_sequences // self.groups
        size = max(n for n in range(1, min(run.execution.micro_batch, mine) + 1) if mine % n == 0)
        return mine // size, size

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all groups, of the same shape; what the workers of a group have is the same."""
        if self.world > 1:
            dist.all_reduce(values)
        return values if self.tensor == 1 else values / self.tensor

    def wait(self) -> None:
        """Waits until all are here."""
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def torchrun_group() -> Iterator[torch.device]:
    """Joins the processes that torchrun started, or none; gives the device of this one."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def distribute(model: Any, workers: Workers, execution: Execution) -> nn.Module:
    """The model as it is trained: on the device, compiled, and shared out among the workers."""
    model.to(workers.device)
    sharded = execution.parallel == "fsdp" and dist.is_initialized()
    if sharded:
        shards = execution.shards or workers.groups
        mesh = init_device_mesh(
            workers.device.type,
            (workers.groups // shards, shards, workers.tensor),
            mesh_dim_names=("replicas", "shards", "tensor"),
        )
        if workers.tensor > 1:
            for layer in model.model.layers:
                parallelize_module(layer, mesh["tensor"], dict(_TENSOR_PLAN))
    if execution.activation_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)  # its old name
        enable({"use_reentrant": False})
    if execution.compile:
        for layer in model.model.layers:  # one compilation serves them all, and FSDP gathers them one by one
            layer.compile()
    if sharded:
        whole = mesh["shards"] if shards == workers.groups else mesh["replicas", "shards"]
        low = torch.bfloat16 if execution.precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        for layer in model.model.layers:
            fully_shard(layer, mesh=whole, mp_policy=policy)
        fully_shard(model, mesh=whole, mp_policy=policy)
        return model
    if workers.world > 1:
        devices = [workers.device] if workers.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    return model


def autocast(workers: Workers, execution: Execution) -> AbstractContextManager[Any]:
    """The precision of the forward pass."""
    if execution.precision == "bf16":
        return torch.autocast(workers.device.type, torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def gradient_sync(model: nn.Module, last: bool) -> Iterator[None]:
    """Lets gradients travel between workers only with the last micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
    elif isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        yield


def plain(model: nn.Module) -> nn.Module:
    """The model without its wrapper, its parameters those that the optimizer has."""
    if isinstance(model, FSDPModule):
        model.reshard()  # after a forward pass without a backward one they are whole
    return model.module if isinstance(model, DistributedDataParallel) else model


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters that are shared out among the same workers in the same way, together; tensors of one kind."""
    found: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        found.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
    return list(found.values())


def clip_gradients(model: nn.Module, most: float) -> torch.Tensor:
    """Scales all gradients down to a norm of ``most`` if theirs is larger; returns what it was."""
    groups = [[p for p in group if p.grad is not None] for group in by_mesh(model.parameters())]
    norms = []
    for group in groups:
        norm = nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    whole = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, most, whole)
    return whole
