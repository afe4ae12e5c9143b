"""A search outlives the loss of a node and of its driver. Takes minutes: set MIXOPT_SLOW_TESTS=1 to run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster
from runs import tiny_search

from ray_mixopt import MixOptSearcher
from ray_mixopt.pretraining.search import search

pytestmark = pytest.mark.slow

QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}


def test_a_node_is_lost(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    settings = tiny_search(
        small,
        tmp_path,
        steps=[2, 300],
        checkpoint_every=20,
        max_repetition_ratio=1e9,
        search={"strategy": "random", "budget": 1, "concurrency": 1},
    )
    ray.shutdown()  # that of other tests
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "resources": {"mixopt_driver": 10}})
    first, _ = (nodes.add_node(num_cpus=1) for _ in range(2))  # one worker of the group on each
    lost: list[int] = []

    def watch(optimizer: Any) -> None:
        if optimizer.history.arrivals and not lost:
            lost.append(1)
            nodes.add_node(num_cpus=1)
            nodes.remove_node(first, allow_graceful=False)

    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    try:
        outcome = search(settings, watch)
        assert lost and outcome.errors == () and not outcome.interrupted
        (run,) = outcome.searcher.optimizer.history
        assert sorted(run.observations) == [2, 300]
        deadline = time.monotonic() + 30
        while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ray.available_resources()["CPU"] == 2
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_the_driver_is_stopped(small: Path, tmp_path: Path, number: signal.Signals) -> None:
    settings = tiny_search(small, tmp_path / "results", search={"budget": 1.5, "concurrency": 2})
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_none=True))))
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **QUICK, "PYTHONPATH": path}

    def start(*options: str) -> subprocess.Popen[str]:
        code = "from ray_mixopt.cli.main import main; main()"
        arguments = [sys.executable, "-c", code, "pretrain", str(tmp_path / "search.yaml"), "--json", *options]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)

    driver = start()
    experiment = tmp_path / "results" / "pretrain"
    deadline = time.monotonic() + 400
    while seen(experiment) < 3:
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.5)
    listed = subprocess.run(["ps", "-Aww", "-o", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    own = [line for line in listed.splitlines() if line.split()[0] == str(driver.pid)]
    (dashboard,) = (line for line in own if "dashboard/dashboard.py" in line)
    assert "--disable-frontend" in dashboard  # which counts usage only, and has no processes of its own
    driver.send_signal(number)
    output, errors = driver.communicate(timeout=120)
    if number == signal.SIGINT:
        assert driver.returncode == 130, errors[-3000:]
        assert json.loads(output)["interrupted"]
        assert f"Go on with: ray-mixopt pretrain {tmp_path / 'search.yaml'} --resume" in errors
    before = {run.trial_id for run in MixOptSearcher.load(experiment).optimizer.history}
    output, errors = (driver := start("--resume")).communicate(timeout=500)
    assert driver.returncode == 0, errors[-3000:]
    assert "; best so far: " in errors  # the resumed search is shown as it goes on, too
    answer = json.loads(output)
    assert not answer["interrupted"] and 1.0 < answer["recommendation"]["target_runs"] <= 1.5
    history = MixOptSearcher.load(experiment).optimizer.history
    assert before <= {run.trial_id for run in history}
    assert all(run.status in ("done", "paused") and run.observations for run in history)


def seen(experiment: Path) -> int:
    """Reports that the searcher of a running experiment has saved."""
    try:
        return len(MixOptSearcher.load(experiment).optimizer.history.arrivals)
    except (ValueError, OSError):
        return 0
