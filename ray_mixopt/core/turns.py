"""How methods are entered: threads that share an object take turns, and PyTorch's modes stay outside."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Turn:
    """A lock that its holder may take again. A pickled or copied one is another, which nobody holds."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turn, ()


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function work with gradients whatever the caller's mode is, ``no_grad`` or ``inference_mode``.

    Hyper-parameters are fitted by gradients, and what is made in inference mode could never be part of one later.
    """

    @functools.wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        torch: Any = sys.modules.get("torch")  # slow to load, and not in a mode before
        if torch is None or (torch.is_grad_enabled() and not torch.is_inference_mode_enabled()):
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return outside


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Makes PyTorch work on one thread while a function runs, and on as many as before once it is over.

    Where matrices are small, threads wait for each other most of the time; and sums have one order on any machine.
    """

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        torch: Any = sys.modules["torch"]
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return alone


def in_turn(*names: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Makes a method hold some of its object's turns, attributes of these names, while it runs.

    Two threads that take the same turns in different orders may wait for each other for ever: there must be one order.
    """

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def alone(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
            with ExitStack() as held:
                for name in names:
                    held.enter_context(getattr(self, name))
                return method(self, *args, **kwargs)

        return alone

    return decorate
