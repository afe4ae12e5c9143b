"""Groups of workers: on the nodes with the labels that they ask for, and ended even where Ray has changed inside."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from runs import tiny_search
from small_ray import all_given_back, start_ray

from ray_mixopt.pretraining import controller, group
from ray_mixopt.pretraining.group import TrainingGroup
from ray_mixopt.pretraining.search import cluster, search
from ray_mixopt.pretraining.training.settings import Resources

MARKET = "ray.io/market-type"


def free_cpus() -> dict[str, float]:
    """By the market of a node; what there is none of is left out by Ray."""
    free = ray._private.state.available_resources_per_node()
    markets = {node["NodeID"]: node["Labels"][MARKET] for node in ray.nodes()}
    return {markets[name]: amounts.get("CPU", 0.0) for name, amounts in free.items()}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, [True, True, True]),
        ({"market": "spot"}, [True, False, False]),
        ({"market": "!spot"}, [False, True, True]),
        ({"market": "in(spot, on-demand)"}, [True, True, False]),
        ({"market": "!in(spot,on-demand)"}, [False, False, True]),
        ({"market": "spot", "accelerator": "H100"}, [False, False, False]),
    ],
)
def test_labels_are_read_as_selectors_of_ray(labels: dict[str, str], expected: list[bool]) -> None:
    nodes = [{"market": "spot", "accelerator": "A100"}, {"market": "on-demand", "accelerator": "H100"}, {}]
    assert [Resources(labels=labels).may_use(node) for node in nodes] == expected


@pytest.mark.slow
def test_workers_are_on_nodes_with_their_labels(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")  # a busy machine takes more than half a minute
    ray.shutdown()  # that of other tests
    head = {"num_cpus": 2, "labels": {MARKET: "on-demand"}, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={**head, "resources": {"mixopt_driver": 10}})
    nodes.add_node(num_cpus=2, labels={MARKET: "spot"})
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    try:
        wanted = Resources(workers=2, labels={MARKET: "spot"})
        settings = tiny_search(small, tmp_path, scales=[{"name": "nano", "resources": wanted}], steps=[2])
        with cluster() as (known, _):
            assert [wanted.may_use(node.labels) for node in known].count(True) == 1 and len(known) == 2
        run = settings.run({"a": 0.5, "b": 0.5}, "nano", 2)
        made = TrainingGroup(run, name="labelled", storage=str(tmp_path), resources=wanted, retries=0)
        busy = set()
        while made._thread.is_alive():
            busy |= {name for name, free in free_cpus().items() if free < 2}
        assert made.next_report()["step"] == 2
        made.join()
        assert busy == {"spot"}
        nowhere = wanted.model_copy(update={"labels": {MARKET: "reserved"}})
        scale = settings.scales[0].model_copy(update={"resources": nowhere})
        with pytest.raises(ValueError, match="and the labels {'ray.io/market-type': 'reserved'} each, the cluster has"):
            search(settings.model_copy(update={"scales": [scale]}))
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_a_group_ends_early_also_where_ray_announces_no_controller(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (controller, group):
        monkeypatch.setattr(module, "ANNOUNCES_AT_START", False)
    start_ray("ray_mixopt.pretraining.trainable", "ray_mixopt.pretraining.training.train")
    settings = tiny_search(small, tmp_path, steps=[2, 100_000], max_repetition_ratio=1e9)
    run = settings.run({"a": 0.5, "b": 0.5}, "S", 100_000)
    made = TrainingGroup(run, name="unannounced", storage=str(tmp_path), resources=Resources())
    assert made.next_report()["step"] == 2
    made.abort()
    assert all_given_back()
