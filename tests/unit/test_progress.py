"""Whoever listens hears of the work that begins meanwhile, in its own context alone."""

import logging
import threading

import pytest

from pipeline_lib import progress as module
from pipeline_lib.progress import Progress, listening


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.0)


def test_a_listener_hears_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "whyscore.progress")
    heard = []
    before = Progress("before", 1)
    with listening(lambda progress, line: heard.append((progress.what, progress.done, line))):
        during = Progress("during", 2)
        during.advance(note="loss 1")
        before.advance()
    during.advance()
    Progress("after", 1).advance()
    assert [(what, done) for what, done, _ in heard] == [("during", 1), ("during", 2)]
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("during")] == [line for _, _, line in heard]
    assert heard[0][2].endswith("(loss 1)")


def test_two_threads_hear_their_own_work() -> None:
    heard: dict[str, list[str]] = {"a": [], "b": []}
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with listening(lambda progress, line: heard[name].append(progress.what)):
            both.wait()
            Progress(name, 1).advance()

    threads = [threading.Thread(target=work, args=(name,)) for name in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"a": ["a"], "b": ["b"]}
