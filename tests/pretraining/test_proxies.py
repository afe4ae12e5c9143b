"""What makes scales comparable: batches, learning rates, lengths, annealed rungs, and how often data are repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import tiny_search

from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.data.sampler import Mixture, MixtureSampler
from ray_mixopt.pretraining.data.shards import Corpus
from ray_mixopt.pretraining.proxies import batch_rule, learning_rate_rule, warmup_rule

SCALES = [
    {"name": "S", "shape": {"d_model": 16, "heads": 2, "layers": 1}},
    {"name": "L", "shape": {"d_model": 32, "heads": 2, "layers": 1}},
]


def config(data: Path, small: dict[str, Any], large: dict[str, Any], **changes: Any) -> PretrainConfig:
    return tiny_search(data, data, scales=[SCALES[0] | small, SCALES[1] | large], **changes)


@pytest.mark.parametrize(("parameters", "rate", "batch"), [(20e6, 4.1e-3, 131_072), (1e9, 1.1e-3, 2_097_152)])
def test_the_rules_are_those_of_olmix(parameters: float, rate: float, batch: int) -> None:
    assert learning_rate_rule(int(parameters)) == pytest.approx(rate, rel=0.02)
    assert batch_rule(int(parameters), 1024) == batch
    assert warmup_rule(int(parameters), batch, 10**9) == pytest.approx(parameters / batch, abs=1)
    assert warmup_rule(int(parameters), batch, 100) == 5


def test_what_nobody_says_follows_from_the_scale(small: Path) -> None:
    free = config(small, {}, {"learning_rate": 0.5}, batch_tokens=None, optimization={"clip": 2.0})
    for name in "SL":
        in_blocks = free.model_cost(free.scale(name)).in_blocks
        assert free.batch(name) == batch_rule(in_blocks, 16) and free.run({"a": 1, "b": 1}, name, 2).rungs == (2, 4, 6)
        assert free.recipe(name).warmup_steps == 1 and free.recipe(name).clip == 2.0
    assert free.batch("S") < free.batch("L")
    by_rule = {name: learning_rate_rule(free.model_cost(free.scale(name)).in_blocks) for name in "SL"}
    assert free.recipe("S").learning_rate == pytest.approx(0.1 * by_rule["S"])  # it is no target
    assert free.recipe("L").learning_rate == 0.5
    own = config(small, {}, {}, optimization={"proxy_share": 0.5})
    assert own.recipe("S").learning_rate == pytest.approx(0.5 * by_rule["S"])
    assert own.recipe("L").learning_rate == by_rule["L"]


def test_every_scale_may_have_its_own(small: Path) -> None:
    own = config(
        small,
        {"steps": [3, 5], "batch_tokens": 32, "learning_rate": 0.5, "warmup_steps": 0},
        {"tokens_per_parameter": [0.1, 0.2]},
        target={"scale": "L"},
    )
    run = own.run({"a": 1, "b": 1}, "S", 3)
    assert (run.batch_tokens, run.rungs, run.steps) == (32, (3, 5), 3)
    assert (run.optimization.learning_rate, run.optimization.warmup_steps) == (0.5, 0)
    in_blocks = own.model_cost(own.scale("L")).in_blocks
    assert own.rungs("L") == (round(0.1 * in_blocks / 64), round(0.2 * in_blocks / 64))
    space = own.space
    assert space.rungs("S") == (3, 5) and space.rungs("L") == own.rungs("L")
    assert space.target == ("L", own.rungs("L")[1])
    assert [scale.tokens_per_step for scale in space.scales] == [32, 64] and space.in_tokens
    assert own.target_tokens == own.rungs("L")[1] * 64
    assert PretrainConfig.model_validate_json(own.model_dump_json()).space == space
    alike = config(small, {}, {}).space  # as before there were scales of their own, so that old runs fit in
    assert alike.steps == (2, 4, 6) and not alike.in_tokens


# -- annealed rungs cost what they cost


def test_a_run_pays_for_its_branches() -> None:
    space = MixtureSpace(domains=("a", "b"), scales=(Scale("S", 2.0, annealed=0.1),), steps=(100, 200, 400))
    assert space.cost("S", 100) == 200  # a run to its first rung is trained so many steps, be it on a branch at the end
    assert space.cost("S", 400) == pytest.approx(2 * (360 + 10 + 20 + 40))
    assert space.cost("S", 400) == pytest.approx(space.cost("S", 200) + space.cost("S", 400, start=200))
    assert MixtureSpace.from_json(space.to_json()) == space
    assert MixtureSpace.from_param_space(space.param_space()) == space
    with pytest.raises(ValueError, match="annealed is a share of each rung, at least 0 and below 1, got 1"):
        Scale("S", 2.0, annealed=1)


def test_the_cost_is_that_of_the_steps_trained(small: Path) -> None:
    settings = config(small, {}, {}, anneal={"share": 0.5})
    run = settings.run({"a": 1, "b": 1}, "L", 6)
    steps = run.leaves(6) + sum(rung - run.leaves(rung) for rung in run.reports)
    assert settings.space.cost("L", 6) == pytest.approx(steps * settings.space.scale("L").cost_per_step)
    final = settings.run({"a": 1, "b": 1}, "L", 6, final=True)
    assert final.anneal == run.anneal and final.decay is None


# -- repetition


def test_scales_repeat_as_the_target_will(small: Path) -> None:
    """At each part of its longest run, each scale has the epochs that the target has at that part of its own."""
    settings = config(small, {"steps": [60, 120]}, {"steps": [240, 480]}, max_repetition_ratio=50)
    mixture = {"a": 0.5, "b": 0.5}
    epochs = {}
    for name in "SL":
        run = settings.run(mixture, name, settings.rungs(name)[-1])
        stream = MixtureSampler(
            Corpus(small), Mixture(weights=mixture, sequence_length=16, supply_fraction=run.supply_fraction)
        )
        stream.check_supply(run.steps * run.batch_sequences, run.max_repetition_ratio or 0)
        epochs[name] = [list(stream.epochs(rung * run.batch_sequences).values()) for rung in run.rungs]
    np.testing.assert_allclose(epochs["S"], epochs["L"], rtol=0.05)
    assert epochs["L"][1][1] == pytest.approx(960 / 62, rel=0.02)  # b has 62 windows
    assert (settings.supply_fraction("S"), settings.supply_fraction("L")) == (0.25, 1.0)
    plain = settings.model_copy(update={"match_repetition": False})
    assert plain.supply_fraction("S") == 1.0


def test_a_scale_with_more_tokens_than_the_target_may_repeat_more(small: Path) -> None:
    settings = config(small, {"steps": [12]}, {"steps": [3, 6, 12]}, target={"scale": "L", "steps": 3})
    assert settings.supply_fraction("S") == settings.supply_fraction("L") == 1.0
    for name in "SL":
        assert settings.run({"a": 1, "b": 1}, name, 12).max_repetition_ratio == 4 * 4
