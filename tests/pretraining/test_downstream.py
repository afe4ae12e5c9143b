"""Downstream tasks of lm-eval: scores are right however requests are shared out, and become metrics of the rungs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from runs import alone, run_in, timeless, tiny_run, tiny_search

from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.data.prepare import Preparation
from ray_mixopt.pretraining.data.tokenizer import EOS, ByteTokenizer, JsonTokenizer, train_bpe
from ray_mixopt.pretraining.plan import check
from ray_mixopt.pretraining.training import downstream, model
from ray_mixopt.pretraining.training.downstream import check_evaluation
from ray_mixopt.pretraining.training.settings import Evaluation
from ray_mixopt.pretraining.training.workers import Workers

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402 (where it is installed)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two domains of bytes, with their tokenizer."""
    for name, word in (("a", "aab "), ("b", "xyz ")):
        lines = [json.dumps({"text": word * 20 + str(number)}) for number in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sources = {name: [str(tmp_path / f"{name}.jsonl")] for name in "ab"}
    Preparation(out=tmp_path / "shards", sources=sources, val_share=0.3, workers=1).run()
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of one's own, "toy": which word goes on like the corpus?"""
    folder = tmp_path_factory.mktemp("tasks")
    documents = [{"start": "aab a", "choices": ["ab ", "qq#"], "label": number % 2} for number in range(6)]
    (folder / "toy.jsonl").write_text("\n".join(map(json.dumps, documents)))
    task = {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "toy.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{start}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(task))
    (folder / "story.yaml").write_text(yaml.safe_dump(task | {"task": "story", "output_type": "generate_until"}))
    return folder


def test_metrics_of_rungs(data: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))
    run = tiny_run(data, steps=40, rungs=(20, 40), evaluation={"tasks": ["toy"], "folder": tasks})
    reports = run_in(tmp_path / "with", run)
    assert reports[-1]["lm_eval/toy/acc"] == 0.5  # of two labels in turn, the one that the corpus goes on with
    assert not any("stderr" in name for name in reports[-1])
    without = run_in(tmp_path / "without", run.model_copy(update={"evaluation": None}))
    kept = [{name: value for name, value in report.items() if "lm_eval" not in name} for report in reports]
    assert timeless(kept) == timeless(without)  # it does not interfere with the training


def language_model(network: Any, run: Any, workers: Workers, tokenizer: Any = None) -> Any:
    return downstream._language_model()(network, run, tokenizer or ByteTokenizer(), workers)


def asked(*pairs: tuple[str, str]) -> list[Instance]:
    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]


