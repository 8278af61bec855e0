"""Curves of trainings on a real MLflow server: each kind of training, a resumed one, and a server that goes away."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.tiny import (
    PROMPT,
    model_ref,
    open_picture,
    picture,
    preference_pairs,
    reference_of,
    training,
)
from pipeline_lib.trackers import background
from pipeline_lib.train.dpo import train_dpo
from pipeline_lib.train.job import SFT
from pipeline_lib.train.sft import train_sft
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base
from tests.trackers.conftest import MlflowServer, entries, points

CONFIG = Training(learning_rate=5e-3, lora_rank=4, batch_size=2, micro_batch_size=1, max_length=400)
STEPS = [1, 2, 3, 4]  # of two pairs each
Train = Callable[..., tuple[pa.Table, dict[str, bytes]]]


class Killed(BaseException):
    """Nothing catches it: what a kill leaves behind is in the store and on the server."""


def dying(at: int) -> Callable[[str, str], Image.Image]:
    opened = 0

    def open_image(image: str, sha256: str) -> Image.Image:
        nonlocal opened
        opened += 1
        if opened > at:
            raise Killed
        return picture(image)

    return open_image


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Train:
    """Train four steps by DPO or SFT; returns the log and the adapter's files."""

    def run(name: str, loss: str = "dpo", open_image: Any = open_picture, store: str = "", **options: Any) -> Any:
        vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
        chat = render_chat(vlm.processor, PROMPT)
        pairs = preference_pairs(8, chat.prompt)
        at = ArtifactStore(str(tmp_path / f"store-{store or name}"))
        config = CONFIG.model_copy(update={"epochs": options.pop("epochs", 1)})
        place: dict[str, Any] = {"run": "mine", "label": f"ite-1 {name}", "checkpoint_every": 2} | options
        if loss == "sft":
            given = training(tiny_model, at, "steps/train/k", tmp_path / name, config, loss=SFT(), **place)
            log = train_sft(vlm, chat, pairs, open_image, **given)
        else:
            given = training(tiny_model, at, "steps/train/k", tmp_path / name, config, **place)
            log = train_dpo(vlm, chat, pairs, open_image, reference_of(vlm, chat, pairs), **given)
        return log, {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}

    return run


@pytest.mark.parametrize("loss", ["dpo", "sft"])
def test_a_training_has_one_entry_with_its_curves_and_the_same_adapter(
    server: MlflowServer, train: Train, loss: str
) -> None:
    log, with_tracker = train("a", loss, trackers=("mlflow",))
    _, without = train("b", loss)
    assert with_tracker == without
    (entry,) = entries()
    assert entry.info.run_name == "mine ite-1 a" and entry.info.status == "FINISHED"
    assert points(entry.info.run_id, "loss") == list(zip(STEPS, log["loss"].to_pylist(), strict=True))
    assert [step for step, _ in points(entry.info.run_id, "learning_rate")] == STEPS
    assert entry.data.params["lora.lora_rank"] == "4" and entry.data.params["artifact"] == "steps/train/k"
    assert entry.data.params["loss.loss"] == loss


def test_a_resumed_training_continues_its_curve(server: MlflowServer, train: Train) -> None:
    longer: dict[str, Any] = {"epochs": 2, "checkpoint_every": 4, "trackers": ("mlflow",)}
    whole, adapter = train("whole", **longer)
    with pytest.raises(Killed):
        train("killed", open_image=dying(14), **longer)
    (killed,) = [entry for entry in entries() if entry.info.run_name == "mine ite-1 killed"]
    assert killed.info.status == "KILLED"
    assert [step for step, _ in points(killed.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]  # its checkpoint is of 4
    _, resumed = train("killed", **longer)
    assert resumed == adapter
    of_both = {entry.info.run_name: entry for entry in entries()}
    assert len(of_both) == len(entries()) == 2
    entry = of_both["mine ite-1 killed"]
    assert entry.info.status == "FINISHED" and entry.info.run_id == killed.info.run_id
    assert points(entry.info.run_id, "loss") == points(of_both["mine ite-1 whole"].info.run_id, "loss")
    assert [value for _, value in points(entry.info.run_id, "loss")] == whole["loss"].to_pylist()


def test_steps_that_were_not_sent_before_a_kill_come_with_the_resumed_training(
    server: MlflowServer, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.1)
    monkeypatch.setattr(background, "TRIES", 1)
    longer: dict[str, Any] = {"epochs": 2, "checkpoint_every": 4, "trackers": ("mlflow",)}
    server.stop()
    with pytest.raises(Killed):
        train("killed", open_image=dying(14), **longer)
    server.start()
    log, _ = train("killed", **longer)
    (entry,) = entries()
    assert points(entry.info.run_id, "loss") == list(zip(range(1, 9), log["loss"].to_pylist(), strict=True))


def test_a_server_that_goes_away_costs_no_training(
    server: MlflowServer, train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "whyscore.trackers")
    monkeypatch.setattr(background, "AGAIN_S", 0.2)
    _, without = train("without")

    def stopping(image: str, sha256: str) -> Image.Image:
        background.background("mlflow").close()  # the first steps have arrived
        server.stop()
        return picture(image)

    _, adapter = train("away", open_image=stopping, trackers=("mlflow",))
    assert adapter == without
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("cannot be reached" in line for line in said) and any("missing" in line for line in said)

    server.start()
    caplog.clear()
    _, adapter = train("back", trackers=("mlflow",))
    assert adapter == without and not [record for record in caplog.records if record.levelno == logging.WARNING]
    (entry,) = [entry for entry in entries() if entry.info.run_name == "mine ite-1 back"]
    assert [step for step, _ in points(entry.info.run_id, "loss")] == STEPS


def test_what_could_not_be_sent_is_sent_when_the_server_is_back(
    server: MlflowServer, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.2)
    monkeypatch.setattr(background, "TRIES", 1000)  # a server takes some seconds to start
    opened = 0

    def restarting(image: str, sha256: str) -> Image.Image:
        nonlocal opened
        opened += 1
        if opened == 3:
            server.stop()
        if opened == 7:
            server.start()
        return picture(image)

    train("away", open_image=restarting, trackers=("mlflow",))
    (entry,) = entries()
    assert [step for step, _ in points(entry.info.run_id, "loss")] == STEPS
    assert entry.info.status == "FINISHED"
