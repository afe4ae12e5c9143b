"""Downstream tasks of ``lm-eval`` (EleutherAI's evaluation harness) on a model in training, as metrics of its rungs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
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
_DEFAULT_OUTPUT = "generate_until"  # lm-eval's, of a task whose file does not say
_GENERATES = "The task {!r} generates text: only tasks that score given texts can be used."

logger = logging.getLogger(__name__)


def check_evaluation(evaluation: Evaluation, manifest: Manifest) -> tuple[str, ...]:
    """Checks that the tasks exist, score texts, and that the data say how to tokenize them; downloads nothing.

    Returns:
        What will have metrics: the tasks, for groups and tags all of theirs, and groups that have a score as a whole.

    Raises:
        ValueError: if not.
    """
    if find_spec("lm_eval") is None:
        raise ValueError("evaluation needs a package: pip install 'ray-mixopt[evaluation]'.")
    if manifest.tokenizer.kind == "unknown":
        raise ValueError("evaluation needs the tokenizer of the data, and shards used in place do not say it.")
    known = _task_manager(evaluation.folder).task_index
    if not all(hasattr(entry, "kind") for entry in known.values()):
        raise ValueError(
            f"evaluation needs lm-eval 0.4.10 or later, and {version('lm_eval')} is installed, which does not say what "
            "is in a group: pip install --upgrade 'ray-mixopt[evaluation]'."
        )
    if unknown := [task for task in evaluation.tasks if task not in known]:
        raise ValueError(f"lm-eval has no task {unknown[0]!r}: `lm-eval ls tasks` lists them; `folder` adds your own.")
    scored: list[str] = []
    for task in evaluation.tasks:
        found = list(_members(task, known))
        if all(member.kind == "GROUP" for member in found):
            raise ValueError(f"{task!r} of lm-eval is a group or a tag without tasks: leave it out.")
        for member in found:
            what = f"The task {member.name!r}" + (f", which is one of {task!r}," if member.name != task else "")
            if member.kind == "PY_TASK" and member.output is None:
                raise ValueError(
                    f"{what} is made by Python code, which does not say whether it generates text. If it only scores "
                    "given texts, say so in its file, with an output_type; else leave it out."
                )
            if member.kind != "GROUP" and (member.output or _DEFAULT_OUTPUT) == "generate_until":
                raise ValueError(f"{what} generates text: only tasks that score given texts can be used.")
        scored += [member.name for member in found if member.scored]
    return tuple(dict.fromkeys(scored))


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A task, or a group: its name in the results, kind, and type of output where files say it; if it has a score."""

    name: str
    kind: str
    output: str | None = None
    scored: bool = True


def _members(
    item: str | Mapping[str, Any], known: Mapping[str, Any], above: tuple[str, ...] = (), output: str | None = None
) -> Iterator[_Member]:
    """The tasks that an item of a list stands for, and the groups on the way to them, as lm-eval makes them.

    Args:
        item: the name of a task, group or tag; or what a group says of one, which counts more than its own file.
        known: what lm-eval found in its files, by name.
        above: groups that the item is in.
        output: what these say of the type of output.

    Raises:
        ValueError: for a group that is in itself.
    """
    said = item if isinstance(item, Mapping) else {}
    name = str(said.get("group", said.get("task"))) if said else str(item)
    output, entry = said.get("output_type", output), known.get(name)
    config = said if entry is None else entry.cfg or {}
    kind = ("GROUP" if "group" in said else "TASK") if entry is None else entry.kind.name  # None: defined in a group
    if name in above:
        raise ValueError(f"The group {name!r} of lm-eval is in itself, by way of {', '.join(above)}: mend its file.")
    inner = f"{above[-1]}::{name}" if entry is None and above else name
    if kind == "TAG":
        for one in sorted(entry.tags):  # type: ignore[union-attr]
            if one in known:
                yield from _members(one, known, (*above, name), output)
    elif kind == "GROUP":
        inside = config.get("task")
        for one in inside if isinstance(inside, list) else []:
            yield from _members(one, known, (*above, inner), output or config.get("output_type"))
        yield _Member(name=inner, kind=kind, scored=bool(config.get("aggregate_metric_list")))
    else:
        yield _Member(name=inner, kind=kind, output=output or config.get("output_type"))


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


