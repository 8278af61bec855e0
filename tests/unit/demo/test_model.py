"""The committed base VLM: it loads with stock classes, its texts tokenise alike in one piece and in two."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline_lib.demo
from pipeline_lib.demo.corpus import OVERALL, PHRASES, explain
from pipeline_lib.demo.distortions import ATTRIBUTES, Severity

MODEL = Path(pipeline_lib.demo.__file__).parent / "model"


@pytest.fixture(scope="module")
def processor():  # type: ignore[no-untyped-def]
    import transformers

    return transformers.AutoProcessor.from_pretrained(MODEL)


def _conversation(answer: str | None) -> list[dict[str, object]]:
    from pipeline_lib.demo.lessons import scoring_prompt

    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": scoring_prompt()}]}
    return [user] if answer is None else [user, {"role": "assistant", "content": answer}]


def test_the_template_gives_one_bos_one_eos_and_the_agreed_text(processor) -> None:  # type: ignore[no-untyped-def]
    answer = "#Score: 7\n\n#Explain: The picture shows strong contrast."
    prompt = processor.apply_chat_template(_conversation(None), add_generation_prompt=True, tokenize=False)
    whole = processor.apply_chat_template(_conversation(answer), tokenize=False)
    assert prompt.startswith("<s>USER: <image>\n") and prompt.endswith(" ASSISTANT:")
    assert whole == f"{prompt} {answer}</s>"
    tokenizer = processor.tokenizer
    ids = processor(images=Image.new("RGB", (50, 80)), text=whole, return_tensors="np")["input_ids"][0].tolist()
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 36


def test_separate_and_joint_tokenisation_agree_and_digits_are_single_tokens(processor) -> None:  # type: ignore[no-untyped-def]
    def ids(text: str) -> list[int]:
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    prompt = processor.apply_chat_template(_conversation(None), add_generation_prompt=True, tokenize=False)
    answers = [f" #Score: {digit}\n\n#Explain: We see a soft focus.</s>" for digit in range(10)]
    for answer in answers:
        assert ids(prompt) + ids(answer) == ids(prompt + answer)
    stems = ids(" #Score: ")
    digits = {tuple(ids(answer)[: len(stems) + 1]) for answer in answers}
    assert len(digits) == 10 and all(list(row[:-1]) == stems for row in digits)
    assert processor.tokenizer.decode(ids(answers[3])) == answers[3]


def test_the_model_loads_with_stock_classes_sees_the_image_and_answers_in_the_format(processor) -> None:  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

    model = AutoModelForImageTextToText.from_pretrained(MODEL, dtype=torch.float32).eval()
    assert isinstance(model, LlavaForConditionalGeneration)
    prompt = processor.apply_chat_template(_conversation(None), add_generation_prompt=True, tokenize=False)
    rng = np.random.default_rng(0)
    noisy = Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    images = [Image.new("RGB", (96, 96), (9, 9, 9)), noisy]
    inputs = processor(images=images, text=[prompt, prompt], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=1).logits[:, 0]
        answers = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    assert (logits[0] - logits[1]).abs().max() > 0.1
    for text in processor.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True):
        assert text.startswith(" #Score: ") and "\n\n#Explain: " in text and text.endswith(".")


def test_the_weights_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 12_000_000


def test_the_weights_have_the_names_of_the_hubs_checkpoints() -> None:
    from safetensors import safe_open

    with safe_open(MODEL / "model.safetensors", "pt") as file:
        roots = {".".join(name.split(".")[:3]) for name in file.keys()}  # noqa: SIM118
    assert "vision_tower.vision_model.embeddings" in roots and "language_model.model.layers" in roots
    assert {root.split(".")[0] for root in roots} == {"vision_tower", "multi_modal_projector", "language_model"}


def test_no_explanation_writes_a_number_and_it_follows_both_score_and_picture() -> None:
    words = " ".join(phrase for levels in PHRASES.values() for level in levels for phrase in level) + " ".join(OVERALL)
    assert not any(symbol.isdigit() for symbol in words)
    fine, blurred = Severity(*[0.0] * len(ATTRIBUTES)), Severity(*[0.0] * len(ATTRIBUTES))._replace(blur=1.0)

    def judgement(severity: Severity, quality: float, score: int) -> float:
        texts = [explain(severity, quality, score, np.random.default_rng(k)) for k in range(60)]
        return float(np.mean([max(OVERALL.index(word) for word in OVERALL if f" {word}" in text) for text in texts]))

    assert judgement(fine, 9, 9) > judgement(fine, 9, 1) + 2
    assert judgement(fine, 9, 5) > judgement(blurred, 2, 5) + 2
