"""What answers share is found among tokens; a model that is not known to share is asked the plain way, and says so."""

import logging
from pathlib import Path

import pytest
import torch

from pipeline_lib.errors import ModelError
from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.testing.tiny import PROMPT, build_model, build_processor, byte_level_tokenizer, model_ref, picture
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.generate import attention, prefix_generation
from pipeline_lib.vlm.generate.inputs import model_inputs
from pipeline_lib.vlm.load import Vlm, load_base
from tests.asking import ask, generate_greedy, read_scores

CPU = torch.device("cpu")
PICTURES = [picture(f"{n}") for n in range(3)]


def test_a_digit_that_is_fused_with_the_blank_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts have '#Score: ' in common, the tokens only '#Score:'."""
    tokenizer = byte_level_tokenizer("fused")
    vlm = Vlm(build_model(tokenizer), build_processor(tokenizer), CPU)
    chat = render_chat(vlm.processor, PROMPT)
    scores = resolve_score_tokens(tokenizer, chat)
    assert scores.context == " #Score:"
    prefixes = []
    prefill = prefix_generation._prefill
    monkeypatch.setattr(prefix_generation, "_prefill", lambda *given: prefixes.extend(given[2]) or prefill(*given))
    beginnings = [[" " + answer_prefix(score), " " + answer_prefix(score + 4)] for score in (1, 2, 3)]
    found = ask(vlm, chat, PICTURES, beginnings, 12, scores)
    flat = [text for row in beginnings for text in row]
    plain = generate_greedy(vlm, chat, [p for p in PICTURES for _ in (0, 1)], flat, 12)
    assert [answer for row in found.answers for answer in row] == plain
    for readout, expected in zip(found.readouts, read_scores(vlm, chat, scores, PICTURES), strict=True):
        assert readout.distribution == pytest.approx(expected.distribution, abs=1e-6)
        assert readout.mass == pytest.approx(expected.mass, abs=1e-6)
    expected_ids = model_inputs(vlm, [[one] for one in PICTURES], [chat.prompt + " #Score:"] * 3)["input_ids"]
    assert torch.cat([one["input_ids"] for one in prefixes]).equal(expected_ids)


def test_an_untested_type_of_model_takes_the_plain_path_and_says_so(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = load_base(model_ref(tiny_model), CPU)
    chat = render_chat(vlm.processor, PROMPT)
    scores = resolve_score_tokens(vlm.processor.tokenizer, chat)
    beginnings = [[" " + answer_prefix(4), ""], [" "], [""]]
    shared = ask(vlm, chat, PICTURES, beginnings, 8, scores)
    monkeypatch.setattr(attention, "SHARED", frozenset({"qwen3_vl"}))
    monkeypatch.setattr(prefix_generation, "_prefill", None)
    prefix_generation._log_plain_path.cache_clear()
    with caplog.at_level(logging.INFO, "whyscore.model"):
        plain = ask(vlm, chat, PICTURES, beginnings, 8, scores)
        ask(vlm, chat, PICTURES, [[""]] * 3, 2)
    assert plain.answers == shared.answers and len(plain.readouts) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "images are read once for each text, which takes up to twice the time:"
        " it was not tested with models of type llava"
    ]


def test_a_prompt_that_reads_otherwise_behind_an_image_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_base(model_ref(tiny_model), CPU)
    chat = render_chat(vlm.processor, PROMPT)
    tail = prefix_generation._tail
    monkeypatch.setattr(prefix_generation, "_tail", lambda *given: [*tail(*given)[:-1], 5])
    with pytest.raises(ModelError, match="behind the image"):
        ask(vlm, chat, PICTURES, [[""]] * 3, 2)
