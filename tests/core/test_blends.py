"""Mixtures in the words of training code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_mixopt import MixtureSpace, Scale
from ray_mixopt.cli import recommend
from ray_mixopt.io.blends import BLENDS, Sources, blend, remarks
from ray_mixopt.io.blends.base import rounded

AWKWARD = (
    "no",
    "1",
    "a: b",
    "-x",
    "null",
    'say "hi"',
    "it's",
    "a,b",
    "{c}",
    "# d",
    "é 中 😀",
    "1e-3",
    "\\",
    "tab\there",
)


def space_of(*domains: str, **more: object) -> MixtureSpace:
    return MixtureSpace(domains=domains, scales=(Scale("S", 1.0),), steps=(10,), **more)


@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=40))
def test_rounded_shares_sum_to_1(weights: list[float]) -> None:
    shares = np.array(weights) / sum(weights)
    result = rounded({f"d{i}": share for i, share in enumerate(shares)})
    assert sum(round(share * 10**6) for share in result.values()) == 10**6
    assert np.abs(np.array(list(result.values())) - shares).max() < 1e-6 * len(weights)


@pytest.mark.parametrize(("kind", "read"), [("json", json.loads), ("yaml", yaml.safe_load), ("json", yaml.safe_load)])
def test_any_name_comes_back_from_plain_files(kind: str, read: object) -> None:
    assert callable(read)
    space = space_of(*AWKWARD)
    mixture = dict.fromkeys(AWKWARD, 0.0) | {"no": 0.999999, "null": 1e-6}
    text = blend(kind, mixture, space)
    assert text.endswith("\n")
    assert read(text) == mixture
    assert remarks(kind, mixture) == ()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=5))
def test_every_character_comes_back_from_yaml(name: str) -> None:
    if name.strip():
        shares = {name: 0.25, "a much longer name": 0.75}
        space = space_of(*shares)
        assert yaml.safe_load(blend("yaml", shares, space)) == shares
        assert json.loads(blend("json", shares, space)) == shares
        assert yaml.safe_load(blend("olmo-core", shares, space))["source_list"]["sources"][0]["source_name"] == name


def test_olmo_core_gets_the_tokens_that_the_space_knows() -> None:
    space = space_of("web", "no", "a: b", token_supply={"web": 1e12, "no": 1e9}, target_tokens=4e9, max_epochs=4)
    mixture = {"web": 2 / 3, "no": 0.0, "a: b": 1 / 3}
    sources = Sources(paths={"web": ["s3://x/*.npy", "more, of it"]})
    assert yaml.safe_load(blend("olmo-core", mixture, space, sources)) == {
        "requested_tokens": 4000000000,
        "source_list": {
            "sources": [
                {
                    "source_name": "web",
                    "target_ratio": 0.666667,
                    "max_repetition_ratio": 4,
                    "paths": ["s3://x/*.npy", "more, of it"],
                },
                {"source_name": "a: b", "target_ratio": 0.333333, "paths": ["a: b"]},
            ]
        },
    }
    assert remarks("olmo-core", mixture, sources) == (
        "No path is known for 'a: b': the name stands where OLMo-core looks for data.",
    )


@pytest.mark.parametrize(
    ("kind", "sources", "message"),
    [
        ("toml", {}, "Unknown format 'toml' of a blend: choose one of json"),
        ("json", {"paths": {"wep": ["x"]}}, "The sources name ['wep'], which are no domains: the space has web, code"),
        ("json", {"paths": {"web": "x"}}, "The paths of 'web' must be a list of non-empty strings, got 'x'"),
        ("json", {"tokens_per_document": {"web": 0}}, "The tokens per document of 'web' must be above 0, got 0"),
        ("megatron", {"paths": {"web": ["a b"]}}, "Megatron splits its list at blanks"),
        ("megatron", {"paths": {"web": ["--x"]}}, "Megatron splits its list at blanks"),
    ],
)
def test_what_cannot_be_written_is_refused(kind: str, sources: dict[str, dict], message: str) -> None:
    with pytest.raises(ValueError) as error:
        blend(kind, {"web": 0.5, "code": 0.5}, space_of("web", "code"), Sources(**sources))
    assert message in str(error.value)


def test_the_command_knows_all_formats() -> None:
    assert tuple(BLENDS) == recommend.BLENDS
