"""The documentation: its Python runs, its commands exist and run, it builds without a warning."""

from __future__ import annotations

import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ray_mixopt.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
QUICK = {
    "recommend",
    "export",
    "backtest",
}  # the others are parsed only: replay, report and pretrain have tests of their own
ELSEWHERE = {"by-hand"}  # pages of which all is executed in a test of its own


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if re.match(r"(\S*/)?ray-mixopt ", line)]
    return [line[1:] for line in words]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 24)
    scale = np.array(["60M", "1B"])[np.arange(24) % 2]
    loss = 3.0 + 0.5 * (scale == "60M") + np.square(shares - [0.2, 0.5, 0.3]).sum(1)
    table = pd.DataFrame({f"mixture/{name}": shares[:, i] for i, name in enumerate(("web", "code", "math"))})
    table = table.assign(scale=scale, step=6000, cost_per_step=np.where(scale == "60M", 0.03, 1.0))
    table.assign(**{"val_loss/arxiv": loss}).to_csv("runs.csv", index=False)
    table = table.drop(columns="cost_per_step")  # as people's tables are
    plain = table.rename(columns=lambda name: name.removeprefix("mixture/")).assign(**{"val_loss/arxiv": loss})
    plain.to_csv("plain.csv", index=False)
    names = {"scale": "model_size", "step": "_step"} | {n: n.replace("/", ".") for n in table.columns if "/" in n}
    wandb = table.rename(columns=names).assign(Name=[f"run-{i}" for i in range(24)], State="finished")
    wandb.assign(**{"val_loss/arxiv": loss}).to_csv("wandb_export.csv", index=False)
    Path("swarm").mkdir()
    ratios = pd.DataFrame(shares, columns=["web", "code", "math"])
    ratios.assign(run=range(24)).to_csv("swarm/ratios.csv", index=False)
    pd.DataFrame({"run": range(24), "mmlu_bpb": loss}).to_csv("swarm/metrics.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        if 'renamed={"source"' in block:  # the page's table calls code "source"
            table = pd.read_csv("runs.csv").rename(columns={"mixture/code": "mixture/source"})
            table.assign(parameters=np.where(table["scale"] == "60M", 60e6, 1e9)).to_csv("runs.csv", index=False)
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.stem)
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    for line in commands(page):
        if "..." in line:
            continue
        command, arguments = main, line
        while isinstance(command, click.Group):
            _, command, arguments = command.resolve_command(click.Context(command), arguments)
        context = click.Context(command)
        command.make_parser(context).parse_args(list(arguments))  # raises for an option that there is not


QUICK_PAGES = [p for p in PAGES if p.stem not in ELSEWHERE and QUICK & {c[0] for c in commands(p)}]


@pytest.mark.parametrize("page", QUICK_PAGES, ids=lambda p: p.stem)
def test_the_quick_commands_of_a_page_run(page: Path, folder: Path) -> None:
    for line in commands(page):
        if line[0] in QUICK:
            line = [word for word in line if word not in ("--report", "decision")]
            result = CliRunner().invoke(main, line)
            assert result.exit_code == 0, f"{line}: {result.output}"


@pytest.mark.skipif(shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None, reason="needs mkdocs")
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    child = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert "WARNING" not in child.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    for name in ("MixtureSpace", "Guardrail", "absorb", "pareto_front"):
        assert name in reference


TEXTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "experiments" / "README.md", *PAGES]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_is_there(text: Path) -> None:
    content = text.read_text()
    for name in set(re.findall(r"\bray_mixopt(?:\.\w+)+", content)):
        assert pkgutil.resolve_name(name) is not None, name
    for name in set(re.findall(r"\b(?:ray_mixopt|experiments|tests|docs)/[\w/.-]+\.\w+", content)):
        assert (ROOT / name).exists(), name
    for file, test in re.findall(r"\b(test_\w+\.py)(?:(?:::|`: `)(\w+))?", content):
        sources = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(f"def test_{test.removeprefix('test_')}" in source for source in sources), (file, test)


def test_every_page_is_in_the_contents() -> None:
    contents = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(contents) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)
