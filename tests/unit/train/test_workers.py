"""Workers that open photographs ahead change nothing in a training, and end with it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.tiny import PROMPT, model_ref, open_picture, picture, preference_pairs, training
from pipeline_lib.train.job import SFT
from pipeline_lib.train.sft import train_sft
from pipeline_lib.train.workers import loader_arguments
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base
from tests.forked import ForkServer

CONFIG = Training(learning_rate=5e-3, lora_rank=4, batch_size=4, micro_batch_size=1, max_length=400)
AT = "steps/train_score/k"
SLOW_S = 0.2

OpenImage = Callable[[str, str], Image.Image]


def learn(model: Path, folder: Path, name: str, open_image: OpenImage, workers: int, pairs: int = 16) -> bytes:
    """Four steps of four passes with a checkpoint after each; returns the adapter."""
    vlm = load_base(model_ref(model), torch.device("cpu"))
    chat = render_chat(vlm.processor, PROMPT)
    given = training(
        model, ArtifactStore(str(folder / f"store-{name}")), AT, folder / name, CONFIG,
        loss=SFT(), decode_workers=workers,
    )  # fmt: skip
    log = train_sft(vlm, chat, preference_pairs(pairs, chat.prompt), open_image, **given)
    assert log.num_rows == pairs // 4
    return (folder / name / "adapter_model.safetensors").read_bytes()


def test_workers_change_no_byte_not_even_when_resumed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_in = multiprocessing.Queue()
    parent = os.getpid()

    def end() -> None:
        if os.getpid() != parent:
            raise RuntimeError("a thread of the parent, as Prefect has them, is not here")

    monkeypatch.setattr(threading, "_threading_atexits", [end])

    def noting(image: str, sha256: str) -> Image.Image:
        opened_in.put(os.getpid())
        return open_picture(image, sha256)

    plain = learn(tiny_model, tmp_path, "plain", noting, workers=0)
    assert {opened_in.get() for _ in range(16)} == {os.getpid()}
    assert learn(tiny_model, tmp_path, "workers", noting, workers=2) == plain
    where = {opened_in.get() for _ in range(17)}  # the first row is looked at when the trainer is built
    assert len(where - {os.getpid()}) == 2
    store = ArtifactStore(str(tmp_path / "store-workers"))
    for step in store.children(f"{AT}/checkpoints"):
        for file in Path(store.path(f"{AT}/checkpoints/{step}")).glob("*/optimizer.pt"):
            if step > "step-00000001":
                file.write_bytes(b"torn")
    assert learn(tiny_model, tmp_path, "workers", open_picture, workers=2) == plain
    assert not multiprocessing.active_children()


def test_an_error_of_a_worker_is_the_error(tiny_model: Path, tmp_path: Path) -> None:
    def changed(image: str, sha256: str) -> Image.Image:
        if image == "train-7.png":
            raise DataError(f"image {image} has changed;\n  put it back")
        return picture(image)

    with pytest.raises(DataError) as caught:
        learn(tiny_model, tmp_path, "a", changed, workers=2)
    assert str(caught.value) == "image train-7.png has changed;\n  put it back"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_is_left_by_a_process_group_that_is_stopped_or_killed(
    number: signal.Signals, tiny_model: Path, tmp_path: Path, forks: ForkServer
) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.train import test_workers as t\n"
        "t.learn(Path(sys.argv[1]), Path(sys.argv[2]), 'a', t.slow, workers=2, pairs=64)\n"
    )
    log = tmp_path / "log"
    process = forks.start("-c", code, tiny_model, tmp_path, log=log, session=True)
    try:
        workers = wait_for(lambda: two_workers(process.pid))
        time.sleep(1)  # into a step
        os.killpg(process.pid, number)
        process.wait()
    finally:
        process.kill()
    errors = log.read_text()
    if number == signal.SIGTERM:  # the step was finished, for which its photographs were needed
        assert "Interrupted: training stopped at step" in errors, errors
        assert ArtifactStore(str(tmp_path / "store-a")).children(f"{AT}/checkpoints")
    wait_for(lambda: not any(map(psutil.pid_exists, workers)))


def slow(image: str, sha256: str) -> Image.Image:
    time.sleep(SLOW_S)
    return open_picture(image, sha256)


def two_workers(pid: int) -> list[int]:
    own_group = [child.pid for child in psutil.Process(pid).children() if os.getpgid(child.pid) == child.pid]
    return own_group if len(own_group) == 2 else []


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited a minute for nothing")


def test_a_step_is_ready_ahead() -> None:
    assert loader_arguments(0, 32) == {"dataloader_num_workers": 0, "dataloader_prefetch_factor": None}
    assert loader_arguments(3, 32) == {"dataloader_num_workers": 3, "dataloader_prefetch_factor": 11}
    assert loader_arguments(4, 1)["dataloader_prefetch_factor"] == 2
