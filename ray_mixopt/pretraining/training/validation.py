"""The loss of each domain on windows of its validation tokens that are the same for every run."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ray_mixopt.pretraining.data.shards import Corpus, check_ids
from ray_mixopt.pretraining.training.model import logits
from ray_mixopt.pretraining.training.settings import Execution
from ray_mixopt.pretraining.training.workers import Workers, autocast


class ValidationSet:
    """Windows at even distances over each domain's validation tokens.

    Args:
        corpus: the data.
        sequence_length: of a window, in tokens.
        n_windows: most of a domain.

    Raises:
        ValueError: if a domain has not even one window.
    """

    def __init__(self, corpus: Corpus, sequence_length: int, n_windows: int) -> None:
        self.windows: dict[str, NDArray[np.int64]] = {}  # (n_windows, T + 1) by domain
        for domain in corpus.manifest.domains:
            stream = corpus.stream(domain, "val")
            available = (stream.tokens - 1) // sequence_length
            if available < 1:
                raise ValueError(
                    f"The domain {domain!r} has {stream.tokens} validation tokens, too few for one window of "
                    f"{sequence_length}: shorten the sequences, or keep more for validation."
                )
            n = min(n_windows, available)
            starts = [number * available // n * sequence_length for number in range(n)]
            self.windows[domain] = np.stack([stream.read(start, sequence_length + 1) for start in starts])
            check_ids(self.windows[domain], corpus.manifest.tokenizer.vocab_size, f"The validation set of {domain!r}")

    @torch.no_grad()
    def losses(self, model: nn.Module, workers: Workers, execution: Execution) -> dict[str, float]:
        """Mean cross-entropy of each domain, in nats a token."""
        size = execution.micro_batch
        totals = []
        model.eval()
        for windows in self.windows.values():
            total = torch.zeros(2, dtype=torch.float64, device=workers.device)  # loss, tokens
            # Every worker computes as many batches as the others, as FSDP needs; places beyond the end do not count.
            for first in range(0, len(windows), size * workers.world):
                places = np.arange(first + workers.rank * size, first + (workers.rank + 1) * size)
                batch = torch.from_numpy(windows[places % len(windows)]).to(workers.device)
                counts = torch.from_numpy(places < len(windows)).to(workers.device)
                with autocast(workers, execution):
                    scores = logits(model, batch[:, :-1])
                loss = functional.cross_entropy(
                    scores.float().transpose(1, 2), batch[:, 1:], reduction="none"
                )  # (m, T)
                total[0] += (loss.double().sum(1) * counts).sum()
                total[1] += counts.sum() * loss.shape[1]
            totals.append(total)
        model.train()
        loss, tokens = workers.total(torch.stack(totals)).unbind(1)
        return dict(zip(self.windows, (loss / tokens).tolist(), strict=True))
