"""Mixtures as files of training code: read back by what the program reads with, where that is here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_mixopt import MixtureSpace, Scale
from ray_mixopt.cli import blend_options
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
MIXTURE = {"web": 0.5, "code": 0.3, "math": 0.2, "none": 0.0}
LENGTHS = {"web": 100, "code": 300, "math": 1000}
PATHS = {"web": ["/d/web"], "code": ["s3://d/code"], "math": ["/d/m1", "/d/m2"]}
SOURCES = Sources(paths=PATHS, tokens_per_document=LENGTHS)
PLACES = ["/d/web", "s3://d/code", "/d/m1", "/d/m2"]
TOKENS, DOCUMENTS = [0.5, 0.3, 0.2], [0.5 / 100, 0.3 / 300, 0.2 / 1000]


def space_of(*domains: str, **more: Any) -> MixtureSpace:
    return MixtureSpace(domains=domains, scales=(Scale("S", 1.0),), steps=(10,), **more)


def read(kind: str, mixture: dict[str, float] = MIXTURE, sources: Sources = SOURCES) -> Any:
    text = blend(kind, mixture, space_of(*mixture), sources)
    assert text.endswith("\n")
    return {".json": json.loads, ".yaml": yaml.safe_load, ".txt": str.split}[BLENDS[kind].suffix](text)


@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=40))
def test_rounded_shares_sum_to_1(weights: list[float]) -> None:
    shares = np.array(weights) / sum(weights)
    result = rounded({f"d{i}": share for i, share in enumerate(shares)})
    assert sum(round(share * 10**6) for share in result.values()) == 10**6
    assert np.abs(np.array(list(result.values())) - shares).max() < 1e-6 * len(weights)


# -- what stands in each format: the paths that have a weight, and the weights


def _megatron(words: list[str]) -> tuple[list[str], list[float]]:
    return words[1::2], list(map(float, words[::2]))


def _olmo(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    assert [source["source_name"] for source in found["sources"]] == ["web", "code", "math"]
    return [path for s in found["sources"] for path in s["paths"]], [s["target_ratio"] for s in found["sources"]]


def _torchtitan(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    assert [source["dataset"] for source in found["sources"]] == ["web", "code", "math", "math"]
    return [s["dataset_path"] for s in found["sources"]], [s["weight"] for s in found["sources"]]


def _datasets(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    assert [each["name"] for each in found["datasets"]] == ["web", "code", "math"]
    return [path for each in found["datasets"] for path in each["paths"]], found.get("weights") or found[
        "probabilities"
    ]


def _mosaic(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    streams = found["streams"]
    assert list(streams) == ["web", "code", "math 1", "math 2"]
    assert "local" in streams["web"] and "remote" in streams["code"]
    places = [stream.get("local") or stream["remote"] for stream in streams.values()]
    return places, [stream["proportion"] for stream in streams.values()]


def _levanter(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    assert list(found["components"]) == list(found["train_weights"]) == ["web", "code", "math"]
    assert {each["source"]["type"] for each in found["components"].values()} == {"url"}
    urls = [url for each in found["components"].values() for url in each["source"]["train_urls"]]
    return urls, list(found["train_weights"].values())


def _energon(found: dict[str, Any]) -> tuple[list[str], list[float]]:
    assert (found["__module__"], found["__class__"]) == ("megatron.energon", "MetadatasetV2")
    parts = found["splits"]["train"]["blend"]
    return [part["path"] for part in parts], [part["weight"] for part in parts]


SCHEMAS: dict[str, Callable[[Any], tuple[list[str], list[float]]]] = {
    "megatron": _megatron,
    "nemo": lambda found: tuple(found["dataset"]["blend"]),  # type: ignore[return-value]
    "olmo-core": _olmo,
    "torchtitan": _torchtitan,
    "litgpt": lambda found: (found["input_dirs"], found["weights"]),
    "interleave": _datasets,
    "ray-data": _datasets,
    "mosaic": _mosaic,
    "levanter": _levanter,
    "energon": _energon,
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_paths_and_weights_stand_where_the_program_looks_for_them(kind: str) -> None:
    places, weights = SCHEMAS[kind](read(kind))
    wanted = np.array(TOKENS if BLENDS[kind].counts == "tokens" else DOCUMENTS)
    if BLENDS[kind].paths == "one":  # the share of math is divided among its two
        wanted = wanted[[0, 1, 2, 2]] * [1, 1, 0.5, 0.5]
    assert places == PLACES
    assert np.allclose(weights, wanted / wanted.sum(), atol=2e-6)


def test_every_format_is_looked_into() -> None:
    assert set(SCHEMAS) == {kind for kind, form in BLENDS.items() if form.paths != "none"}
    assert tuple(BLENDS) == blend_options.FORMATS


def test_documents_of_one_length_are_counted_like_tokens() -> None:
    sources = Sources(paths=PATHS, tokens_per_document=dict.fromkeys(LENGTHS, 2048))
    assert read("interleave", sources=sources)["probabilities"] == TOKENS
    assert remarks("ray-data", MIXTURE, sources) == ()
    assert remarks("ray-data", MIXTURE, SOURCES) == (
        "The weights count documents: shares of tokens, divided by the mean length of the documents.",
    )


@pytest.mark.parametrize("kind", [kind for kind, form in BLENDS.items() if form.counts == "documents"])
def test_shares_of_tokens_are_no_weights_of_documents(kind: str) -> None:
    sources = Sources(tokens_per_document={"web": 100})
    with pytest.raises(ValueError, match="draws documents, not tokens") as error:
        blend(kind, MIXTURE, space_of(*MIXTURE), sources)
    assert "those of 'code', 'math'" in str(error.value)
    assert "--tokens-per-document DOMAIN=TOKENS" in str(error.value)


def test_what_one_should_know_is_said_and_stands_in_yaml() -> None:
    said = remarks("nemo", MIXTURE, Sources(paths={"math": ["a", "b"]}))
    assert said == (
        "No path is known for 'web', 'code': the name stands where Megatron-Bridge looks for data.",
        "The share of 'math' is divided equally among its paths, whatever they hold: where they differ in size, the "
        "small ones are repeated first.",
    )
    text = blend("nemo", MIXTURE, space_of(*MIXTURE), Sources(paths={"math": ["a", "b"]}))
    assert text.startswith("".join(f"# {sentence}\n" for sentence in said))
    assert remarks("olmo-core", MIXTURE, SOURCES) == ()
    assert "packed before it is mixed" in remarks("torchtitan", MIXTURE, SOURCES)[-1]


def test_olmo_core_gets_what_the_space_knows() -> None:
    supply = {"web": 1e12, "no": 1e9, "c": 1.3333e9}
    space = space_of("web", "no", "c", "a: b", token_supply=supply, target_tokens=4e9, max_epochs=1)
    text = blend(
        "olmo-core", {"web": 0.5, "no": 0.0, "c": 1 / 3, "a: b": 1 / 6}, space, Sources(paths={"web": ["*.x"]})
    )
    assert "# requested_tokens of the SourceMixtureDatasetConfig: 4000000000\n" in text
    assert "# No path is known for 'c', 'a: b'" in text
    found = yaml.safe_load(text)["sources"]
    assert found[0] == {"source_name": "web", "target_ratio": 0.5, "max_repetition_ratio": 1, "paths": ["*.x"]}
    assert found[2] == {"source_name": "a: b", "target_ratio": 0.166667, "paths": ["a: b"]}
    # Six digits ask for a little more than there is, which OLMo-core refuses without leave to repeat that much.
    assert found[1]["max_repetition_ratio"] * supply["c"] >= found[1]["target_ratio"] * 4e9 > supply["c"]


# -- names


@pytest.mark.parametrize(("kind", "reader"), [("json", json.loads), ("yaml", yaml.safe_load), ("json", yaml.safe_load)])
def test_plain_files_hold_every_domain(kind: str, reader: Callable[[str], Any]) -> None:
    mixture = dict.fromkeys(AWKWARD, 0.0) | {"no": 0.999999, "null": 1e-6}
    assert reader(blend(kind, mixture, space_of(*AWKWARD))) == mixture
    assert remarks(kind, mixture) == ()


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=5))
def test_any_name_survives_or_is_refused(name: str) -> None:
    if not name.strip():
        return
    shares = {name: 0.25, "a-much-longer-name": 0.75}
    space, sources = space_of(*shares), Sources(tokens_per_document=dict.fromkeys(shares, 1))
    for kind, form in BLENDS.items():
        try:
            text = blend(kind, shares, space, sources)
        except ValueError as error:
            assert kind in ("megatron", "levanter")  # words of a command, folders
            assert repr(name) in str(error)
            continue
        found = {".json": json.loads, ".yaml": yaml.safe_load, ".txt": str.split}[form.suffix](text)
        assert name in _texts(found), kind
        text.encode()


def _texts(found: object) -> set[str]:
    """All texts in a file, keys too."""
    if isinstance(found, dict):
        return set(found).union(*map(_texts, found.values()))
    return set().union(*map(_texts, found)) if isinstance(found, list) else {found} if isinstance(found, str) else set()


@pytest.mark.parametrize(
    ("kind", "domain", "paths", "message"),
    [
        ("megatron", "a b", [], "splits its list at blanks and takes a leading '-' for an option: the domain 'a b'"),
        ("megatron", "web", ["a\u00a0b"], "the path of the domain 'web', 'a\\xa0b' cannot stand in it"),
        ("megatron", "web", ["--x"], "the path of the domain 'web', '--x' cannot stand in it"),
        ("nemo", "web", ["/d/${HOME}"], "'/d/${HOME}' holds '${', in the place of which OmegaConf puts"),
        ("mosaic", "${x}", ["a"], "'${x}' holds '${'"),
        ("mosaic", "code 2", ["a"], "The stream 'code 2' would be there twice"),
        ("torchtitan", "Code", [], "'Code' and 'code' are one there: rename one of them"),
        ("levanter", "..", [], "'..'"),
        ("json", "half \ud800", [], "holds half a character (a surrogate), which no file can hold: rename it"),
        ("yaml", "x" * 2000, [], "has 2,000 characters, too many for a name in YAML: shorten it"),
        ("energon", "web", "x", "The paths of 'web' must be a list of non-empty strings, got 'x'"),
        ("energon", "web", ["x", " "], "The paths of 'web' must be a list of non-empty strings, got ['x', ' ']"),
    ],
)
def test_names_that_a_format_cannot_hold_are_refused(kind: str, domain: str, paths: list[str], message: str) -> None:
    mixture = {domain: 0.5, "code": 0.5}
    with pytest.raises(ValueError) as error:
        sources = Sources(
            paths={"code": ["a", "b"]} | ({domain: paths} if paths else {}),
            tokens_per_document=dict.fromkeys(mixture, 1),
        )
        blend(kind, mixture, space_of(*mixture), sources)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("kind", "sources", "message"),
    [
        ("toml", {}, "Unknown format 'toml' of a blend: choose one of json, yaml, megatron"),
        ("json", {"paths": {"wep": ["x"]}}, "The sources name ['wep'], which are no domains: the space has web, code"),
        ("json", {"tokens_per_document": {"web": 0}}, "The tokens per document of 'web' must be above 0, got 0"),
        ("json", {"tokens_per_document": {"web": "1"}}, "The tokens per document of 'web' must be a number, got '1'"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, sources: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        blend(kind, {"web": 0.5, "code": 0.5}, space_of("web", "code"), Sources(**sources))
    assert message in str(error.value)


# -- the programs themselves


def test_datasets_draws_what_the_blend_says() -> None:
    datasets = pytest.importorskip("datasets", reason="a dependency of lm-eval, in the extra [evaluation]")
    found = read("interleave")
    parts = [datasets.Dataset.from_dict({"name": [each["name"]] * 8000}) for each in found["datasets"]]
    drawn = Counter(datasets.interleave_datasets(parts, probabilities=found["probabilities"], seed=0)["name"])
    tokens = np.array([drawn[name] * LENGTHS[name] for name in LENGTHS])
    assert np.allclose(tokens / tokens.sum(), TOKENS, atol=0.02)


def test_megatron_core_reads_the_list(tmp_path: Path) -> None:
    utils = pytest.importorskip("megatron.core.datasets.utils", reason="Megatron-Core is not a dependency")
    assert utils.get_blend_from_list(read("megatron")) == (PLACES, [0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize("kind", ["megatron", "nemo"])
def test_megatron_core_draws_what_the_blend_says(kind: str, tmp_path: Path) -> None:
    """Megatron-Bridge, for NeMo, hands its ``dataset.blend`` to the same builder."""
    utils = pytest.importorskip("megatron.core.datasets.utils", reason="Megatron-Core is not a dependency")
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    for token, (name, length) in enumerate(LENGTHS.items(), 1):
        builder = IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=np.int32)
        for _ in range(20_000 // length):
            builder.add_document(torch.full((length,), token, dtype=torch.int32), [length])
        builder.finalize(str(tmp_path / f"{name}.idx"))
    found = read(kind, sources=Sources(paths={name: [str(tmp_path / name)] for name in LENGTHS}))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        config = GPTDatasetConfig(
            random_seed=1,
            sequence_length=32,
            blend=found["dataset"]["blend"] if kind == "nemo" else utils.get_blend_from_list(found),
            split="1,0,0",
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            tokenizer=SimpleNamespace(vocab_size=8, eod=0, pad=0, unique_identifiers={"class": "none"}),
            mid_level_dataset_surplus=0.005,
            create_attention_mask=False,
            path_to_cache=str(tmp_path / "cache"),
        )
        train, *_ = BlendedMegatronDatasetBuilder(GPTDataset, [1000, 0, 0], lambda: True, config).build()
        drawn = Counter(token for i in range(1000) for token in train[i]["tokens"].tolist())
    finally:
        torch.distributed.destroy_process_group()
    assert np.allclose([drawn[token] / 32_000 for token in (1, 2, 3)], TOKENS, atol=0.002)


def test_levanter_draws_what_the_blend_says(tmp_path: Path) -> None:
    text = pytest.importorskip("levanter.data.text", reason="Levanter, as marin-levanter, is not a dependency")
    import asyncio

    import draccus
    import haliax
    import jax
    import tokenizers
    from levanter.schedule import BatchSchedule

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0, "1": 1, "2": 2, "3": 3}, unk_token="<eos>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.add_special_tokens(["<eos>"])
    words.save(str(tmp_path / "tokenizer.json"))
    about = {"eos_token": "<eos>", "unk_token": "<eos>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    for token, (name, length) in enumerate(LENGTHS.items(), 1):
        document = json.dumps({"text": " ".join([str(token)] * length)})
        (tmp_path / f"{name}.jsonl").write_text(f"{document}\n" * (400_000 // length))
    found = read("levanter", sources=Sources(paths={name: [str(tmp_path / f"{name}.jsonl")] for name in LENGTHS}))
    own = {"tokenizer": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    config = draccus.decode(text.LmDataConfig, found | own)
    train = config.train_set(haliax.Axis("position", 32), BatchSchedule(8), key=jax.random.PRNGKey(0))
    drawn: Counter[int] = Counter()
    for example in asyncio.run(train.get_batch(list(range(2048)))):
        drawn.update(example.tokens.array.tolist())
    shares = np.array([drawn[token] for token in (1, 2, 3)]) / sum(drawn.values())
    assert np.allclose(shares, TOKENS, atol=0.01)  # documents end with a token of their own


def test_torchtitan_takes_the_sources() -> None:
    text = pytest.importorskip("torchtitan.hf_datasets.text_datasets", reason="torchtitan is not a dependency")
    sources = [text.HFDataSource(**source) for source in read("torchtitan")["sources"]]
    config = text.InterleavedHuggingFaceTextDataLoader.Config(sources=sources)
    assert [source.weight for source in config.sources] == [0.5, 0.3, 0.1, 0.1]


def test_litdata_draws_what_the_blend_says(tmp_path: Path) -> None:
    litdata = pytest.importorskip("litdata", reason="LitData is not a dependency")
    from litdata.streaming.cache import Cache

    paths = {name: [str(tmp_path / name)] for name in LENGTHS}
    for name, (folder,) in paths.items():
        cache = Cache(folder, chunk_size=500)
        for i in range(4000):
            cache[i] = name
        cache.done()
        cache.merge()
    found = read("litgpt", sources=Sources(paths=paths))
    parts = [litdata.StreamingDataset(input_dir=folder, shuffle=True, drop_last=True) for folder in found["input_dirs"]]
    mixed = iter(litdata.CombinedStreamingDataset(parts, weights=found["weights"], iterate_over_all=False))
    drawn = Counter(next(mixed) for _ in range(4000))
    assert np.allclose([drawn[name] / 4000 for name in LENGTHS], TOKENS, atol=0.03)


def test_olmo_core_reads_the_list(tmp_path: Path) -> None:
    mixtures = pytest.importorskip("olmo_core.data.source_mixture", reason="OLMo-core is not a dependency")
    (tmp_path / "blend.yaml").write_text(blend("olmo-core", MIXTURE, space_of(*MIXTURE), SOURCES))
    found = mixtures.SourceMixtureList.from_yaml(tmp_path / "blend.yaml")
    found.validate()
    assert [source.target_ratio for source in found.sources] == TOKENS


def test_mosaicml_streaming_takes_the_streams(tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming", reason="MosaicML Streaming is not a dependency")
    paths = {name: [str(tmp_path / name)] for name in LENGTHS}
    streams = read("mosaic", sources=Sources(paths=paths, tokens_per_document=LENGTHS))["streams"]
    made = [streaming.Stream(**stream) for stream in streams.values()]
    assert streaming.Stream.validate_weights(made) == (True, False)


def test_energon_reads_the_metadataset(tmp_path: Path) -> None:
    energon = pytest.importorskip("megatron.energon", reason="Energon is not a dependency")
    found = read("energon")
    assert getattr(energon, found.pop("__class__"))
    assert set(found) == {"__module__", "splits"}
