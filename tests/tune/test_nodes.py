"""Three nodes, one of which dies while trials run, and another joins. Takes a minute: set MIXOPT_SLOW_TESTS=1."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import node_driver
import pytest

from ray_mixopt.core.history import History
from ray_mixopt.testing import check_history

BUDGET = 600  # long enough for the newcomer to start


@pytest.mark.slow
def test_a_node_dies_and_another_joins(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, node_driver.__file__, str(tmp_path), str(BUDGET)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    request.addfinalizer(driver.kill)
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err[-3000:]
    end = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    history = History.from_state_dict(end["history"])
    check_history(history, budget=BUDGET)
    assert end["errors"] == [] and end["killed"] and end["joined"]
    assert all(run.status == "done" and run.reached == run.steps for run in history)
    assert BUDGET - 10 < history.spent <= BUDGET
    # The killed node's trials went on elsewhere, and the newcomer got some.
    nodes = [node for _, _, node in end["reports"]]
    last = max(place for place, node in enumerate(nodes) if node == end["killed"])
    assert end["killed"] not in nodes[last + 1 :] and end["joined"] in nodes[last + 1 :]
    assert len(set(nodes)) == 3
