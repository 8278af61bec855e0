"""DPO with the summed log-probability of the chosen answer: loss and gradient beside a plain computation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.store import ArtifactRef, ArtifactStore, artifact_key
from pipeline_lib.testing.tiny import (
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
from pipeline_lib.train.job import DPO
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.load import Vlm, load_base

PAIRS, BETA, WEIGHT = 6, 0.2, 1 / 64
START = ArtifactRef(stage="train_score", key="start")
CONFIG = Training(learning_rate=5e-3, lora_rank=4, batch_size=PAIRS, micro_batch_size=3, max_length=400)
LENGTHS = [
    f"#Score: 7\n\n#Explain: {text}"
    for text in ("short.", "a much longer answer, whose tokens are many.", "calm.", "dull and grey.")
]


def fresh(tiny_model: Path) -> tuple[Vlm, Chat]:
    vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
    return vlm, render_chat(vlm.processor, PROMPT)


@pytest.fixture
def train(tiny_model: Path, tmp_path: Path) -> Callable[..., tuple[pa.Table, Path]]:
    """One step on six pairs of answers of different lengths; returns the log and the adapter's folder."""

    def run(name: str, loss: DPO, *, start: Path | None = None, config: Training = CONFIG) -> tuple[pa.Table, Path]:
        vlm, chat = fresh(tiny_model)
        store = ArtifactStore(str(tmp_path / f"store-{name}"))
        pairs = preference_pairs(PAIRS, chat.prompt, chosen=[LENGTHS[at % 4] for at in range(PAIRS)])
        given = training(tiny_model, store, "steps/train_score/k", tmp_path / name, config, loss=loss)
        if start:
            given["job"] = given["job"].model_copy(update={"start": publish_folder(store, START, start)})
        log = train_dpo(vlm, chat, pairs, open_picture, reference_of(vlm, chat, pairs), **given)
        return log, tmp_path / name

    return run


def answer_logp(vlm: Vlm, chat: Chat, row: dict[str, Any], side: str) -> Tensor:
    """Summed log-probability of an answer, by a plain forward pass of one row."""
    ids = tokens(vlm.processor.tokenizer, chat.answer(row[side], finished=row[f"{side}_finished"]))
    given = dict(
        vlm.processor(images=picture(row["image"]), text=chat.prompt, add_special_tokens=False, return_tensors="pt")
    )
    given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([ids])], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    logps = vlm.model(**given).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return logps.gather(1, torch.tensor(ids)[:, None]).sum()


@pytest.mark.parametrize("shared", [True, False])
def test_loss_and_gradient_are_those_of_a_plain_computation(
    train: Callable[..., Any], tiny_model: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    _, start = train("first", DPO(beta=BETA))
    if not shared:
        monkeypatch.setattr(dpo, "why_not_shared", lambda *_: "a test")
    log, _ = train("second", DPO(beta=BETA, chosen_logp_weight=WEIGHT), start=start)

    vlm, chat = fresh(tiny_model)
    rows = preference_pairs(PAIRS, chat.prompt, chosen=[LENGTHS[at % 4] for at in range(PAIRS)]).to_pylist()
    with torch.no_grad():
        base = [[answer_logp(vlm, chat, row, side) for side in ("chosen", "rejected")] for row in rows]
    vlm = vlm._replace(model=PeftModel.from_pretrained(vlm.model, str(start), is_trainable=True).eval())
    losses = []
    for row, (base_chosen, base_rejected) in zip(rows, base, strict=True):
        chosen, rejected = (answer_logp(vlm, chat, row, side) for side in ("chosen", "rejected"))
        margin = BETA * ((chosen - base_chosen) - (rejected - base_rejected))
        losses.append(-torch.nn.functional.logsigmoid(margin) - WEIGHT * chosen)
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = [weight.grad for weight in vlm.model.parameters() if weight.requires_grad]
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients if gradient is not None))
    found = log.to_pylist()[0]
    assert found["loss"] == pytest.approx(loss.item(), abs=2e-4)
    assert found["grad_norm"] == pytest.approx(norm.item(), rel=2e-3)


def test_the_term_is_no_mean_over_tokens(train: Callable[..., Any]) -> None:
    plain = train("plain", DPO(beta=BETA))[0].to_pylist()[0]
    summed = train("summed", DPO(beta=BETA, chosen_logp_weight=WEIGHT))[0].to_pylist()[0]
    mean = train("mean", DPO(beta=BETA, sft_weight=WEIGHT))[0].to_pylist()[0]
    assert summed["loss"] - plain["loss"] == pytest.approx(-WEIGHT * plain["chosen_logp"], abs=1e-4)
    assert mean["loss"] - plain["loss"] < 0.3 * (summed["loss"] - plain["loss"])


def test_micro_batches_change_rounding_alone(train: Callable[..., Any]) -> None:
    loss = DPO(beta=BETA, chosen_logp_weight=WEIGHT)
    one = train("one", loss, config=CONFIG.model_copy(update={"micro_batch_size": PAIRS}))[1]
    many = train("many", loss, config=CONFIG.model_copy(update={"micro_batch_size": 2}))[1]
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, many))
    assert all(torch.allclose(first[name], second[name], atol=2e-5) for name in first)


def test_without_the_term_the_key_is_that_of_before() -> None:
    assert DPO(beta=BETA).key_fields() == {"loss": "dpo", "beta": BETA, "sft_weight": 0.0}
    keys = {artifact_key("s", 1, {"loss": DPO(beta=BETA, chosen_logp_weight=weight)}) for weight in (0.0, 0.1, 0.2)}
    assert len(keys) == 3
