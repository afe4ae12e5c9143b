"""Whether Ray's control service, the GCS, is there. Tune's loop cannot tell: it waits for an answer without end."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

import ray

logger = logging.getLogger(__name__)

PERIOD_S = 5.0  # between two looks
SILENCE_S = 15.0  # without an answer before it is said
_watched: set[str] = set()


def watch_control_service() -> None:
    """Makes a thread say so when the GCS of the cluster that this process is on goes away. Called again, does nothing.

    Ray itself ends the process when a minute has passed, or as long as ``RAY_gcs_rpc_server_reconnect_timeout_s`` says.
    """
    if not ray.is_initialized():
        return
    try:
        address = str(ray.get_runtime_context().gcs_address)
    except Exception:  # a client of a cluster far away (ray://) has none
        return
    if address not in _watched:
        _watched.add(address)
        thread = threading.Thread(target=_watch, args=[address], name="mixopt-pulse", daemon=True)
        thread.start()


def _watch(address: str) -> None:
    watch(address, ray.is_initialized)
    _watched.discard(address)


def watch(address: str, wanted: Callable[[], bool]) -> None:
    """Says when a service stops to answer, and when it answers again.

    Args:
        address: of the service, ``host:port``.
        wanted: asked before each look; ends the watch.
    """
    last, told = time.monotonic(), False
    while wanted():
        if _answers(address):
            if told:
                logger.warning("Ray's control service (GCS) at %s answers again.", address)
            last, told = time.monotonic(), False
        elif not told and time.monotonic() - last > SILENCE_S and wanted():
            told = True
            logger.error(
                "Ray's control service (GCS) at %s has not answered for %.0f s: it was killed, or its node is gone. "
                "The search stands still. Unless the service comes back, Ray ends this process, by default a minute "
                "after the loss; ray_mixopt.restore then goes on, on a new cluster.",
                address,
                time.monotonic() - last,
            )
        time.sleep(PERIOD_S)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PERIOD_S):
            return True
    except (OSError, ValueError):
        return False
