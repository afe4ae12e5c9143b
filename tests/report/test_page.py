"""The report: complete, self-contained, honest, and drawn by a browser."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from worlds import given, search, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, Phase, Scale
from ray_mixopt.analysis.ledger import Ledger
from ray_mixopt.analysis.study import Study
from ray_mixopt.core.phases import in_words
from ray_mixopt.core.words import by_phase, listed
from ray_mixopt.io import searches
from ray_mixopt.io.blends import blend
from ray_mixopt.report.drawing import of_mixture
from ray_mixopt.report.page import findings, write_report
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.surrogate.belief import FitSettings

FIGURES = ["mixture", "places", "spending", "agreement", "predictions", "slices", "maps", "front"]
FIGURES += ["curves", "limits", "incumbent", "mixtures", "failures"]  # as on the page
DRAWN = """document.documentElement.dataset.drawn
    && [...document.querySelectorAll('.plot')].every((plot) => plot._fullLayout.width === plot.clientWidth)"""
BOXES = (Path(__file__).parent / "boxes.js").read_text()


class Page(HTMLParser):
    """The attributes of every tag, and the text but for scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != [] and self.tags[-1][0] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


def test_every_figure_is_there_with_words(page: Page) -> None:
    assert [figure["id"] for figure in page.all("figure")] == FIGURES
    pictures = [tag for _, tag in page.tags if tag.get("role") == "img"]
    for picture, name in zip(pictures, FIGURES, strict=True):
        assert len(picture["aria-label"]) > 60 and re.search(r"\d", picture["aria-label"]), name
    # All but the mixture and the limits, which have tables of their own, say it in numbers, too.
    assert page.text.count(", as a table") == len(FIGURES) - 2


def test_nothing_is_loaded_from_elsewhere(report: Path, page: Page) -> None:
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links and all(link.startswith("data:") for link in links)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2 and "unsafe-eval" not in policy
    text = (report / "report.html").read_text()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert [hashed(script) in policy for script in scripts] == [True, True]
    for script in scripts:
        text = text.replace(script, "")
    assert not re.search(r"https?://|@import|url\(", text)
    assert (report / "report.html").stat().st_size < 10e6


def hashed(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def test_what_befell_the_search_is_told(page: Page) -> None:
    assert "0.05 full runs (cost 50) were trained and not kept: lost, or trained again" in page.text
    assert re.search(r"Incidents\s+20\d\d-.* UTC: The disk <b>of the storage</b> was full\.</script>", page.text)


def test_names_are_text_and_not_markup(page: Page) -> None:
    assert not page.all("b") and not page.all("math") and not page.all("img")
    assert len(page.all("script")) == 3 and page.all("script")[0] == {"type": "application/json", "id": "panels"}
    assert "a <b>search</b>: which mixture to train" in page.text
    assert "code & <math>" in page.text


def test_it_says_what_a_reader_must_know(optimizer: MixtureOptimizer, page: Page) -> None:
    answer = optimizer.recommend(details=True)
    assert f"{answer.mixture['web']:.1%}" in page.text
    assert f"beats the uniform mixture with probability {answer.probability_better['uniform']:.1%}" in page.text
    assert "code & <math> at most 30.00%" in page.text
    assert "Guardrail, acc no worse than the uniform mixture's by more than 0.05 of its value" in " ".join(
        page.text.split()
    )
    failures = page.text.split("Failures")[-1]
    for trial in optimizer.history:
        assert (trial.trial_id in failures) == (trial.status in ("diverged", "failed", "lost"))
    for kind in ("yaml", "olmo-core", "nemo"):
        assert blend(kind, optimizer.recommend().mixture, optimizer.space) in page.text


def test_tables_have_headers_and_the_page_a_language(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("h1")) == 1


def test_all_money_is_on_the_map(optimizer: MixtureOptimizer) -> None:
    history, full = optimizer.history, optimizer.space.target_cost
    paid, cost = dict.fromkeys(optimizer.space.scale_names, 0.0), 0.0
    for place in Ledger(history).places:
        paid[place.scale] += place.paid * full
        cost += place.cost * full
    assert paid == pytest.approx(history.spent_by_scale())
    assert cost == pytest.approx(history.spent + history.spent_elsewhere)


def test_nothing_known_is_said_so(tmp_path: Path) -> None:
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10,))
    path = write_report(Study(MixtureOptimizer(space), "empty"), tmp_path)
    text = Page(path.read_text()).text
    assert "Nothing is known yet: no run has reported" in text and "What is shown is the uniform mixture" in text


def test_a_single_run_of_two_domains_fits(browser, tmp_path: Path) -> None:
    optimizer = MixtureOptimizer(MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10,)))
    optimizer.add_evaluated_point({"a": 0.3, "b": 0.7}, "S", 10, 1.0)
    view = shown(browser, write_report(Study(optimizer, "one run"), tmp_path))
    assert misfits(view) == []
    view.close()


