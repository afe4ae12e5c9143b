"""README against the project: its commands and links are real, its code compiles."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import click

from ray_mixopt.cli.main import main
from ray_mixopt.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def command(name: str) -> str:
    """The one line of shell under the marker ``<!-- name -->``."""
    found = re.findall(rf"^<!-- {name} -->\n```bash\n(.*)\n```$", README, re.MULTILINE)
    assert len(found) == 1, name
    return found[0]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    extraction = next(line for line in script.splitlines() if line.startswith('command="$(sed'))
    shown = subprocess.run(
        ["bash", "-c", f'{extraction}; printf "%s" "$command"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == command("test command")


def test_the_test_command_starts_from_nothing_but_python_and_pip() -> None:
    steps = [shlex.split(step) for step in command("test command").split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert steps[1][:2] == [".venv/bin/pip", "install"]
    assert all(step[0].startswith(".venv/bin/") for step in steps[1:])


def test_the_main_command_activates_the_environment_for_all_that_follow() -> None:
    steps = [shlex.split(step) for step in command("main command").split("&&")]
    assert steps[:3] == [["python3", "-m", "venv", ".venv"], ["source", ".venv/bin/activate"], ["pip", "install", "."]]
    assert steps[3:] == [["ray-mixopt", "replay"]]


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_extras_and_script_of_the_commands_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"install -e '\.\[(\w+)\]'", README)
    assert extras and set(extras) <= set(project["optional-dependencies"])
    assert "ray-mixopt" in project["scripts"]


def test_options_of_the_shown_commands_exist() -> None:
    for line in re.findall(r"ray-mixopt ([^`&\n]*)", README):
        words = shlex.split(line)
        subcommand: click.Command | None = main
        while words and isinstance(subcommand, click.Group):
            subcommand = subcommand.get_command(click.Context(subcommand), words.pop(0))
        assert subcommand is not None, line
        known = {name for parameter in subcommand.params for name in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line
        assert not isinstance(subcommand, click.Group), line


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).is_file()] == []


def test_python_blocks_compile() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "README.md", "exec")


def test_all_strategies_are_named() -> None:
    assert [name for name in STRATEGIES if f"`{name}`" not in README] == []
