"""Which tokens a run trains on: sequence ``k`` is a pure function of the seed, ``k``, the mixture and the data.

Neither the number of workers, nor the split of a batch, nor a restart has a say. Notation: ``d`` domains, ``m``
sequences, ``L`` tokens a sequence (windows have ``L + 1``, the last one being only predicted).

* Which domain: sequences come in blocks of 256. Within a block the numbers ``(p + jitter) / 256`` are dealt in random
  order, and the cumulative weights cut them into domains. The jitters follow the golden ratio, so that after any number
  of blocks each domain has had its share to within a few sequences. The same seed deals the same numbers to every
  mixture: two mixtures differ where they must and not by luck.
* Which window: the training tokens of a domain are cut into windows. Pass ``e`` over them ("epoch") visits each once,
  in an order that depends on the seed, the domain's name and ``e``. So the j-th sequence of a domain is found without
  the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_mixopt.pretraining.data.shards import Corpus, check_ids

BLOCK = 256
_GOLDEN = (math.sqrt(5) - 1) / 2
_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Settings of the stream of sequences.

    Args:
        weights: share of the training tokens by domain, not negative, sum 1.
        sequence_length: ``L``, in tokens.
        seed: of the order of domains and windows.
        supply_fraction: share of each domain's windows to use at all (simulated epoching): a run with a hundredth of
            the target's tokens that uses a hundredth of each domain repeats as the target will.
    """

    weights: Mapping[str, float]
    sequence_length: int
    seed: int = 0
    supply_fraction: float = 1.0

    def __post_init__(self) -> None:
        values = np.array(list(self.weights.values()), dtype=np.float64)
        if not len(values) or not np.isfinite(values).all() or values.min() < 0 or abs(values.sum() - 1) > 1e-6:
            raise ValueError(f"Weights must be finite, not negative, and sum to 1, got {dict(self.weights)}.")
        if self.sequence_length < 1:
            raise ValueError(f"sequence_length must be at least 1 token, got {self.sequence_length}.")
        if not 0 < self.supply_fraction <= 1:
            raise ValueError(f"supply_fraction must be above 0 and at most 1, got {self.supply_fraction}.")


class _Block(NamedTuple):
    """One block of sequences: their domains and, for each, how many of its domain came before it in the block."""

    domains: NDArray[np.int64]  # (256,)
    ranks: NDArray[np.int64]  # (256,)


