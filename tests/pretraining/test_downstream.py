"""Downstream tasks of lm-eval: scores are right however requests are shared out, and become metrics of the rungs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from runs import alone, run_in, timeless, tiny_run, tiny_search

from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.data.prepare import Preparation
from ray_mixopt.pretraining.data.tokenizer import ByteTokenizer
from ray_mixopt.pretraining.plan import check
from ray_mixopt.pretraining.training import downstream, model
from ray_mixopt.pretraining.training.downstream import check_evaluation
from ray_mixopt.pretraining.training.settings import Evaluation
from ray_mixopt.pretraining.training.workers import Workers

pytest.importorskip("lm_eval")


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


def language_model(network: Any, run: Any, workers: Workers) -> Any:
    return downstream._language_model()(network, run, ByteTokenizer(), workers)


@torch.no_grad()
def test_scores(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(data, execution={"micro_batch": 3})
    torch.manual_seed(0)
    network = model.build(run.shape, 257, run.sequence_length)
    torch.nn.init.normal_(network.get_input_embeddings().weight, std=0.5)  # far from indifferent
    requests = [(None, [5, 6, 7], [8, 9]), (None, [256], [1]), (None, list(range(40)), [1, 2, 3])]
    requests += [(None, [1], list(range(60, 90)))]  # longer than the model sees: its end is scored
    found = language_model(network, run, alone())._loglikelihood_tokens(requests)
    for (_, context, continuation), (value, _) in zip(requests, found, strict=True):
        window = torch.tensor(context + continuation)[-(run.sequence_length + 1) :]
        scores = model.logits(network, window[None, :-1]).log_softmax(-1)[0]
        chosen = scores.gather(-1, window[1:, None])[:, 0]
        assert value == pytest.approx(float(chosen[-len(continuation) :].sum()), rel=1e-5)
    best = int(model.logits(network, torch.tensor([[5, 6]]))[0, -1].argmax())
    greedy = [(None, [5, 6], [best]), (None, [5, 6], [(best + 1) % 257])]
    assert [said for _, said in language_model(network, run, alone())._loglikelihood_tokens(greedy)] == [True, False]

    monkeypatch.setattr(Workers, "total", lambda self, values: values)  # each of two workers on its own
    workers = [Workers(rank=rank, world=2, device=torch.device("cpu")) for rank in range(2)]
    halves = [language_model(network, run, one)._loglikelihood_tokens(requests) for one in workers]
    for one, other, (value, _) in zip(*halves, found, strict=True):
        assert one[0] + other[0] == pytest.approx(value, rel=1e-5) and 0.0 in (one[0], other[0])


def test_whole_texts(data: Path) -> None:
    run = tiny_run(data)
    network = model.build(run.shape, 257, run.sequence_length)
    text = "forty bytes, which is more than sixteen."
    (value,) = language_model(network, run, alone()).loglikelihood_rolling([SimpleNamespace(args=(text,))])
    assert value == pytest.approx(-40 * 5.6, rel=0.1)  # nearly uniform over 320 rows, each byte once
    with pytest.raises(ValueError, match="The task 'story' generates text"):
        language_model(network, run, alone()).generate_until([SimpleNamespace(task_name="story")])


def test_refusals(data: Path, small: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation(tasks=("toy", "nonesuch"), folder=tasks)
    with pytest.raises(ValueError, match="lm-eval has no task 'nonesuch'"):
        check_evaluation(evaluation, Manifest.read(data))
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
    monkeypatch.setattr(downstream, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="evaluation needs a package: pip install"):
        check_evaluation(evaluation, Manifest.read(data))
