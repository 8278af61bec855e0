import pyarrow as pa
import pytest

from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.anchors import AnchorVerdicts, anchor_figures, draw_anchors
from pipeline_lib.methods.self_improve.recipe import Evaluation
from pipeline_lib.methods.self_improve.tables import ANCHOR_VERDICTS, ANCHORS
from pipeline_lib.tables.table import conform
from tests.unit.methods.self_improve.conftest import explained


def answers(words: str, count: int = 50) -> pa.Table:
    table = explained([None if n == 3 else f"{words} {n}" for n in range(count)])
    splits = ["val" if n % 5 == 0 else "test" for n in range(count)]
    return table.set_column(table.column_names.index("split"), "split", pa.array(splits))


def test_anchors_are_the_same_test_images_of_every_model() -> None:
    first, second = answers("zero"), answers("one")
    upside_down = second.take(pa.array(range(second.num_rows - 1, -1, -1)))
    anchors = draw_anchors([(0, "zero-shot", first), (1, "score", upside_down)], 20, seed=4)
    conform(anchors, ANCHORS.schema)
    zero, one = anchors.slice(0, 20).to_pylist(), anchors.slice(20).to_pylist()
    assert [row["image"] for row in zero] == [row["image"] for row in one] and len({row["image"] for row in one}) == 20
    tests = set(first.filter(pa.compute.equal(first["split"], "test"))["image"].to_pylist())
    assert {row["image"] for row in zero} < tests
    for row in (*zero, *one):
        number, words = row["image"].removesuffix(".png"), "one" if row["iteration"] else "zero"
        assert row["explanation"] == (None if number == "3" else f"{words} {number}")
    assert {row["kind"] for row in zero} == {"zero-shot"} and {row["kind"] for row in one} == {"score"}
    other = draw_anchors([(0, "zero-shot", first)], 20, seed=5)
    assert other["image"].to_pylist() != anchors.slice(0, 20)["image"].to_pylist()


def test_more_anchors_than_test_images_are_all_of_them_and_unparsed_answers_are_kept() -> None:
    anchors = draw_anchors([(0, "zero-shot", answers("a"))], 1000, seed=0)
    assert anchors.num_rows == 40 and anchors["explanation"].null_count == 1
    with pytest.raises(DataError, match="iteration 1 score"):
        draw_anchors([(0, "zero-shot", answers("a")), (1, "score", answers("b", 45))], 1000, seed=0)


def judged(judge: str, consistency: list[int | None]) -> AnchorVerdicts:
    count = len(consistency)
    half = count // 2
    table = pa.table(
        {
            "image": [f"{n % half}.png" for n in range(count)],
            "image_sha256": ["0"] * count,
            "split": ["test"] * count,
            "group": [f"{n % half}.png" for n in range(count)],
            "judge": [judge] * count,
            "status": ["scored" if grade is not None else "malformed" for grade in consistency],
            "stated_score": pa.array([5] * count, pa.int8()),
            "recovered_score": pa.array([None] * count, pa.float64()),
            **{name: pa.array(consistency, pa.int8()) for name in ("consistency", "usefulness", "general")},
            "iteration": [0] * half + [2] * half,
            "kind": ["zero-shot"] * half + ["merged"] * half,
        }
    )
    return AnchorVerdicts(judge, conform(table, ANCHOR_VERDICTS.schema))


def test_figures_are_shown_per_model_and_judge_with_their_agreement() -> None:
    new = judged("new-judge", [1, 1, 2, 2, 3, 4, 4, None])
    old = judged("old-judge", [1, 1, 2, 3, 3, 4, 4, 4])
    lines = anchor_figures([new, old], Evaluation(bootstrap_samples=100), 0).splitlines()
    rows = [line.split() for line in lines]
    assert rows[1][:3] == ["zero-shot", "new-judge", "1.50"] and rows[1][-1] == "0.0%"
    assert rows[2][:2] == ["old-judge", "1.75"]
    assert rows[3][:4] == ["ite-2", "merged", "new-judge", "3.67"] and rows[3][-1] == "25.0%"
    assert "new-judge and old-judge on consistency: Spearman 0.9" in lines[6]
    assert "the same grade 86%, at most one apart 100%, 7 explanations" in lines[6]
    alone = anchor_figures([new], Evaluation(bootstrap_samples=100), 0)
    assert "old-judge" not in alone and " and " not in alone