class MixtureSampler:
    """The stream of training sequences of a mixture.

    Args:
        corpus: the data.
        mixture: what to draw from it.

    Raises:
        ValueError: if the mixture names an unknown domain, or one that is too short for a single sequence.
    """

    def __init__(self, corpus: Corpus, mixture: Mixture) -> None:
        self._mixture, self._length = mixture, mixture.sequence_length
        self._vocab_size = corpus.manifest.tokenizer.vocab_size
        self.domains = tuple(mixture.weights)
        self._streams = [corpus.stream(name, "train") for name in self.domains]
        weights = np.array(list(mixture.weights.values()), dtype=np.float64)
        self._edges = np.cumsum(weights / weights.sum())  # (d,)
        self._edges[np.flatnonzero(weights)[-1] :] = 1.0
        windows = [(stream.tokens - 1) // self._length for stream in self._streams]
        for name, weight, n, stream in zip(self.domains, weights, windows, self._streams, strict=True):
            if weight > 0 and n < 1:
                raise ValueError(
                    f"The domain {name!r} has {stream.tokens} training tokens, too few for one sequence of "
                    f"{self._length}: shorten the sequences or drop the domain."
                )
        self._all_windows = windows
        # Number of windows in use, (d,); the epsilon keeps 0.1 * 30 from becoming 4.
        self.windows = np.array([max(1, math.ceil(n * mixture.supply_fraction - 1e-9)) for n in windows])
        self._jitter_start = np.random.default_rng(key_seed(mixture.seed, "jitter")).random()
        self._counts = np.zeros((1, len(self.domains)), dtype=np.int64)  # sequences by domain before each block
        self._block = lru_cache(maxsize=64)(self._make_block)
        self._permutation = lru_cache(maxsize=4 * len(self.domains) + 8)(self._make_permutation)

    def sequences(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Token windows, ``(m,) -> (m, L + 1)``; inputs are all but the last column, targets all but the first.

        Raises:
            ValueError: if a token id is beyond the vocabulary.
        """
        domains, windows = self.places(indices)
        batch = np.stack(
            [
                self._streams[domain].read(int(window) * self._length, self._length + 1)
                for domain, window in zip(domains, windows, strict=True)
            ]
        )
        check_ids(batch, self._vocab_size, "A training sequence")
        return batch

    def places(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Domain number and window number of sequences, ``(m,) -> (m,), (m,)``."""
        domains, visits = self.visits(np.asarray(indices, dtype=np.int64))
        return domains, self._windows(domains, visits)

    def to(self, steps: int) -> MixtureSampler:
        """The stream of a run of so many steps: this one, whose mixture is the same throughout."""
        return self

    def visits(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Domain number of sequences, and how many of that domain come before them, ``(m,) -> (m,), (m,)``."""
        domains, visits = np.empty_like(indices), np.empty_like(indices)
        blocks = indices // BLOCK
        for number in np.unique(blocks):
            mine = blocks == number
            block, inside = self._block(int(number)), indices[mine] % BLOCK
            domains[mine] = block.domains[inside]
            visits[mine] = self._counts_before(int(number))[domains[mine]] + block.ranks[inside]
        return domains, visits

    def counts(self, n: int) -> NDArray[np.int64]:
        """Sequences of each domain among the first ``n``, ``(d,)``."""
        number, inside = divmod(n, BLOCK)
        part = np.bincount(self._block(number).domains[:inside], minlength=len(self.domains))
        return self._counts_before(number) + part

    def tokens(self, n: int) -> dict[str, int]:
        """Tokens of each domain in the first ``n`` sequences."""
        return dict(zip(self.domains, (self.counts(n) * self._length).tolist(), strict=True))

    def epochs(self, n: int) -> dict[str, float]:
        """Passes over each domain's tokens in use after the first ``n`` sequences."""
        return dict(zip(self.domains, (self.counts(n) / self.windows).tolist(), strict=True))

    def check_supply(self, n: int, max_repetition_ratio: float) -> None:
        """Checks that by their shares the first ``n`` sequences pass over no domain more often than allowed.

        Raises:
            ValueError: naming the domain, its share and its supply.
        """
        for name, share, windows in zip(self.domains, self._shares(n), self.windows, strict=True):
            epochs = share * n / windows
            if epochs > max_repetition_ratio * (1 + 1e-6):
                raise ValueError(
                    f"{n * self._length} training tokens with {share:.1%} from {name!r} repeat "
                    f"its {windows * self._length} tokens {epochs:.2f} times, more than max_repetition_ratio="
                    f"{max_repetition_ratio:g}: lower the share, or raise the ratio."
                )

    def _shares(self, n: int) -> NDArray[np.float64]:
        """What each domain has of the first ``n`` sequences, by its weight, ``(d,)``."""
        return np.array([self._mixture.weights[name] for name in self.domains])

    def _windows(self, domains: NDArray[np.int64], visits: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows of the ``visits``-th sequences of ``domains``, ``(m,), (m,) -> (m,)``."""
        epochs, places = np.divmod(visits, self.windows[domains])
        windows = np.empty_like(visits)
        for domain, epoch in set(zip(domains.tolist(), epochs.tolist(), strict=True)):
            mine = (domains == domain) & (epochs == epoch)
            windows[mine] = self._permutation(domain, epoch)(places[mine])
            if self.windows[domain] < self._all_windows[domain]:
                windows[mine] = self._permutation(domain, -1)(windows[mine])
        return windows

    def _make_permutation(self, domain: int, epoch: int) -> Permutation:
        """The order of a pass over a domain; pass -1 is the choice of the windows in use."""
        n = self._all_windows[domain] if epoch < 0 else int(self.windows[domain])
        return Permutation(n, self._mixture.seed, self.domains[domain], epoch)

    def _make_block(self, number: int) -> _Block:
        rng = np.random.default_rng(key_seed(self._mixture.seed, "block", number))
        u = (rng.permutation(BLOCK) + self._jitter(number)) / BLOCK
        domains = np.searchsorted(self._edges, u, side="right").astype(np.int64)
        ranks = np.empty(BLOCK, dtype=np.int64)
        for domain in np.unique(domains):
            mine = np.flatnonzero(domains == domain)
            ranks[mine] = np.arange(len(mine))
        return _Block(domains, ranks)

    def _counts_before(self, number: int) -> NDArray[np.int64]:
        """Sequences of each domain before a block, ``(d,)``; all earlier blocks are counted, which is cheap."""
        known_counts = self._counts  # read once: another thread may ask, too
        known = len(known_counts) - 1
        if number > known:
            ahead = np.arange(known, max(number, 2 * known, 64))
            u = (np.arange(BLOCK) + self._jitter(ahead)[:, None]) / BLOCK  # (n_blocks, 256), ascending
            upto = np.stack([(u < edge).sum(1) for edge in self._edges], axis=1)  # (n_blocks, d)
            counts = np.diff(upto, axis=1, prepend=0)
            self._counts = known_counts = np.concatenate([known_counts, known_counts[-1] + counts.cumsum(0)])
        found: NDArray[np.int64] = known_counts[number]
        return found

    def _jitter(self, number: ArrayLike) -> NDArray[np.float64]:
        return (self._jitter_start + np.asarray(number) * _GOLDEN) % 1.0


class PhasedSampler(MixtureSampler):
    """The stream of a run whose mixture changes on its way: the sequences of each phase are those of its own mixture.

    A phase takes up the windows of each domain where the phase before has left off.

    Args:
        corpus: the data.
        mixtures: of the phases, all of the same domains in one order.
        begins: where each begins, as a part of the run, ascending; the first at 0.
        steps: of the run.
        batch_sequences: sequences of a step.

    Raises:
        ValueError: see ``MixtureSampler``.
    """

    def __init__(
        self,
        corpus: Corpus,
        mixtures: Sequence[Mixture],
        begins: Sequence[float],
        *,
        steps: int,
        batch_sequences: int,
    ) -> None:
        super().__init__(corpus, mixtures[0])
        self._parts = [MixtureSampler(corpus, mixture) for mixture in mixtures]
        self._of_run = partial(PhasedSampler, corpus, mixtures, begins, batch_sequences=batch_sequences)
        # Of a run of few steps the last phase has one at least.
        self._starts = np.array([min(round(begin * steps), steps - 1) * batch_sequences for begin in begins])

    def to(self, steps: int) -> MixtureSampler:
        """The stream of a run of so many steps."""
        return self._of_run(steps=steps)

    def visits(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Domain number of sequences, and how many of that domain come before them, ``(m,) -> (m,), (m,)``."""
        domains, visits = np.empty_like(indices), np.empty_like(indices)
        phases = np.searchsorted(self._starts, indices, side="right") - 1
        for phase in np.unique(phases):
            mine, start, part = phases == phase, int(self._starts[phase]), self._parts[phase]
            domains[mine], of_part = part.visits(indices[mine])
            visits[mine] = of_part + (self.counts(start) - part.counts(start))[domains[mine]]
        return domains, visits

    def counts(self, n: int) -> NDArray[np.int64]:
        """Sequences of each domain among the first ``n``, ``(d,)``."""
        ends = np.minimum([*self._starts[1:], n], n)
        spans = zip(self._parts, np.minimum(self._starts, n).tolist(), ends.tolist(), strict=True)
        return np.sum([part.counts(end) - part.counts(start) for part, start, end in spans], axis=0)

    def _shares(self, n: int) -> NDArray[np.float64]:
        """What each domain has of the first ``n`` sequences, by its weights, ``(d,)``."""
        lengths = np.diff(np.minimum([*self._starts, n], n)) / n
        return lengths @ np.array([part._shares(n) for part in self._parts])


class Permutation:
    """A random permutation of ``range(n)`` with random access: the i-th element without the others.

    A Feistel network on the smallest even number of bits that holds ``n`` numbers; results beyond ``n`` are sent
    through again until they fit ("cycle walking"), at most four times on average.

    Args:
        n: how many numbers, at most 2^62.
        key: strings and numbers that the permutation depends on.
    """

    def __init__(self, n: int, *key: str | int) -> None:
        if not 0 < n <= 2**62:
            raise ValueError(f"A permutation is of 1 to 2^62 numbers, got {n}.")
        self._n = np.uint64(n)
        half = (max(2, (n - 1).bit_length()) + 1) // 2
        self._half, self._mask = np.uint64(half), np.uint64(2**half - 1)
        self._keys = np.random.Generator(np.random.PCG64(key_seed(*key))).integers(0, 2**64, _ROUNDS, dtype=np.uint64)

    def __call__(self, index: ArrayLike) -> NDArray[np.int64]:
        """The elements at these places, ``(m,) -> (m,)``."""
        result = self._encrypt(np.atleast_1d(np.asarray(index, dtype=np.uint64)))
        while (outside := result >= self._n).any():
            result[outside] = self._encrypt(result[outside])
        return result.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            mixed = (right + key) * _MIX
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            left, right = right, left ^ (mixed & self._mask)
        return (left << self._half) | right


def key_seed(*key: str | int) -> int:
    """A 128-bit seed from strings and numbers, the same on every machine."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