WORDS = ["hello", "world,", "the", "answer", "to", "every", "question", "is", "what", "the", "world", "asks", "again"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """lm-eval's own model and ours: the same weights, the same BPE, 24 tokens at a time."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="it needs accelerate", exc_type=ImportError)
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bpe")
    train_bpe([" ".join(WORDS)] * 9, 320, folder / "t.json")
    ours = JsonTokenizer(folder / "t.json")
    run = tiny_run(folder, sequence_length=24, batch_tokens=48, execution={"micro_batch": 3})
    torch.manual_seed(0)
    network = model.build(run.shape, ours.vocab_size, run.sequence_length)
    torch.nn.init.normal_(network.get_input_embeddings().weight, std=0.5)  # far from indifferent
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "t.json"), eos_token=EOS)
    # Its cache of logits mixes up requests with the same tokens, cut at different places.
    reference = huggingface.HFLM(
        pretrained=network, tokenizer=theirs, max_length=24, batch_size=4, device="cpu", logits_cache=False
    )
    return reference, language_model(network.eval(), run, alone(), ours)


def test_scores_are_those_of_lm_evals_own_model(pair: tuple[Any, Any]) -> None:
    reference, ours = pair
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, 30))) for _ in range(60)]
    pairs = [(text, f" {word}") for text, word in zip(texts, draw.choice(WORDS, 60), strict=True)]
    pairs += [(text + " ", word) for text, word in pairs[:10]]  # blanks at the end of a context
    pairs += [("", text) for text in texts[:10] if len(ours.tok_encode(text)) <= 24]
    pairs += [(text[:n], text[n:]) for text, n in zip(texts, draw.integers(1, 5, 60), strict=True) if len(text) < 40]
    pairs += [("naïve", " \u4e16\u754c \n\tx"), ("hello", " world")]
    joined = [pair for pair in pairs if not merges(ours, *pair)]
    assert len(joined) > 90
    expected, found = (one.loglikelihood(asked(*joined), disable_tqdm=True) for one in (reference, ours))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    rolling = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0) for text in texts]
    expected, found = (one.loglikelihood_rolling(rolling, disable_tqdm=True) for one in (reference, ours))
    assert found == pytest.approx(expected, rel=1e-5)


def merges(lm: Any, context: str, continuation: str) -> bool:
    return len(lm.tok_encode(context + continuation)) <= len(lm.tok_encode(context.rstrip()))


def test_a_whole_task_gives_what_it_gives_lm_evals_own_model(
    pair: tuple[Any, Any], tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import simple_evaluate

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    given: dict[str, Any] = {"tasks": ["toy"], "task_manager": downstream._task_manager(tasks), "bootstrap_iters": 0}
    expected, found = (simple_evaluate(one, num_fewshot=1, limit=4, **given) for one in pair)
    assert found["results"] == expected["results"]
    for one, other in zip(found["samples"]["toy"], expected["samples"]["toy"], strict=True):
        assert one["arguments"] == other["arguments"]
        assert [r[0][0] for r in one["resps"]] == pytest.approx([r[0][0] for r in other["resps"]], rel=1e-5)


def test_nothing_is_certain_because_it_merges_into_its_context(
    pair: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    _, ours = pair
    merged = [("hello wor", "ld"), ("hel", "lo"), ("the ans", "wer")]
    assert all(merges(ours, *one) for one in merged)
    found = ours.loglikelihood(asked(*merged, ("hello", " world")))
    assert "3 of 4 continuations are one token with the end of their context" in caplog.text
    for (context, continuation), (value, greedy) in zip(merged, found, strict=False):
        tokens = [*ours.tok_encode(context), *ours.tok_encode(continuation)]
        apart = ours._loglikelihood_tokens([(None, tokens[:-1], tokens[-1:])])
        assert len(ours.tok_encode(continuation)) > 1 or [(value, greedy)] == apart
        assert value < -0.1
    (blank,) = ours.loglikelihood(asked((" ", "hello")))  # all of it is predicted, from the end of a document on
    assert blank == ours._loglikelihood_tokens([(None, [ours.eot_token_id], ours.tok_encode(" hello"))])[0]
    with pytest.raises(ValueError, match="A task asks how likely it is that nothing follows 'hello'"):
        ours.loglikelihood(asked(("hello", "")))


@torch.no_grad()
def test_each_token_of_a_long_continuation_counts(data: Path) -> None:
    run = tiny_run(data, execution={"micro_batch": 3})
    torch.manual_seed(0)
    network = model.build(run.shape, 257, run.sequence_length)
    torch.nn.init.normal_(network.get_input_embeddings().weight, std=0.5)
    lm = language_model(network, run, alone())
    length, after = run.sequence_length, list(range(60, 100))
    assert len(after) > 2 * length
    ((value, _),) = lm._loglikelihood_tokens([(None, [1, 2], after)])
    tokens, total = [2, *after], 0.0
    for start in range(0, len(after), length):
        part = tokens[start : start + length + 1]
        window = torch.tensor(tokens[max(0, start + len(part) - length - 1) : start + len(part)])
        scores = model.logits(network, window[None, :-1]).log_softmax(-1)[0]
        total += float(scores.gather(-1, window[1:, None])[1 - len(part) :].sum())
    assert value == pytest.approx(total, rel=1e-5)
    best: list[int] = []
    while len(best) < 2 * length:  # what the model would say, in the same windows
        known = [1, *best][-1 - len(best) % length :]
        best.append(int(model.logits(network, torch.tensor([known]))[0, -1].argmax()))
    odd = [*best[:-1], (best[-1] + 1) % 257]
    assert [said for _, said in lm._loglikelihood_tokens([(None, [1], best), (None, [1], odd)])] == [True, False]


def test_two_workers_share_the_requests(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(data, execution={"micro_batch": 3})
    network = model.build(run.shape, 257, run.sequence_length)
    requests = [(None, [5, 6, 7], [8, 9]), (None, [256], [1]), (None, list(range(40)), [1, 2, 3])]
    requests += [(None, [1], list(range(60, 90)))]
    found = language_model(network, run, alone())._loglikelihood_tokens(requests)
    monkeypatch.setattr(Workers, "total", lambda self, values: values)  # each of two workers on its own
    workers = [Workers(rank=rank, world=2, device=torch.device("cpu")) for rank in range(2)]
    halves = [language_model(network, run, one)._loglikelihood_tokens(requests) for one in workers]
    for one, other, (value, _) in zip(*halves, found, strict=True):
        assert one[0] + other[0] == pytest.approx(value, rel=1e-5)
    assert all(any(one[0] == 0 for one in half) for half in halves)


def test_a_task_that_generates_is_refused(data: Path) -> None:
    lm = language_model(None, tiny_run(data), alone())
    with pytest.raises(ValueError, match="The task 'story' generates text"):
        lm.generate_until([SimpleNamespace(task_name="story")])


def test_groups_and_tags_are_looked_into(data: Path, tmp_path: Path) -> None:
    def write(name: str, content: dict[str, Any]) -> None:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))

    scores = {"dataset_path": "json", "output_type": "multiple_choice"}
    for name in ("one", "two"):
        write(name, {"task": name, "tag": ["pair_of_mine"], **scores})
    write(
        "silent", {"task": "silent", "tag": "loud_of_mine", "dataset_path": "json"}
    )  # lm-eval's default: it generates
    (tmp_path / "python.yaml").write_text("task: python\nclass: !function code.Task\n")
    (tmp_path / "vouched.yaml").write_text("task: vouched\nclass: !function code.Task\noutput_type: loglikelihood\n")
    average = {"aggregate_metric_list": [{"metric": "acc"}]}
    write("inner", {"group": "inner", "task": ["two", {"task": "own", **scores}], **average})
    write("outer", {"group": "outer", "task": ["one", "inner", "pair_of_mine"]})
    write("bad", {"group": "bad", "task": ["one", "silent"]})
    write("said", {"group": "said", "task": [{"task": "silent", "output_type": "loglikelihood"}]})
    write("void", {"group": "void", "task": []})
    write("round", {"group": "round", "task": ["one", "round"]})
    manifest = Manifest.read(data)

    def check_tasks(*tasks: str) -> tuple[str, ...]:
        return check_evaluation(Evaluation(tasks=tasks, folder=tmp_path), manifest)

    assert check_tasks("outer", "vouched") == ("one", "two", "inner::own", "inner", "vouched")
    assert check_tasks("pair_of_mine", "said") == ("one", "two", "silent")
    for name, message in {
        "silent": "The task 'silent' generates text: only tasks that score given texts can be used",
        "bad": "The task 'silent', which is one of 'bad', generates text",
        "loud_of_mine": "The task 'silent', which is one of 'loud_of_mine', generates text",
        "python": "The task 'python' is made by Python code, which does not say whether it generates text",
        "void": "'void' of lm-eval is a group or a tag without tasks",
        "round": "The group 'round' of lm-eval is in itself",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_tasks("one", name)
    evaluation = {"tasks": ["pair_of_mine"], "folder": tmp_path}
    for metric, message in (("lm_eval/one/acc", None), ("lm_eval/pair_of_mine/acc", "there are .*, lm_eval/one/...")):
        wanted = {"objective": {metric: 1.0}, "mode": "max"}
        settings = tiny_search(data, tmp_path, search=wanted, evaluation=evaluation, max_repetition_ratio=100)
        if message is None:
            check(settings)  # a tag's tasks have metrics, and the tag has none
        else:
            with pytest.raises(ValueError, match=message):
                check(settings)


def test_refusals(data: Path, small: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation(tasks=("toy", "nonesuch"), folder=tasks)
    with pytest.raises(ValueError, match="lm-eval has no task 'nonesuch'"):
        check_evaluation(evaluation, Manifest.read(data))
    with pytest.raises(ValueError, match="The task 'story' generates text"):  # before anything is trained
        check_evaluation(Evaluation(tasks=("toy", "story"), folder=tasks), Manifest.read(data))
    with pytest.raises(ValueError, match="needs the tokenizer of the data"):
        check_evaluation(evaluation, Manifest.read(small))
    changes: dict[str, Any] = {"evaluation": {"tasks": ["toy"], "folder": tasks}, "max_repetition_ratio": 100}
    for metric, fits in (("lm_eval/toy/acc", True), ("lm_eval/other/acc", False)):
        settings = tiny_search(data, tmp_path, search={"objective": {metric: 1.0}, "mode": "max"}, **changes)
        if fits:
            check(settings)
        else:
            with pytest.raises(ValueError, match="No run reports the metric 'lm_eval/other/acc'"):
                check(settings)
    with monkeypatch.context() as patch:
        earlier = SimpleNamespace(task_index={"toy": {"type": "task"}})  # as lm-eval 0.4.9 has it
        patch.setattr(downstream, "_task_manager", lambda folder: earlier)
        with pytest.raises(ValueError, match=r"needs lm-eval 0.4.10 or later, and 0\.4\..* is installed.*--upgrade"):
            check_evaluation(Evaluation(tasks=("toy",), folder=tasks), Manifest.read(data))
    monkeypatch.setattr(downstream, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="evaluation needs a package: pip install"):
        check_evaluation(evaluation, Manifest.read(data))
