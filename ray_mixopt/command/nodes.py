"""A run on several nodes, and the room that runs find in a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_mixopt.command.process import CommandError, Process
from ray_mixopt.command.run import Fill, Processes, free_port, start_here, start_process
from ray_mixopt.command.settings import Command, Needs

_LATE_SECONDS = 30.0  # after the grace, before a node is taken to be gone


def placement(needs: Needs) -> tune.PlacementGroupFactory:
    """What a trial asks of Ray: one bundle a node, each on a node of its own."""
    labels = {"bundle_label_selector": [dict(needs.labels)] * needs.nodes} if needs.labels else {}
    strategy = "STRICT_SPREAD" if needs.nodes > 1 else "PACK"
    return tune.PlacementGroupFactory([needs.each] * needs.nodes, strategy, **labels)


def fitting(needs: Needs, nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many such runs find room at a time.

    Args:
        needs: of a run.
        nodes: as ``ray.nodes`` lists them.
    """
    free = [
        min(int(node["Resources"].get(kind, 0.0) / amount) for kind, amount in needs.each.items())
        for node in nodes
        if node["Alive"] and all(node.get("Labels", {}).get(name) == value for name, value in needs.labels.items())
    ]
    runs = 0
    while sum(room > 0 for room in free) >= needs.nodes:  # each run takes one of the roomiest nodes
        free.sort(reverse=True)
        free[: needs.nodes] = [room - 1 for room in free[: needs.nodes]]
        runs += 1
    return runs


class NodeProcess:
    """The process of one node but the first; an actor there.

    Args:
        command: trains the run.
        arguments: for that node.
        log: for that node.
    """

    def __init__(self, command: Command, arguments: Sequence[str], log: Path) -> None:
        self._process: Process = start_process(command, arguments, log)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Ends it."""
        return self._process.stop()


class NodeGroup:
    """A command that was started once on each node of a trial's placement group; from inside the trial.

    All of it ends as soon as one node's process fails, or has ended on node 0.

    Args:
        command: trains the run.
        fill: gives the arguments of a node.
        log: gives the log of a node.
        nodes: how many.

    Raises:
        CommandError: if it does not start.
        RayActorError: if a node is lost.
    """

    def __init__(self, command: Command, fill: Fill, log: Callable[[int], Path], nodes: int) -> None:
        self._patience = command.grace_seconds + _LATE_SECONDS
        shared = {"nodes": nodes, "address": get_node_ip_address(), "port": free_port()}
        here = get_current_placement_group()
        assert here is not None
        needs = here.bundle_specs[1]
        self._others: list[Any] = []
        self._first = start_process(command, fill({"node": 0, **shared}), log(0))
        try:
            for node in range(1, nodes):
                actor = ray.remote(NodeProcess).options(
                    num_cpus=needs.get("CPU", 0),
                    num_gpus=needs.get("GPU", 0),
                    scheduling_strategy=PlacementGroupSchedulingStrategy(here, placement_group_bundle_index=node),
                )
                self._others.append(actor.remote(command, fill({"node": node, **shared}), log(node)))
            self.poll()
        except BaseException:
            self.stop()
            raise

    def poll(self) -> int | None:
        """The exit code of node 0, or the first that is none of success; None while all run."""
        code = self._first.poll()
        if code is not None:
            return code
        try:
            codes = ray.get([actor.poll.remote() for actor in self._others])
        except RayActorError as error:
            if isinstance(error.__cause__, CommandError):
                raise error.__cause__ from error
            raise
        return next((code for code in codes if code), None)

    def stop(self) -> int:
        """Ends it on all nodes."""
        ended = [actor.stop.remote() for actor in self._others]
        code = self._first.stop()
        codes = [code]
        with contextlib.suppress(Exception):  # a node that is lost
            codes += ray.get(ended, timeout=self._patience)
        for actor in self._others:
            ray.kill(actor)
        return next((one for one in codes if one), code)


def start_on_nodes(command: Command, fill: Fill, log: Callable[[int], Path], scale: str) -> Processes:
    """Starts a command on the nodes that the trial has."""
    nodes = command.needs(scale).nodes
    return start_here(command, fill, log) if nodes == 1 else NodeGroup(command, fill, log, nodes)
