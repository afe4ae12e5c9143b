"""A search space in YAML: what is read, and the sentences for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.simplex import Group
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.space_file import read_space
from ray_mixopt.io.yaml_file import read_yaml

FULL = """
domains: [web, code, math]
scales:
  - {name: 60M, cost_per_step: 3e-2, parameters: 6e7}  # YAML takes 6e7 for text
  - {name: "1", cost_per_step: 1, parameters: 1_000_000_000}
steps: [1000, 4e3]
target: {scale: 60M, steps: 4000}
lower: {web: 0.1}
upper: {code: 0.5}
token_supply: {math: 6e10}
target_tokens: 1e11
max_epochs: 4
groups:
  - {domains: [code, math], most: 0.6}
earlier_scales:
"""
LEAST = "domains: [a, b]\nscales: [{name: s, cost_per_step: 1}]\nsteps: [10]\n"


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "space.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_full_description(tmp_path: Path) -> None:
    assert read_space(written(tmp_path, FULL)) == MixtureSpace(
        domains=("web", "code", "math"),
        scales=(Scale("60M", 0.03, 6e7), Scale("1", 1.0, 1e9)),
        steps=(1000, 4000),
        target=("60M", 4000),
        lower={"web": 0.1},
        upper={"code": 0.5},
        token_supply={"math": 6e10},
        target_tokens=1e11,
        max_epochs=4.0,
        groups=(Group(domains=("code", "math"), most=0.6),),
    )


def test_the_least_that_is_needed_and_json(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, LEAST + "target: [s, 10]"))
    assert space == MixtureSpace(domains=("a", "b"), scales=(Scale("s", 1.0),), steps=(10,))
    assert read_space(written(tmp_path, space.to_json())) == space
    assert read_space(str(written(tmp_path, LEAST.replace("[10]", "10")))) == space


REFUSED = {
    "nothing": ("", "holds NoneType, not the settings of a space"),
    "a list": ("[1]", "holds list, not the settings of a space"),
    "no YAML": ("a: [", "is not YAML: while parsing"),
    "no text": (b"\xff", "is not YAML: 'utf-8' codec"),
    "code": ("a: !!python/object/apply:os.system [ls]", "is not YAML: could not determine a constructor"),
    "twice": (LEAST + "steps: [20]", "is not YAML: 'steps' is given twice in .*, line "),
    "no date": ("a: 2026-13-45", "is not YAML: month must be in 1..12"),
    "inside itself": ("a: &a [*a]", "is not YAML: with its aliases written out, it has more than the 100,000 values"),
    "laughs": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 60)),
        "with its aliases written out, it has more than",
    ),
    "merged laughs": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 60)),
        "is not YAML: more is merged than is read|unknown fields a0, a1",  # PyYAML 6.0.4 merges each but once
    ),
    "deep": ("[" * 2_000, "is not YAML: maximum recursion depth"),
    "huge": (b" " * (2**20 + 1), "has 1.0 MiB, which is more than the 1 MiB that are read"),
    "a part": ("domains: [a, b]", "space.yaml: A space needs scales and steps, as in domains: .web, code., scales: "),
    "misspelt": (LEAST + "uper: {a: 1}", "space.yaml: Malformed space: .* fields uper; known are .*Did you mean upper"),
    "misspelt inside": ("domains: [a, b]\nscales: [{nmae: s}]\nsteps: [1]", "known are name, .*Did you mean name[?]"),
    "unknown": (LEAST + "cap: 1", "Malformed space: it has the unknown fields cap; known are domains, scales, "),
    "domains by text": (LEAST.replace("[a, b]", "a, b"), "space.yaml: domains must be a list, got 'a, b'"),
    "scales by name": (LEAST.replace("{name: s, cost_per_step: 1}", "s"), "scales, entry 1 must be a mapping such as "),
    "no cost": (LEAST.replace(", cost_per_step: 1", ""), "Malformed scales, entry 1: cost_per_step is missing"),
    "cost of text": (LEAST.replace("step: 1", "step: one"), "scales, entry 1: cost_per_step cannot be 'one'"),
    "cost without end": (LEAST.replace("step: 1", "step: 1e999"), "entry 1: cost_per_step cannot be inf"),
    "a scale that is a number": (LEAST.replace("name: s", "name: 60"), "name must be text, and YAML takes 60 for some"),
    "a domain that is a truth": (LEAST.replace("a, b", "a, no"), "takes no, off or false for something else: put it"),
    "a share of a truth": (LEAST + "lower: {no: 0.1}", "lower must be text, and YAML takes no, off or false"),
    "half a step": (LEAST.replace("[10]", "[10.5]"), "steps cannot be .10.5."),
    "octal": (LEAST.replace("[10]", "[1_000, 010]"), "space.yaml is not YAML: YAML takes 010 for 8: write that"),
    "octal with a sign": (LEAST.replace("step: 1", "step: +0_17"), "YAML takes .0_17 for 15: write that"),
    "minutes": (LEAST.replace("[10]", "[1:30]"), "YAML takes 1:30 for 90: write that"),
    "a domain that commands": (LEAST.replace("a, b", r'a, "b\e[31m"'), r"The domain 'b\\x1b\[31m' has control ch"),
    "a scale that commands": (LEAST.replace("name: s", r'name: "s\x9b"'), r"The scale 's\\x9b' has control characters"),
    "odd target": (LEAST + "target: {scale: s, at: 10}", "Malformed target: it has the unknown fields at"),
    "empty target": (LEAST + "target: {}", "target cannot be .None, None."),
    "infeasible": (LEAST + "lower: {a: 0.6, b: 0.6}", "space.yaml: "),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_space(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no space .*none.yaml"):
        read_space(tmp_path / "none.yaml")


def test_aliases_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert read_yaml(path, "thing") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}
