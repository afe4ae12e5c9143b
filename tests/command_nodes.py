"""A search by a command on two nodes of a cluster, one of which is lost in the middle of its runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from node_driver import HEALTH
from ray.cluster_utils import Cluster

from ray_mixopt.command.search import CommandSearch
from ray_mixopt.command.settings import read_command
from ray_mixopt.core.settings import Settings
from ray_mixopt.io.space_file import read_space
from ray_mixopt.optimizer import MixtureOptimizer


def main(folder: str, *program: str) -> None:
    cluster = Cluster()
    cluster.add_node(_system_config=HEALTH, num_cpus=0, include_dashboard=False)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    known: list[int] = []

    def lose_one(optimizer: MixtureOptimizer) -> None:
        """Takes a node away that is full: four runs of one CPU fill both."""
        n = len(optimizer.history.arrivals)
        if not known and n >= 5 and ray.available_resources().get("CPU", 0.0) == 0.0:
            known.append(n)
            cluster.remove_node(nodes[0], allow_graceful=False)

    job = Path(folder)
    search = CommandSearch(
        command=read_command(job / "space.yaml", program, job),
        space=read_space(job / "space.yaml"),
        settings=Settings(objective={"val_loss": 1.0}, mode="min", budget=4000.0, seed=1),
        folder=job / "search",
        concurrency=4,
    )
    outcome = search.run(lose_one)
    history = outcome.searcher.optimizer.history.state_dict()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps({"errors": list(map(str, outcome.errors)), "known": known, "history": history}))


if __name__ == "__main__":
    main(*sys.argv[1:])
