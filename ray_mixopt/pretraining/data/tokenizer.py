"""From text to token ids: plain bytes, any JSON file of the ``tokenizers`` library, or a BPE trained on the input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_mixopt.core.safety import MiB, check_size, write_atomically
from ray_mixopt.pretraining.data.manifest import TokenizerCard
from ray_mixopt.pretraining.data.shards import inside

EOS = "<|endoftext|>"
_KNOWN_EOS = (EOS, "</s>", "<eos>", "<|end_of_text|>", "<|eos|>", "[EOS]", "[SEP]")
_MOST_BYTES = 256 * MiB
_HIDDEN = "\U0010ffff"  # no character, which no text has
_UNKNOWN_ID = 2**31  # beyond all vocabularies


class Tokenizer(Protocol):
    """Turns documents into token ids, each ending with the end-of-document token.

    Any text will do. What spells a special token is text like all other.
    """

    vocab_size: int
    eos_id: int

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each document, ``(n_tokens,)`` each."""
        ...

    def lost(self, texts: Sequence[str]) -> list[int]:
        """The number of characters of each document that no token stands for, which are not in its ids."""
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

    def lost(self, texts: Sequence[str]) -> list[int]:
        """None of any document."""
        return [0] * len(texts)


class JsonTokenizer:
    """A tokenizer of the ``tokenizers`` library.

    Args:
        path: its JSON file.
        eos: the token that ends a document, by its text or its id; by default one of the usual ones.

    Raises:
        ValueError: if the file is no tokenizer, or has no such token.
    """

    def __init__(self, path: Path, eos: str | int | None = None) -> None:
        import tokenizers

        if not path.is_file():
            raise ValueError(f"There is no tokenizer file {path}.")
        check_size(path, path.stat().st_size, _MOST_BYTES)
        try:
            made = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{path} is no JSON file of the tokenizers library: {error}.") from error
        vocabulary = made.get_vocab(with_added_tokens=True)
        by_id: dict[int, str] = {}
        for token in sorted(vocabulary):
            if (other := by_id.setdefault(vocabulary[token], token)) != token:
                # Which of the two the library takes for the id differs from one reading to the next.
                shared = vocabulary[token]
                raise ValueError(f"{path} gives {other!r} and {token!r} the same id, {shared}: mend the file.")
        self.vocab_size = max(by_id, default=-1) + 1
        if isinstance(eos, int):
            found = {made.id_to_token(eos): eos}
            names = [f"of the id {eos}"]
        else:
            names = [eos] if eos is not None else list(_KNOWN_EOS)
            found = {name: number for name in names if (number := made.token_to_id(name)) is not None}
        if not found or None in found:
            raise ValueError(f"{path} has no token {' or '.join(names)}: name the one that ends a document with --eos.")
        word, self.eos_id = next(iter(found.items()))
        self._path = path
        try:
            self._tokenizer = _ending_with(made, str(word))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            self._counting = _noting_what_it_lacks(self._tokenizer)
        except Exception as error:  # the library does not read everything that it writes
            raise ValueError(f"{path} is no sound tokenizer: {error}.") from error

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each document, ``(n_tokens + 1,)`` each.

        Raises:
            ValueError: if a text has what the vocabulary does not know, and no token stands for that.
        """
        try:
            encoded = self._tokenizer.encode_batch_fast(_sound(texts), add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(
                f"{self._path} cannot take a document: {str(error).rstrip('.')}. A tokenizer of words or pieces needs "
                "a token for unknown ones; one of bytes does not."
            ) from error
        return [np.array([*one.ids, self.eos_id], dtype=np.uint32) for one in encoded]

    def lost(self, texts: Sequence[str]) -> list[int]:
        """The number of characters of each document that a BPE of characters without an unknown token passes over."""
        if self._counting is None:
            return [0] * len(texts)
        return [one.ids.count(_UNKNOWN_ID) for one in self._counting.encode_batch_fast(_sound(texts), False, False)]


def _sound(texts: Sequence[str]) -> list[str]:
    """The texts without halves of characters."""
    return [text.encode("utf-8", errors="replace").decode() for text in texts]


def _noting_what_it_lacks(tokenizer: Any) -> Any:
    """The tokenizer with ``_UNKNOWN_ID`` for each character that it passes over; None if it passes over none.

    Only a BPE does: vocabularies of words and pieces raise errors. To count is to encode twice, so that a BPE that has
    tokens for all bytes is not asked.
    """
    import tokenizers

    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if not _is_bpe(tokenizer) or model["unk_token"] is not None:
        return None
    byte_level = any('"ByteLevel"' in json.dumps(content[part]) for part in ("normalizer", "pre_tokenizer"))
    if byte_level and set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys():
        return None
    if model["byte_fallback"] and {f"<0x{byte:02X}>" for byte in range(256)} <= model["vocab"].keys():
        return None
    model["vocab"][_HIDDEN], model["unk_token"], model["fuse_unk"] = _UNKNOWN_ID, _HIDDEN, False
    result = tokenizers.Tokenizer.from_str(json.dumps(content))
    result.encode_special_tokens = True
    return result


def _ending_with(tokenizer: Any, word: str) -> Any:
    """The tokenizer, to which special tokens in a text are text, and the one that ends a document is special.

    Tokens that were added without being special stay what they are in text, too: runs of blanks, for instance.
    """
    import tokenizers

    content = json.loads(tokenizer.to_str()) if _is_plain(tokenizer, word) or not _is_bpe(tokenizer) else {}
    for token in content.get("added_tokens", []):
        token["special"] |= token["content"] == word
    if not _is_bpe(tokenizer):
        _hide_special(content)
    result = tokenizers.Tokenizer.from_str(json.dumps(content)) if content else tokenizer
    result.encode_special_tokens = True
    return result


def _is_bpe(tokenizer: Any) -> bool:
    """Whether a text's tokens come of merges, of which a special token has none."""
    return type(tokenizer.model).__name__ == "BPE"


