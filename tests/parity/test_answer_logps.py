"""Log-probabilities of K answers in one row are those of K rows with a prefix each, for rows of different K."""

import pytest
import torch

from pipeline_lib.testing.tiny import PROMPT
from pipeline_lib.train.answer_logps import answer_logps, plain_logps, shared_logps
from pipeline_lib.train.prefix_rows import Row
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.generate import attention
from pipeline_lib.vlm.load import Vlm
from tests.parity.pairs import BAD, GOOD, bare
from tests.parity.test_generation import Work, pictures

NAMES = ["llava-next-mistral", "internvl-internlm2", "qwen2.5-vl", "qwen3-vl"]
COUNTS = [1, 8, 2, 3, 0]
CLOSE = 4e-5
"""Nats, of sums over up to thirty tokens of float32; its neighbours are 1.5e-5 apart at the 190 nats of the longest."""


def made(name: str) -> tuple[Vlm, Chat, Chat]:
    model, processor, one = bare(name)
    return Vlm(model.eval(), processor, torch.device("cpu")), one, render_chat(processor, PROMPT, images=2)


def rows_of(one: Chat, two: Chat, count: int | None = None) -> list[Row]:
    """Rows of one and two images in turn, with `count` answers or as many as `COUNTS` says; one answer is empty."""
    texts = [f"{number} {text}" for number, text in enumerate([*GOOD, *BAD, GOOD[1] + BAD[2], "x"])]
    rows = []
    for at, own in enumerate(COUNTS):
        chat, images = (two, [pictures()[at], pictures()[1]]) if at % 2 else (one, [pictures()[at]])
        said = (texts[at:] + texts[:at])[: own if count is None else count]
        answers = [chat.answer(text, finished=bool(place % 3)) for place, text in enumerate(said)]
        rows.append(Row(images, chat.prompt, ["" if at == 1 and place == 4 else a for place, a in enumerate(answers)]))
    return rows


def difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    return max(abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_of_any_number_of_answers(name: str) -> None:
    vlm, one, two = made(name)
    for count in (None, 1, 2, 3, 8):
        rows = rows_of(one, two, count)
        found = shared_logps(vlm, rows)
        assert [len(row) for row in found] == (COUNTS if count is None else [count] * len(COUNTS))
        assert difference(found, plain_logps(vlm, rows)) < CLOSE
        values = [round(value, 4) for row in found for value in row]
        assert len(set(values)) == len(values)
        assert values.count(0.0) == (count in (None, 8))  # the empty answer


@pytest.mark.parametrize("name", NAMES)
def test_are_those_of_the_whole_text_read_alone(name: str) -> None:
    """By the model's own forward pass over prompt and answer, without a batch."""
    vlm, one, two = made(name)
    rows = rows_of(one, two)
    for row, values in zip(rows, shared_logps(vlm, rows), strict=True):
        for answer, value in zip(row.answers, values, strict=True):
            ids = tokens(vlm.processor.tokenizer, answer)
            inputs = vlm.processor(
                images=[row.images], text=[row.prompt + answer], add_special_tokens=False, return_tensors="pt"
            )
            with torch.no_grad():
                logps = vlm.model(**inputs).logits[0, :-1].double().log_softmax(-1)
            behind = logps.gather(1, inputs["input_ids"][0, 1:, None])[len(logps) - len(ids) :]
            assert inputs["input_ids"][0, len(logps) + 1 - len(ids) :].tolist() == ids
            assert value == pytest.approx(float(behind.sum()), abs=CLOSE)


@pytest.mark.parametrize("name", ["qwen3-vl"])
def test_ids_and_parts_of_a_row_give_the_same(name: str) -> None:
    vlm, one, two = made(name)
    rows = rows_of(one, two)
    found = shared_logps(vlm, rows)
    ids = [row._replace(answers=[tokens(vlm.processor.tokenizer, text) for text in row.answers]) for row in rows]
    assert shared_logps(vlm, ids) == found
    assert plain_logps(vlm, ids) == plain_logps(vlm, rows)
    parts = [rows[1]._replace(answers=rows[1].answers[start : start + 3]) for start in (0, 3, 6)]
    assert difference([[value for part in shared_logps(vlm, parts) for value in part]], [found[1]]) < CLOSE
    with pytest.raises(ValueError, match=r"2 image\(s\) for 1 placeholders"):  # else rows would exchange images
        shared_logps(vlm, [rows[0]._replace(images=rows[1].images), rows[1]._replace(images=rows[0].images)])
    assert shared_logps(vlm, [rows[4]]) == plain_logps(vlm, [rows[4]]) == [[]]


def test_a_prefix_is_read_once_where_the_model_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, one, two = made("llava-next-mistral")
    rows = rows_of(one, two)
    with Work(vlm) as work:
        expected = answer_logps(vlm, rows, 500)
    assert work.prefills == [len(rows)]
    monkeypatch.setattr(attention, "SHARED", frozenset())
    with Work(vlm) as work:
        assert difference(answer_logps(vlm, rows, 500), expected) < CLOSE
    assert work.prefills == [4, 3, 2, 1, 1, 1, 1]  # one of the second row's answers has no tokens
