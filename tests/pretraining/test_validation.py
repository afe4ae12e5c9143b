"""Validation: how sure a loss is, what it is for each byte, and that documents can be kept apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import alone, run_in, tiny_run
from tokenizers import Tokenizer

from ray_mixopt.pretraining.data.prepare import Preparation
from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.data.tokenizer import train_bpe
from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.validation import ValidationSet


def prepared(folder: Path, words: dict[str, str], **options: object) -> Path:
    for name, word in words.items():
        lines = [json.dumps({"text": word * 20 + str(number)}) for number in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    sources = {name: [str(folder / f"{name}.jsonl")] for name in words}
    Preparation(out=folder / "shards", sources=sources, val_share=0.3, workers=1, **options).run()  # type: ignore[arg-type]
    return folder / "shards"


def test_the_error_is_that_of_the_mean_over_windows(small: Path) -> None:
    run = tiny_run(small, validation_tokens=100, execution={"micro_batch": 2})
    torch.manual_seed(0)
    network = model.build(run.shape, 257, 16)
    validation = ValidationSet(Corpus(small), run)
    found = validation.metrics(network, alone())
    assert {len(windows) for windows in validation.windows.values()} == {7}  # 100 tokens, up to a whole window of 16
    for name, windows in validation.windows.items():
        with torch.no_grad():
            means = model.token_losses(network, torch.from_numpy(windows))[0].double().mean(1).numpy()
        assert found[f"val_loss/{name}"] == pytest.approx(means.mean())
        assert found[f"val_error/{name}"] == pytest.approx(means.std(ddof=1) / math.sqrt(7))
    assert not any("byte" in name for name in found)  # nobody knows the tokenizer
    one = ValidationSet(Corpus(small), tiny_run(small, validation_tokens=16)).metrics(network, alone())
    assert "val_loss/a" in one and "val_error/a" not in one


def test_bits_per_byte_do_not_depend_on_the_tokenizer(tmp_path: Path) -> None:
    """The same text in tokens of one byte and of several: what a token says is for so many bytes."""
    words = {"a": "aéb ", "b": "xyz "}
    (tmp_path / "bytes").mkdir()
    plain = prepared(tmp_path / "bytes", words)
    (tmp_path / "bpe").mkdir()
    train_bpe([word + str(number) for word in words.values() for number in range(60)], 300, tmp_path / "bpe" / "t.json")
    pieces = prepared(tmp_path / "bpe", words, tokenizer=tmp_path / "bpe" / "t.json")
    pieces_of = Tokenizer.from_file(str(tmp_path / "bpe" / "t.json"))
    for folder in (plain, pieces):
        run = tiny_run(folder, validation_tokens=10**6)
        corpus = Corpus(folder)
        validation = ValidationSet(corpus, run)
        torch.manual_seed(0)
        found = validation.metrics(model.build(run.shape, corpus.manifest.tokenizer.vocab_size, 16), alone())
        for name, windows in validation.windows.items():
            targets = windows[:, 1:][windows[:, 1:] != corpus.manifest.tokenizer.eos_id]
            nats = windows[:, 1:].size * found[f"val_loss/{name}"]
            n_bytes = nats / math.log(2) / found[f"bits_per_byte/{name}"]
            if folder == plain:
                assert n_bytes == pytest.approx(len(targets))
            else:  # a piece is spelt with a letter for each of its bytes
                spelt = sum(len(pieces_of.id_to_token(int(token))) for token in targets)
                assert spelt > 1.5 * len(targets) and n_bytes == pytest.approx(spelt, abs=len(windows))


def test_documents_that_are_kept_apart_are_another_run(tmp_path: Path, small: Path) -> None:
    data = prepared(tmp_path, {"a": "aab ", "b": "xyz "})
    plain = run_in(tmp_path / "plain", tiny_run(data, steps=3, sequence_length=128, batch_tokens=512))
    apart = tiny_run(data, steps=3, sequence_length=128, batch_tokens=512, document_attention=True)
    kept = run_in(tmp_path / "apart", apart)
    assert kept[-1]["val_loss/a"] != plain[-1]["val_loss/a"] and np.isfinite(kept[-1]["val_loss/a"])
    with pytest.raises(ValueError, match="another document_attention"):
        run_in(tmp_path / "plain", apart)
