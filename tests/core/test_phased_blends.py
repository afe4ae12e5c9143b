"""Mixtures of several phases as files of training code: a schedule where a program has one, else a file a phase."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from worlds import DOMAINS, given, two_scales

from ray_mixopt import MixtureOptimizer, MixtureSpace, Phase
from ray_mixopt.cli.main import main
from ray_mixopt.io import searches
from ray_mixopt.io.blends import BLENDS, Sources, blend, parts, remarks
from ray_mixopt.io.export import write_blends

MAIN, LATE = {"web": 0.75, "code": 0.25, "math": 0.0}, {"web": 0.1, "code": 0.3, "math": 0.6}
BOTH = {"main": MAIN, "anneal": LATE}
PHASES = (Phase("main", 0.8), Phase("anneal", 0.2))
SPACE = two_scales(phases=PHASES)
SOURCES = Sources(paths={"web": ["/d/web"]}, tokens_per_document=dict.fromkeys(DOMAINS, 100.0))
HOLD_ALL = ("json", "yaml", "levanter")


def levanter(space: MixtureSpace = SPACE, mixture: Any = BOTH, **more: Any) -> dict[str, Any]:
    return yaml.safe_load(blend("levanter", mixture, space, **more))


def test_levanter_gets_a_schedule_of_steps_and_weights() -> None:
    found = levanter(sources=SOURCES)
    assert found["train_weights"] == [[0, MAIN], [800, LATE]]
    assert list(found["components"]) == list(DOMAINS) and found["components"]["web"]["source"]["train_urls"] == [
        "/d/web"
    ]
    assert [start for start, _ in levanter(steps=100)["train_weights"]] == [0, 80]
    without = levanter(mixture={"main": MAIN, "anneal": MAIN})
    assert list(without["components"]) == ["web", "code"] == list(without["train_weights"][1][1])
    text = blend("levanter", BOTH, SPACE, note="Train it")
    assert text.splitlines()[0] == "# Train it" and "must be multiples of mixture_block_size" in text


def test_a_phase_trained_already_is_in_a_schedule_and_in_no_mixture() -> None:
    trained = Phase("warm-up", 0.1, mixture={"web": 1, "math": 1})
    space = two_scales(phases=(trained, Phase("main", 0.6), Phase("anneal", 0.3)))
    past = {"web": 0.5, "code": 0.0, "math": 0.5}
    assert levanter(space)["train_weights"] == [[0, past], [100, MAIN], [700, LATE]]
    for kind, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert read(blend(kind, BOTH, space)) == BOTH
    assert yaml.safe_load(blend("levanter", LATE, two_scales(phases=(Phase("a", 0.8, mixture=MAIN), Phase("b", 0.2)))))[
        "train_weights"
    ] == {"web": 0.1, "code": 0.3, "math": 0.6}, "of the last phase alone, which a checkpoint is continued with"


@pytest.mark.parametrize("kind", BLENDS)
def test_a_phase_alone_is_the_blend_of_its_mixture(kind: str) -> None:
    sources = replace(
        SOURCES, paths={domain: [f"/d/{domain}"] for domain in DOMAINS} if kind not in HOLD_ALL[:2] else {}
    )
    assert parts(kind, SPACE) == (("",) if kind in HOLD_ALL else ("main", "anneal"))
    assert parts(kind, two_scales()) == ("",)
    for phase, mixture in BOTH.items():
        text = blend(kind, BOTH, SPACE, sources, phase=phase)
        lines = text.splitlines(keepends=True)
        if BLENDS[kind].suffix == ".yaml":
            assert lines.pop(0) == f"# Of the phase {phase}.\n"
        assert "".join(lines) == blend(kind, mixture, two_scales(), sources)


def test_olmo_core_asks_for_the_tokens_of_the_phase() -> None:
    supply = {"token_supply": {"math": 10.0, "web": 1000.0}, "target_tokens": 100.0, "max_epochs": 2}
    space = two_scales(phases=PHASES, **supply)
    text = blend("olmo-core", BOTH, space, phase="anneal")
    assert "# requested_tokens of the SourceMixtureDatasetConfig: 20\n" in text
    (math,) = (source for source in yaml.safe_load(text)["sources"] if source["source_name"] == "math")
    assert math["target_ratio"] == 0.6 and math["max_repetition_ratio"] == 2  # 12 tokens, of which there are 10
    assert "SourceMixtureDatasetConfig: 80\n" in blend("olmo-core", BOTH, space, phase="main")


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (
            "megatron",
            {},
            r"Megatron-LM takes one mixture a file, .* phases main, anneal: say of which .* json, yaml, lev",
        ),
        ("energon", {"phase": "cooldown"}, "There is no phase 'cooldown' to write: there are main, anneal"),
        ("levanter", {"steps": 1}, r"A run of 1 steps is too short .* main \(0.8 of the run\), anneal"),
        ("json", {"sources": Sources(paths={"x": ["y"]})}, r"The sources name \['x'\], which are no domains"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(kind: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blend(kind, BOTH, SPACE, **more)
    with pytest.raises(ValueError, match="There is no phase 'main' to write: there are none"):
        blend(kind, LATE, two_scales(), phase="main")


def test_what_one_should_know_is_of_all_phases() -> None:
    assert remarks("megatron", BOTH)[0].startswith("No path is known for 'web', 'code', 'math'")
    assert "must be multiples" not in " ".join(remarks("levanter", MAIN))


@pytest.fixture
def optimizer() -> MixtureOptimizer:
    optimizer = MixtureOptimizer(SPACE, objective={"loss": 1.0}, seed=1)
    given(optimizer, 6, lambda w, scale, step: {"loss": 2 + w["anneal"]["web"] + w["main"]["code"]})
    return optimizer


def test_exports_are_a_file_a_phase_where_need_be(optimizer: MixtureOptimizer, tmp_path: Path) -> None:
    run = next(iter(optimizer.history)).trial_id
    of_run = optimizer.space.named(optimizer.history[run].mixture)
    paths = write_blends(optimizer.history, tmp_path, "nemo", runs=[run])
    assert [path.name for path in paths] == [f"{run}.main.yaml", f"{run}.anneal.yaml"]
    for phase, path in zip(of_run, paths, strict=True):
        assert path.read_text() == blend("nemo", of_run, optimizer.space, phase=phase)
    (path,) = write_blends(optimizer.history, tmp_path, "levanter", runs=[run])
    steps = optimizer.history[run].steps
    assert steps == 100 and path.read_text() == blend("levanter", of_run, optimizer.space, steps=100)


def test_the_command_writes_one_phase_or_all(optimizer: MixtureOptimizer, tmp_path: Path) -> None:
    searches.save(optimizer, tmp_path / "history.json")

    def said(*words: str) -> Any:
        return CliRunner().invoke(main, ["recommend", "--from", str(tmp_path / "history.json"), *words])

    mixture = json.loads(said("--json").stdout)["mixture"]
    anneal = said("--as", "megatron", "--phase", "anneal")
    assert anneal.exit_code == 0, anneal.output
    assert anneal.stdout == blend("megatron", mixture, SPACE, phase="anneal")
    assert json.loads(said("--as", "json").stdout) == json.loads(blend("json", mixture, SPACE))
    assert "Megatron-LM takes one mixture a file" in said("--as", "megatron").stderr
    assert "--phase is about a blend" in said("--phase", "main").stderr
    out = CliRunner().invoke(
        main,
        ["export", "--from", str(tmp_path / "history.json"), "--format", "energon", "--out", str(tmp_path / "out")]
        + ["--tokens-per-document", "100"],
    )
    assert out.exit_code == 0 and out.stdout.startswith(f"{len(optimizer.history)} runs: "), out.output
    assert len([*(tmp_path / "out").iterdir()]) == 2 * len(optimizer.history)


def test_levanter_changes_the_weights_at_the_step(tmp_path: Path) -> None:
    text = pytest.importorskip("levanter.data.text", reason="Levanter, as marin-levanter, is not a dependency")
    import draccus
    from levanter.data import ListAsyncDataset, MixtureDataset
    from levanter.data.mixture import rescale_mixture_schedule_for_batch_schedule
    from levanter.schedule import BatchSchedule

    config = draccus.decode(text.LmDataConfig, levanter() | {"tokenizer": "passthrough", "cache_dir": str(tmp_path)})
    weights = rescale_mixture_schedule_for_batch_schedule(config.train_weights, BatchSchedule(20))
    data = {domain: ListAsyncDataset([domain] * 10_000) for domain in DOMAINS}
    mixed = MixtureDataset(data, weights, 2000, key=0)
    for start, shares in ((0, MAIN), (16_000, LATE)):
        drawn = Counter(mixed.as_sync_dataset().get_batch(range(start, start + 2000)))
        np.testing.assert_allclose([drawn[d] / 2000 for d in DOMAINS], [shares[d] for d in DOMAINS], atol=1e-3)
