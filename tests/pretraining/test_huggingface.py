"""A checkpoint as a model of Hugging Face: the same losses, the same tokens, and nothing beyond the vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from runs import alone, run_in, tiny_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from ray_mixopt.cli.main import main
from ray_mixopt.pretraining.data.prepare import Preparation
from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.data.tokenizer import EOS, load
from ray_mixopt.pretraining.training import model
from ray_mixopt.pretraining.training.huggingface import write_model
from ray_mixopt.pretraining.training.validation import ValidationSet

TEXTS = ["aab aab naïve", f"  two  {EOS} blanks\n", "\U0001f600\x00\tx", ""]


def prepared(folder: Path, **options: Any) -> Path:
    """Two domains of text."""
    folder.mkdir(exist_ok=True)
    for name, word in (("a", "aab "), ("b", "xyz ")):
        lines = [json.dumps({"text": word * 20 + str(number)}) for number in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    sources = {name: [str(folder / f"{name}.jsonl")] for name in "ab"}
    Preparation(out=folder / "shards", sources=sources, val_share=0.3, **options).run()
    return folder / "shards"


@pytest.mark.parametrize(
    ("options", "settings"),
    [({}, {}), ({"train_bpe": 300}, {}), ({}, {"anneal": {"share": 0.5}, "rungs": (10, 20)})],
    ids=["bytes", "bpe", "annealed"],
)
def test_a_model_that_was_written_scores_the_loss_that_was_reported(
    tmp_path: Path, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    data = prepared(tmp_path / "text", **options)
    run = tiny_run(data, **({"steps": 20, "rungs": (20,)} | settings))
    report = run_in(tmp_path / "run", run)[-1]
    written = write_model(str(tmp_path / "run"), data, tmp_path / "model")
    assert written.step == 20 and written.tokenizer and "step-" in written.checkpoint

    made = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert made.config.architectures == ["Olmo2ForCausalLM"]
    corpus = Corpus(data)
    validation, scorer = ValidationSet(corpus, run), model.Olmo2ForCausalLM.from_pretrained(tmp_path / "model")
    found = validation.metrics(scorer, alone())
    assert all(found[f"val_loss/{name}"] == report[f"val_loss/{name}"] for name in "ab")
    windows = torch.from_numpy(validation.windows["a"])[:, :-1]
    assert torch.equal(made(input_ids=windows).logits, scorer(input_ids=windows).logits)

    ours, theirs = load(corpus.manifest.tokenizer, data), AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs.eos_token_id == made.config.eos_token_id == ours.eos_id
    for text, tokens in zip(TEXTS, ours.encode(TEXTS), strict=True):
        assert theirs.encode(text) == tokens[:-1].tolist()  # documents end with a token, prompts do not
        assert theirs.decode(theirs.encode(text)) == text

    vocab_size = corpus.manifest.tokenizer.vocab_size
    assert made.config.vocab_size > vocab_size
    torch.manual_seed(0)
    prompt = theirs("aab", return_tensors="pt")
    generated = made.generate(**prompt, do_sample=True, temperature=100.0, max_new_tokens=12, num_return_sequences=64)
    assert generated.shape[0] == 64 and int(generated.max()) < vocab_size


def test_lm_eval_takes_the_model(tmp_path: Path) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface", exc_type=ImportError)
    from lm_eval.api.instance import Instance

    data = prepared(tmp_path / "text")
    run_in(tmp_path / "run", tiny_run(data, steps=60, rungs=(60,)))
    write_model(str(tmp_path / "run"), data, tmp_path / "model")
    theirs = huggingface.HFLM(pretrained=str(tmp_path / "model"), device="cpu", batch_size=1)
    pairs = [("aab a", "ab "), ("aab a", "qq#"), ("", "aab")]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    (good, _), (bad, _), (alone_, _) = theirs.loglikelihood(asked, disable_tqdm=True)
    assert bad < good < 0 and alone_ < 0


def test_the_command(small: Path, tmp_path: Path) -> None:
    run_in(tmp_path / "runs" / "one", tiny_run(small))
    shutil.copytree(tmp_path / "runs" / "one", tmp_path / "runs" / "two")

    def call(run: Path, data: Path = small, out: str = "model") -> tuple[int, str]:
        arguments = ["checkpoint", str(run), "--data", str(data), "--out", str(tmp_path / out)]
        result = CliRunner().invoke(main, arguments)
        return result.exit_code, result.output

    code, output = call(tmp_path / "runs")
    assert code == 2 and "holds 2 runs: name one of its folders: one, two." in output
    code, output = call(small)
    assert code == 2 and "holds no checkpoint: name the folder of a run" in output
    code, output = call(tmp_path / "runs" / "one")
    assert code == 0 and "after 6 steps" in output and "It has no tokenizer" in output
    code, output = call(tmp_path / "runs" / "one")
    assert code == 2 and "holds something already: name a new folder" in output
    code, output = call(tmp_path / "runs" / "one", prepared(tmp_path / "text"), "other")
    assert code == 2 and "was trained on other data than" in output
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert made.config.eos_token_id == 0  # of the shards used in place
    (weights,) = (tmp_path / "runs" / "one").glob("step-*/*.safetensors")
    weights.unlink()
    code, output = call(tmp_path / "runs" / "one", out="third")
    assert code == 2 and "are not those of the model" in output


def test_a_full_disk_leaves_no_half_of_a_model(
    small: Path, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    run_in(tmp_path / "run", tiny_run(small, steps=3))
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_model(str(tmp_path / "run"), small, tmp_path / "models" / "one")
    assert list((tmp_path / "models").iterdir()) == []
    (tmp_path / "models" / "one").mkdir()
    write_model(str(tmp_path / "run"), small, tmp_path / "models" / "one")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["one"]


def edited(**changes: Any) -> Callable[[Path], object]:
    """A change of what a checkpoint says of its run."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / "run.json").read_text())
        for name, value in changes.items():
            part, _, rest = name.partition("__")
            content[part] = {**content[part], rest: value} if rest else value
        (folder / "run.json").write_text(json.dumps(content))

    return edit


