"""Fills in templates, within limits of time and memory: in a process of its own, which this file is the program of.

Templates are Jinja2 in its sandbox. That keeps them from files and from Python, and not from loops in loops, or from
texts that are doubled again and again.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = 10  # of a processor, for all runs
_WAIT_SECONDS = 120  # on a machine that is busy with other things
_MEMORY_MIB = 1024
MOST_MIB = 1  # of a file


class TemplateError(ValueError):
    """Why a template will not do.

    Attributes:
        line: of the template; None where it is right, and cannot be filled in.
        run: place of the run that it cannot be filled in for.
    """

    def __init__(self, reason: str, line: int | None = None, run: int = 0) -> None:
        super().__init__(reason)
        self.line, self.run = line, run


def filled_in(text: str, runs: Sequence[Mapping[str, Any]]) -> tuple[set[str], list[str]]:
    """The variables that a template uses, and what it says of each run.

    Args:
        text: the template.
        runs: the variables of each, JSON-able.

    Raises:
        TemplateError: if it is none, or takes too much time or memory.
    """
    order = json.dumps({"seconds": SECONDS, "path": sys.path, "text": text, "runs": list(runs)}).encode()
    too_much = TemplateError(f"it takes more than {SECONDS} s or {_MEMORY_MIB:,} MiB: it loops or repeats too much")
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], input=order, capture_output=True, timeout=_WAIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise too_much from None
    if done.returncode or not done.stdout:
        raise too_much
    found = json.loads(done.stdout)
    if "error" in found:
        raise TemplateError(**found["error"])
    return set(found["variables"]), found["texts"]


def _main() -> None:
    order = json.load(sys.stdin)
    sys.path[:] = order["path"]
    answer: dict[str, Any]
    try:
        variables, texts = _filled_in(order["text"], order["runs"], order["seconds"])
        answer = {"variables": sorted(variables), "texts": texts}
    except TemplateError as error:
        answer = {"error": {"reason": str(error), "line": error.line, "run": error.run}}
    print(json.dumps(answer))


def _filled_in(text: str, runs: Sequence[Mapping[str, Any]], seconds: int) -> tuple[set[str], list[str]]:
    import jinja2
    from jinja2 import nodes
    from jinja2.meta import find_undeclared_variables
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, _MEMORY_MIB * 2**20)):
        with contextlib.suppress(ValueError, OSError):  # where a lower limit holds, or there is no such one
            resource.setrlimit(kind, (most, most))
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    del environment.filters["random"], environment.globals["lipsum"]  # the same question has the same answer
    try:
        parsed = environment.parse(text)
        for other in parsed.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateError("a template is one file, and can have no other in it", other.lineno)
        variables = find_undeclared_variables(parsed) - set(environment.globals)
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(error.message or "it is no template", error.lineno) from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError("it is nested too deeply, or too large", 1) from error
    texts = []
    for place, of_run in enumerate(runs):
        try:
            texts.append(template.render(of_run))
            size = len(texts[-1].encode())
        except MemoryError as error:
            raise TemplateError(f"it takes more than {_MEMORY_MIB:,} MiB", run=place) from error
        except Exception as error:  # whatever its expressions raise
            raise TemplateError(str(error) or type(error).__name__, run=place) from error
        if size > MOST_MIB * 2**20:
            raise TemplateError(f"it makes a file of {size / 2**20:,.0f} MiB, more than {MOST_MIB} MiB", run=place)
    return variables, texts


if __name__ == "__main__":
    _main()