def _hide_special(content: dict[str, Any]) -> None:
    """Gives the special tokens of a vocabulary of words or pieces, which would find them in a text, other names.

    They keep their ids. As words of the vocabulary they need not be added to it.
    """
    model = content["model"]
    pieces = [piece for piece, _ in model["vocab"]] if model["type"] == "Unigram" else list(model["vocab"])
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    hidden = special.intersection(pieces) - {model.get("unk_token")}
    if model["type"] == "Unigram":
        model["vocab"] = [[_HIDDEN + piece if piece in hidden else piece, score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {_HIDDEN + piece if piece in hidden else piece: n for piece, n in model["vocab"].items()}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in hidden]
    content["post_processor"] = None  # it only adds special tokens, which is not asked for


def _is_plain(tokenizer: Any, word: str) -> bool:
    """Whether a token was added, but not as a special one."""
    return any(token.content == word and not token.special for token in tokenizer.get_added_tokens_decoder().values())


def load(card: TokenizerCard, folder: Path) -> Tokenizer:
    """The tokenizer that a card describes, with its end of a document.

    Raises:
        ValueError: if it is unknown, or its file is missing or changed.
    """
    if card.kind == "bytes":
        tokenizer: Tokenizer = ByteTokenizer()
    else:
        if card.path is None:
            raise ValueError(f"The data in {folder} do not say which tokenizer made them.")
        path = inside(folder, card.path)
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != card.sha256:
            raise ValueError(f"{path} is not the tokenizer that made the data: it has changed since.")
        tokenizer = JsonTokenizer(path, card.eos_id)
    if tokenizer.vocab_size > card.vocab_size or tokenizer.eos_id != card.eos_id:
        raise ValueError(
            f"The data in {folder} were not made with the tokenizer they name: it has {tokenizer.vocab_size} tokens, "
            f"of which {tokenizer.eos_id} ends a document, and the data say {card.vocab_size} and {card.eos_id}."
        )
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, path: Path, eos: str | None = None) -> None:
    """Trains a byte-level BPE, as GPT-2's, and writes its JSON file. ``eos`` is the token that ends a document.

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
        special_tokens=[EOS if eos is None else eos],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_atomically(path, tokenizer.to_str(pretty=True))
