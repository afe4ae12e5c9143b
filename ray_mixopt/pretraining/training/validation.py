"""The loss of each domain on windows of its validation tokens that are the same for every run."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ray_mixopt.pretraining.data.manifest import TokenizerCard
from ray_mixopt.pretraining.data.shards import Corpus, check_ids, inside
from ray_mixopt.pretraining.training.model import token_losses
from ray_mixopt.pretraining.training.settings import TrainingRun
from ray_mixopt.pretraining.training.workers import Workers, autocast

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class ValidationSet:
    """Windows at even distances over each domain's validation tokens.

    Args:
        corpus: the data.
        run: says how long a window is, and how many tokens to take.

    Attributes:
        windows: ``(n_windows, T + 1)`` by domain.

    Raises:
        ValueError: if a domain has not even one window.
    """

    def __init__(self, corpus: Corpus, run: TrainingRun) -> None:
        self._run, length, card = run, run.sequence_length, corpus.manifest.tokenizer
        self.windows: dict[str, NDArray[np.int64]] = {}
        for domain in corpus.manifest.domains:
            stream = corpus.stream(domain, "val")
            available = (stream.tokens - 1) // length
            if available < 1:
                raise ValueError(
                    f"The domain {domain!r} has {stream.tokens} validation tokens, too few for one window of "
                    f"{length}: shorten the sequences, or keep more for validation."
                )
            n = min(math.ceil(run.validation_tokens / length), available)
            starts = [number * available // n * length for number in range(n)]
            self.windows[domain] = np.stack([stream.read(start, length + 1) for start in starts])
            check_ids(self.windows[domain], card.vocab_size, f"The validation set of {domain!r}")
        self._document_end = card.eos_id if run.document_attention else None
        self._bytes = {name: _n_bytes(windows[:, 1:], card, corpus) for name, windows in self.windows.items()}

    @torch.no_grad()
    def metrics(self, model: nn.Module, workers: Workers) -> dict[str, float]:
        """What every domain's windows say, all workers together.

        "val_loss/<domain>" is the mean cross-entropy in nats a token, "val_error/<domain>" its standard error from
        window to window, if there are several; "bits_per_byte/<domain>" is the same loss for each byte of the text, if
        the tokenizer is known. Errors of two runs go together, as the windows are the same: their difference is known
        much better.
        """
        size = self._run.execution.micro_batch
        totals = []
        model.eval()
        for windows in self.windows.values():
            total = torch.zeros(2, dtype=torch.float64, device=workers.device)  # of windows' mean losses, squares
            # Every worker computes as many batches as the others, as FSDP needs; places beyond the end do not count.
            for first in range(0, len(windows), size * workers.groups):
                places = np.arange(first + workers.group * size, first + (workers.group + 1) * size)
                batch = torch.from_numpy(windows[places % len(windows)]).to(workers.device)
                counts = torch.from_numpy(places < len(windows)).to(workers.device)
                with autocast(workers, self._run.execution):
                    losses, _ = token_losses(model, batch, self._document_end)  # (m, T)
                means = losses.double().mean(1)
                total += torch.stack([(means * counts).sum(), (means.square() * counts).sum()])
            totals.append(total)
        model.train()
        found: dict[str, dict[str, float]] = {"val_loss": {}, "val_error": {}, "bits_per_byte": {}}
        for (name, windows), (total, squares) in zip(
            self.windows.items(), workers.total(torch.stack(totals)).tolist(), strict=True
        ):
            n, mean = len(windows), total / len(windows)
            found["val_loss"][name] = mean
            if n > 1:
                found["val_error"][name] = math.sqrt(max(0.0, squares / n - mean**2) / (n - 1))
            if (n_bytes := self._bytes[name]) is not None:
                found["bits_per_byte"][name] = mean * windows[:, 1:].size / (n_bytes * math.log(2))
        return {f"{label}/{name}": value for label, values in found.items() for name, value in values.items()}


def _n_bytes(windows: NDArray[np.int64], card: TokenizerCard, corpus: Corpus) -> int | None:
    """Bytes of the text of ``n x T`` tokens, without the ends of documents; None if it is not known, or none at all.

    A character of which a window has only a part counts as nothing.
    """
    if card.kind == "bytes":
        return int((windows != card.eos_id).sum()) or None
    if card.path is None:
        return None
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(inside(corpus.folder, card.path)))
    if tokenizer.decoder is None:  # its texts would come back with blanks between tokens
        return None
    rows = [[token for token in row if token != card.eos_id] for row in windows.tolist()]
    texts = tokenizer.decode_batch(rows, skip_special_tokens=False)
    return sum(len(text.strip(_BROKEN).encode()) for text in texts) or None
