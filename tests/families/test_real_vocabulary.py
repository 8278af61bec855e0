"""Qwen's real vocabulary, where a package on this machine carries it: `pip install dashscope` (Apache-2.0)."""

import base64
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import transformers as t
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline_lib.checks.estimate.model_size import CHARACTERS_A_TOKEN
from pipeline_lib.methods.evo_quality.prompt import load_prompts
from pipeline_lib.methods.evo_quality.votes import index_tokens
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.testing.tiny_families import QWEN25_VL, QWEN_TOKENS, VISION_TOKENS
from pipeline_lib.vlm.chat import render_chat, tokens
from pipeline_lib.vlm.image_processors import Qwen25VLImageProcessor


def _vocabulary() -> Path | None:
    found = find_spec("dashscope")
    places = [Path(folder) for folder in found.submodule_search_locations or ()] if found else []
    return next(
        (at / "resources" / "qwen.tiktoken" for at in places if (at / "resources" / "qwen.tiktoken").exists()), None
    )


@pytest.fixture(scope="module")
def processor() -> Any:
    path = _vocabulary()
    if path is None:
        pytest.skip("no package carries Qwen's vocabulary here: pip install dashscope")
    letters = bytes_to_unicode()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, path.read_bytes().splitlines())}

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [pair for token, rank in ranks.items() if len(token) > 1 and (pair := _merged(token, rank, ranks))]
    tokenizer = t.Qwen2Tokenizer(
        {written(token): rank for token, rank in ranks.items()},
        [(written(first), written(second)) for first, second in merges],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|endoftext|>", *QWEN_TOKENS, *VISION_TOKENS],
    )
    return Qwen25VLImageProcessor(t.Qwen2VLImageProcessor(), tokenizer, chat_template=QWEN25_VL)


def _merged(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that a token is put together from: its bytes merged in the order of ranks, up to its own."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        found = [(ranks.get(parts[at] + parts[at + 1], rank), at) for at in range(len(parts) - 1)]
        best, at = min(found)
        if best >= rank:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1])


def test_the_published_ids_are_found(processor: Any) -> None:
    assert tokens(processor.tokenizer, "The light is good. 7 of 10") == [
        785,
        3100,
        374,
        1661,
        13,
        220,
        22,
        315,
        220,
        16,
        15,
    ]


def test_scores_and_indices_are_one_token_each(processor: Any) -> None:
    chat = render_chat(processor, load_prompt("aesthetics").text)
    assert chat.end == "<|im_end|>"
    assert resolve_score_tokens(processor.tokenizer, chat).ids == tuple(range(15, 25))
    for name in ("paper", "paper_direct"):
        assert index_tokens(processor.tokenizer, render_chat(processor, load_prompts(name).compare, 2)).ids == (15, 16)


def test_prompts_have_about_as_many_tokens_as_estimates_assume(processor: Any) -> None:
    for name in ("aesthetics", "technical_quality", "product_defects", "advertising_appeal"):
        text = load_prompt(name).text
        assert len(tokens(processor.tokenizer, text)) == pytest.approx(len(text) / CHARACTERS_A_TOKEN, rel=0.15)
