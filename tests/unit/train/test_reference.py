"""The reference's table: a row an answer, found again by what it says; pairs without one are refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.pairs import answers_of_pairs
from pipeline_lib.methods.self_improve.swap import swap_scores
from pipeline_lib.testing.tiny import PROMPT, image_table, model_ref, preference_pairs, reference_of
from pipeline_lib.train import answer_logps
from pipeline_lib.train.reference import with_reference
from pipeline_lib.train.stored_reference import REFERENCE
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.load import Vlm, load_base

CHOSEN, REJECTED = REFERENCE


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> tuple[Vlm, Chat]:
    vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
    return vlm, render_chat(vlm.processor, PROMPT)


@pytest.fixture(scope="module")
def made(base: tuple[Vlm, Chat]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Eight score pairs, the consistency pairs of five of them, and their reference."""
    pairs = preference_pairs(8, base[1].prompt)
    swapped = swap_scores(pairs.slice(3))
    return pairs, swapped, reference_of(*base, pairs, consistency_pairs=swapped)


def replaced(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


def test_a_row_an_answer_and_each_kind_of_pairs_finds_its_own(
    base: tuple[Vlm, Chat], made: tuple[pa.Table, pa.Table, pa.Table]
) -> None:
    pairs, swapped, table = made
    assert table.num_rows == 8 + 8 + 5
    by_answer = {
        kind: dict(zip(part["image"].to_pylist(), part["logp"].to_pylist(), strict=True))
        for kind in ("chosen", "rejected", "swapped")
        if (part := table.filter(pc.equal(table["answer"], kind)))
    }
    score, consistency = with_reference(pairs, table, base[1]), with_reference(swapped, table, base[1])
    assert score[CHOSEN].to_pylist() == list(by_answer["chosen"].values())
    assert score[REJECTED].to_pylist() == list(by_answer["rejected"].values())
    assert consistency[CHOSEN].to_pylist() == score[CHOSEN].to_pylist()[3:]
    assert consistency[REJECTED].to_pylist() == list(by_answer["swapped"].values())
    assert len({value for values in by_answer.values() for value in values.values()}) == 21
    assert all(value < -5 for values in by_answer.values() for value in values.values())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("rejected", "#Score: 1\n\n#Explain: Another."),
        ("rejected_finished", False),
        ("image_sha256", "1" * 64),
        ("image", "other.png"),
        ("prompt", "another"),
    ],
)
def test_a_pair_without_a_reference_is_named(
    base: tuple[Vlm, Chat], made: tuple[pa.Table, pa.Table, pa.Table], column: str, value: object
) -> None:
    pairs, _, table = made
    name = value if column == "image" else "train-6.png"
    with pytest.raises(DataError, match=rf"1 of 8 pair\(s\).*: {name};"):
        with_reference(replaced(pairs, column, 6, value), table, base[1])
    with pytest.raises(DataError, match=r"8 of 8 .* train-4.png and 3 more"):
        with_reference(pairs, table.slice(0, 0), base[1])


def test_rows_that_are_not_trained_on_are_not_asked_about() -> None:
    rejected = [f"#Score: {(at + 5) % 10}\n\n#Explain: Bad." for at in range(4)]
    rejected[2] = "#Score: 7\n\n#Explain: \n"
    pairs = preference_pairs(4, "p", rejected=rejected)
    found = answers_of_pairs(pairs, swap_scores(pairs.slice(1)), image_table(9), 400)
    assert found["image"].to_pylist() == ["train-0.png", "train-1.png", "train-3.png"]
    assert found["swapped"].to_pylist() == [None, "#Score: 1\n\n#Explain: Bad.", "#Score: 3\n\n#Explain: Bad."]
    assert answers_of_pairs(pairs, None, image_table(4), 400)["swapped"].null_count == 3
    long = preference_pairs(4, "p", prompt_tokens=[40, 400, 40, 40])
    with pytest.raises(DataError, match=r"1 row.s. .* 400: train-1\.png: 431"):
        answers_of_pairs(long, None, image_table(4), 400)
    with pytest.raises(DataError, match="collapsed"):
        answers_of_pairs(pairs, swap_scores(pairs.slice(2, 1)), image_table(4), 400)


def test_a_model_that_cannot_share_the_prefix_takes_the_plain_path_and_says_so(
    base: tuple[Vlm, Chat],
    made: tuple[pa.Table, pa.Table, pa.Table],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs, swapped, table = made
    monkeypatch.setattr("pipeline_lib.vlm.generate.attention.SHARED", frozenset())
    monkeypatch.setattr(answer_logps, "shared_logps", None)
    plain = reference_of(*base, pairs, consistency_pairs=swapped)
    assert "not tested with" in caplog.text
    assert plain.drop_columns("logp").equals(table.drop_columns("logp"))
    assert np.allclose(plain["logp"].to_numpy(), table["logp"].to_numpy(), atol=1e-4, rtol=0)
    assert not np.allclose(plain["logp"].to_numpy(), np.roll(table["logp"].to_numpy(), 1), atol=1e-1)
