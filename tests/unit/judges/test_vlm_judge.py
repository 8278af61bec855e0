"""The verdicts that a judge's answers end in, the prompts, and the judge on the bundled model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_lib.config.base import Model
from pipeline_lib.errors import RecipeError
from pipeline_lib.judges.vlm_judge import judge_answers, load_judge_prompt, read_verdict
from pipeline_lib.progress import Progress
from pipeline_lib.vlm.generate import Greedy, Sampled
from pipeline_lib.vlm.load import load_base
from pipeline_lib.vlm.model_ref import resolve_model


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Reason: A says red, B says blue, the image shows red. Verdict: A", "A"),
        ("Verdict: B.", "B"),
        ("**Verdict:** B", "B"),
        ("Overall Judgment: Answer B is better.", "B"),
        ("Answer A is the clearly better one", "A"),
        ("Answer A is slightly better.", "A"),
        ("So [[B]]", "B"),
        ("First verdict: A. On second thoughts, verdict: B", "B"),
        ("A is nice, and B is not.", None),
        ("The verdict: a close call", None),  # the article is no letter
        ("Verdict: Both", None),
        ("", None),
    ],
)
def test_the_last_verdict_counts_and_none_is_guessed(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


def test_a_prompt_shows_both_answers_and_takes_braces_as_text(tmp_path: Path) -> None:
    short = load_judge_prompt("short")
    assert short.ask("Where?", "{b}", "left") == short.text.replace("{question}", "Where?").replace(
        "{a}", "\0"
    ).replace("{b}", "left").replace("\0", "{b}")
    own = tmp_path / "mine.txt"
    own.write_text("Which one? {a} or {b}?")
    with pytest.raises(RecipeError, match=r"\{question\}"):
        load_judge_prompt(str(own))
    with pytest.raises(RecipeError, match="criteria, short"):
        load_judge_prompt("nothing")


def test_the_bundled_model_judges_alike_in_any_batch_and_reads_probabilities() -> None:
    vlm = load_base(resolve_model(Model(id="bundled", dtype="float32", resize_px=96)), torch.device("cpu"))
    rng = np.random.default_rng(3)
    pictures = {f"{at}.png": Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)) for at in range(3)}
    records = [
        {"image": name, "image_sha256": "", "width_px": 96, "height_px": 96, "key": f"{name}{at}"}
        | {"question": "What colour is the boat?", "a": "red" * (1 + at), "b": "blue"}
        for name in pictures
        for at in range(2)
    ]

    def judge(batch_size: int, **options: object):  # type: ignore[no-untyped-def]
        return judge_answers(
            vlm,
            load_judge_prompt("short"),
            records,
            lambda image, digest: pictures[image],
            batch_size=batch_size,
            progress=Progress("verdicts", len(records)),
            **{"decoding": Greedy(max_new_tokens=64), "probabilities": True} | options,  # type: ignore[arg-type]
        )

    alone, together = judge(1), judge(8)
    assert [[answer.text for answer in answers] for answers in alone] == [[a.text for a in b] for b in together]
    for (one,), (other,) in zip(alone, together, strict=True):
        assert one.verdict is not None and one.p_a is not None and other.p_a is not None
        assert abs(one.p_a - other.p_a) < 1e-4
        assert (one.p_a > 0.5) == (one.verdict == "A")  # greedy: the letter is the likelier one
    # An answer that the limit cuts off has no verdict, however it reads.
    assert all(answer.verdict is None for (answer,) in judge(8, decoding=Greedy(max_new_tokens=3)))
    sampled = judge(8, decoding=Sampled(max_new_tokens=64, seed=1), samples=3, probabilities=False)
    assert [len(answers) for answers in sampled] == [3] * len(records)
    assert len({answer.text for answers in sampled for answer in answers}) > len(records)
