"""Scales with rungs and batches of their own: what is asked for, and how lengths are compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from worlds import Bowl, search

from ray_mixopt.core.merging import translated
from ray_mixopt.core.scale import Scale
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.optimizer import MixtureOptimizer
from ray_mixopt.surrogate.encoding import fidelity_coordinates

OWN = MixtureSpace(
    domains=("web", "code", "math"),
    scales=(
        Scale("S", 0.1, 1e8, steps=(100, 300), tokens_per_step=1e6),
        Scale("M", 0.3, 3e8, steps=(200, 600), tokens_per_step=2e6),
        Scale("L", 1.0, 1e9, steps=(500, 2000), tokens_per_step=4e6),
    ),
)


@pytest.mark.parametrize("strategy", ["default", "random", "paper"])
def test_a_scale_is_asked_for_at_its_own_rungs_only(strategy):
    optimizer = MixtureOptimizer(OWN, strategy=strategy, budget=20000, seed=0)
    runs = search(optimizer, 25, Bowl(space=OWN, best=(0.2, 0.5, 0.3)))
    asked = {(run.scale, run.steps) for run in runs}
    assert asked <= set(OWN.fidelities) and len(runs) >= 10
    if strategy == "default":
        assert {scale for scale, _ in asked} >= {"S", "M"}
        again = MixtureOptimizer.from_state_dict(json.loads(json.dumps(optimizer.state_dict())))
        assert again.space == OWN and again.recommend().mixture == optimizer.recommend().mixture


def test_a_point_to_evaluate_is_at_a_rung_of_its_scale():
    point = {"mixture": {"web": 1, "code": 1, "math": 1}, "scale": "S", "steps": 500}
    with pytest.raises(ValueError, match="the space trains S to 100, 300; M to 200, 600; L to 500, 2000"):
        MixtureOptimizer(OWN, points_to_evaluate=[point])


def test_lengths_are_compared_in_tokens_where_all_batches_are_known():
    in_steps = replace(OWN, scales=tuple(replace(scale, tokens_per_step=None) for scale in OWN.scales))
    assert fidelity_coordinates(OWN, "L", 500)[1] == pytest.approx(math.log(1 / 4))
    assert fidelity_coordinates(OWN, "S", 300)[1] == pytest.approx(math.log(300 * 1e6 / (2000 * 4e6)))
    assert fidelity_coordinates(in_steps, "S", 300)[1] == pytest.approx(math.log(300 / 2000))
    assert OWN.in_tokens and not in_steps.in_tokens


def test_earlier_runs_of_another_scale_need_its_batch_where_lengths_are_tokens():
    old = MixtureOptimizer(MixtureSpace(domains=OWN.domains, scales=(Scale("XS", 0.01, 1e7),), steps=(50,)))
    old.add_evaluated_point({"web": 1, "code": 1, "math": 1}, "XS", 50, 3.0)
    with pytest.raises(ValueError, match="'XS', and lengths of this search are compared in tokens: put it"):
        translated(old.history, OWN)
    listed = replace(OWN, earlier_scales=(Scale("XS", 0.01, 1e7, tokens_per_step=5e5),))
    assert translated(old.history, listed).space == listed
