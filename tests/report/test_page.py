"""The report: complete, self-contained, honest, and drawn by a browser."""

from __future__ import annotations

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
from matplotlib.image import imread

from ray_mixopt import MixtureOptimizer, MixtureSpace, Scale
from ray_mixopt.analysis.ledger import Ledger
from ray_mixopt.analysis.study import Study
from ray_mixopt.core.strategy import Proposal
from ray_mixopt.io import searches
from ray_mixopt.io.blends import blend
from ray_mixopt.report.page import findings, write_report
from ray_mixopt.strategies.default import DefaultSettings, DefaultStrategy
from ray_mixopt.surrogate.belief import FitSettings

FIGURES = ["incumbent", "mixtures", "predictions", "agreement", "slices", "maps", "limits", "front"]
FIGURES += ["spending", "curves", "failures"]  # as on the page


class Page(HTMLParser):
    """The attributes of every tag, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text())


def test_every_figure_is_there_with_words(report: Path, page: Page) -> None:
    assert [figure["id"] for figure in page.all("figure")] == FIGURES
    assert sorted(path.stem for path in (report / "figures").iterdir()) == sorted(FIGURES)
    for image, name in zip(page.all("img"), FIGURES, strict=True):
        assert len(image["alt"]) > 60 and re.search(r"\d", image["alt"]), image["alt"]
        pixels = imread(report / "figures" / f"{name}.png")
        assert pixels.shape[1] == int(image["width"]) and pixels.shape[0] == int(image["height"])
        assert pixels[..., :3].std() > 0.02


def test_nothing_is_cut_off_at_the_edges(tmp_path: Path) -> None:
    names = tuple(f"a domain with a rather long name {i}" for i in range(8))
    scales = (Scale("small but long", 0.1, 1e7), Scale("large and longer", 1.0, 1e8))
    optimizer = MixtureOptimizer(MixtureSpace(domains=names, scales=scales, steps=(2000, 6000, 12000, 19700, 1000000)))
    space = optimizer.space
    for i, w in enumerate(space.sample(6, np.random.default_rng(0))):
        run = optimizer.accept(Proposal(mixture=w, scale=space.scale_names[i % 2], steps=space.steps[-1]), str(i))
        for step in space.steps:
            optimizer.tell(run.trial_id, step, 5 + np.square(w).sum() - 0.1 * len(str(step)))
        optimizer.finish(run.trial_id)
    write_report(Study(optimizer, "long"), tmp_path)
    assert {"mixtures", "spending", "curves"} <= {path.stem for path in (tmp_path / "figures").iterdir()}
    for path in (tmp_path / "figures").iterdir():
        pixels = imread(path)[..., :3]
        assert pixels[:, [0, -1]].min() == pixels[[0, -1]].min() == 1.0, path.name


def test_nothing_is_loaded_from_elsewhere(report: Path, page: Page) -> None:
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links and all(link.startswith("data:") for link in links)
    assert not page.all("script")
    assert not re.search(r"https?://|@import|url\(", (report / "report.html").read_text())


def test_what_befell_the_search_is_told(page: Page) -> None:
    assert "50 (" in page.text and "were trained and not kept: lost, or trained again" in page.text
    assert re.search(r"Incidents\s+20\d\d-.* UTC: The disk <b>of the storage</b> was full\.", page.text)


def test_names_are_text_and_not_markup(page: Page) -> None:
    assert not page.all("b") and not page.all("math")
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
    for trial in optimizer.history:
        assert (trial.trial_id in page.text) == (trial.status in ("diverged", "failed", "lost"))
    for kind in ("yaml", "olmo-core"):
        assert blend(kind, optimizer.recommend().mixture, optimizer.space) in page.text


def test_tables_have_headers_and_the_page_a_language(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("h1")) == 1


def test_money_is_counted_to_the_rung_it_paid_for(optimizer: MixtureOptimizer) -> None:
    paid = Ledger(optimizer.history).full_runs_by_rung * optimizer.space.target_cost
    assert dict(zip(optimizer.space.scale_names, paid.sum(1), strict=True)) == pytest.approx(
        optimizer.history.spent_by_scale()
    )


def test_nothing_known_is_said_so(tmp_path: Path) -> None:
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 1.0),), steps=(10,))
    path = write_report(Study(MixtureOptimizer(space), "empty"), tmp_path)
    text = Page(path.read_text()).text
    assert "Nothing is known yet: no run has reported" in text and "What is shown is the uniform mixture" in text


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


def test_a_browser_draws_it(report: Path, browser) -> None:
    """No console message, every figure drawn, nothing wider than a phone, and it prints."""
    for width, height in ((1280, 900), (390, 844)):
        view = browser.new_page(viewport={"width": width, "height": height})
        messages: list[str] = []
        view.on("console", lambda message, seen=messages: seen.append(message.text))
        view.on("pageerror", lambda error, seen=messages: seen.append(str(error)))
        view.on("request", lambda request, seen=messages: seen.append(request.url) if "://" in request.url else None)
        view.goto((report / "report.html").as_uri())
        view.wait_for_load_state("load")
        assert messages == [(report / "report.html").as_uri()]
        sizes = view.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
        assert len(sizes) == len(FIGURES)
        assert all(natural > 800 and 250 < shown <= 700 for natural, shown in sizes)
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        # Some pixels of every figure on the screen are not white.
        for image in view.query_selector_all("img"):
            assert len(set(image.screenshot())) > 100
        view.close()
    view = browser.new_page()
    view.goto((report / "report.html").as_uri())
    assert len(view.pdf(format="A4")) > 50_000
    view.close()


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
    assert "http-equiv" not in page.read_text()


def wait_for(condition, child: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