def cut(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:3000])


HUGE = {"d_model": 2**16, "heads": 2, "layers": 2}


@pytest.mark.parametrize(
    ("damage", "written", "gone_on"),
    [
        (
            cut,
            r"not those of the model that it says it has: they are 3000 bytes, it takes",
            r"\.safetensors is damaged: .*header",
        ),
        (edited(identity__shape=HUGE), r"bytes, it takes \d{12} at least", "another shape"),
        (
            edited(identity__shape={"d_model": "x"}),
            "does not say what it is a model of: shape.d_model",
            "another shape",
        ),
        (edited(identity={}), "does not say what it is a model of: data is missing.", "another mixture: None"),
        (edited(identity=[1]), "no whole checkpoint: its identity is no JSON object", "its identity is no JSON object"),
        (edited(progress={"step": -5}), "no whole checkpoint: step: -5 cannot be used", "step: -5 cannot be used"),
        (
            edited(progress__reports=[1]),
            r"no whole checkpoint: reports: \[1\] cannot be used",
            r"reports: \[1\] cannot",
        ),
        (edited(version=2), "Cannot read the checkpoint .* of version 2", "of version 2"),
    ],
)
def test_a_damaged_checkpoint_is_said_in_a_sentence(
    small: Path, tmp_path: Path, damage: Callable[[Path], object], written: str, gone_on: str
) -> None:
    run_in(tmp_path / "run", tiny_run(small, steps=3))
    (folder,) = (tmp_path / "run").glob("step-*")
    damage(folder)
    for said, act in (
        (written, lambda: write_model(str(tmp_path / "run"), small, tmp_path / "model")),
        (gone_on, lambda: run_in(tmp_path / "run", tiny_run(small, steps=6))),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            act()
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "model").exists()
