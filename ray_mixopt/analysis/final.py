"""The run at the target that follows a search, and whether it is as good as was predicted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.safety import check_version, named_numbers, number, whole, write_atomically
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.trial import is_sound
from ray_mixopt.core.words import called, fidelity
from ray_mixopt.io import searches, snapshots
from ray_mixopt.optimizer import MixtureOptimizer

FINAL, VERSION = "final.json", 1


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """What the recommended mixture came to when the target was trained with it.

    Attributes:
        mixture: shares by domain.
        scale: the target's.
        steps: reached.
        metrics: that the run reported.
        objective: what ``value`` is called: a metric, or "objective".
        value: of the objective; None where the run diverged, or did not report all of its metrics.
        predicted: of the mixture, before it was trained; None where the strategy predicts nothing.
        against: what the mixture is called that one would have trained without a search; "" where none is compared.
        baseline: predicted for that one.
        decay_steps: over which the learning rate fell at the end, as in no run of the search.
        before: whether the search had made this very run itself, so that the prediction knew it.
    """

    mixture: dict[str, float]
    scale: str
    steps: int
    metrics: dict[str, float]
    objective: str
    value: float | None
    predicted: Prediction | None
    against: str = ""
    baseline: Prediction | None = None
    decay_steps: int = 0
    before: bool = False

    @classmethod
    def of(
        cls,
        optimizer: MixtureOptimizer,
        mixture: Mapping[str, float],
        report: Mapping[str, Any],
        *,
        decay_steps: int = 0,
        before: bool = False,
    ) -> FinalRun:
        """The final run of a search beside what the search predicts.

        Args:
            optimizer: after its search.
            mixture: that was trained.
            report: the run's last one, with its ``step``.
            decay_steps: see the attributes.
            before: see the attributes.
        """
        problem, answer, posterior = optimizer.problem, optimizer.answer(), optimizer.posterior()
        metrics = {
            str(name): float(value)
            for name, value in report.items()
            if name != "step" and isinstance(value, int | float) and is_sound(value)
        }
        predicted = None if posterior is None else posterior.prediction(optimizer.space.mixture(mixture))
        complete = problem.weights.keys() <= metrics.keys()
        value = problem.value(metrics) if posterior is None else posterior.value(metrics) if complete else None
        names, against = list(problem.weights), answer.against
        plain = len(names) == 1 and (problem.goal is None or problem.goal.relative_to is None)
        return cls(
            mixture=dict(mixture),
            scale=answer.scale,
            steps=int(report["step"]),
            metrics=metrics,
            objective=names[0] if plain else "objective",
            value=value,
            predicted=predicted if answer.predicted is not None else None,
            against="" if against is None else called(against, answer.moved),
            baseline=None if against is None else answer.values[against],
            decay_steps=decay_steps,
            before=before,
        )

    @property
    def held(self) -> bool | None:
        """Whether the value is inside the interval that was predicted; None where one of the two is not known."""
        if self.value is None or self.predicted is None:
            return None
        return self.predicted.low <= self.value <= self.predicted.high

    @property
    def text(self) -> str:
        """What became of it, in sentences."""
        where = fidelity(self.scale, self.steps)
        if self.value is None:
            return f"The final run, {where}, has no {self.objective}: it diverged, or did not report it."
        text = f"The final run, {where}, has {self.objective} {self.value:.4f}"
        if self.predicted is None:
            return f"{text}."
        text += f"; predicted was {self.predicted}, which {'holds' if self.held else 'does NOT hold'} it."
        if self.before:
            text += " The search had made this run itself, so that the prediction knew it."
        if self.decay_steps:
            text += (
                f" Its learning rate fell over the last {self.decay_steps:,} steps, as in no run of the search: "
                "what was predicted is without that."
            )
        if self.baseline is not None:
            text += f" For the {self.against} {self.baseline} was predicted."
        return text

    def write(self, folder: str) -> None:
        """Writes it into the folder of its search, a path or a URI.

        Raises:
            OSError: if the folder cannot be written to.
        """
        filesystem, place = snapshots.locate(folder)
        content = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
        if isinstance(filesystem, fs.LocalFileSystem):
            write_atomically(f"{place}/{FINAL}", content)
        else:
            with filesystem.open_output_stream(f"{place}/{FINAL}") as stream:
                stream.write(content.encode())

    @classmethod
    def read(cls, path: str) -> FinalRun | None:
        """The final run of a search; None where there is none.

        Args:
            path: the search's folder or URI, or Tune's experiment or the history in it.

        Raises:
            ValueError: if it is damaged.
        """
        filesystem, place = snapshots.locate(path)
        folders = [place]
        if PurePosixPath(place).name in (searches.EXPERIMENT, searches.HISTORY):
            folders.append(str(PurePosixPath(place).parent))
        for file in (f"{folder}/{FINAL}" for folder in folders):
            if filesystem.get_file_info(file).type == fs.FileType.File:
                return cls._read(filesystem, file)
        return None

    @classmethod
    def _read(cls, filesystem: fs.FileSystem, file: str) -> FinalRun:
        try:
            data = snapshots.read(filesystem, file)
            check_version(data, "a final run", VERSION)
            value = data["value"]
            return cls(
                mixture=named_numbers(data["mixture"], "mixture"),
                scale=str(data["scale"]),
                steps=whole(data["steps"], "steps", 1),
                metrics=named_numbers(data["metrics"], "metrics"),
                objective=str(data["objective"]),
                value=None if value is None else number(value, "value"),
                predicted=_prediction(data["predicted"]),
                against=str(data["against"]),
                baseline=_prediction(data["baseline"]),
                decay_steps=whole(data["decay_steps"], "decay_steps"),
                before=bool(data["before"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = str(error).removesuffix(".") if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{file} is no final run: {what}. Remove it to report without it.") from None

    def is_of(self, mixture: Mapping[str, float]) -> bool:
        """Whether it trained that mixture."""
        return self.mixture.keys() == mixture.keys() and bool(
            same_mixture([self.mixture[name] for name in mixture], list(mixture.values()))
        )


def made_before(optimizer: MixtureOptimizer, mixture: Mapping[str, float]) -> dict[str, Any] | None:
    """The report, with its ``step``, of a run of the search at the target with that mixture; None without one."""
    space, wanted = optimizer.space, optimizer.space.mixture(mixture)
    for trial in optimizer.history:
        report = trial.observations.get(space.target_steps)
        if trial.scale == space.target_scale and report and same_mixture(trial.mixture, wanted):
            return {"step": space.target_steps, **report}
    return None


def _prediction(data: Mapping[str, Any] | None) -> Prediction | None:
    return None if data is None else Prediction(**{end: number(data[end], end) for end in ("mean", "low", "high")})
