"""The cluster templates against Ray's own validation and KubeRay's fields; nothing is started."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ray_mixopt.pretraining.training.settings import Resources

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "rayjob.yaml").read_text())


@pytest.fixture
def schema() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("rayjob.schema.json").read_text())


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
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0


def test_workers_have_gpus_and_scale_from_zero(config):
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert workers
    for node in workers:
        assert node["resources"]["GPU"] >= 1
        assert node["min_workers"] == 0 < node["max_workers"] <= config["max_workers"]


def test_workers_say_that_they_may_be_reclaimed(config, job):
    types = config["available_node_types"]
    (worker,) = (node for name, node in types.items() if name != config["head_node_type"])
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == worker["labels"]["ray.io/market-type"]
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert all(Resources(labels={"ray.io/market-type": "spot"}).may_use(group["labels"]) for group in groups)


def test_nobody_but_the_containers_user_enters_the_shared_folder(config):
    commands = config["initialization_commands"]
    (made,) = [command.split() for command in commands if "install -d" in command]
    mode, owner, place = made[made.index("-m") + 1], made[made.index("-o") + 1], made[-1]
    assert (mode, owner) == ("700", "1000")  # the user of Ray's images
    assert f"-v {place}:/shared" in config["docker"]["run_options"]
    assert not any("chmod" in command for command in commands)


def test_whoever_reaches_ray_needs_its_token(config, job):
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]  # of the head and the workers
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_images_and_packages_pin_the_same_ray(config):
    images = {config["docker"][key] for key in ("head_image", "worker_image")}
    versions = {image.split(":")[1].split("-")[0] for image in images}
    assert len(versions) == 1
    assert any(f"=={versions.pop()}" in command for command in config["setup_commands"])


def test_the_job_has_the_fields_of_kuberay(job, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(job, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "8"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "container"), []),
        (("shutdownAfterJobFinish",), True),
        (("rayClusterSpec", "authOptions", "mode"), "none"),
    ],
)
def test_mistakes_in_a_job_are_seen(job, schema, path, value):
    place = job["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)


def test_both_templates_describe_the_same_cluster(config, job):
    cluster = job["spec"]["rayClusterSpec"]
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    types = config["available_node_types"]
    assert json.loads(json.loads(head["rayStartParams"]["resources"])) == {
        "mixopt_driver": types["head"]["resources"]["mixopt_driver"]
    }
    assert f"=={cluster['rayVersion']}" in config["setup_commands"][0]
    (container,) = worker["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    resources = {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"])}
    assert resources == types["gpu_worker"]["resources"]
    assert worker["maxReplicas"] == types["gpu_worker"]["max_workers"]
    # What the page tells a search of the cluster.
    (shown,) = re.findall(r"^cluster: (\{.*?\})", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert yaml.safe_load(shown) == {kind: worker["maxReplicas"] * amount for kind, amount in resources.items()}
