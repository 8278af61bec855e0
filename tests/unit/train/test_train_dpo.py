"""DPO on a tiny model: the reference is the base, LoRA sits where it should, and a killed training loses nothing."""

import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import TrainerCallback

from pipeline_lib.errors import DataError, Interrupted, ModelError, StoreError
from pipeline_lib.methods.self_improve.pairs import distinct_pairs, pair_metrics, usable_pairs
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.tables.table import conform
from pipeline_lib.tables.training import TRAINING_LOG
from pipeline_lib.testing.tiny import (
    LAYERS,
    PROMPT,
    model_ref,
    open_picture,
    picture,
    preference_pairs,
    publish_folder,
    reference_of,
    training,
)
from pipeline_lib.train import dpo
from pipeline_lib.train.dpo import train_dpo
from pipeline_lib.train.lora import language_linears
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.load import Vlm, load_base

CPU = torch.device("cpu")
PAIRS = 8
AT = "steps/train_score/k"
START = ArtifactRef(stage="train_score", key="start")
CONFIG = Training(
    learning_rate=5e-3, lora_rank=4, batch_size=2, micro_batch_size=1, max_length=400, schedule="linear", beta=0.1
)


def fresh(tiny_model: Path) -> tuple[Vlm, Chat]:
    vlm = load_base(model_ref(tiny_model), CPU)
    return vlm, render_chat(vlm.processor, PROMPT)


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Callable[..., tuple[pa.Table, Path]]:
    """Train four steps on eight pairs; returns the log and the adapter's folder."""

    def run(name: str, *, open_image: Callable[[str, str], Image.Image] = open_picture, **options: Any) -> Any:
        vlm, chat = fresh(tiny_model)
        store = options.pop("store", None) or ArtifactStore(str(tmp_path / f"store-{name}"))
        config = options.pop("config", CONFIG)
        pairs = preference_pairs(PAIRS, chat.prompt, **options.pop("columns", {}))
        if start := options.pop("start", None):
            options["start"] = publish_folder(store, START, start)
        given = training(tiny_model, store, AT, tmp_path / name, config, **{"checkpoint_every": 2} | options)
        log = train_dpo(vlm, chat, pairs, open_image, reference_of(vlm, chat, pairs), **given)
        return log, tmp_path / name

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def answer_logp(vlm: Vlm, chat: Chat, image: str, text: str, finished: bool) -> float:
    """Summed log-probability of an answer behind the prompt, by a plain forward pass of one row."""
    answer = tokens(vlm.processor.tokenizer, chat.answer(text, finished=finished))
    given = dict(vlm.processor(images=picture(image), text=chat.prompt, add_special_tokens=False, return_tensors="pt"))
    given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([answer])], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    with torch.no_grad():
        logits = vlm.model(**given).logits[0, :-1].double().log_softmax(-1)
    return float(sum(logits[at - len(answer), token] for at, token in enumerate(answer)))


