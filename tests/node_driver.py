"""A search on three nodes of which one dies and another joins: ``node_driver.py FOLDER BUDGET``, in its own process.

Prints a JSON line: the history, errors, and on which nodes trials ran before and after.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from curve import Curve, curve_tuner
from ladder import LadderStrategy
from ray import tune
from ray.cluster_utils import Cluster
from ray.tune.experiment import Trial

from ray_mixopt import MixOptSearcher

HEALTH = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 2000, "health_check_failure_threshold": 6}


class OnNode(Curve):
    """Takes a moment, and says where it runs."""

    def step(self) -> dict[str, Any]:
        time.sleep(0.5)
        return super().step() | {"node": ray.get_runtime_context().get_node_id()}


class Shake(tune.Callback):
    """After some reports from a node, kills it and lets another join."""

    def __init__(self, cluster: Cluster, victims: dict[str, Any], joins: threading.Event) -> None:
        self.cluster, self.victims, self.joins = cluster, victims, joins
        self.reports: list[tuple[str, int, str]] = []
        self.killed = ""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles callbacks; a copy has nothing to do

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.reports.append((trial.trial_id, result["step"], result["node"]))
        here = [node for _, _, node in self.reports]
        if not self.killed and len(set(here)) == 2 and len(here) >= 5:
            self.killed = here[-1]
            # Its trials are in the middle of a step.
            self.cluster.remove_node(self.victims[self.killed], allow_graceful=False)
            self.joins.set()


def main(folder: str, budget: str) -> None:
    cluster = Cluster()
    config = {"_system_config": HEALTH, "num_cpus": 0, "include_dashboard": False}
    cluster.add_node(**config)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    joins = threading.Event()
    shake = Shake(cluster, {node.node_id: node for node in nodes}, joins)
    searcher = MixOptSearcher(strategy=LadderStrategy, budget=float(budget), seed=5)
    tuner = curve_tuner(
        Path(folder),
        searcher,
        None,
        OnNode,
        callbacks=[shake],
        max_failures=3,
        num_samples=-1,
        max_concurrent_trials=4,
    )
    outcome: dict[str, Any] = {}

    def fit() -> None:
        results = tuner.fit()
        outcome["errors"] = [str(error) for error in results.errors]

    search = threading.Thread(target=fit)
    search.start()
    while search.is_alive() and not joins.wait(0.2):
        pass
    joined = cluster.add_node(num_cpus=2).node_id if joins.is_set() else ""  # only in the main thread
    search.join()
    history = searcher.optimizer.history
    ray.shutdown()
    cluster.shutdown()
    print(
        json.dumps(
            outcome
            | {"history": history.state_dict(), "reports": shake.reports, "killed": shake.killed, "joined": joined}
        )
    )


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    main(*sys.argv[1:])
