"""Every shipped criterion reaches the model that scores and the model that judges."""

import pytest

from pipeline_lib.methods.self_improve.prompt import FOLDER, load_prompt
from pipeline_lib.methods.self_improve.rubric import load_rubric
from pipeline_lib.testing.tiny import build_processor, byte_level_tokenizer
from pipeline_lib.vlm.chat import render_chat

SHIPPED = sorted(file.stem for file in FOLDER.glob("*.txt"))
FORMAT = load_prompt("aesthetics").text.partition("The output format should be as follows:")[2]


def test_there_are_criteria_other_than_aesthetics() -> None:
    assert {"aesthetics", "technical_quality", "advertising_appeal", "product_defects"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_criterion_is_in_the_prompt_and_in_the_rubric(name: str) -> None:
    prompt = load_prompt(name)
    chat = render_chat(build_processor(byte_level_tokenizer()), prompt.text)
    assert prompt.text in chat.prompt and "---" not in chat.prompt and "value:" not in chat.prompt
    criterion = prompt.criterion
    asked = load_rubric("paper").message(criterion, 3, "A dull picture.")
    assert f"regarding the {criterion.value} of images" in asked
    assert f"\n\n{criterion.scale}\n\n" in asked
    assert asked.endswith(f"#{criterion.score.capitalize()}: 3 #Explanatory text: A dull picture.")
    if not name.startswith("aesthetics"):
        assert "aesthetic" not in asked.lower() + prompt.text.lower()
        assert criterion.score in prompt.text and prompt.text.endswith(FORMAT)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("technical_quality", "given a technical quality score for"),
        ("advertising_appeal", "given an advertising appeal score for"),
        ("product_defects", "given a product condition score for"),
    ],
)
def test_the_judge_is_told_of_the_score_in_correct_english(name: str, words: str) -> None:
    assert words in load_rubric("paper").message(load_prompt(name).criterion, 3, "t")


def test_a_higher_score_of_defects_is_a_better_product() -> None:
    prompt = load_prompt("product_defects")
    assert "9 is a flawless product" in prompt.text and "9: Flawless" in prompt.criterion.scale
