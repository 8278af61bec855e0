"""Tokens are drawn from the distribution that temperature and top_p describe, with noise that names alone decide."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare

from pipeline_lib.testing.tiny import PROMPT, model_ref, picture
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.generate import Greedy, Question, Sampled, generate_answers
from pipeline_lib.vlm.generate.decoding import draw_tokens, uniforms
from pipeline_lib.vlm.generate.plain import generate_plain
from pipeline_lib.vlm.load import Vlm, load_base

CPU = torch.device("cpu")
LAST = 1 - 2.0**-53
FROZEN = [0.8960930962040342, 0.1815091124170316, 0.3694803408363254, 0.3215119739305283, 0.29014710431710566]
"""The first numbers of seed 3, row a.png, answer 1."""


@pytest.fixture(scope="module")
def vlm(tiny_model: Path) -> Vlm:
    return load_base(model_ref(tiny_model), CPU)


@pytest.fixture(scope="module")
def chat(vlm: Vlm) -> Chat:
    return render_chat(vlm.processor, PROMPT)


def expected(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The distribution by its definition, token by token."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    kept, reached = np.zeros(len(p), dtype=bool), 0.0
    for token in np.argsort(-p, kind="stable"):
        if reached >= top_p:
            break
        kept[token], reached = True, reached + p[token]
    return np.where(kept, p, 0) / p[kept].sum()


def next_logits(vlm: Vlm, chat: Chat, ids: tuple[int, ...] = ()) -> np.ndarray:
    """A whole forward pass over image, prompt and what was generated; the image token is never chosen."""
    inputs = vlm.processor(images=picture("a"), text=chat.prompt, add_special_tokens=False, return_tensors="pt")
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids], dtype=torch.long)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -1].double().numpy()
    logits[vlm.processor.image_token_id] = -np.inf
    return logits


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6), (2.0, 0.8)])
def test_tokens_follow_temperature_and_top_p(vlm: Vlm, chat: Chat, temperature: float, top_p: float) -> None:
    """2,000 first tokens of 20 rows against the exact distribution; also against those of other settings."""
    decoding = Sampled(max_new_tokens=1, temperature=temperature, top_p=top_p, seed=0)
    rows = [Question(chat, [picture("a")], [""] * 100, f"row {at}") for at in range(20)]
    drawn = [answer.ids[0] for row in generate_answers(vlm, rows, decoding).answers for answer in row]
    logits, counts = next_logits(vlm, chat), Counter(drawn)
    right = expected(logits, temperature, top_p)
    assert all(right[token] > 0 for token in counts)
    assert _p_value(counts, right) > 0.01
    wrong = [(1.5 * temperature, top_p), (temperature / 1.5, top_p), (temperature, top_p - 0.2)]
    assert all(_p_value(counts, expected(logits, *other)) < 1e-6 for other in wrong)


def _p_value(counts: Counter[int], distribution: np.ndarray) -> float:
    """Of a chi-square test; tokens that are expected fewer than five times are counted as one."""
    total = counts.total()
    common = [token for token in range(len(distribution)) if total * distribution[token] >= 5]
    observed, wanted = [counts[token] for token in common], [total * distribution[token] for token in common]
    rest = total - sum(wanted)
    if rest > 1e-6:
        observed, wanted = [*observed, total - sum(observed)], [*wanted, rest]
    elif sum(observed) < total:
        return 0.0
    return float(chisquare(observed, wanted).pvalue)


def test_answers_are_drawn_token_by_token_as_by_hand(vlm: Vlm, chat: Chat) -> None:
    """Without a cache: a whole forward pass a token, and the token where the noise of its step falls."""
    decoding = Sampled(max_new_tokens=6, temperature=1.3, top_p=0.8, seed=11)
    question = Question(chat, [picture("a")], [""] * 3, "a.png")
    (answers,) = generate_answers(vlm, [question], decoding).answers
    for number, answer in enumerate(answers):
        noise, ids = uniforms(11, "a.png", number, 6), []
        for step in range(answer.tokens):
            p = expected(next_logits(vlm, chat, tuple(ids)), 1.3, 0.8)
            ids.append(int(np.searchsorted(p.cumsum(), noise[step], side="right")))
        assert answer.ids == tuple(ids)


def test_the_set_that_reaches_top_p_is_kept() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log()[None].expand(1000, -1)
    even = torch.arange(1000, dtype=torch.float64) / 1000

    def drawn(top_p: float) -> set[int]:
        return set(draw_tokens(logits, even, 1.0, top_p).tolist())

    assert drawn(0.01) == drawn(0.49) == {1}
    assert drawn(0.51) == drawn(0.79) == {1, 3}
    assert drawn(0.81) == drawn(0.94) == {1, 2, 3}
    assert drawn(0.96) == drawn(1.0) == {0, 1, 2, 3}
    equal = torch.zeros(1000, 8)
    assert set(draw_tokens(equal, even, 1.0, 0.5).tolist()) == {0, 1, 2, 3}


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 2.0, -torch.inf, 0.3, 0.7, -torch.inf]])
    for value, token in ((0.0, 1), (LAST, 4)):
        even = torch.tensor([value], dtype=torch.float64)
        assert draw_tokens(logits, even, 1.0, 1.0).tolist() == [token]
        assert draw_tokens(logits, even, 1e-3, 1.0).tolist() == [1]
    steep = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0)) * 20
    found = draw_tokens(steep, torch.full((200,), LAST, dtype=torch.float64), 1.0, 0.9)
    assert int(found.max()) < 1000


def test_noise_follows_from_seed_key_answer_and_step() -> None:
    noise = uniforms(3, "a.png", 1, 5)
    assert noise.tolist() == FROZEN  # a new version of numpy must not change what a run draws
    assert uniforms(3, "a.png", 1, 50)[:5].tolist() == FROZEN
    others = [uniforms(4, "a.png", 1, 5), uniforms(3, "b.png", 1, 5), uniforms(3, "a.png", 2, 5)]
    assert not {value for other in others for value in other.tolist()} & set(FROZEN)
    many = np.concatenate([uniforms(0, f"{at}", 0, 100) for at in range(100)])
    assert many.min() >= 0 and many.max() < 1
    assert chisquare(np.histogram(many, bins=20, range=(0, 1))[0]).pvalue > 0.01


def test_the_image_token_is_never_drawn(vlm: Vlm, chat: Chat) -> None:
    token, head = vlm.processor.image_token_id, vlm.model.lm_head
    row = head.weight[token].clone()
    inputs = vlm.processor(images=picture("a"), text=chat.prompt, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        head.weight[token] = vlm.model.model(**inputs).last_hidden_state[0, -1] * 100
        assert int(vlm.model(**inputs).logits[0, -1].argmax()) == token
    try:
        decoding = Sampled(max_new_tokens=3, seed=0)
        (answers,) = generate_answers(vlm, [Question(chat, [picture("a")], [""] * 50, "a")], decoding).answers
        assert not any(token in answer.ids for answer in answers)
        assert len({answer.ids for answer in answers}) > 45
    finally:
        with torch.no_grad():
            head.weight[token] = row


def test_what_cannot_be_sampled_is_refused(vlm: Vlm, chat: Chat) -> None:
    with pytest.raises(ValueError, match="key"):
        generate_answers(vlm, [Question(chat, [picture("a")])], Sampled(max_new_tokens=1, seed=0))
    two = render_chat(vlm.processor, PROMPT, images=2)
    for plain in (False, True):
        with pytest.raises(ValueError, match=r"1 image\(s\) for 2 placeholders '<image>'"):
            rows = [Question(two, [picture("a")], key="a"), Question(chat, [picture("a"), picture("b")], key="b")]
            (generate_plain if plain else generate_answers)(vlm, rows, Greedy(max_new_tokens=1))
    for wrong in (
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"max_new_tokens": 0},
        {"top_k": 0},
        {"min_p": 0.1},
    ):
        with pytest.raises(ValidationError):
            Sampled(**{"max_new_tokens": 1, "seed": 0} | wrong)
    assert generate_answers(vlm, [], Greedy(max_new_tokens=1))[:2] == ([], [])


def test_top_k_keeps_the_most_probable_tokens_and_top_p_counts_among_them() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log().expand(1000, 4)
    even = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    shares = [
        (draw_tokens(logits, even, 1.0, top_p, top_k).bincount(minlength=4) / 1000).tolist()
        for top_p, top_k in ((1.0, None), (1.0, 4), (1.0, 2), (0.6, 2), (0.9, 3))
    ]
    assert shares[0] == shares[1] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert shares[2] == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    assert shares[3] == [1, 0, 0, 0]  # .625 of the two reaches .6
    assert shares[4] == pytest.approx([5 / 9, 3 / 9, 1 / 9, 0], abs=2e-3)  # of equal ones the first in the vocabulary
