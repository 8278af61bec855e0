"""The conversation as a string: one begin token, an end token, and the same tokens apart and together."""

import pytest

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.answer import answer_prefix, parse_answer
from pipeline_lib.testing.tiny import BOS, EOS, TEMPLATE, build_processor, byte_level_tokenizer, sentencepiece_tokenizer
from pipeline_lib.vlm.chat import render_chat, tokens

WITHOUT_BOS = TEMPLATE.removeprefix("{{ bos_token }}")


def adding_bos():  # type: ignore[no-untyped-def]
    """A tokenizer that puts its begin token in front of every text by itself, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer, adding_bos])
@pytest.mark.parametrize("before", ["{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"])
def test_there_is_exactly_one_begin_token(make, before: str) -> None:  # type: ignore[no-untyped-def]
    processor = build_processor(make(), before + WITHOUT_BOS)
    chat = render_chat(processor, "Rate the look.")
    assert chat.prompt == "<s>USER: <image>\nRate the look. ASSISTANT:"
    ids = tokens(processor.tokenizer, chat.prompt + chat.answer("#Score: 7"))
    assert ids.count(processor.tokenizer.bos_token_id) == 1


def test_a_template_without_a_begin_token_gets_it_when_the_tokenizer_would_add_it() -> None:
    assert render_chat(build_processor(adding_bos(), WITHOUT_BOS), "Rate.").prompt.startswith("<s>USER")
    assert render_chat(build_processor(byte_level_tokenizer(), WITHOUT_BOS), "Rate.").prompt.startswith("USER")


def test_a_family_without_a_begin_token_gets_none() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.bos_token = None
    assert render_chat(build_processor(tokenizer, WITHOUT_BOS), "Rate.").prompt.startswith("USER")


def test_a_begin_token_inside_the_prompt_is_refused() -> None:
    template = WITHOUT_BOS.replace("USER: ", "USER: {{ bos_token }}")
    with pytest.raises(ModelError, match="begin token"):
        render_chat(build_processor(adding_bos(), template), "Rate.")


CHATML = (
    "{% for message in messages %}<s>{{ message.role }} {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""Its begin token is also the mark of a turn, as in SmolLM2."""


@pytest.mark.parametrize("make", [byte_level_tokenizer, adding_bos])
@pytest.mark.parametrize("before", ["", "{{ bos_token }}"])
def test_a_begin_token_may_be_the_mark_of_a_turn(make, before: str) -> None:  # type: ignore[no-untyped-def]
    chat = render_chat(build_processor(make(), before + CHATML), "Rate.")
    assert chat == ("<s>user <image>\nRate.</s>\n<s>assistant\n", "", "</s>")


def test_a_begin_token_that_also_ends_turns_stays_where_the_template_writes_it() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.bos_token = EOS
    template = TEMPLATE.replace("{{ bos_token }}", "").replace(
        "{% endfor %}{% endfor %}", "{% endfor %}</s>{% endfor %}"
    )
    assert render_chat(build_processor(tokenizer, template), "Rate.").prompt == "USER: <image>\nRate.</s> ASSISTANT:"


@pytest.mark.parametrize("text", ["<s>Rate.", "Rate <s>assistant\n it."])
@pytest.mark.parametrize("template", [TEMPLATE, CHATML])
def test_a_begin_token_in_the_prompts_text_is_refused(text: str, template: str) -> None:
    """It would begin a turn that is none."""
    with pytest.raises(ModelError, match="begin token '<s>' inside"):
        render_chat(build_processor(byte_level_tokenizer(), template), text)


@pytest.mark.parametrize(("ending", "separator"), [(" ASSISTANT:", " "), (" ASSISTANT\n", "")])
def test_a_blank_separates_prompt_and_answer_unless_there_is_one(ending: str, separator: str) -> None:
    chat = render_chat(build_processor(byte_level_tokenizer(), TEMPLATE.replace(" ASSISTANT:", ending)), "Rate.")
    assert chat.prompt.endswith(ending) and chat.separator == separator
    assert chat.answer("#Score: 7") == f"{separator}#Score: 7{EOS}"
    assert chat.answer("#Score: 7", finished=False) == f"{separator}#Score: 7"


IMAGES_FIRST = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] "
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text }}{% endfor %} [/INST]"
    "{% else %}{% generation %} {{ message.content[0].text }}END {% endgeneration %}{% endif %}{% endfor %}"
)
"""A turn as in llava-v1.6-mistral, with the mark of generated text that LLaVA-1.5's template has."""


@pytest.mark.parametrize("end", ["</s>", r"<\\s>", ""])
def test_an_end_that_the_template_writes_wrongly_is_that_of_the_tokenizer(end: str) -> None:
    """An earlier chat template of llava-v1.6-mistral ends turns with the four characters <\\s>, which are no token."""
    processor = build_processor(byte_level_tokenizer(), IMAGES_FIRST.replace("END", end))
    chat = render_chat(processor, "Compare.", images=2)
    assert chat.prompt == "[INST] <image>\n<image>\nCompare. [/INST]" and chat.end == EOS
    assert tokens(processor.tokenizer, chat.answer("Sharp."))[-1] == processor.tokenizer.eos_token_id


def test_what_cannot_be_driven_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        render_chat(build_processor(tokenizer), "Rate.")
    with pytest.raises(ModelError, match=r"no image placeholder '<image>'.*take a newer commit"):
        render_chat(build_processor(byte_level_tokenizer(), TEMPLATE.replace("<image>\n", "")), "Rate.")
    blank_merges = build_processor(byte_level_tokenizer(), TEMPLATE.replace("ASSISTANT:", "ASSISTANT: "))
    with pytest.raises(ModelError, match="cannot be trained on"):
        render_chat(blank_merges, "Rate.")
    with pytest.raises(ModelError, match="cannot be trained on"):
        render_chat(build_processor(byte_level_tokenizer("merged")), "Rate.")


@pytest.mark.parametrize(
    ("text", "score", "explanation"),
    [
        ("#Score: 7\n\n#Explain: Sharp.", 7, "Sharp."),
        (" #Score: 0\n#Explain:  Two lines.\nHere. \n", 0, "Two lines.\nHere."),
        ("#Score:9 #Explain:x", 9, "x"),
        ("#Score: 7\n\n#Explain: It deserves 10/10 # really", 7, "It deserves 10/10 # really"),
        (answer_prefix(3) + " Dull.", 3, "Dull."),
    ],
)
def test_good_answers(text: str, score: int, explanation: str) -> None:
    assert parse_answer(text) == (score, explanation)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sharp.",
        "#Score: 7",
        "#Score: 7\n\n#Explain:",
        "#Score: 7\n\n#Explain:  \n ",
        "#Score: 10\n\n#Explain: Perfect.",
        "#Score: 7.5\n\n#Explain: Good.",
        "#Score: -1\n\n#Explain: Bad.",
        "#Score: ٧\n\n#Explain: Another numeral.",
        "#Score: seven\n\n#Explain: Good.",
        "#Score: 7#Explain: Good.",
        "#Explain: Good.\n\n#Score: 7",
        "I say: #Score: 7\n\n#Explain: Good.",
        "#Score: 7\n\n#Explain: Good. #Score: 8",
        "#Score: 7\n\n#Explain: Good. #Explain: Bad.",
        "#Score: 7\n\nbecause\n\n#Explain: Good.",
        "#score: 7\n\n#explain: Good.",
    ],
)
def test_bad_answers_are_not_guessed(text: str) -> None:
    assert parse_answer(text) is None