@pytest.mark.parametrize("room", [3000, 3])
def test_doubts_are_warnings(room: int) -> None:
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10, 100))
    settings = DefaultSettings(fit=FitSettings(most_used=room))
    optimizer = MixtureOptimizer(space, strategy=partial(DefaultStrategy, settings=settings))
    for share in (0.2, 0.4, 0.6, 0.9):
        optimizer.add_evaluated_point({"a": share, "b": 1 - share}, "S", 10, 1.0 + 0.01 * share)
    warnings = [finding.text for finding in findings(Study(optimizer, "x")) if finding.warning]
    assert "No run has reached the target: its values are extrapolated." in warnings
    assert any("not calibrated" in text for text in warnings)
    full = "The model is full: 1 values of the smallest runs are left out of it."
    assert (full in warnings) == (room < 4)


def shown(browser, page: Path, **device: bool):
    """The page in a window, all of it drawn without a word or a request."""
    view = browser.new_page(viewport={"width": 1280, "height": 900}, **device)
    view.set_default_timeout(240_000)
    messages: list[str] = []
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("dialog", lambda dialog: messages.append(dialog.message))
    view.on("request", lambda request: messages.append(request.url) if "://" in request.url else None)
    view.goto(page.as_uri())
    view.wait_for_selector("html[data-drawn]", state="attached")
    assert messages == [page.as_uri()]
    return view


def misfits(view) -> list[str]:
    """What does not fit on a desk's screen, on a phone, and on paper."""
    found = [f"1280: {text}" for text in view.evaluate(BOXES)]
    view.set_viewport_size({"width": 390, "height": 844})
    view.wait_for_function(DRAWN)
    found += [f"390: {text}" for text in view.evaluate(BOXES)]
    view.set_viewport_size({"width": 718, "height": 1000})  # what A4 leaves between the margins
    view.emulate_media(media="print")
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    view.wait_for_function(DRAWN)
    return found + [f"print: {text}" for text in view.evaluate(BOXES)]


def test_a_browser_draws_it(report: Path, optimizer: MixtureOptimizer, browser) -> None:
    """Every figure fits, says what it shows under the mouse, and what is to be taken away can be."""
    view = shown(browser, report / "report.html")
    assert view.evaluate("document.querySelectorAll('.plot .main-svg').length") >= len(FIGURES)
    with view.expect_download() as download:
        view.click("text=OLMo-core")
    mixture = optimizer.recommend().mixture
    assert Path(download.value.path()).read_text() == blend("olmo-core", mixture, optimizer.space)
    hostile = optimizer.space.domains[-1]
    dots = view.query_selector_all(f"#slices .panel:has-text('{hostile}') .points path")
    run, share, _ = under_the_mouse(view, dots[0]).splitlines()
    assert run.split(",")[0] in optimizer.history.trials and share.endswith(f"% {hostile}")
    assert not view.query_selector("img")
    assert misfits(view) == []
    # What was written for training code is on paper, too.
    assert '"books": ' in view.locator("pre:visible").inner_text() and len(view.pdf(format="A4")) > 50_000
    assert view.evaluate("fetch('data:,x').then(() => 'went', () => 'refused')") == "refused"
    view.close()


def under_the_mouse(view, dot) -> str:
    """What is shown of a dot while the mouse is on it."""
    dot.scroll_into_view_if_needed()
    place = dot.bounding_box()
    view.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    view.wait_for_selector("#tip:not([hidden])")
    tip = view.query_selector("#tip")
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= view.viewport_size["width"]
    return tip.inner_text()


def test_many_lengths_and_long_names_fit(browser, crowded: Study, tmp_path: Path) -> None:
    page = write_report(crowded, tmp_path)
    text = Page(page.read_text()).text
    assert "In truth, the recommended mixture has" in text and "Regret of the recommendation" in text
    view = shown(browser, page, has_touch=True, is_mobile=True)
    dot = view.query_selector("#slices .points path")
    dot.scroll_into_view_if_needed()
    dot.tap(force=True)  # on what lies above all dots
    view.wait_for_selector("#tip:not([hidden])")
    assert "<i>a scale</i> of 100,000M x" in view.inner_text("#tip")
    assert misfits(view) == []
    view.close()


