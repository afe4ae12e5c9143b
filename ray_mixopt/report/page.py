"""The report: one HTML file that works offline, and its figures as PNG."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from ray_mixopt.analysis.study import Study
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.core.words import amount, fidelity, run_to
from ray_mixopt.io.blends import blend
from ray_mixopt.report import evidence, landscape, runs
from ray_mixopt.report.drawing import Drawing

PAGE, FIGURES = "report.html", "figures"
FILES = {"YAML": "yaml", "YAML for OLMo-core": "olmo-core"}  # by the heading on the page
_MOST_NAMED = 5  # of the reports that are left out
SECTIONS = (
    ("How sure is it?", (evidence.incumbent, evidence.mixtures, evidence.predictions, evidence.agreement)),
    ("What matters?", (landscape.slices, landscape.maps, landscape.prices, landscape.front)),
    ("What was done?", (runs.spending, runs.curves, runs.failures)),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence at the top of the page.

    Attributes:
        text: the sentence.
        warning: whether it is a reason for doubt.
    """

    text: str
    warning: bool = False


def write_report(study: Study, folder: Path, *, refresh: float | None = None) -> Path:
    """Writes ``report.html`` and ``figures/*.png`` into a folder; each file is replaced as a whole.

    Args:
        study: what the report is about.
        folder: made if it is missing.
        refresh: seconds after which an open page is to load itself again; None for a search that is done.

    Returns:
        The path of the page.
    """
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    sections = []
    for heading, draws in SECTIONS:
        group = []
        for draw in draws:
            study.tick(f"Figure: {draw.__name__}")
            drawing = draw(study)
            if drawing is not None:
                group.append(embedded(drawing, folder / FIGURES / f"{drawing.name}.png"))
        if group:
            sections.append((heading, group))
    answer, problem = study.recommendation, study.problem
    details = answer.details
    page = rendered(
        "page.html.j2",
        study=study,
        answer=answer,
        details=details,
        limits=details.limits if details else (),
        rails=details.guardrails if details else (),
        baselines={
            answer.called(name).replace(" mixture", ""): study.space.named(mixture)
            for name, mixture in problem.baselines().items()
        },
        predicted=[
            *([] if answer.predicted is None else [("recommended", answer.predicted, None)]),
            *(
                (answer.called(other.name).replace(" mixture", ""), other.predicted, other.probability)
                for other in study.comparisons
            ),
        ],
        findings=list(findings(study)),
        sections=sections,
        failed=study.ledger.bad,
        incidents=study.history.incidents,
        files={name: blend(kind, answer.mixture, study.space) for name, kind in FILES.items()},
        counts=", ".join(f"{n.sum()} {end} runs" for end, n in study.ledger.ends.items()) or "No runs",
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("ray-mixopt"),
        refresh=None if refresh is None else f"{refresh:g}",
        pct=lambda share: f"{share:.1%}",
        shares=_shares,
    )
    path = folder / PAGE
    write_atomically(path, page)
    return path


def rendered(template: str, **values: Any) -> str:
    """A page: a template of this folder with its values, and the style of all."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = files("ray_mixopt.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    style = Markup(here.joinpath("style.css").read_text())  # noqa: S704
    return environment.from_string(here.joinpath(template).read_text()).render(style=style, **values)


def findings(study: Study) -> Iterator[Finding]:
    """What a reader should know first, and what should make them doubt."""
    answer = study.recommendation
    if answer.predicted is None:
        nothing = answer.nothing_known or "Too few runs have reported to recommend anything."
        yield Finding(text=f"{nothing} What is shown is the {answer.called('uniform')}.")
        return
    verdict = answer.verdict
    yield Finding(text=f"{'Train' if verdict is None or verdict.ready else 'Best so far:'} {_shares(answer.mixture)}.")
    if verdict is not None:
        yield Finding(text=verdict.text, warning=not verdict.ready)
    yield Finding(
        text=f"Predicted {study.objective_name} at {fidelity(answer.scale, answer.steps)}: {answer.predicted} (95%)."
    )
    for other in study.comparisons:
        if other.probability is not None:
            doubt = "" if other.settled else " This is not settled."
            yield Finding(
                text=f"It beats the {answer.called(other.name)} with probability {other.probability:.1%}.{doubt}",
                warning=other.doubtful,
            )
    paid = f"{amount(answer.spent)} ({answer.target_runs:.2f} full runs)" if answer.spent else "nothing"
    text = f"The search paid {paid}."
    run = answer.next_run
    if answer.value_of_next_run is not None and run is not None:
        better = "lower" if study.problem.mode == "min" else "raise"
        text += (
            f" The next run, {run_to(run.scale, run.steps)}, costs {amount(run.cost)} "
            f"({study.full_runs(run.cost):.2f} full runs) and "
        )
        text += (
            f"is expected to {better} the objective by {answer.value_of_next_run:.2g}."
            if answer.value_of_next_run
            else "no report of it alone would move the answer yet."
        )
    yield Finding(text=text)
    if unkept := study.history.unkept:
        full_runs = study.full_runs(unkept)
        text = (
            f"Besides, {amount(unkept)} ({full_runs:.2f} full runs) were trained and not kept: lost, or trained again."
        )
        yield Finding(text=text, warning=True)
    if answer.calibration is not None:
        yield Finding(text=f"Fit: {answer.calibration}.", warning=not answer.calibration.trustworthy)
    doubtful = answer.hindsight is None or not answer.hindsight.trustworthy
    yield Finding(text=f"Calibration: {answer.calibration_text}.", warning=doubtful)
    if answer.absurd:
        some = "; ".join(answer.absurd[:_MOST_NAMED])
        text = f"Reports that no other makes likely are left out, {len(answer.absurd)} in all: {some}."
        yield Finding(text=text, warning=True)
    if answer.left_out:
        text = f"The model is full: {answer.left_out:,} values of the smallest runs are left out of it."
        yield Finding(text=text, warning=True)
    if not study.ledger.at_target:
        yield Finding(text="No run has reached the target: its values are extrapolated.", warning=True)
    for check in answer.details.guardrails if answer.details else ():
        if not check.holds:
            yield Finding(text=f"A guardrail does not hold: {check.name}.", warning=True)


def _shares(mixture: dict[str, float]) -> str:
    parts = [f"{share:.1%} {domain}" for domain, share in sorted(mixture.items(), key=lambda item: -item[1])]
    shown = [part for part in parts if not part.startswith("0.0%")]
    return ", ".join(shown)


def embedded(drawing: Drawing, path: Path | None = None) -> dict[str, Any]:
    """A drawing as the page needs it; also written as PNG where there is a path."""
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format="png", metadata={"Title": drawing.title, "Description": drawing.alt})
    content = buffer.getvalue()
    if path is not None:
        write_atomically(path, content)
    width, height = struct.unpack(">II", content[16:24])  # of a PNG's header
    return {
        "name": drawing.name,
        "title": drawing.title,
        "alt": drawing.alt,
        "caption": drawing.caption,
        "width": width,
        "height": height,
        "source": f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}",
    }