def _windows(before: list[int], after: list[int], length: int) -> list[tuple[list[int], int]]:
    """Windows ``(tokens, n)`` of at most ``length`` tokens and one more, that predict a continuation once.

    A context that is too long loses its beginning. A continuation that is too long is predicted in parts, each but the
    last after the one token in front of it.
    """
    tokens = before + after
    found = []
    for start in range(len(before), len(tokens), length):
        end = min(start + length, len(tokens))
        found.append((tokens[max(0, end - length - 1) : end], end - start))
    return found


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

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """Log-likelihood of each continuation, and whether it is what the model would say."""
            pairs = [self._tokens(*request.args) for request in requests]
            if (n_merged := sum(merged for _, _, merged in pairs)) and self._workers.rank == 0:
                logger.warning(
                    "%d of %d continuations are one token with the end of their context: they are scored as tokens of "
                    "their own.",
                    n_merged,
                    len(pairs),
                )
            windows = [_windows(before, after, self._run.sequence_length) for before, after, _ in pairs]
            return self._scores(windows)

        def _tokens(self, context: str, continuation: str) -> tuple[list[int], list[int], bool]:
            """A context's and its continuation's tokens, split as lm-eval does; and whether they had to be apart.

            Raises:
                ValueError: if there is no continuation.
            """
            kept = context.rstrip()
            continuation = context[len(kept) :] + continuation  # blanks belong to the word that follows
            before = self.tok_encode(kept) if kept else []
            after = self.tok_encode(kept + continuation)[len(before) :]
            # A token across the join leaves nothing to predict, and nothing is certain.
            if merged := not after:
                after = self.tok_encode(continuation)
            if not after:
                raise ValueError(f"A task asks how likely it is that nothing follows {context[-50:]!r}: leave it out.")
            return before or [self.prefix_token_id], after, merged

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """Log-likelihood of whole texts, each token predicted once."""
            texts = [self.tok_encode(request.args[0]) for request in requests]
            length = self._run.sequence_length
            pieces = [get_rolling_token_windows(text, self.prefix_token_id, length, context_len=1) for text in texts]
            windows = [[make_disjoint_window(piece) for piece in found] for found in pieces]
            scores = self._scores([[(before + after, len(after)) for before, after in found] for found in windows])
            return [value for value, _ in scores]

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            return self._scores([_windows(before, after, self._run.sequence_length) for _, before, after in requests])

        @torch.no_grad()
        def _scores(self, requests: Sequence[Sequence[tuple[list[int], int]]]) -> list[tuple[float, bool]]:
            """Log-likelihood of each request, and whether all of it is what the model would say.

            Args:
                requests: windows ``(tokens, n)`` of each, whose last ``n`` tokens count.
            """
            size = self._run.execution.micro_batch
            world, rank, device = self._workers.groups, self._workers.group, self._workers.device
            windows = [(tokens, n, number) for number, found in enumerate(requests) for tokens, n in found]
            windows.sort(key=lambda window: -len(window[0]))  # longest first: little padding in a batch
            # Sum of log-likelihoods, and number of windows that are not what the model would say.
            found = torch.zeros(len(requests), 2, dtype=torch.float64, device=device)
            for first in range(0, len(windows), size * world):
                mine = range(first + rank * size, first + (rank + 1) * size)
                rows = [windows[min(place, len(windows) - 1)] for place in mine]  # all workers compute as many
                batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(row[0]) for row in rows], batch_first=True)
                batch = batch.to(device)
                with autocast(self._workers, self._run.execution):
                    scores = logits(self._model, batch[:, :-1])
                scores = scores.float().log_softmax(-1)  # (m, t, V)
                chosen = scores.gather(-1, batch[:, 1:, None])[..., 0]  # (m, t)
                greedy = scores.argmax(-1) == batch[:, 1:]
                for row, (place, (tokens, n, number)) in enumerate(zip(mine, rows, strict=True)):
                    part = slice(len(tokens) - 1 - n, len(tokens) - 1)
                    if place < len(windows):  # else it only fills up the batch
                        found[number, 0] += chosen[row, part].double().sum()
                        found[number, 1] += not greedy[row, part].all()
            return [(value, not odd) for value, odd in self._workers.total(found).tolist()]

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            tasks = sorted({request.task_name for request in requests})
            raise ValueError(_GENERATES.format(tasks[0]))

    return LanguageModel
