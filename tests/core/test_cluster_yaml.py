"""The cluster template against Ray's own validation; nothing is started."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

TEMPLATE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict:
    return yaml.safe_load(TEMPLATE.read_text())


def test_ray_accepts_the_template(config):
    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_refuses_a_template_with_an_unknown_node_type(config):
    config["head_node_type"] = "missing"
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(config))


def test_drivers_have_a_resource_that_only_the_head_has(config):
    types = config["available_node_types"]
    has_it = [name for name, node in types.items() if "mixopt_driver" in node["resources"]]
    assert has_it == [config["head_node_type"]]


def test_workers_have_gpus_and_scale_from_zero(config):
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert workers
    for node in workers:
        assert node["resources"]["GPU"] >= 1
        assert node["min_workers"] == 0 < node["max_workers"] <= config["max_workers"]


def test_images_and_packages_pin_the_same_ray(config):
    images = {config["docker"][key] for key in ("head_image", "worker_image")}
    versions = {image.split(":")[1].split("-")[0] for image in images}
    assert len(versions) == 1
    assert any(f"=={versions.pop()}" in command for command in config["setup_commands"])
