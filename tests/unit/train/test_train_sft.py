"""Supervised fine-tuning on a tiny model: the loss falls on the target's tokens and on nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import TrainerCallback

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.pairs import score_parts, usable_pairs
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.tables.table import conform
from pipeline_lib.tables.training import SFT_LOG
from pipeline_lib.testing.tiny import (
    LAYERS,
    PROMPT,
    model_ref,
    open_picture,
    picture,
    preference_pairs,
    publish_folder,
    training,
)
from pipeline_lib.train import sft
from pipeline_lib.train.job import SFT
from pipeline_lib.train.sft import train_sft
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.load import Vlm, load_base

PAIRS = 8
AT = "steps/train_sft/k"
START = ArtifactRef(stage="train_sft", key="start")
CONFIG = Training(learning_rate=5e-3, lora_rank=4, batch_size=4, micro_batch_size=2, max_length=400)
Target = Literal["score", "score_text"]
TARGETS: tuple[Target, ...] = ("score", "score_text")


def fresh(tiny_model: Path) -> tuple[Vlm, Chat]:
    vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
    return vlm, render_chat(vlm.processor, PROMPT)


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Train two steps on eight pairs; returns the log's rows and the adapter's folder."""

    def run(name: str, target: Target, *, open_image: Any = open_picture, **options: Any) -> Any:
        vlm, chat = fresh(tiny_model)
        store = options.pop("store", None) or ArtifactStore(str(tmp_path / f"store-{name}"))
        pairs = usable_pairs(preference_pairs(PAIRS, chat.prompt, **options.pop("columns", {})), 400)
        config = options.pop("config", CONFIG)
        if start := options.pop("start", None):
            options["start"] = publish_folder(store, START, start)
        given = training(tiny_model, store, AT, tmp_path / name, config, loss=SFT(), **options)
        log = train_sft(vlm, chat, score_parts(pairs) if target == "score" else pairs, open_image, **given)
        return conform(log, SFT_LOG.schema).to_pylist(), tmp_path / name

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def completion(chat: Chat, row: dict[str, Any], target: Target) -> str:
    if target == "score":
        return f"{chat.separator}#Score: {row['true_score']}"
    return chat.separator + row["chosen"] + (chat.end if row["chosen_finished"] else "")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_loss_falls_on_the_targets_tokens_alone(
    train: Callable[..., Any],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Target,
    gradient_checkpointing: bool,
) -> None:
    batches: list[dict[str, torch.Tensor]] = []
    seen: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen["trained"] = [name for name, weight in model.named_parameters() if weight.grad is not None]
            inner = model.get_base_model().model
            features = inner.get_image_features(pixel_values=torch.rand(1, 3, 16, 16))
            seen["vision"] = features.pooler_output[0].requires_grad

    class Watched(sft.SFTTrainer):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any):
            super().__init__(**options)
            self.add_callback(Watch())

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            batches.append({name: inputs[name].clone() for name in ("input_ids", "labels", "attention_mask")})
            return super().compute_loss(model, inputs, *args, **options)

    monkeypatch.setattr(sft, "SFTTrainer", Watched)
    train("a", target, gradient_checkpointing=gradient_checkpointing)

    vlm, chat = fresh(tiny_model)
    tokenizer = vlm.processor.tokenizer
    expected = {}
    for row in preference_pairs(PAIRS, chat.prompt).to_pylist():
        answer = tokens(tokenizer, completion(chat, row, target))
        prompt = vlm.processor(images=picture(row["image"]), text=chat.prompt, add_special_tokens=False)["input_ids"][0]
        ended = target == "score_text" and row["chosen_finished"]
        assert (answer[-1] == tokenizer.eos_token_id) is ended
        assert list(prompt).count(tokenizer.bos_token_id) == 1
        expected[(*prompt, *answer)] = answer
    found = []
    for batch in batches:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            row_ids = tuple(ids[mask.bool()].tolist())
            found.append(row_ids)
            assert labels[labels != -100].tolist() == expected[row_ids]
    assert len(found) == PAIRS and set(found) == set(expected)
    assert len(seen["trained"]) == 2 * 7 * LAYERS
    assert all(".language_model.layers." in name and ".lora_" in name for name in seen["trained"])
    assert seen["vision"] is False


def mean_nll(vlm: Vlm, chat: Chat, target: Target) -> float:
    """Mean negative log-likelihood of all target tokens, by plain forward passes of one row."""
    total, count = 0.0, 0
    for row in preference_pairs(PAIRS, chat.prompt).to_pylist():
        answer = tokens(vlm.processor.tokenizer, completion(chat, row, target))
        given = dict(
            vlm.processor(images=picture(row["image"]), text=chat.prompt, add_special_tokens=False, return_tensors="pt")
        )
        given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([answer])], dim=1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        with torch.no_grad():
            logits = vlm.model(**given).logits[0, :-1].double().log_softmax(-1)
        total -= sum(float(logits[at - len(answer), token]) for at, token in enumerate(answer))
        count += len(answer)
    return total / count


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_the_mean_over_tokens_of_the_model_it_starts_from(
    train: Callable[..., Any], tiny_model: Path, target: Target
) -> None:
    whole = CONFIG.model_copy(update={"batch_size": PAIRS, "micro_batch_size": 2, "epochs": 20})
    first, folder = train("first", target, config=whole, checkpoint_every=100)
    vlm, chat = fresh(tiny_model)
    assert first[0]["loss"] == pytest.approx(mean_nll(vlm, chat, target), rel=1e-4)
    assert first[-1]["loss"] < 0.8 * first[0]["loss"] and first[-1]["token_accuracy"] > first[0]["token_accuracy"]

    second, _ = train("second", target, config=whole.model_copy(update={"epochs": 1}), start=folder)
    trained = vlm._replace(model=PeftModel.from_pretrained(vlm.model, str(folder)).eval())
    assert second[0]["loss"] == pytest.approx(mean_nll(trained, chat, target), rel=1e-3)


class Killed(BaseException):
    """Nothing catches it: what a kill leaves behind is in the store alone."""


def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    small = CONFIG.model_copy(update={"batch_size": 2, "micro_batch_size": 1})
    whole_log, whole = train("whole", "score_text", config=small)
    count = 0

    def dying(image: str, sha256: str) -> Image.Image:
        nonlocal count
        count += 1
        if count > 7:
            raise Killed
        return picture(image)

    store = ArtifactStore(str(tmp_path / "store-killed"))
    with pytest.raises(Killed):
        train("killed", "score_text", store=store, open_image=dying, config=small)
    assert store.children(f"{AT}/checkpoints") == ["step-00000001", "step-00000002"]
    log, resumed = train("killed", "score_text", store=store, config=small)
    assert files(resumed) == files(whole) and log == whole_log
    assert sorted(files(whole)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_two_targets_take_the_rows_that_dpo_takes(train: Callable[..., Any]) -> None:
    rejected = ["#Score: 1\n\n#Explain:"] * 6 + ["#Score: 1\n\n#Explain: Bad."] * 2
    rows, _ = train("a", "score", columns={"rejected": rejected}, checkpoint_every=100)
    assert len(rows) == 1  # two rows are one smaller batch
    with pytest.raises(DataError, match=r"longer than training\.max_length"):
        train("b", "score", columns={"prompt_tokens": [500] * PAIRS})
