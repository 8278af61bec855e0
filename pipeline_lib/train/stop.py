"""SIGTERM as a request: training finishes its step and ends with a checkpoint."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("whyscore.train")


@contextmanager
def on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Within it, SIGTERM only calls `stop`; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        log.warning("SIGTERM: finishing the running step, then writing a checkpoint")
        stop()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
