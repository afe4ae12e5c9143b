"""A search on a cluster that grows for its trials and shrinks when it is idle; prints what happens, with the seconds.

The autoscaler is Ray's own, as under `ray up`, but its nodes are raylets on this machine (provider "fake_multinode").
The head has no CPUs, each other node has one; the larger of the two scales trains on two of them.

    ray-mixopt prepare data/demo --demo
    python experiments/pretraining/autoscaling.py data/demo [--autoscaler v2]

With version 2 of the autoscaler, which alone starts nodes for labels, there are two kinds of nodes, and the smaller
scale asks for spot ones. It fails unless the cluster has grown from the head alone, and is the head alone in the end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import ray
import yaml

from ray_mixopt.pretraining.config import PretrainConfig
from ray_mixopt.pretraining.search import DRIVER_NODE, final_run, search

MOST = 3  # workers
WAIT = 300  # seconds for the cluster to come up, and to shrink
MARKET = "ray.io/market-type"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD = "f" * 51 + "0" * 5  # how the provider calls the head
_EMPTY = {"auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False}
_NOTHING = (
    "initialization_commands setup_commands head_setup_commands worker_setup_commands head_start_ray_commands "
    "worker_start_ray_commands cluster_synced_files rsync_exclude rsync_filter"
)


def autoscaling(address: str, version: str) -> dict[str, Any]:
    """The autoscaler's configuration."""
    worker = {
        "resources": {"CPU": 1, "object_store_memory": 100_000_000},
        "node_config": {},
        "min_workers": 0,
        "max_workers": MOST,
    }
    workers = {"worker": worker}
    if version == "v2":
        workers = {market: worker | {"labels": {MARKET: market}} for market in ("on-demand", "spot")}
    new = {"launch_multiple": True, "head_node_id": HEAD, "type": "external", "module": PROVIDER}
    return {
        "cluster_name": "fake_multinode",
        "max_workers": MOST,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            **(new if version == "v2" else {}),  # whose default settings the package of Ray lacks
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **workers,
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.25,
        **_EMPTY,
        **{name: [] for name in _NOTHING.split()},
    }


class Log:
    """Lines with the seconds since the beginning."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        """Writes a line."""
        click.echo(f"{time.monotonic() - self._start:7.1f} s  {text}")


def watch_nodes(log: Log, ended: threading.Event, seen: list[int]) -> None:
    """Logs every change of the number of workers, and what they are busy with."""
    while not ended.wait(0.5):
        alive = [node for node in ray.nodes() if node["Alive"]]
        n_workers = len(alive) - 1
        if n_workers != seen[-1]:
            busy = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
            markets = Counter(node["Labels"][MARKET] for node in alive if MARKET in node["Labels"])
            kinds = f" ({', '.join(f'{n} {market}' for market, n in sorted(markets.items()))})" if markets else ""
            log(f"nodes: the head and {n_workers} workers{kinds}, {busy:g} CPUs busy")
            seen.append(n_workers)


def wait_for(condition: Any, what: str) -> None:
    """Ends the script with a sentence if the condition does not come true."""
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"After {WAIT} seconds: {what}.")
        time.sleep(0.5)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--autoscaler", "version", type=click.Choice(["v1", "v2"]), default="v1", show_default=True)
def main(data: Path, version: str) -> None:
    """Searches over the shards in DATA."""
    log, folder = Log(), tempfile.TemporaryDirectory()
    log(f"Ray {ray.__version__}, autoscaler {version}")
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    config_file = Path(folder.name, "autoscaling.yaml")
    config_file.write_text(yaml.safe_dump(autoscaling(address, version)))
    os.environ["RAY_AUTH_MODE"] = "disabled"  # of a cluster that nobody else can reach
    new = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    labels = {"labels": {MARKET: "spot"}} if version == "v2" else {}
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", f"--port={address.split(':')[1]}", "--num-cpus=0"]
        + [f'--resources={{"{DRIVER_NODE}": 1000}}', f"--autoscaling-config={config_file}"]
        + ["--include-dashboard=false", "--disable-usage-stats"],
        env={**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        | (new if version == "v2" else {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = PretrainConfig.model_validate(
        {
            "name": "autoscaling",
            "data": data.resolve(),
            "storage": folder.name,
            "scales": [
                {"name": "nano", "resources": {"workers": 1, **labels}},
                {"name": "micro", "resources": {"workers": 2}},
            ],
            "steps": [10, 20],
            "sequence_length": 128,
            "batch_tokens": 2048,
            "validation_tokens": 1024,
            "cluster": {"CPU": MOST},
            "search": {"budget": 1.5},
        }
    )
    try:
        wait_for(lambda: _connected(address), "the head did not start")
        log("the head is up")
        seen, ended = [0], threading.Event()
        observer = threading.Thread(target=watch_nodes, args=(log, ended, seen))
        observer.start()
        reported: set[tuple[str, int]] = set()

        def watch(optimizer: Any) -> None:
            for trial_id, step in optimizer.history.arrivals:
                if (trial_id, step) not in reported:
                    reported.add((trial_id, step))
                    trial = optimizer.history[trial_id]
                    log(f"run {trial_id}: {trial.scale} reached step {step} of {trial.steps}")

        outcome = search(settings, watch)
        recommendation = outcome.searcher.recommend()
        runs = Counter(trial.scale for trial in outcome.searcher.optimizer.history)
        log(f"the search has ended: {dict(runs)} runs, {len(outcome.errors)} failed")
        wait_for(lambda: seen[-1] == 0, "the idle workers are still there")
        log("idle, and shrunk to the head alone")
        for report in final_run(settings, recommendation.mixture):
            log(f"final run: micro reached step {report['step']}, mean loss of training {report['train_loss']:.3f}")
        wait_for(lambda: seen[-1] == 0, "the idle workers are still there")
        log(f"idle, and shrunk to the head alone; most workers at a time: {max(seen)}")
        ended.set()
        observer.join()
        ray.shutdown()
        if outcome.errors or max(seen) < 2:
            sys.exit("It did not grow as it should, or runs failed.")
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        folder.cleanup()


def _connected(address: str) -> bool:
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False)
    except ConnectionError:
        return False
    return True


if __name__ == "__main__":
    main()
