"""Downstream tasks of ``lm-eval`` (EleutherAI's evaluation harness) on a model in training, as metrics of its rungs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ray_mixopt.pretraining.data import tokenizer
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.training.model import logits
from ray_mixopt.pretraining.training.settings import Evaluation, TrainingRun
from ray_mixopt.pretraining.training.workers import Workers, autocast

PREFIX = "lm_eval"


def check_evaluation(evaluation: Evaluation, manifest: Manifest) -> None:
    """Checks that the tasks exist and that the data say how to tokenize them; downloads nothing.

    Raises:
        ValueError: if not.
    """
    if find_spec("lm_eval") is None:
        raise ValueError("evaluation needs a package: pip install 'ray-mixopt[evaluation]'.")
    if manifest.tokenizer.kind == "unknown":
        raise ValueError("evaluation needs the tokenizer of the data, and shards used in place do not say it.")
    known = set(_task_manager(evaluation.folder).all_tasks)
    if unknown := [task for task in evaluation.tasks if task not in known]:
        raise ValueError(f"lm-eval has no task {unknown[0]!r}: `lm-eval ls tasks` lists them; `folder` adds your own.")


class Downstream:
    """Evaluates the model of a run.

    Args:
        run: has an ``evaluation``.
        corpus: its data, whose tokenizer is used.
        workers: share the requests among them.
    """

    def __init__(self, run: TrainingRun, corpus: Corpus, workers: Workers) -> None:
        assert run.evaluation is not None
        self._run, self._evaluation, self._workers = run, run.evaluation, workers
        self._tokenizer = tokenizer.load(corpus.manifest.tokenizer, corpus.folder)
        self._tasks = _task_manager(self._evaluation.folder)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """``lm_eval/<task>/<metric>`` for all tasks; on workers other than the first there may be none.

        Raises:
            ValueError: if a task is to generate text.
        """
        from lm_eval import simple_evaluate

        language_model = _language_model()(model, self._run, self._tokenizer, self._workers)
        model.eval()
        results = simple_evaluate(
            language_model,
            tasks=list(self._evaluation.tasks),
            num_fewshot=self._evaluation.few_shot,
            limit=self._evaluation.limit,
            task_manager=self._tasks,
            bootstrap_iters=0,
            log_samples=False,
        )
        model.train()
        found = {}
        for task, values in (results or {"results": {}})["results"].items():
            for name, value in values.items():
                metric, _, postprocessing = name.partition(",")
                if postprocessing and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                    suffix = "" if postprocessing == "none" else f"-{postprocessing}"
                    found[f"{PREFIX}/{task}/{metric}{suffix}"] = float(value)
        return found


@cache
def _task_manager(folder: Path | None) -> Any:
    """All tasks that there are, with those in a folder; looking for them takes seconds."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=None if folder is None else str(folder))


def _language_model() -> type:
    """A class, made late: its base comes from an optional package."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class LanguageModel(TemplateLM):
        """What lm-eval asks of a model. To lm-eval it is one process: the workers share out batches on their own."""

        def __init__(self, model: nn.Module, run: TrainingRun, tokenizer: Any, workers: Workers) -> None:
            super().__init__()
            self._model, self._run, self._tokenizer, self._workers = model, run, tokenizer, workers

        @property
        def eot_token_id(self) -> int:
            return self._tokenizer.eos_id

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return self._tokenizer.encode([string])[0][:-1].tolist()  # without the end of the document

        @torch.no_grad()
        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            """Log-likelihood of each continuation, and whether it is what the model would say."""
            length, size = self._run.sequence_length, self._run.execution.micro_batch
            world, rank, device = self._workers.world, self._workers.rank, self._workers.device
            # Longest first: little padding in a batch. A context that is too long loses its beginning.
            windows = [(context + continuation)[-(length + 1) :] for _, context, continuation in requests]
            order = sorted(range(len(requests)), key=lambda number: -len(windows[number]))
            found = torch.zeros(len(requests), 2, dtype=torch.float64, device=device)
            for first in range(0, len(order), size * world):
                places = [min(first + rank * size + place, len(order) - 1) for place in range(size)]
                numbers = [order[place] for place in places]
                batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(windows[n]) for n in numbers], batch_first=True)
                batch = batch.to(device)
                with autocast(self._workers, self._run.execution):
                    scores = logits(self._model, batch[:, :-1])
                scores = scores.float().log_softmax(-1)  # (m, t, V)
                chosen = scores.gather(-1, batch[:, 1:, None])[..., 0]  # (m, t)
                greedy = scores.argmax(-1) == batch[:, 1:]
                for row, number in enumerate(numbers):
                    end = len(windows[number]) - 1
                    part = slice(max(0, end - len(requests[number][2])), end)
                    if first + rank * size + row < len(order):  # else it only fills up the batch
                        found[number, 0] = chosen[row, part].double().sum()
                        found[number, 1] = greedy[row, part].all()
            return [(value, bool(is_greedy)) for value, is_greedy in self._workers.total(found).tolist()]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """Log-likelihood of whole texts, each token predicted once."""
            found = []
            for request in requests:
                (text,) = request.args
                pieces = get_rolling_token_windows(
                    self.tok_encode(text), self.prefix_token_id, self._run.sequence_length, context_len=1
                )
                windows = [("", *make_disjoint_window(piece)) for piece in pieces]
                found.append(sum(value for value, _ in self._loglikelihood_tokens(windows)))
            return found

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            tasks = sorted({request.task_name for request in requests})
            raise ValueError(f"The task {tasks[0]!r} generates text: only tasks that score given texts can be used.")

    return LanguageModel
