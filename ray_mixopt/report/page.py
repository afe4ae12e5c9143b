"""The report: one HTML file that works offline, with all that is needed to look at it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ray_mixopt.analysis.study import Study
from ray_mixopt.core.forecast import Prediction
from ray_mixopt.core.phases import in_words
from ray_mixopt.core.safety import write_atomically
from ray_mixopt.core.simplex import same_mixture
from ray_mixopt.core.words import by_phase, counted, fidelity, listed, run_to
from ray_mixopt.io.blends import BLENDS, blend, parts
from ray_mixopt.report import answer, course, evidence, landscape, trust
from ray_mixopt.report.drawing import Drawing

PAGE, HERE = "report.html", Path(__file__).parent
_MOST_NAMED = 5  # of the reports that are left out
_MOST_SHARES = 8  # in a sentence
SECTIONS = (
    ("The mixture", (answer.mixture,)),
    ("How good it really was", (course.truth,)),
    ("Where the evidence is", (evidence.places, evidence.spending)),
    ("Does it extrapolate?", (trust.extrapolation, trust.agreement, trust.predictions)),
    ("What matters", (landscape.slices, landscape.order, landscape.maps, answer.front)),
    ("Learning curves", (evidence.curves,)),
    ("What limits cost", (answer.prices,)),
    ("What more data would be worth", (answer.more_data,)),
    ("How the answer came about", (course.incumbent, course.mixtures)),
    ("Failures", (evidence.failures,)),
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


@dataclass(frozen=True, kw_only=True)
class Export:
    """A blend to take away.

    Attributes:
        reader: what reads it.
        file: its name.
        text: its content.
    """

    reader: str
    file: str
    text: str

    @property
    def link(self) -> str:
        """The address of its content, which is the content."""
        return f"data:text/plain;charset=utf-8,{quote(self.text)}"


def write_report(study: Study, folder: Path, *, refresh: float | None = None) -> Path:
    """Writes ``report.html`` into a folder; the file is replaced as a whole.

    Args:
        study: what the report is about.
        folder: made if it is missing.
        refresh: seconds after which an open page is to load itself again; None for a search that is done.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections: list[tuple[str, list[Drawing]]] = []
    for heading, draws in SECTIONS:
        group = []
        for draw in draws:
            study.tick(f"Figure: {draw.__name__}")
            if (drawing := draw(study)) is not None:
                group.append(drawing)
        sections.append((heading, group))
    found = study.recommendation
    details = found.details
    first, *rest = findings(study)
    page = rendered(
        "page.html.j2",
        drawings=[drawing for _, group in sections for drawing in group],
        study=study,
        answer=found,
        target=fidelity(found.scale, found.steps),
        details=details,
        limits=details.limits if details else (),
        rails=details.guardrails if details else (),
        head=answer.columns(study),
        cells=answer.cells(study),
        recommended=[phase or "Share" for phase in study.shares],
        predicted=[
            *([] if found.predicted is None else [("recommended", found.predicted, None)]),
            *(
                (found.called(other.name).replace(" mixture", ""), other.predicted, other.probability)
                for other in study.comparisons
            ),
            *((other.name, other.predicted, other.probability) for other in study.reordered),
        ],
        first=first,
        findings=rest,
        truths=list(truths(study)),
        sections=sections,
        failed=study.ledger.bad,
        incidents=study.history.incidents,
        exports=list(exports(study)),
        counts=", ".join(counted(int(n.sum()), f"{end} run") for end, n in study.ledger.ends.items()) or "No runs",
        refresh=None if refresh is None else f"{refresh:g}",
        pct=lambda share: f"{share:.1%}",
        phases=in_words(study.space.phases),
        shares=_shares,
    )
    path = folder / PAGE
    write_atomically(path, page)
    return path


