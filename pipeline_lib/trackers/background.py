"""Makes calls to a tracker beside the work, one after the other, so that a slow or absent server delays nothing."""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable

from pipeline_lib.addresses import without_secrets

log = logging.getLogger("whyscore.trackers")

AGAIN_S = 20.0
"""After a failure the same call is made again so much later."""

TRIES = 30
"""A call is given up after so many failures: ten minutes without a server."""

CLOSE_S = 30.0
"""A run waits so long at its end for what has not been sent; then it goes on, with a warning."""

Call = Callable[[], None]


class Background:
    """A daemon thread that makes calls in their order. A call that fails is made again; the thread never raises."""

    def __init__(self, what: str):
        self.what = what
        self.calls: queue.Queue[Call] = queue.Queue()
        self.lost = 0
        self._closing = threading.Event()
        self._away = self._given_up = False
        threading.Thread(target=self._work, name=f"whyscore-{what}", daemon=True).start()

    def submit(self, call: Call) -> None:
        """Make a call later; returns at once."""
        self.calls.put(call)

    def close(self, wait_s: float = CLOSE_S) -> bool:
        """Wait until all calls were made, at most `wait_s`; False, with a warning, when some were not.

        Calls can be submitted afterwards as before.
        """
        self._closing.set()
        until = time.monotonic() + wait_s
        while self.calls.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.02)
        missing = self.calls.unfinished_tasks + self.lost
        self._closing.clear()
        self._given_up = False
        if missing:
            log.warning("%s: %d update(s) are missing there; the run itself lacks nothing", self.what, missing)
        self.lost = 0
        return not missing

    def _work(self) -> None:
        while True:
            self._make(self.calls.get())
            self.calls.task_done()

    def _make(self, call: Call) -> None:
        for _ in range(TRIES):
            last = self._closing.is_set()
            if last and self._given_up:
                break
            try:
                call()
            except Exception as error:
                if not self._away:
                    self._away = True
                    said = without_secrets(str(error) or type(error).__name__).splitlines()[0][:160]
                    log.warning("%s cannot be reached, the run goes on: %s", self.what, said)
                if last:
                    self._given_up = True
                    break
                self._closing.wait(AGAIN_S)
            else:
                if self._away:
                    self._away = False
                    log.info("%s: reached again", self.what)
                return
        self.lost += 1


_all: dict[str, Background] = {}


def background(what: str) -> Background:
    """The thread of a purpose; it is closed at the end of the process."""
    if what not in _all:
        _all[what] = Background(what)
        atexit.register(_all[what].close)
    return _all[what]
