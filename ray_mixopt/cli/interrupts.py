"""Ctrl-C: it ends a command quietly, with 130, at any moment, and in order where there is something to keep.

Libraries take seconds to load, and some of them catch whatever comes up meanwhile, so that a KeyboardInterrupt would be
lost in them or end in their traceback. So a command that is still loading ends on the spot, and one that has begun
waits until the library is there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the shell's exit code of a program that Ctrl-C ended
NOT_BEGUN = "the search had not begun, and nothing is lost: give the same command again."
_LOADERS = "<frozen importlib"  # file names of the code that imports
_AGAIN = 0.05  # seconds until a Ctrl-C that came while a library was loading is heeded


def listen() -> None:
    """From now on Ctrl-C ends this program on the spot while it imports, and is a KeyboardInterrupt otherwise.

    Where Ctrl-C is ignored, as in what a shell runs in the background, it stays so.
    """
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once)


def quietly() -> None:
    """From now on Ctrl-C ends this program on the spot: all is done, and nothing is left to say."""
    if signal.getsignal(signal.SIGINT) is _at_once:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))


@contextmanager
def in_order() -> Iterator[None]:
    """In this context Ctrl-C is a KeyboardInterrupt, which comes when no library is being loaded."""
    if signal.getsignal(signal.SIGINT) is not _at_once:
        yield
        return
    signal.signal(signal.SIGINT, _between_imports)
    alarm = signal.signal(signal.SIGALRM, _between_imports)
    try:
        yield
    finally:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, _at_once)
        if left:
            raise KeyboardInterrupt


@contextmanager
def resumable(how: str | Callable[[], str]) -> Iterator[None]:
    """Ctrl-C comes in order, and is followed by a sentence that says how to go on, or a function that knows by then."""
    try:
        with in_order():
            yield
    except KeyboardInterrupt:
        print(f"Interrupted: {how if isinstance(how, str) else how()}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _at_once(number: int, frame: FrameType | None) -> None:
    if not _importing(frame):
        raise KeyboardInterrupt
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)


def _between_imports(number: int, frame: FrameType | None) -> None:
    if not _importing(frame):
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _importing(frame: FrameType | None) -> bool:
    """Whether that frame is one of a module that is being loaded."""
    while frame is not None and not frame.f_code.co_filename.startswith(_LOADERS):
        frame = frame.f_back
    return frame is not None
