"""From text to token ids: plain bytes, any JSON file of the ``tokenizers`` library, or a BPE trained on the input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ray_mixopt.core.safety import MiB, check_size, write_atomically
from ray_mixopt.pretraining.data.manifest import TokenizerCard

EOS = "<|endoftext|>"
_KNOWN_EOS = (EOS, "</s>", "<eos>", "<|end_of_text|>", "<|eos|>", "[EOS]", "[SEP]")
_MOST_BYTES = 256 * MiB


class Tokenizer(Protocol):
    """Turns documents into token ids, each ending with the end-of-document token."""

    vocab_size: int
    eos_id: int

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each document, ``(n_tokens,)`` each."""
        ...


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, and 256 as the end of a document. Needs no file and has no unknown words."""

    vocab_size = 257
    eos_id = 256

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each document, ``(n_bytes + 1,)`` each."""
        result = []
        for text in texts:
            content = np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8)
            result.append(np.append(content.astype(np.uint32), np.uint32(self.eos_id)))
        return result


class JsonTokenizer:
    """A tokenizer of the ``tokenizers`` library.

    Args:
        path: its JSON file.
        eos: the token that ends a document; by default one of the usual ones.

    Raises:
        ValueError: if the file is no tokenizer, or has no such token.
    """

    def __init__(self, path: Path, eos: str | None = None) -> None:
        import tokenizers

        if not path.is_file():
            raise ValueError(f"There is no tokenizer file {path}.")
        check_size(path, path.stat().st_size, _MOST_BYTES)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{path} is no JSON file of the tokenizers library: {error}.") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        ids = {word: self._tokenizer.token_to_id(word) for word in ([eos] if eos else _KNOWN_EOS)}
        found = [number for number in ids.values() if number is not None]
        if not found:
            raise ValueError(f"{path} has no token {' or '.join(ids)}: name the one that ends a document with --eos.")
        self.eos_id = found[0]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each document, ``(n_tokens + 1,)`` each."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([*one.ids, self.eos_id], dtype=np.uint32) for one in encoded]


def load(card: TokenizerCard, folder: Path) -> Tokenizer:
    """The tokenizer that a card describes.

    Raises:
        ValueError: if it is unknown, or its file is missing or changed.
    """
    if card.kind == "bytes":
        return ByteTokenizer()
    if card.path is None:
        raise ValueError(f"The data in {folder} do not say which tokenizer made them.")
    path = folder / card.path
    tokenizer = JsonTokenizer(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != card.sha256:
        raise ValueError(f"{path} is not the tokenizer that made the data: it has changed since.")
    if card.eos_id is not None:
        tokenizer.eos_id = card.eos_id
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Trains a byte-level BPE, as GPT-2's, and writes its JSON file.

    Raises:
        ValueError: if the vocabulary cannot even hold the bytes.
    """
    from tokenizers import Tokenizer as Bpe
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ValueError(f"A BPE needs at least 257 tokens, 256 bytes and an end of document, got {vocab_size}.")
    tokenizer = Bpe(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_atomically(path, tokenizer.to_str(pretty=True))
