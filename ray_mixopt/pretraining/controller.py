"""The controller of a group of Ray Train workers, which a trial needs to end its group at once.

Ray's public interface does not give it out. All that this package takes from ``ray.train.v2._internal`` stands here: a
callback that runs as the controller starts. In a Ray that has it no more, the controller announces itself with its
first report instead, which the public interface allows. A group that is to end before that ends with the process of its
trial, so that processes must not go on to other trials then.
"""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.util.queue import Queue

CONTROLLER = "controller"
"""Marks the message that holds the controller."""

_Callback: Any = None
with contextlib.suppress(ImportError):  # in a later Ray private modules may lie elsewhere
    from ray.train.v2._internal.execution.callback import ControllerCallback as _Callback

ANNOUNCES_AT_START = hasattr(_Callback, "after_controller_start")
"""Whether a controller is known before its first report."""


def announce(queue: Queue) -> None:
    """Puts the controller that this is called in into a queue."""
    queue.put((CONTROLLER, ray.get_runtime_context().current_actor))


def announcing_at_start(queue: Queue) -> list[Any]:
    """Callbacks for ``RunConfig`` that announce the controller as it starts; none where Ray has no such callbacks."""
    return [_announcer(queue)] if ANNOUNCES_AT_START else []


def _announcer(queue: Queue) -> Any:
    class Announcer(_Callback):
        """Tells of the controller that it runs in."""

        def after_controller_start(self, train_run_context: Any) -> None:
            """Tells of it."""
            announce(queue)

    return Announcer()
