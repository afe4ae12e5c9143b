"""Mixtures in the words of training code."""

from __future__ import annotations

import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_mixopt import MixtureSpace, Scale
from ray_mixopt.io.blends import olmo_core, rounded, weight_list


@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=40))
def test_rounded_shares_sum_to_1(weights: list[float]) -> None:
    shares = np.array(weights) / sum(weights)
    result = rounded({f"d{i}": share for i, share in enumerate(shares)})
    assert sum(round(share * 10**6) for share in result.values()) == 10**6
    assert np.abs(np.array(list(result.values())) - shares).max() < 1e-6 * len(weights)


def test_yaml_is_read_back_by_a_yaml_reader() -> None:
    space = MixtureSpace(
        domains=("web", "no", "a: b"),
        scales=(Scale("S", 1.0),),
        steps=(10,),
        token_supply={"web": 1e12, "no": 1e9},
        target_tokens=4e9,
        max_epochs=4,
    )
    mixture = {"web": 2 / 3, "no": 0.0, "a: b": 1 / 3}
    olmo = yaml.safe_load(olmo_core(mixture, space))
    assert olmo == {
        "requested_tokens": 4000000000,
        "source_list": {
            "sources": [
                {"source_name": "web", "target_ratio": 0.666667, "max_repetition_ratio": 4, "paths": []},
                {"source_name": "a: b", "target_ratio": 0.333333, "paths": []},
            ]
        },
    }
    assert yaml.safe_load(weight_list({"no": 0.25, "y": 0.75})) == {"datasets": ["no", "y"], "weights": [0.25, 0.75]}
