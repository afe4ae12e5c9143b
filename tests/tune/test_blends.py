"""A blend for Ray Data, drawn from by Ray Data."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import ray

from ray_mixopt import MixtureSpace, Scale
from ray_mixopt.io.blends import Sources, blend

LENGTHS = {"web": 100, "code": 300, "math": 200}
MIXTURE = {"web": 0.5, "code": 0.3, "math": 0.2}


def test_ray_data_draws_what_the_blend_says() -> None:
    space = MixtureSpace(domains=tuple(MIXTURE), scales=(Scale("S", 1.0),), steps=(10,))
    given = json.loads(blend("ray-data", MIXTURE, space, Sources(tokens_per_document=LENGTHS)))
    # It draws whole blocks: here of ten rows.
    blocks = {each["name"]: pd.DataFrame({"name": [each["name"]] * 10}) for each in given["datasets"]}
    parts = [ray.data.from_blocks([blocks[each["name"]]] * 60) for each in given["datasets"]]
    rows = parts[0].mix(*parts[1:], weights=given["weights"]).take(700)
    drawn = Counter(row["name"] for row in rows)
    tokens = np.array([drawn[name] * LENGTHS[name] for name in MIXTURE])
    assert np.allclose(tokens / tokens.sum(), list(MIXTURE.values()), atol=0.02)