LATE = {"main": {"web": 0.6, "code": 0.3, "math": 0.1}, "anneal": {"web": 0.1, "code": 0.3, "math": 0.6}}
SEVERAL = {
    "both": (Phase("main", 0.8), Phase("anneal", 0.2)),
    "the last": (Phase("main", 0.8, mixture=LATE["main"]), Phase("anneal", 0.2)),
    "three": (
        *(Phase("warm-up", 0.1, mixture=LATE["main"]), Phase("main", 0.6), Phase("mid", 0.2)),
        Phase("anneal", 0.1, domains=("code", "math")),
    ),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_phases_are_told_and_drawn(case: str, browser, tmp_path: Path) -> None:
    space = two_scales(phases=SEVERAL[case], token_supply={"web": 70.0, "code": 20.0, "math": 10.0})
    reference = LATE if case == "both" else None
    optimizer = MixtureOptimizer(space, seed=1, budget=3 * space.target_cost, reference=reference)

    def loss(mixture, scale: str, step: int) -> float:
        w = space.mixture(mixture)
        mean, last = space.simplex.mean(w[None])[0], space.simplex.apart(w[None])[0, -1]
        effect = np.square(mean - [0.5, 0.3, 0.2]).sum() + 2 * np.square(last - [0.1, 0.3, 0.6]).sum()
        return float(2 + 0.3 * (scale == "S") + 0.2 * (step == 100) + effect)

    given(optimizer, 24, loss, cells=[("S", 1000), ("L", 1000)])
    search(optimizer, 4, loss)
    optimizer.finish(optimizer.ask().trial_id, failed=True)
    study = Study(optimizer, case)
    page = write_report(study, tmp_path)
    found, text = Page(page.read_text()), " ".join(Page(page.read_text()).text.split())
    names = [phase.name for phase in SEVERAL[case] if phase.mixture is None]
    titles = [str(phase) for phase in SEVERAL[case] if phase.mixture is None]
    assert in_words(space.phases) in text and all(title in text for title in titles)
    assert len([plot for plot in found.all("div") if str(plot.get("data-panel")).startswith("mixture-")]) == len(names)
    for of in study.shares.values():
        assert all(f"{share:.1%}" in text for share in of.values())
    each = [", ".join(of_mixture(of, 8)) for of in study.shares.values()]
    same = [[name for name, other in zip(names, each, strict=True) if other == of] for of in dict.fromkeys(each)]
    train = "; ".join(f"{listed(them)}: {of}" for them, of in zip(same, dict.fromkeys(each), strict=True))
    assert f"Train {train}." in text or f"Best so far: {train}." in text
    failed = next(trial for trial in optimizer.history if trial.status == "failed")
    told = text.split("Runs that ended badly")[-1].split(failed.trial_id)[-1]
    for name, of in by_phase(space.named(failed.mixture)).items():
        assert name in told and f"{max(of.values()):.1%}" in told
    if case == "both":
        assert len(study.moves) == 3
        turned, even = study.reordered
        assert f"T{turned.name[1:]}: {study.objective_name} changes by {turned.change} (95%)" in text
        assert all(part in text for part in ("reference, main", "reference, anneal", even.name))
    else:
        assert ("main" if case == "the last" else "warm-up") + ", trained already" in text
    assert ("order" in [figure["id"] for figure in found.all("figure")]) == bool(study.moves)
    view = shown(browser, page)
    assert misfits(view) == []
    view.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_a_checker_of_accessibility_finds_nothing(report: Path, browser, scheme: str, width: int) -> None:
    """Roles, names, labels, landmarks, contrast and what the keyboard reaches, by axe's rules of WCAG 2.2 AA."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    context = browser.new_context(bypass_csp=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
    view = context.new_page()
    view.goto(f"file://{report / 'report.html'}")
    view.wait_for_selector(".plot .main-svg")
    found = axe.Axe().run(view).response
    assert len(found["passes"]) > 30
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
    context.close()


def test_contrast_of_text_is_enough(report: Path) -> None:
    """WCAG AA, 4.5 to 1, for each colour of text on white."""
    style = (report / "report.html").read_text()
    for name in ("ink", "soft", "warn"):
        digits = re.search(rf"--{name}: #([0-9a-f]{{6}})", style)[1]
        channels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5


def test_it_follows_a_search(tmp_path: Path) -> None:
    """Written anew while the history grows; the last page does not reload itself."""
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10,))
    optimizer = MixtureOptimizer(space)

    def grow(n: int) -> None:
        for _ in range(n):
            share = (len(optimizer.history) + 1) / 9
            optimizer.add_evaluated_point({"a": share, "b": 1 - share}, "S", 10, (share - 0.4) ** 2)
        searches.save(optimizer, tmp_path / "history.json")

    grow(3)
    code = "from ray_mixopt.cli.main import main; main()"
    command = [sys.executable, "-c", code, "report", str(tmp_path), "--follow", "--every", "1"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    page = tmp_path / "report" / "report.html"
    try:
        wait_for(lambda: page.exists() and "3 given runs" in page.read_text(), child)
        assert Page(page.read_text()).all("meta")[-1] == {"http-equiv": "refresh", "content": "1"}
        grow(2)
        wait_for(lambda: "5 given runs" in page.read_text(), child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=240)
    finally:
        child.kill()
    assert child.returncode == 0, err
    assert "Ctrl-C ends this, not the search" in err
    assert out.strip() == f"Report: {page}"
    assert 'http-equiv="refresh"' not in page.read_text()


def wait_for(condition, child: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