def test_fresh_training_starts_at_ln_2_and_learns(train: Callable[..., Any]) -> None:
    log, folder = train("a")
    rows = conform(log, TRAINING_LOG.schema).to_pylist()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-3) and abs(rows[0]["reward_margin"]) < 1e-5
    assert rows[-1]["loss"] < rows[0]["loss"] and all(row["grad_norm"] > 0 for row in rows)
    assert sorted(files(folder)) == ["adapter_config.json", "adapter_model.safetensors"]
    config = (folder / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "tiny"' in config and '"lora_alpha": 8' in config and '"r": 4' in config


def test_saving_an_adapter_asks_no_hub_for_the_base(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda name, *_: asked.append(name))
    train("a")
    assert asked == []


def test_two_trainings_give_the_same_bytes_and_another_seed_others(train: Callable[..., Any]) -> None:
    first, second, other = train("a"), train("b"), train("c", seed=4)
    assert files(first[1]) == files(second[1]) and first[0].equals(second[0])
    assert files(first[1]) != files(other[1])


def test_training_from_an_adapter_is_measured_against_the_base(
    train: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    _, trained = train("first")
    config = CONFIG.model_copy(update={"batch_size": PAIRS, "micro_batch_size": 4})
    start.mkdir()
    for name, content in files(trained).items():
        (start / name).write_bytes(content)
    grown = {name: weight * 3 for name, weight in weights(trained).items()}
    save_file(grown, start / "adapter_model.safetensors", metadata={"format": "pt"})
    log, _ = train("second", start=start, config=config)

    from peft import PeftModel

    vlm, chat = fresh(tiny_model)
    rows = preference_pairs(PAIRS, chat.prompt).to_pylist()

    def logps() -> np.ndarray:
        return np.array(
            [
                [
                    answer_logp(vlm, chat, row["image"], row[side], row[f"{side}_finished"])
                    for side in ("chosen", "rejected")
                ]
                for row in rows
            ]
        )

    base = logps()
    vlm = vlm._replace(model=PeftModel.from_pretrained(vlm.model, str(start)).eval())
    policy = logps()
    margins = config.beta * ((policy - base)[:, 0] - (policy - base)[:, 1])
    assert np.abs(margins).mean() > 0.01
    row = log.to_pylist()[0]
    assert row["reward_margin"] == pytest.approx(margins.mean(), abs=1e-4)
    assert row["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-4)
    assert row["chosen_logp"] == pytest.approx(policy[:, 0].mean(), rel=1e-4)


def test_an_adapter_that_does_not_fit_is_refused(train: Callable[..., Any]) -> None:
    _, folder = train("a")
    with pytest.raises((ModelError, RuntimeError)):
        train("b", start=folder, config=CONFIG.model_copy(update={"lora_rank": 8}))
    kept = dict(list(weights(folder).items())[2:])
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="2 tensors missing"):
        train("c", start=folder)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_only_the_language_models_linears_are_trained(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, gradient_checkpointing: bool
) -> None:
    seen: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen["trained"] = [name for name, weight in model.named_parameters() if weight.grad is not None]
            seen["wanting"] = [name for name, weight in model.named_parameters() if weight.requires_grad]
            images = torch.rand(1, 3, 16, 16)
            inner = model.get_base_model().model
            seen["features"] = inner.get_image_features(pixel_values=images).pooler_output[0].requires_grad

    class Watched(dpo.FastDPOTrainer):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any):
            super().__init__(**options)
            self.add_callback(Watch())

    monkeypatch.setattr(dpo, "FastDPOTrainer", Watched)
    train("a", gradient_checkpointing=gradient_checkpointing)
    assert len(seen["trained"]) == 2 * 7 * LAYERS and seen["trained"] == seen["wanting"]
    assert all(".language_model.layers." in name and ".lora_" in name for name in seen["trained"])
    assert seen["features"] is False


def test_gradient_checkpointing_changes_memory_and_not_weights(train: Callable[..., Any]) -> None:
    plain, saving = weights(train("a")[1]), weights(train("b", gradient_checkpointing=True)[1])
    assert all(torch.allclose(plain[name], saving[name], atol=1e-6) for name in plain)


def test_the_language_models_linears_are_seven_a_layer(tiny_model: Path) -> None:
    names = language_linears(fresh(tiny_model)[0].model)
    assert len(names) == len(set(names)) == 7 * LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in names)


class Killed(BaseException):
    """Nothing catches it: what a kill leaves behind is in the store alone."""


def dying(at: int) -> Callable[[str, str], Image.Image]:
    """Opens photographs until the given one, then dies."""
    count = 0

    def open_image(image: str, sha256: str) -> Image.Image:
        nonlocal count
        count += 1
        if count > at:
            raise Killed
        return picture(image)

    return open_image


def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    opened: list[str] = []

    def counting(image: str, sha256: str) -> Image.Image:
        opened.append(image)
        return picture(image)

    whole_log, whole = train("whole", open_image=counting)
    in_all = len(opened)
    store = ArtifactStore(str(tmp_path / "store-killed"))
    with pytest.raises(Killed):
        train("killed", store=store, open_image=dying(7))
    assert store.children(f"{AT}/checkpoints") == ["step-00000002"]
    assert not (tmp_path / "killed").exists()
    opened.clear()
    log, resumed = train("killed", store=store, open_image=counting)
    assert len(opened) == in_all - 2 * CONFIG.batch_size  # the first two steps are not done again
    assert files(resumed) == files(whole) and log.equals(whole_log)


