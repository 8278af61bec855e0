"""What the process that waits makes of what the training processes say, and of how they end."""

import json
import logging
import subprocess
import sys

import pytest
import torch

from pipeline_lib.config.base import Runtime
from pipeline_lib.errors import DataError, ModelError
from pipeline_lib.progress import Progress, listening
from pipeline_lib.train import launch
from pipeline_lib.train.process import EVENT

SUMMARY = """
Failures:
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : {other} (pid: 12)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : {first} (pid: 11)
"""


def said(**event: object) -> str:
    return f"{EVENT}{json.dumps(event)}\n"


def test_log_records_and_progress_are_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[tuple[str, int, int, str]] = []
    with caplog.at_level(logging.INFO), listening(lambda counter, line: shown.append(_of(counter, line))):
        relay = launch._Relay()
        relay.take(said(logger="whyscore.train", level=logging.WARNING, message="100 % of it"))
        for done in (1, 5):
            curves = {"loss": [[done, done / 2]], "reward": [[done, float("nan")]]}
            relay.take(said(what="a", total=5, unit="steps", done=done, line=f"a: {done}/5", curves=curves))
    assert caplog.record_tuples == [("whyscore.train", logging.WARNING, "100 % of it")]
    assert shown == [("a", 1, 5, "a: 1/5"), ("a", 5, 5, "a: 5/5")] and len(relay.progress) == 1
    assert relay.progress["a"].curves["loss"] == [(1, 0.5), (5, 2.5)] and len(relay.progress["a"].curves["reward"]) == 2


def _of(progress: Progress, line: str) -> tuple[str, int, int, str]:
    return progress.what, progress.done, progress.total, line


def test_the_first_error_counts_and_other_lines_are_kept() -> None:
    relay = launch._Relay()
    for line in (said(error="DataError", message="one"), said(error="ModelError", message="two"), f"{EVENT}torn", "x"):
        relay.take(line)
    assert type(relay.error) is DataError and str(relay.error) == "one"
    assert list(relay.others) == [f"{EVENT}torn", "x"]


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        ("-9", "-15", "killed by signal 9"),
        ("1", "-9", "killed by signal 9"),  # the one that noticed ended before the launcher looked
        ("-15", "1", "killed by signal 15"),
        ("1", "-15", "failed.*In process 0: ValueError"),
    ],
)
def test_how_they_ended(first: str, other: str, message: str) -> None:
    relay = launch._Relay()
    for line in SUMMARY.format(first=first, other=other).splitlines():
        relay.take(line)
    relay.take(said(crash="In process 0: ValueError"))
    with pytest.raises(Exception, match=f"(?s)training: .*{message}"):
        raise launch._failure("training", relay)


@pytest.mark.parametrize("runtime", [{"device": "mps"}, {"device": "cpu", "fsdp": True}])
def test_a_device_that_cannot_be_several_is_refused(runtime: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="is not possible on device"):
        launch._device(Runtime.model_validate({"training_processes": 2} | runtime))
    assert launch._device(Runtime(training_processes=2, device="cpu")) == "cpu"


def test_a_device_with_a_number_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cpu:0 names one GPU.* CUDA_VISIBLE_DEVICES"):
        launch._device(Runtime(training_processes=2, device="cpu:0"))


def test_too_few_gpus_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModelError, match=r"training_processes.* 2 .* 1 GPU"):
        launch._device(Runtime(training_processes=2, device="cuda"))


WAITS = "import threading, time\nfrom pipeline_lib.train.process import _watch\n"
WAITS += "asked = threading.Event()\nthreading.Thread(target=_watch, args=[asked], daemon=True).start()\n"
WAITS += "asked.wait()\nprint('asked', flush=True)\ntime.sleep(60)\n"


def test_a_process_hears_the_request_and_ends_with_the_one_that_waits() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    launch._ask_to_stop(process.stdin.fileno())
    assert process.stdout.readline() == b"asked\n" and process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=20) == 1
