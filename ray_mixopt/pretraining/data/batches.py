"""Batches on the device before they are asked for: a thread reads ahead while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from ray_mixopt.pretraining.data.sampler import MixtureSampler

_AHEAD = 4  # batches that wait


def batches(
    sampler: MixtureSampler, firsts: Iterable[int], size: int, device: torch.device
) -> Generator[torch.Tensor, None, None]:
    """Token windows of consecutive sequences, ``(size, L + 1)`` each, in order.

    Which they are does not depend on the thread: a sequence is a function of its number. On a GPU they come from pinned
    memory, so that copying does not hold up the computation either.

    Args:
        sampler: gives the sequences.
        firsts: number of the first sequence of each batch.
        size: sequences of a batch.
        device: that they go to.

    Raises:
        ValueError: if a token id is beyond the vocabulary.
    """
    pinned = device.type == "cuda"

    def read(first: int) -> torch.Tensor:
        batch = torch.from_numpy(sampler.sequences(np.arange(first, first + size)))
        return batch.pin_memory() if pinned else batch

    with ThreadPoolExecutor(1, "batches") as reader:
        waiting: deque[Future[torch.Tensor]] = deque()
        try:
            for first in firsts:
                waiting.append(reader.submit(read, first))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result().to(device, non_blocking=pinned)
            while waiting:
                yield waiting.popleft().result().to(device, non_blocking=pinned)
        finally:
            for future in waiting:
                future.cancel()
