"""Sampled answers about one and two images: the same in any batch, in any order and on either path, in every family."""

import random
from functools import cache
from itertools import combinations

import pytest
import torch

from pipeline_lib.testing.tiny import PROMPT
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.generate import Answers, Greedy, NextTokens, Question, Sampled, attention, generate_answers
from pipeline_lib.vlm.generate.plain import generate_plain, read_plain
from tests.families.conftest import Loaded, _load, loaded  # noqa: F401
from tests.parity.test_generation import Work, ending_at, furthest, pictures

DECODING = Sampled(max_new_tokens=6, temperature=0.9, top_p=0.9, seed=3)
ROWS = 32
CLOSE = 5e-6
"""In probability. Float32 rounding of 32 rows that are padded to the longest."""
_known: dict[str, Answers] = {}


def questions(given: Loaded) -> list[Question]:
    """One and two images in turn, two prompts, one to three answers, some with a beginning of their own."""
    processor, images = given.vlm.processor, pictures()
    chat = cache(lambda text, count: render_chat(processor, text, count))
    rows = []
    for at in range(ROWS):
        shown = [images[at % 5], images[(3 * at + 1) % 5]][: 1 + at % 2]
        beginnings = [*[""] * (1 + at % 3), *[given.chat.separator + "The light"] * (at % 5 == 4)]
        text = PROMPT if at % 4 < 2 else "Is the picture sharp?"
        rows.append(Question(chat(text, len(shown)), shown, beginnings, f"{at}.png"))
    return rows


def read_of(given: Loaded) -> NextTokens:
    return NextTokens(given.scores.context, given.scores.ids)


def whole(given: Loaded) -> Answers:
    """All rows in one batch."""
    name = given.family.name
    if name not in _known:
        _known[name] = generate_answers(given.vlm, questions(given), DECODING, read_of(given))
    return _known[name]


def test_batches_of_any_size_and_order_give_the_same_texts(loaded: Loaded) -> None:  # noqa: F811
    rows, expected = questions(loaded), whole(loaded)
    assert [len(row) for row in expected.answers] == [len(row.beginnings) for row in rows]
    order = list(range(ROWS))
    random.Random(0).shuffle(order)
    for start in range(0, ROWS // 2, 4):
        some = order[start : start + 4]
        found = generate_answers(loaded.vlm, [rows[at] for at in some], DECODING, read_of(loaded))
        assert found.answers == [expected.answers[at] for at in some]
        assert furthest(found.readouts, [expected.readouts[at] for at in some]) < CLOSE
    for at in order[:3]:
        assert generate_answers(loaded.vlm, [rows[at]], DECODING).answers == [expected.answers[at]]


def test_the_plain_path_gives_the_same_texts(loaded: Loaded) -> None:  # noqa: F811
    rows, expected = questions(loaded), whole(loaded)
    assert generate_plain(loaded.vlm, rows, DECODING) == expected.answers
    assert furthest(read_plain(loaded.vlm, rows, read_of(loaded)), expected.readouts) < CLOSE
    greedy = Greedy(max_new_tokens=6)
    assert generate_plain(loaded.vlm, rows[:6], greedy) == generate_answers(loaded.vlm, rows[:6], greedy).answers


def test_an_end_token_ends_an_answer(loaded: Loaded) -> None:  # noqa: F811
    rows = questions(loaded)[:4]
    end = whole(loaded).answers[2][1].ids[3]
    with ending_at(loaded.vlm, end):
        found = generate_answers(loaded.vlm, rows, DECODING).answers
        assert found == generate_plain(loaded.vlm, rows, DECODING)
    for before, after in zip(whole(loaded).answers[:4], found, strict=True):
        for long, short in zip(before, after, strict=True):
            stop = long.ids.index(end) + 1 if end in long.ids else None
            assert short.ids == long.ids[:stop] and short.tokens == len(short.ids)
            assert short.finished == (stop is not None or long.finished)
    one = rows[0]._replace(beginnings=[""])
    with ending_at(loaded.vlm, whole(loaded).answers[0][0].ids[1]), Work(loaded.vlm) as work:
        ((answer,),) = generate_answers(loaded.vlm, [one], DECODING).answers
    assert answer.finished and work.tokens == answer.prompt_tokens + answer.tokens - 1  # no step behind the end
    assert found[2][1].finished and not all(answer.finished for row in found for answer in row)


def test_each_answer_and_each_seed_has_noise_of_its_own(loaded: Loaded) -> None:  # noqa: F811
    rows = questions(loaded)
    assert len({answer.ids for row in whole(loaded).answers for answer in row}) > 0.9 * sum(
        len(row.beginnings) for row in rows
    )
    other = generate_answers(loaded.vlm, rows[:8], DECODING.model_copy(update={"seed": 4})).answers
    assert all(a != b for a, b in zip(other, whole(loaded).answers[:8], strict=True))


def test_the_answers_of_a_row_can_be_split_over_calls(loaded: Loaded) -> None:  # noqa: F811
    row = questions(loaded)[5]
    (together,) = generate_answers(loaded.vlm, [row._replace(beginnings=[""] * 5)], DECODING).answers
    parts = [row._replace(beginnings=[""] * 3), row._replace(beginnings=[""] * 2, first_answer=3)]
    one, other = generate_answers(loaded.vlm, parts, DECODING).answers
    assert one + other == together
    assert len({answer.ids for answer in together}) == 5


def test_two_images_are_read_in_their_order(loaded: Loaded) -> None:  # noqa: F811
    """Against the model's own forward pass over what its processor makes of them."""
    vlm, read = loaded.vlm, read_of(loaded)
    chat = render_chat(vlm.processor, PROMPT, images=2)
    one, other = pictures()[1], pictures()[3]
    orders = [[one, other], [other, one], [other, other]]
    found = generate_answers(vlm, [Question(chat, shown, []) for shown in orders], Greedy(max_new_tokens=1), read)
    assert found.answers == [[], [], []]
    for shown, readout in zip(orders, found.readouts, strict=True):
        inputs = vlm.processor(
            images=[shown], text=[chat.prompt + read.context], add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            every = vlm.model(**inputs).logits[0, -1].double().softmax(0)
        some = every[list(read.ids)]
        assert readout.distribution == pytest.approx((some / some.sum()).tolist(), abs=CLOSE)
        assert readout.mass == pytest.approx(float(some.sum()), abs=CLOSE)
    for first, second in combinations([readout.distribution for readout in found.readouts], 2):
        assert max(abs(p - q) for p, q in zip(first, second, strict=True)) > 100 * CLOSE


@pytest.mark.parametrize("loaded", ["llava-next-vicuna", "qwen3-vl"], indirect=True)
def test_a_model_that_cannot_share_is_asked_the_plain_way(
    loaded: Loaded,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole(loaded)
    monkeypatch.setattr(attention, "SHARED", frozenset())
    monkeypatch.setattr("pipeline_lib.vlm.generate.prefix_generation.decode", None)
    found = generate_answers(loaded.vlm, questions(loaded), DECODING, read_of(loaded))
    assert found.answers == expected.answers
    assert furthest(found.readouts, expected.readouts) < CLOSE
