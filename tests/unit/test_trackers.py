"""Calls to a tracker beside the work: in order, made again, given up, and never raised."""

import logging
import threading
import time

import pytest

from pipeline_lib.trackers import background as module
from pipeline_lib.trackers.background import Background


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)


def test_a_call_that_fails_is_made_again_before_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "whyscore.trackers")
    made: list[str] = []

    def first() -> None:
        made.append("first")
        if len(made) < 4:
            raise OSError("http://user:secret@host refused")

    thread = Background("mlflow")
    thread.submit(first)
    thread.submit(lambda: made.append("second"))
    while len(made) < 5:
        time.sleep(0.01)
    assert thread.close() and made == ["first"] * 4 + ["second"]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1 and "secret" not in warned[0] and "refused" in warned[0]


def test_at_the_end_one_failure_is_enough_and_what_is_missing_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def failing(which: int) -> None:
        tried.append(which)
        raise OSError

    thread = Background("mlflow")
    block = threading.Event()
    thread.submit(lambda: block.wait(10) and None)
    for which in range(5):
        thread.submit(lambda which=which: failing(which))  # type: ignore[misc]
    threading.Timer(0.1, block.set).start()
    begun = time.monotonic()
    assert not thread.close() and time.monotonic() - begun < 5
    assert tried == [0] and "5 update(s)" in caplog.text
    made: list[str] = []
    thread.submit(lambda: made.append("later"))
    assert thread.close() and made == ["later"]


def test_a_call_that_hangs_does_not_keep_the_run(caplog: pytest.LogCaptureFixture) -> None:
    thread = Background("mlflow")
    thread.submit(lambda: time.sleep(60))
    begun = time.monotonic()
    assert not thread.close(0.1) and time.monotonic() - begun < 2
    assert "1 update(s)" in caplog.text


def test_a_call_that_always_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIES", 3)
    tried: list[int] = []

    def failing() -> None:
        tried.append(1)
        raise ValueError("always")

    thread = Background("mlflow")
    made: list[str] = []
    thread.submit(failing)
    thread.submit(lambda: made.append("next"))
    while not made:
        time.sleep(0.01)
    assert len(tried) == 3 and not thread.close()