def rendered(template: str, *, drawings: Sequence[Drawing], **values: Any) -> str:
    """A page: a template of this folder with its values; the style, the scripts and the figures of all.

    What a page may do stands in its first lines: to run the two scripts that we put there, by their hashes, and no
    request at all, whatever strangers' names made of it.

    Args:
        template: name of the file.
        drawings: all that the template shows.
        **values: its other variables.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    scripts = (_plotly(), _text("page.js")) if drawings else ()
    panels = {
        f"{drawing.name}-{i}": panel.figure.to_plotly_json()
        for drawing in drawings
        for i, panel in enumerate(drawing.panels)
    }
    page: str = environment.get_template(template).render(
        style=Markup(_text("style.css")),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        hashes=" ".join(map(_hashed, scripts)) or "'none'",
        panels=Markup(_embedded(panels)),  # noqa: S704
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("ray-mixopt"),
        drawings=drawings,
        **values,
    )
    return page


@cache
def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


@cache
def _hashed(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


def _embedded(data: Any) -> str:
    """JSON that no HTML parser takes for the end of its element, or for a comment, whatever is in it."""
    from plotly.utils import PlotlyJSONEncoder

    text = json.dumps(data, cls=PlotlyJSONEncoder, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def findings(study: Study) -> Iterator[Finding]:
    """What a reader should know first, and what should make them doubt."""
    answer = study.recommendation
    if answer.predicted is None:
        nothing = answer.nothing_known or "Too few runs have reported to recommend anything."
        yield Finding(text=f"{nothing} What is shown is the {answer.called('uniform')}.")
        yield from _final(study)
        return
    verdict = answer.verdict
    if verdict is not None:
        yield Finding(text=verdict.text, warning=not verdict.ready)
    yield from _final(study)
    yield Finding(text=f"{'Train' if verdict is None or verdict.ready else 'Best so far:'} {_shares(study.shares)}.")
    yield Finding(
        text=f"Predicted {study.objective_name} at {fidelity(answer.scale, answer.steps)}: {answer.predicted} (95%)."
    )
    yield from _order(study)
    for other in study.comparisons:
        if other.probability is not None:
            doubt = "" if other.settled else " This is not settled."
            yield Finding(
                text=f"It beats the {answer.called(other.name)} with probability {other.probability:.1%}.{doubt}",
                warning=other.doubtful,
            )
    paid = answer.price(answer.spent) if answer.spent else "nothing"
    text = f"The search paid {paid}."
    if answer.elsewhere:
        text += f" Runs made elsewhere took {answer.price(answer.elsewhere)}."
    run = answer.next_run
    if answer.value_of_next_run is not None and run is not None:
        better = "lower" if study.problem.mode == "min" else "raise"
        text += f" The next run, {run_to(run.scale, run.steps)}, takes {answer.price(run.cost)} and "
        text += (
            f"is expected to {better} the objective by {answer.value_of_next_run:.2g}."
            if answer.value_of_next_run
            else "no report of it alone would move the answer yet."
        )
    yield Finding(text=text)
    if unkept := study.history.unkept:
        text = f"Besides, {answer.price(unkept)} were trained and not kept: lost, or trained again."
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


def _final(study: Study) -> Iterator[Finding]:
    """What became of the mixture when the target was trained, where it was."""
    final = study.final
    if final is not None:
        other = "" if final.is_of(study.recommendation.mixture) else "Another mixture was trained at the target. "
        doubt = bool(other) or final.value is None or final.held is False
        yield Finding(text=f"{other}{final.text}", warning=doubt)


def _order(study: Study) -> Iterator[Finding]:
    """What another order of the same data would do; none where a run has one mixture."""
    for other in study.reordered:
        text = f"{other.name[0].upper()}{other.name[1:]}: {study.objective_name} changes by {other.change} (95%)"
        if other.probability is not None:
            text += f"; the recommended mixture is better with probability {other.probability:.1%}"
        yield Finding(text=f"{text}.")
    if study.moves and study.is_tied(study.best):
        yield Finding(text="The recommended mixture is the same in all phases: no order is clearly better.")


def truths(study: Study) -> Iterator[str]:
    """What is known of the answer in truth, in sentences; none but for a replay."""
    course, answer = study.course, study.recommendation
    if course is None:
        return
    same = same_mixture(study.best, study.space.mixture(course.recommended.mixture))
    for called, known, predicted in (
        ("In truth, the recommended mixture", course.recommended, answer.predicted if same else None),
        (f"The {answer.called('uniform')}", course.uniform, answer.uniform),
    ):
        if known.true is not None:
            regret = "" if known.regret is None else f", a regret of {known.regret:.3f}"
            yield f"{called} has {course.metric} {known.true:.4f}{regret}{_held(known.true, predicted)}."
    yield f"The best mixture has {course.best:.4f}. Regret: 0 is the best mixture there is, 1 the median random one."
    if course.saving:
        yield course.saving


def _held(true: float, predicted: Prediction | None) -> str:
    if predicted is None:
        return ""
    holds = "holds" if predicted.low <= true <= predicted.high else "does not hold"
    return f"; predicted was {predicted}, which {holds} it"


def exports(study: Study) -> Iterator[Export]:
    """The mixture as files of training code, as far as these need to know nothing else."""
    for kind, form in BLENDS.items():
        for phase in parts(kind, study.space):
            try:
                text = blend(kind, study.recommendation.mixture, study.space, phase=phase)
            except ValueError:  # of documents whose length is not known, or a name that the format cannot hold
                continue
            reader, file = (f"{form.reader}, {phase}", f"{kind}-{phase}") if phase else (form.reader, kind)
            yield Export(reader=reader, file=f"mixture-{file}{form.suffix}", text=text)


def _shares(mixture: dict[str, Any]) -> str:
    each = by_phase(mixture)
    if "" not in each:
        same: dict[str, list[str]] = {}
        for phase, of in each.items():
            same.setdefault(_shares(dict(of)), []).append(phase)
        return "; ".join(f"{listed(phases)}: {text}" for text, phases in same.items())
    mixture = dict(each[""])
    largest = [item for item in sorted(mixture.items(), key=lambda item: -item[1]) if item[1] >= 5e-4]
    parts = [f"{share:.1%} {domain}" for domain, share in largest[:_MOST_SHARES]]
    if rest := largest[_MOST_SHARES:]:
        parts.append(f"and {sum(share for _, share in rest):.1%} of {counted(len(rest), 'other')}")
    return ", ".join(parts)
