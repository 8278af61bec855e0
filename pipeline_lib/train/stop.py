"""SIGTERM as a request, so that a training ends with a checkpoint instead of in the middle of a step."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("whyscore.train")


@contextmanager
def on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Within it, SIGTERM calls `stop` and nothing else; in a thread that is not the main one it stays as it was."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        log.warning("asked to stop: finishing the running step, then writing a checkpoint")
        stop()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
