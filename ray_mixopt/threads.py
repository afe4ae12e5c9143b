"""Threads of the linear algebra."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_before: list[int] = []  # how many there were whenever someone asked for one, oldest first


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, unless ``OMP_NUM_THREADS`` says how many; also a decorator.

    The matrices of the surrogate are small. Where trials keep all cores busy, threads wait for each other, and what
    takes a second with one takes ten with two. One thread also rounds the same on every machine of a kind.

    The number is that of the process: of several that overlap, the last to leave restores it.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    import torch

    with _lock:
        _before.append(torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            if len(_before) == 1:
                torch.set_num_threads(_before[0])
                _before.clear()
            else:
                _before.pop()
