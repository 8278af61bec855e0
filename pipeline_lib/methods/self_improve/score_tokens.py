"""The tokens of the ten scores, found in context because tokenizers differ there."""

from typing import Any

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.recipe import SCORES
from pipeline_lib.vlm.chat import Chat, tokens
from pipeline_lib.vlm.generate import NextTokens


class ScoreTokens(NextTokens):
    """Text to put behind the prompt so that the next token is the score, and the ten ids to read there, in order."""


def resolve_score_tokens(tokenizer: Any, chat: Chat) -> ScoreTokens:
    """Find the ten digit tokens behind the real prompt.

    Some tokenizers give the digit a token of its own behind a space token, others have one token for both; both are
    right if the ten tokens are distinct, stand at one position, and stay the same when the explanation follows. Raises
    `ModelError` otherwise: such a model's score distribution could not be read from one position.
    """
    stem = chat.prompt + chat.separator
    encoded = [tokens(tokenizer, f"{stem}#Score: {score}") for score in SCORES]
    common = 0
    while all(len(ids) > common and ids[common] == encoded[0][common] for ids in encoded):
        common += 1
    ids = tuple(row[common] if len(row) > common else -1 for row in encoded)
    if len(set(ids)) != len(SCORES) or any(len(row) != common + 1 for row in encoded):
        raise ModelError(
            "the tokenizer does not write the scores 0..9 as ten single tokens at one position (lengths "
            f"{sorted({len(row) - common for row in encoded})}); WhyScore cannot read a score distribution from it"
        )
    for score, row in zip(SCORES, encoded, strict=True):
        if tokens(tokenizer, f"{stem}#Score: {score}\n\n#Explain:")[: common + 1] != row:
            raise ModelError(f"the tokens of '#Score: {score}' change when the explanation follows; see `score_tokens`")
    for context in ("#Score: ", "#Score:"):
        if tokens(tokenizer, stem + context) == encoded[0][:common]:
            return ScoreTokens(chat.separator + context, ids)
    raise ModelError("no text in front of the score gives the tokens that precede it; the tokenizer is not supported")
