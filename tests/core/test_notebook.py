"""What a notebook shows: tables whose text is only text."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from worlds import Bowl, given

from ray_mixopt import Group, MixtureOptimizer, MixtureSpace, Scale

HOSTILE = "<script>alert(1)</script>".replace("/", "")
SPACE = MixtureSpace(
    domains=("web", "code", HOSTILE),
    scales=(Scale("S & co", 0.1, 1e7), Scale("L", 1.0, 1e8)),
    steps=(100, 1000),
    upper={"web": 0.8},
    groups=(Group(domains=("web", "code"), least=0.2, most=0.9),),
    token_supply={"web": 2e9},
)


class Cells(HTMLParser):
    """The tags, and the text of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def searched(n: int = 24) -> MixtureOptimizer:
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0})
    return given(optimizer, n, lambda *run: {"loss": Bowl(space=SPACE, best=(0.2, 0.5, 0.3))(*run)})


def test_a_space_is_tables_of_its_domains_and_scales() -> None:
    page = Cells(SPACE._repr_html_())
    assert page.tags == {"p", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "3 domains; the target is L at step 1,000." in page.cells and "100, 1,000" in page.cells
    place = page.cells.index("web")
    assert page.cells[place : place + 4] == ["web", "0.0%", "80.0%", "2,000,000,000"]
    assert HOSTILE in page.cells and "S & co" in page.cells and "web and code" in page.cells


def test_a_history_is_a_table_of_its_last_runs() -> None:
    optimizer = searched()
    page = Cells(optimizer.history._repr_html_())
    assert page.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "Runs: the last 20 of 24, for a cost of 0" in page.cells
    last = [*optimizer.history][-1]
    assert page.cells[-4:] == [last.scale, "1,000", "given", f"loss {last.observations[1000]['loss']:.5g}"]
    assert MixtureOptimizer(SPACE, objective={"loss": 1.0}).history._repr_html_().count("<tr>") == 1


def test_a_recommendation_is_its_verdict_and_tables() -> None:
    answer = searched().recommend(details=True)
    page = Cells(answer._repr_html_())
    assert page.tags == {"p", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.cells[0] == answer.verdict.text
    place = page.cells.index(HOSTILE)
    low, high = answer.details.ranges[HOSTILE]
    assert page.cells[place + 1 : place + 4] == [f"{share:.2%}" for share in [answer.mixture[HOSTILE]]] + [
        f"{low:.1%}",
        f"{high:.1%}",
    ]
    assert str(answer.predicted) in page.cells and f"{answer.probability_better['uniform']:.1%}" in page.cells
    nothing = MixtureOptimizer(SPACE, objective={"loss": 1.0}).recommend()
    assert nothing.nothing_known in nothing._repr_html_()
    assert np.isclose(sum(nothing.mixture.values()), 1)
