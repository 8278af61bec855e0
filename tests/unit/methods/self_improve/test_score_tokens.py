"""The ten score tokens, found in context for separate and fused tokenizers, refused for others."""

import pytest

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.testing.tiny import PROMPT, build_processor, byte_level_tokenizer, sentencepiece_tokenizer
from pipeline_lib.vlm.chat import Chat, render_chat, tokens


@pytest.mark.parametrize(
    ("make", "context", "written"),
    [
        (byte_level_tokenizer, " #Score: ", [str(score) for score in range(10)]),
        (sentencepiece_tokenizer, " #Score: ", [str(score) for score in range(10)]),
        (lambda: byte_level_tokenizer("fused"), " #Score:", [f"Ġ{score}" for score in range(10)]),
    ],
    ids=["byte level", "sentencepiece", "fused"],
)
def test_the_score_is_read_where_it_is_written(make, context: str, written: list[str]) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    chat = render_chat(build_processor(tokenizer), PROMPT)
    found = resolve_score_tokens(tokenizer, chat)
    assert found.context == context
    assert tokenizer.convert_ids_to_tokens(list(found.ids)) == written
    before = tokens(tokenizer, chat.prompt + found.context)
    for score, token in enumerate(found.ids):
        whole = tokens(tokenizer, chat.prompt + chat.answer(answer_prefix(score) + " Sharp."))
        assert whole[: len(before) + 1] == [*before, token]


def test_a_tokenizer_that_merges_the_score_with_its_neighbours_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["7\n\n"])
    with pytest.raises(ModelError, match="#Score: 7"):
        resolve_score_tokens(tokenizer, Chat("Rate.", " ", "</s>"))


def test_scores_of_more_than_one_token_are_refused() -> None:
    tokenizer = byte_level_tokenizer()

    class Doubling:
        """Writes each digit twice."""

        def __call__(self, text: str, **options: object) -> object:
            return tokenizer("".join(c * 2 if c.isdigit() else c for c in text), **options)

    with pytest.raises(ModelError, match=r"lengths \[2\]"):
        resolve_score_tokens(Doubling(), Chat("Rate.", " ", "</s>"))


def test_scores_that_share_a_token_are_refused() -> None:
    tokenizer = byte_level_tokenizer()

    class Unknown:
        """Knows no 8 and no 9."""

        def __call__(self, text: str, **options: object) -> object:
            return tokenizer(text.replace("9", "8"), **options)

    with pytest.raises(ModelError, match="ten single tokens"):
        resolve_score_tokens(Unknown(), Chat("Rate.", " ", "</s>"))