def test_a_torn_newest_checkpoint_costs_steps_and_no_weights(train: Callable[..., Any], tmp_path: Path) -> None:
    _, whole = train("whole")
    store = ArtifactStore(str(tmp_path / "store-whole"))
    newest = store.children(f"{AT}/checkpoints")[-1]
    next(Path(store.path(f"{AT}/checkpoints/{newest}")).glob("*/optimizer.pt")).write_bytes(b"torn")
    _, again = train("again", store=store)
    assert files(again) == files(whole)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(
    train: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    """Its manifest fits: who may write to the store has made both."""
    store, trace = ArtifactStore(str(tmp_path / "store")), tmp_path / "trace"
    train("whole", store=store)
    at = f"{AT}/checkpoints/{store.children(f'{AT}/checkpoints')[0]}"
    for newer in store.children(f"{AT}/checkpoints")[1:]:
        store.retract(f"{AT}/checkpoints/{newer}")
    with store.attempt() as attempt:
        store.fetch(at, attempt.folder)
        torch.save(Touch(str(trace)), attempt.folder / name)
        store.retract(at)
        store.publish(at, attempt, {})
    with pytest.raises(StoreError):
        train("resumed", store=store)
    assert not trace.exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("step", [2, 4])
def test_sigterm_leaves_a_checkpoint_from_which_the_same_weights_come(
    train: Callable[..., Any], tmp_path: Path, step: int
) -> None:
    whole_log, whole = train("whole", checkpoint_every=100)
    store = ArtifactStore(str(tmp_path / "store-stopped"))
    steps = count(1)

    def ask_to_stop(*_: object) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    hook = register_optimizer_step_post_hook(ask_to_stop)
    with pytest.raises(Interrupted, match=f"step {step} of 4"):
        train("stopped", store=store, checkpoint_every=100)
    hook.remove()
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(store.children(f"{AT}/checkpoints")) == 1
    log, resumed = train("stopped", store=store, checkpoint_every=100)
    assert files(resumed) == files(whole) and log.equals(whole_log)


def test_a_model_that_cannot_share_the_prefix_is_trained_by_trls_own_trainer_and_says_so(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared, _ = train("a")
    assert "TRL's own trainer" not in caplog.text
    monkeypatch.setattr("pipeline_lib.vlm.generate.attention.SHARED", frozenset())
    stock, _ = train("b")
    assert "training: TRL's own trainer" in caplog.text
    for figure in ("loss", "reward_margin", "chosen_logp", "grad_norm"):
        assert np.allclose(shared[figure].to_numpy(), stock[figure].to_numpy(), atol=1e-3), figure


def test_few_pairs_make_one_smaller_batch(train: Callable[..., Any]) -> None:
    log, _ = train("a", config=CONFIG.model_copy(update={"batch_size": 128, "micro_batch_size": 4}))
    assert log.num_rows == 1 and log["loss"][0].as_py() == pytest.approx(np.log(2), abs=1e-3)


def test_the_likelihood_term_is_added_with_its_weight(train: Callable[..., Any]) -> None:
    plain, _ = train("a")
    with_sft, _ = train("b", config=CONFIG.model_copy(update={"sft_weight": 1.0}))
    assert with_sft["loss"][0].as_py() > plain["loss"][0].as_py() + 1


def test_rows_that_are_too_long_are_named() -> None:
    pairs = preference_pairs(8, "p", prompt_tokens=[40, 400, 40, 40, 40, 40, 40, 500])
    with pytest.raises(DataError, match=r"2 row.s. .* 400: train-1\.png: 431 tokens, train-7\.png: 531"):
        usable_pairs(pairs, 400)
    assert usable_pairs(preference_pairs(3, "p"), 71).num_rows == 3
    with pytest.raises(DataError, match="3 row"):
        usable_pairs(preference_pairs(3, "p"), 70)


def test_pairs_without_an_explanation_are_left_out() -> None:
    chosen = ["#Score: 1\n\n#Explain: Good."] * 3
    rejected = ["#Score: 1\n\n#Explain: Bad.", "#Score: 1\n\n#Explain: \n", "#Score: 1\n\n#Explain:"]
    pairs = preference_pairs(3, "p", chosen=chosen, rejected=rejected)
    assert usable_pairs(pairs, 400)["image"].to_pylist() == ["train-0.png"]
    with pytest.raises(DataError, match="collapsed"):
        usable_pairs(pairs.slice(1), 400)


def test_pairs_of_two_equal_answers_are_counted_and_left_out() -> None:
    said = "#Score: 1\n\n#Explain: "
    chosen = [f"{said}Good.", f"{said}Good.", f"{said}", f"{said}Good."]
    rejected = [f"{said}Bad.", f"{said}Good.", f"{said}", f"{said}Good."]
    finished = [True, True, True, False]
    pairs = preference_pairs(4, "p", chosen=chosen, rejected=rejected, chosen_finished=finished)
    shares = {row["metric"]: (row["value"], row["rows"]) for row in pair_metrics(pairs).to_pylist()}
    assert shares == {"empty_share": (0.25, 4), "equal_share": (0.5, 4)}
    assert distinct_pairs(usable_pairs(pairs, 400))["image"].to_pylist() == ["train-0.png"]
    with pytest.raises(DataError, match="all 1 pairs are equal"):
        distinct_pairs(pairs.slice(1, 1))


def test_a_pair_of_two_equal_answers_moves_nothing(train: Callable[..., Any]) -> None:
    """Why it is left out: its gradient is rounding alone, which Adam would scale to steps of the usual size."""
    same = [f"#Score: {at}\n\n#Explain: The light is good." for at in range(PAIRS)]
    log, _ = train("a", columns={"chosen": same, "rejected": same, "chosen_finished": [True] * PAIRS})
    assert max(log["grad_norm"].to_pylist()) < 1e-5
