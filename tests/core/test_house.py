"""The rooms of the house: who may import whom, who may import Ray, and how large a module is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).parents[2] / "ray_mixopt"
ROOMS = (
    *("core", "surrogate", "acquisition", "strategies", "optimizer", "io", "analysis", "tune", "simulators"),
    *("command", "pretraining", "report", "benchmark", "cli", "testing"),
)
EXCEPTION = ("core.space", "tune.param_space")  # MixtureSpace.param_space() and from_param_space(), when called
COMMAND = ("command.nodes", "command.search", "command.trainable")
WITH_RAY = ("tune.", "simulators.replay", "simulators.trainable", "pretraining.", "testing.", "cli.", *COMMAND)
MOST_LINES, LEAST_LINES = 450, 40


@cache
def modules() -> dict[str, ast.Module]:
    """All modules by name, without the package's; a package has the name of its folder, the root none."""
    files = sorted(HOUSE.rglob("*.py"))
    return {".".join(file.relative_to(HOUSE).with_suffix("").parts): ast.parse(file.read_text()) for file in files}


def module_of(name: str) -> str | None:
    """The module that a full name leads to, or None if it is not of the house."""
    package, _, rest = name.partition(".")
    if package != "ray_mixopt":
        return None
    return next((found for found in (rest, f"{rest}.__init__".removeprefix(".")) if found in modules()), None)


@cache
def imports(module: str) -> frozenset[str]:
    """Full names of all that a module imports, anywhere in it; names of modules in its strings count, too."""
    found = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{module}: imports are absolute"
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if module_of(name) else node.module for name in inner.values()}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and module_of(node.value):
            found.add(node.value)
    return frozenset(found)


@cache
def inner_imports() -> dict[str, frozenset[str]]:
    """The modules of the house that each module imports. The root only shows what others hold."""
    edges = {name: {module_of(full) for full in imports(name)} for name in modules() if name != "__init__"}
    return {name: frozenset(found) - {name, None} for name, found in edges.items()}


def test_imports_point_one_way() -> None:
    def place(module: str) -> int:
        return ROOMS.index(module.split(".")[0]) if module != "__init__" else len(ROOMS)

    edges = [(a, b) for a, found in inner_imports().items() for b in sorted(found) if (a, b) != EXCEPTION]
    assert [f"{a} imports {b}" for a, b in edges if place(b) > place(a)] == []


def test_no_imports_go_in_circles() -> None:
    edges = {a: {b for b in found if (a, b) != EXCEPTION} for a, found in inner_imports().items()} | {"__init__": set()}

    def behind(module: str) -> set[str]:
        """Everything that an import of the module loads sooner or later."""
        seen, ahead = set(), list(edges[module])
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += edges[name]
        return seen

    reached = {module: behind(module) for module in edges}
    circular = [(a, b) for a, found in edges.items() for b in sorted(found) if a in reached[b]]
    assert [f"{a} imports {b} in a circle" for a, b in circular] == []


def test_few_modules_import_ray() -> None:
    with_ray = [a for a in inner_imports() if any(name.split(".")[0] == "ray" for name in imports(a))]
    assert [f"{a} imports ray" for a in with_ray if not a.startswith(WITH_RAY)] == []


def test_modules_have_a_good_size() -> None:
    lines = {name: len((HOUSE / (name.replace(".", "/") + ".py")).read_text().splitlines()) for name in modules()}
    assert [f"{name} is long" for name, n in lines.items() if n > MOST_LINES] == []
    assert [f"{name} is short" for name, n in lines.items() if n < LEAST_LINES and not name.endswith("__init__")] == []


def test_the_root_holds_the_names_and_the_optimizer() -> None:
    assert {name for name in modules() if "." not in name} == {"__init__", "optimizer"}
    assert {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"} < set(ROOMS)


def test_imports_of_every_kind_are_seen() -> None:
    assert "tune.param_space" in inner_imports()["core.space"], "inside a function"
    assert "core.objective" in inner_imports()["cli.options"], "for type checkers only"
    assert "strategies.default" in inner_imports()["strategies.__init__"], "by its name in a string"


PUBLIC = (
    *(
        "MixtureSpace",
        "Scale",
        "Group",
        "Phase",
        "Objective",
        "Guardrail",
        "DomainMap",
        "MixtureOptimizer",
        "Suggestion",
    ),
    *("Recommendation", "Forecast", "Strategy", "Problem", "Proposal", "MixOptSearcher", "MixOptScheduler"),
    *("Callback", "restore", "simulators"),
)


def test_the_public_names_are_at_the_root() -> None:
    import ray_mixopt

    assert sorted(ray_mixopt.__all__) == sorted(PUBLIC)
    assert [name for name in PUBLIC if getattr(ray_mixopt, name).__name__.split(".")[-1] != name] == []
    assert set(PUBLIC) <= set(dir(ray_mixopt))
    assert not hasattr(ray_mixopt, "nonesuch")
    of_types = {ast.unparse(node) for node in ast.walk(modules()["__init__"]) if isinstance(node, ast.ImportFrom)}
    shown = {f"from ray_mixopt.{where} import {name} as {name}" for name, where in ray_mixopt._WHERE.items()}
    assert shown <= of_types, "type checkers see what there is"


def test_no_class_name_is_taken_twice() -> None:
    places: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert [f"{name} is a class of {' and '.join(found)}" for name, found in places.items() if len(found) > 1] == []


def test_no_console_takes_names_for_markup() -> None:
    made = [call for path in HOUSE.rglob("*.py") for call in re.findall(r"Console\([^)]*\)", path.read_text())]
    assert len(made) > 5
    assert [call for call in made if "markup=False, emoji=False" not in call] == []
