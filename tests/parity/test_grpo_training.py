"""A training by GRPO that is killed and resumed, or stopped, or done by two processes."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline_lib.config.base import Lora, Runtime
from pipeline_lib.data.image_set import ImageSet
from pipeline_lib.errors import Interrupted, ModelError
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.key import key_fields
from pipeline_lib.tables.table import conform
from pipeline_lib.tables.training import GRPO_LOG
from pipeline_lib.testing.tiny import PROMPT, model_ref
from pipeline_lib.testing.tiny_families import save
from pipeline_lib.train import launch, rollout
from pipeline_lib.train.grpo import train_grpo
from pipeline_lib.train.job import GRPO, Place, Reward, TrainingJob
from pipeline_lib.train.rewards import UnitRewards
from pipeline_lib.train.run_job import run_job
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_base
from tests.parity.grpo import SETTINGS, replay, shown, units
from tests.parity.pairs import family

CPU = torch.device("cpu")
AT = "steps/train/k"
EPOCHS = 3
STEPS = 2 * EPOCHS  # of two units and of one: one process of two has a filler in each second step
LORA = Lora(lora_rank=4, batch_size=2, micro_batch_size=1, epochs=EPOCHS, max_length=400)


def letters(unit: dict[str, Any], answers: list[list[str]], folder: str = "", weight: float = 1.0) -> UnitRewards:
    """Rewards of texts that were sampled; keeps what it is asked about in `folder`."""
    names = [image["image"] for image in unit["images"]]
    if folder:
        text = json.dumps([names, answers])
        Path(folder, hashlib.sha256(text.encode()).hexdigest()).write_text(text)
    values = [[weight * sum(letter in "aeiou" for letter in text) for text in of_image] for of_image in answers]
    return UnitRewards({"vowels": values}, [[bool(text) for text in of_image] for of_image in answers])


class Trained(NamedTuple):
    log: pa.Table
    weights: dict[str, torch.Tensor]


class Data(NamedTuple):
    job: TrainingJob
    units: pa.Table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Six images in files, of six shapes, for a family with tiles."""
    model, folder = save(family("internvl-qwen2"), tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("images")
    chat = render_chat(load_base(model_ref(model), CPU).processor, PROMPT)
    table = units(chat.prompt).to_pylist()
    for row in table:
        for image in row["images"]:
            shown(image["image"]).save(folder / image["image"])
            image["image_sha256"] = hashlib.sha256((folder / image["image"]).read_bytes()).hexdigest()
    job = TrainingJob(
        base=model_ref(model, resize_px=96),
        prompt=PROMPT,
        images=ImageSet(table=ArtifactRef(stage="images", key="k"), folder=str(folder), max_megapixels=1.0),
        loss=GRPO(
            settings=SETTINGS,
            reward=Reward(function="tests.parity.test_grpo_training:letters", settings={"weight": 0.5}),
        ),
        lora=LORA,
        learning_rate=5e-5,
        start=None,
        seed=3,
    )
    return Data(job, pa.Table.from_pylist(table))


def place_of(folder: Path, name: str, **changes: Any) -> Place:
    save_to = folder / f"{name}-{time.monotonic_ns()}"
    return Place(ArtifactStore(str(folder / f"store-{name}")), AT, save_to, "training", 1)._replace(**changes)


def train(
    folder: Path,
    data: Data,
    name: str,
    processes: int = 1,
    *,
    loss: dict[str, Any] | None = None,
    checkpoint_every: int = 1,
    **changes: Any,
) -> Trained:
    loss = {"processes": processes, **(loss or {})}
    job = data.job.model_copy(update={"loss": data.job.loss.model_copy(update=loss), **changes})
    place, tables = place_of(folder, name, checkpoint_every=checkpoint_every), {"units": data.units}
    if processes == 1:
        log = run_job(job, place, tables, CPU)
    else:
        log = launch.run_job_in_processes(job, place, tables, Runtime(training_processes=processes, device="cpu"))
    return Trained(conform(log, GRPO_LOG.schema), load_file(place.save_to / "adapter_model.safetensors"))


def figures(trained: Trained) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = trained.log.to_pylist()
    return rows


def apart(one: Trained, two: Trained) -> float:
    return max(float((one.weights[path] - two.weights[path]).abs().max()) for path in one.weights)


class Killed(BaseException):
    """Nothing catches it: what a kill leaves behind is in the store alone."""


@pytest.mark.parametrize("at", [2, 5, 6])
def test_killed_and_resumed_it_ends_with_the_same_bits(
    at: int, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it samples a unit: within a step, in a later epoch, in an epoch's last step."""
    whole = train(tmp_path, data, "whole")
    assert whole.log["step"].to_pylist() == list(range(1, STEPS + 1))
    own, sampled = rollout.generate_answers, 0

    def dying(*given: Any, **options: Any) -> Any:
        nonlocal sampled
        sampled += 1
        if sampled > at:
            raise Killed
        return own(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "generate_answers", dying)
        with pytest.raises(Killed):
            train(tmp_path, data, "killed")
    kept = ArtifactStore(str(tmp_path / "store-killed")).children(f"{AT}/checkpoints")
    assert kept[-1] == f"step-{at * 2 // 3:08d}"
    resumed = train(tmp_path, data, "killed")
    assert apart(whole, resumed) == 0.0 and figures(resumed) == figures(whole)


def test_sigterm_while_it_samples_leaves_a_checkpoint_from_which_the_same_bits_come(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path, data, "whole", checkpoint_every=100)
    own, sampled = rollout.generate_answers, 0

    def asked_to_stop(*given: Any, **options: Any) -> Any:
        nonlocal sampled
        sampled += 1
        if sampled == 2:  # the second unit of the first step
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*given, **options)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(rollout, "generate_answers", asked_to_stop)
        with pytest.raises(Interrupted, match=f"step 1 of {STEPS}"):
            train(tmp_path, data, "stopped", checkpoint_every=100)
    assert signal.getsignal(signal.SIGTERM) is before and sampled == 2
    assert ArtifactStore(str(tmp_path / "store-stopped")).children(f"{AT}/checkpoints") == ["step-00000001"]
    resumed = train(tmp_path, data, "stopped", checkpoint_every=100)
    assert apart(whole, resumed) == 0.0 and figures(resumed) == figures(whole)


def test_another_seed_or_reward_gives_another_adapter(data: Data, tmp_path: Path) -> None:
    one_epoch = LORA.model_copy(update={"epochs": 1})
    whole = train(tmp_path, data, "whole", lora=one_epoch)
    assert whole.log["reward_parts"][0].as_py() == [{"part": "vowels", "mean": whole.log["reward"][0].as_py()}]
    assert apart(whole, train(tmp_path, data, "seed", lora=one_epoch, seed=4)) > 1e-5
    reward = Reward(function="tests.parity.test_grpo_training:letters", settings={"weight": -0.5})
    other = train(tmp_path, data, "reward", lora=one_epoch, loss={"reward": reward})
    assert other.log["reward"][0].as_py() == -whole.log["reward"][0].as_py() and apart(whole, other) > 1e-5


def test_two_processes_sample_the_same_in_the_first_step(data: Data, tmp_path: Path) -> None:
    """All units are in one step: two micro-batches are of one process, the third and a filler of the other."""
    lora = LORA.model_copy(update={"epochs": 1, "batch_size": 3})
    trained, asked = [], []
    for name, processes in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        reward = Reward(function="tests.parity.test_grpo_training:letters", settings={"folder": str(folder)})
        trained.append(train(tmp_path, data, name, processes, loss={"reward": reward}, lora=lora))
        asked.append({path.name: path.read_text() for path in folder.iterdir()})
    assert asked[0] == asked[1] and len(asked[0]) == 3
    assert apart(*trained) < 1e-5
    for one, two in zip(*map(figures, trained), strict=True):
        assert one.pop("reward_parts") == two.pop("reward_parts")
        assert one == pytest.approx(two, rel=1e-5, abs=1e-6)


@pytest.mark.only_with("--all-moments")
def test_two_processes_train_what_one_trains(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With samples that are given: else a rounding could draw another token and go on from there."""
    monkeypatch.setattr(launch, "MODULE", "tests.parity.grpo_replayed")
    monkeypatch.setattr(rollout, "generate_answers", replay)
    loss = {
        "reward": Reward(function="tests.parity.grpo:reward"),
        "settings": SETTINGS.model_copy(update={"answers_per_pass": 3}),
    }
    one, two = (train(tmp_path, data, f"{size}", size, loss=loss) for size in (1, 2))
    assert apart(one, two) < 1e-5
    for name in ("loss", "kl", "reward", "entropy", "grad_norm"):
        assert one.log[name].to_pylist() == pytest.approx(two.log[name].to_pylist(), rel=1e-5, abs=1e-6), name
    assert one.log["longest_answer_tokens"] == two.log["longest_answer_tokens"]


def test_the_number_of_processes_is_in_the_key_and_is_checked(data: Data, tmp_path: Path) -> None:
    keys = [key_fields(data.job.loss.model_copy(update={"processes": size})) for size in (1, 2)]
    assert keys[0] != keys[1]
    job = data.job.model_copy(update={"loss": data.job.loss.model_copy(update={"processes": 2})})
    with pytest.raises(ModelError, match=r"says 2 .* there are 1"):
        run_job(job, place_of(tmp_path, "a"), {"units": data.units}, CPU)


def test_a_model_that_cannot_share_is_refused(data: Data, tmp_path: Path) -> None:
    vlm = load_base(data.job.base, CPU)
    vlm.model.set_attn_implementation("eager")

    def never(image: str, sha256: str) -> Image.Image:
        raise AssertionError

    with pytest.raises(ModelError, match="attention is eager"):
        train_grpo(vlm, render_chat(vlm.processor, PROMPT), data.units, never, data.job, place_of(tmp_path, "a"))
