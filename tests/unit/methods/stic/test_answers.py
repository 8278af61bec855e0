"""Descriptions, infused instructions and answers: what the model is asked, and what it learns from."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import Training
from pipeline_lib.methods.stic.answers import answer_questions, describe_images, infuse
from pipeline_lib.methods.stic.prompt import infused_question, load_prompts
from pipeline_lib.methods.stic.tables import ANSWERS, DESCRIPTIONS, QUESTIONS
from pipeline_lib.progress import Progress
from pipeline_lib.store import ArtifactStore
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import SIDE_PX, image_table, model_ref, open_picture, picture, training
from pipeline_lib.train.job import SFT
from pipeline_lib.train.sft import train_sft
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.load import Vlm, load_base

PROMPTS = load_prompts("stic_short")


@pytest.fixture
def vlm(tiny_model: Path) -> Vlm:
    return load_base(model_ref(tiny_model), torch.device("cpu"))


def questions(*rows: tuple[str, str, str]) -> pa.Table:
    """Rows of (image or nothing, question, answer)."""
    made = [
        {
            "row": at,
            "images": [image_of(image)] if image else [],
            "question": question,
            "answers": [answer, "another"],
            "choices": [],
            "group": image or f"row {at}",
            "shows": None,
            "statements": None,
        }
        for at, (image, question, answer) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=QUESTIONS.schema)


def image_of(name: str) -> dict[str, Any]:
    return {"image": name, "image_sha256": "0" * 64, "width_px": SIDE_PX, "height_px": SIDE_PX}


def descriptions(**texts: str) -> pa.Table:
    rows = [
        {"image": name, "image_sha256": "0" * 64, "description": text, "tokens": 3, "finished": True, "image_tokens": 3}
        for name, text in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=DESCRIPTIONS.schema)


ASKED = questions(("a", "What is it?", "red"), ("", "How many?", "7"), ("b", "Where?", "left"), ("a", "Why?", "so"))


def test_every_image_is_described_in_any_batches_alike(vlm: Vlm) -> None:
    def describe(images: pa.Table, **changes: Any) -> pa.Table:
        options: dict[str, Any] = {"temperature": 0.9, "max_new_tokens": 5, "seed": 3, "batch_size": 2} | changes
        found = describe_images(vlm, "Describe it.", images, open_picture, progress=Progress("d", 9), **options)
        return conform(found, DESCRIPTIONS.schema)

    images = image_table(5)
    whole = describe(images)
    assert whole["image"].to_pylist() == images["image"].to_pylist()
    assert pa.concat_tables([describe(images.slice(0, 2)), describe(images.slice(2), batch_size=8)]).equals(whole)
    assert not describe(images, seed=4).equals(whole)
    assert describe(images, temperature=0.0, seed=4).equals(describe(images, temperature=0.0))


def test_descriptions_stand_before_questions_and_answers_are_unchanged(vlm: Vlm) -> None:
    rows = infuse(
        vlm.processor, ASKED, descriptions(a="A boat.", b="A tree."), PROMPTS.infused, describe=True
    ).to_pylist()
    texts = [
        infused_question(PROMPTS.infused, "A boat.", "What is it?"),
        "How many?",
        infused_question(PROMPTS.infused, "A tree.", "Where?"),
    ]
    for row, text, count in zip(rows, texts, (1, 0, 1), strict=False):
        chat = render_chat(vlm.processor, text, images=count)
        assert row["prompt"] == chat.prompt and row["chosen_finished"]
        assert row["chosen_tokens"] == len(tokens(vlm.processor.tokenizer, chat.answer(row["chosen"])))
    assert [row["chosen"] for row in rows] == ["red", "7", "left", "so"]
    assert [row["description"] for row in rows] == ["A boat.", None, "A tree.", "A boat."]
    plain = infuse(vlm.processor, ASKED, descriptions(a="A boat.", b="A tree."), PROMPTS.infused, describe=False)
    assert plain["description"].null_count == 4 and "boat" not in plain["prompt"][0].as_py()
    with pytest.raises(DataError, match="b has no description"):
        infuse(vlm.processor, ASKED, descriptions(a="A boat."), PROMPTS.infused, describe=True)


def test_the_length_of_a_prompt_counts_its_image(vlm: Vlm) -> None:
    images = pa.Table.from_pylist([image_of("a"), image_of("b")])
    written = describe_images(
        vlm, PROMPTS.describe, images, open_picture,
        temperature=0.0, max_new_tokens=4, seed=0, batch_size=2, progress=Progress("d", 2),
    )  # fmt: skip
    row = infuse(
        vlm.processor, ASKED, conform(written, DESCRIPTIONS.schema), PROMPTS.infused, describe=True
    ).to_pylist()[0]
    given = vlm.processor(images=[picture("a")], text=[row["prompt"]], add_special_tokens=False)
    assert len(given["input_ids"][0]) == row["prompt_tokens"]


def test_the_loss_is_on_the_answers_alone_and_rows_of_text_alone_count(
    vlm: Vlm, tiny_model: Path, tmp_path: Path
) -> None:
    infused = infuse(vlm.processor, ASKED, descriptions(a="A boat.", b="A tree."), PROMPTS.infused, describe=True)
    config = Training(learning_rate=1e-2, lora_rank=2, batch_size=4, micro_batch_size=4)

    def train(table: pa.Table, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        store, folder = ArtifactStore(str(tmp_path / f"store-{name}")), tmp_path / name
        folder.mkdir()
        given = training(tiny_model, store, "steps/train_infused/k", folder, config, loss=SFT())
        fresh = load_base(model_ref(tiny_model), torch.device("cpu"))
        log = train_sft(fresh, render_chat(fresh.processor, PROMPTS.describe), table, open_picture, **given)
        return log.to_pylist()[0], load_file(folder / "adapter_model.safetensors")

    log, _ = train(infused, "all")
    losses = [answer_loss(vlm, row) for row in infused.to_pylist()]
    counts = [count for _, count in losses]
    assert log["loss"] == pytest.approx(sum(loss for loss, _ in losses) / sum(counts), abs=2e-4)
    without, _ = train(infused.filter(pa.array([True, False, True, True])), "without")
    assert without["loss"] != pytest.approx(log["loss"], abs=1e-3)


def answer_loss(vlm: Vlm, row: dict[str, Any]) -> tuple[float, int]:
    """Summed negative log-likelihood of an answer by a plain pass of one row, and its tokens."""
    chat = Chat(row["prompt"], *render_chat(vlm.processor, PROMPTS.describe)[1:])
    ids = tokens(vlm.processor.tokenizer, chat.answer(row["chosen"]))
    images: Any = [picture(image["image"]) for image in row["images"]] or None
    given = dict(vlm.processor(images=images, text=[row["prompt"]], add_special_tokens=False, return_tensors="pt"))
    given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([ids])], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    with torch.no_grad():
        logps = vlm.model(**given).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return -float(logps.gather(1, torch.tensor(ids)[:, None]).sum()), len(ids)


def test_questions_are_asked_directly_or_behind_the_description(vlm: Vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline_lib.vlm.generate as generate

    asked: list[Any] = []
    real = generate.generate_answers
    monkeypatch.setattr(generate, "generate_answers", lambda vlm, rows, how: asked.extend(rows) or real(vlm, rows, how))

    def answers(texts: dict[str, str] | None) -> pa.Table:
        asked.clear()
        options: dict[str, Any] = {"max_new_tokens": 3, "batch_size": 3, "progress": Progress("a", 4)}
        return answer_questions(vlm, ASKED, open_picture, texts, PROMPTS.infused, **options)

    direct = answers(None)
    assert direct.schema == ANSWERS.schema and direct["row"].to_pylist() == [0, 1, 2, 3]
    assert sorted(len(question.images) for question in asked) == [0, 1, 1, 1]
    assert not any("Image description" in question.chat.prompt for question in asked)
    answers({"a": "A boat.", "b": "A tree."})
    prompts = sorted(question.chat.prompt for question in asked if question.images)
    assert len(prompts) == 3 and all("Image description:\nA " in prompt for prompt in prompts)
    (alone,) = [question for question in asked if not question.images]
    assert "How many?" in alone.chat.prompt and "Image description" not in alone.chat.prompt
    assert isinstance(asked[-1].images[0], Image.Image)
