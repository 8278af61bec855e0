"""Two processes that accelerate starts train what one trains: the same loss curve, the same adapter."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from pipeline_lib.config.base import Runtime
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.errors import DataError, Interrupted, StoreError, WhyScoreError
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.progress import Progress, listening
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.testing.tiny import model_ref, picture, preference_pairs, reference_of
from pipeline_lib.testing.tiny_families import save
from pipeline_lib.train import launch
from pipeline_lib.train.job import DPO, SFT, Place, TrainingJob
from pipeline_lib.train.run_job import run_job
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base
from tests.parity.pairs import family

CPU = torch.device("cpu")
AT = "steps/train_score/k"
PROMPT = load_prompt("aesthetics_short")
PAIRS = 13
STEPS = 8  # of 8 and 5 pairs in each epoch: of the 5, one process of two has 2 + 1, the other 2 and a filler
CONFIG = Training(
    learning_rate=1e-3, lora_rank=4, batch_size=8, micro_batch_size=2, epochs=4, max_length=400, sft_weight=0.5
)
long = pytest.mark.only_with("--platform")


class Data(NamedTuple):
    job: TrainingJob
    tables: dict[str, pa.Table]


class Trained(NamedTuple):
    log: pa.Table
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def data(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """What is trained in all tests: pairs about photographs in files, with explanations of one to nine sentences."""
    return data_for(tiny_model, tmp_path_factory.mktemp("images"))


def data_for(model: Path, images: Path) -> Data:
    for at in range(PAIRS):
        picture(f"train-{at}.png").save(images / f"train-{at}.png")
    digests = [hashlib.sha256((images / f"train-{at}.png").read_bytes()).hexdigest() for at in range(PAIRS)]
    vlm = load_base(model_ref(model), CPU)
    chat = render_chat(vlm.processor, PROMPT.text)
    chosen = [f"#Score: {at % 10}\n\n#Explain: {'The light is good. ' * (1 + at * at % 9)}" for at in range(PAIRS)]
    pairs = preference_pairs(PAIRS, chat.prompt, image_sha256=digests, chosen=chosen)
    job = TrainingJob(
        base=model_ref(model),
        prompt=PROMPT.text,
        images=ImageSet(table=ArtifactRef(stage="discretize", key="k"), folder=str(images), max_megapixels=1.0),
        loss=DPO(beta=CONFIG.beta, sft_weight=CONFIG.sft_weight),
        lora=CONFIG.lora,
        learning_rate=CONFIG.learning_rate,
        start=None,
        seed=3,
    )
    return Data(job, {"pairs": pairs, "reference": reference_of(vlm, chat, pairs)})


Train = Callable[..., Trained]


def train_in(folder: Path, data: Data, name: str, processes: int, *, fsdp: bool = False, **changes: Any) -> Trained:
    address = changes.pop("address", AT)
    job, tables = data.job.model_copy(update=changes), dict(data.tables)
    if job.loss.loss == "sft":
        del tables["reference"]
    save_to = folder / f"{name}-{time.monotonic_ns()}"
    place = Place(ArtifactStore(str(folder / f"store-{name}")), address, save_to, "training", 1, True)
    if processes == 1:
        log = run_job(job, place, tables, CPU)
    else:
        runtime = Runtime(training_processes=processes, device="cpu", fsdp=fsdp)
        log = launch.run_job_in_processes(job, place, tables, runtime)
    return Trained(log, load_file(save_to / "adapter_model.safetensors"))


@pytest.fixture
def train(data: Data, tmp_path: Path) -> Train:
    def run(name: str, processes: int, **changes: Any) -> Trained:
        return train_in(tmp_path, data, name, processes, **changes)

    return run


@pytest.fixture(scope="module")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """By one process, which nobody disturbs."""
    return train_in(tmp_path_factory.mktemp("whole"), data, "whole", 1)


def same(one: Trained, two: Trained, within: float = 1e-5) -> None:
    assert one.log.column_names == two.log.column_names and one.log["step"].equals(two.log["step"])
    for figure in one.log.column_names:
        assert np.allclose(one.log[figure].to_numpy(), two.log[figure].to_numpy(), rtol=within, atol=within), figure
    assert max(float((one.weights[path] - two.weights[path]).abs().max()) for path in one.weights) < within


def checkpoints(folder: Path, name: str) -> list[str]:
    return ArtifactStore(str(folder / f"store-{name}")).children(f"{AT}/checkpoints")


def at_checkpoint(step: int, folder: Path, name: str, act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while not any(int(found.removeprefix("step-")) >= step for found in checkpoints(folder, name)):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def training_processes(root: int) -> list[psutil.Process]:
    """Below a process, in the order of their numbers."""
    found = {}
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.Error):
            if "accelerate.commands.launch" not in process.cmdline() and "RANK" in (environment := process.environ()):
                found[int(environment["RANK"])] = process
    return [found[number] for number in sorted(found)]


def test_two_processes_train_what_one_trains(train: Train, whole: Trained, caplog: pytest.LogCaptureFixture) -> None:
    """The last step of each epoch is a smaller one; the likelihood term is a mean over tokens, the other over pairs."""
    shown: list[int] = []
    curves: dict[str, Any] = {}

    def listener(progress: Progress, line: str) -> None:
        assert (progress.what, progress.total, progress.unit) == ("training", STEPS, "steps")
        assert line.startswith(f"training: {progress.done}/{STEPS} steps")
        shown.append(progress.done)
        curves.update(progress.curves)

    with caplog.at_level(logging.INFO), listening(listener):
        two = train("two", 2)
    assert curves["loss"][-1] == (STEPS, two.log["loss"].to_pylist()[-1]) and {"learning rate", "accuracy"} <= set(
        curves
    )
    same(whole, two)
    assert two.log["step"].to_pylist() == list(range(1, STEPS + 1))
    assert shown[-1] == STEPS and shown == sorted(set(shown))
    assert sum(f"{STEPS}/{STEPS} steps" in line for line in caplog.messages) == 1


@pytest.mark.only_with("--all-moments")
def test_a_killed_process_is_said_and_the_next_run_goes_on_alone(
    train: Train, data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With TRL's own trainer: a model whose window is shorter than the longest row cannot share the prefix."""
    model = tmp_path / "model"
    shutil.copytree(data.job.base.location, model)
    config = json.loads((model / "config.json").read_text())
    config["text_config"] |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 200}
    (model / "config.json").write_text(json.dumps(config))
    whole = train("whole", 1, base=model_ref(model))
    caplog.clear()
    kill = at_checkpoint(STEPS // 2, tmp_path, "a", lambda: training_processes(os.getpid())[1].kill())
    with caplog.at_level(logging.INFO), pytest.raises(WhyScoreError, match="signal 9"):
        train("a", 2, base=model_ref(model))
    kill.join()
    assert training_processes(os.getpid()) == []
    assert sum("TRL's own trainer" in line for line in caplog.messages) == 1
    same(whole, train("a", 1, base=model_ref(model)))  # the first half of its curve is that of two


@pytest.mark.only_with("--all-moments")
def test_sigterm_stops_both_within_a_step_with_a_checkpoint(train: Train, whole: Trained, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    at_checkpoint(1, tmp_path, "a", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=rf"step \d+ of {STEPS}"):
        train("a", 2)
    assert signal.getsignal(signal.SIGTERM) is before
    step = int(checkpoints(tmp_path, "a")[-1].removeprefix("step-"))
    assert step < STEPS
    same(whole, train("a", 1))


@long
def test_a_checkpoint_of_one_process_is_gone_on_from_by_two(train: Train, whole: Trained, tmp_path: Path) -> None:
    at_checkpoint(1, tmp_path, "a", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train("a", 1)
    same(whole, train("a", 2))


@long
@pytest.mark.parametrize("name", ["llava-1.5", "qwen3-vl"])
def test_supervised_training_in_two_processes(name: str, tmp_path: Path) -> None:
    """Of models that transformers takes for ones that normalise their loss over a step, and not."""
    data = data_for(save(family(name), tmp_path / "model"), tmp_path)
    changes = {"loss": SFT()}
    same(train_in(tmp_path, data, "one", 1, **changes), train_in(tmp_path, data, "two", 2, **changes))


@long
def test_three_processes_start_from_an_adapter(train: Train, data: Data, tmp_path: Path) -> None:
    """A step is four micro-batches and then three, so that two of the three have a filler in each whole one."""
    first = ArtifactRef(stage="train_score", key="first")
    for name in ("one", "three"):
        store = ArtifactStore(str(tmp_path / f"store-{name}"))
        with store.attempt() as attempt:
            run_job(data.job, Place(store, AT, attempt.folder, "training", 1, True), data.tables, CPU)
            store.publish(first.address, attempt, {})
    changes = {"start": first, "address": f"{AT}2"}
    same(train("one", 1, **changes), train("three", 3, **changes))


@long
def test_an_error_for_people_is_raised_as_it_is(train: Train) -> None:
    with pytest.raises(DataError, match=r"longer than training\.max_length = 64"):
        train("a", 2, lora=CONFIG.lora.model_copy(update={"max_length": 64}))


WAITING = """
import pickle, sys
from pathlib import Path
from tests.parity.test_processes import train_in
data, folder = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
train_in(folder, data, "a", 2)
"""


@long
def test_a_killed_parent_leaves_nobody_training(data: Data, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "data.pickle").write_bytes(pickle.dumps(data))
    parent = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path / "data.pickle"), str(tmp_path)], start_new_session=True
    )
    while not checkpoints(tmp_path, "a"):
        assert parent.poll() is None
        time.sleep(0.05)
    left = psutil.Process(parent.pid).children(recursive=True)
    assert len(left) >= 3  # the launcher and two processes
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(left, timeout=20)[1] == []


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MODULE", "tests.parity.fsdp_on_cpu")
    monkeypatch.setattr(launch, "_device", lambda runtime: "cpu")


@long
def test_shared_weights(
    train: Train, whole: Trained, tmp_path: Path, on_cpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    """FSDP, with the prefix shared as well; a checkpoint of it is for it alone."""
    at_checkpoint(1, tmp_path, "a", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train("a", 2, fsdp=True)
    with pytest.raises(StoreError, match=r"was written with runtime\.fsdp true"):
        train("a", 1)
    same(whole, train("a", 2, fsdp=True))
    assert "TRL's own trainer" not in caplog.text
