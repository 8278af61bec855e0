"""Pairs: which images, which wrong score, and what stands in every column."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from pipeline_lib.methods.self_improve.score_pairs import choose_training_images, draw_wrong_score, generate_score_pairs
from pipeline_lib.methods.self_improve.tables import SCORE_PAIRS
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw, draw_rows
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import PROMPT, image_table, model_ref, open_picture, picture
from pipeline_lib.vlm.chat import render_chat, tokens
from pipeline_lib.vlm.load import load_base


def test_a_draw_depends_on_purpose_and_name_alone_and_is_even() -> None:
    draws = [draw("0:use", f"{n}.jpg") for n in range(4000)]
    assert all(0 <= value < 1 for value in draws)
    assert abs(sum(draws) / 4000 - 0.5) < 0.02
    assert draw("0:use", "1.jpg") == draws[1] != draw("1:use", "1.jpg")


@pytest.mark.parametrize("min_distance", [1, 3, 5])
@pytest.mark.parametrize("true_score", range(10))
def test_the_wrong_score_is_far_enough_and_evenly_drawn(true_score: int, min_distance: int) -> None:
    found = Counter(draw_wrong_score(true_score, min_distance, 0, 1, f"{n}.jpg") for n in range(3000))
    allowed = {score for score in range(10) if abs(score - true_score) >= min_distance}
    assert set(found) == allowed
    share = 3000 / len(allowed)
    assert all(abs(count - share) < 5 * share**0.5 for count in found.values())


def test_the_wrong_score_changes_with_iteration_and_seed() -> None:
    def drawn(seed: int, iteration: int) -> list[int]:
        return [draw_wrong_score(5, 3, seed, iteration, f"{n}.jpg") for n in range(50)]

    assert drawn(0, 1) == drawn(0, 1) and drawn(0, 1) != drawn(0, 2) != drawn(1, 1)


def test_a_share_of_the_training_images_is_redrawn_each_iteration() -> None:
    import pyarrow as pa

    images = pa.concat_tables([image_table(200), image_table(50, "val")])
    assert choose_training_images(images, 1.0, 0, 1)["image"].to_pylist() == image_table(200)["image"].to_pylist()
    first, second = (choose_training_images(images, 0.25, 0, iteration)["image"].to_pylist() for iteration in (1, 2))
    assert len(first) == len(second) == 50 and set(first) != set(second)
    assert all(name.startswith("train-") for name in first)
    order = [int(name[6:-4]) for name in first]
    assert order == sorted(order)


def test_without_redrawing_every_iteration_has_the_share_of_the_first() -> None:
    def share(iteration: int, redraw: bool) -> list[str]:
        table = choose_training_images(image_table(200), 0.25, 0, iteration, redraw=redraw)
        return list(table["image"].to_pylist())

    assert share(1, redraw=False) == share(2, redraw=False) == share(1, redraw=True) != share(2, redraw=True)


def test_drawing_rows_keeps_at_least_one_and_does_not_depend_on_the_order() -> None:
    table = image_table(30)
    assert draw_rows(table, 0.001, "p").num_rows == 1
    assert draw_rows(table.slice(0, 0), 0.5, "p").num_rows == 0
    reverse = table.take(list(range(29, -1, -1)))
    chosen = set(draw_rows(table, 0.3, "p")["image"].to_pylist())
    assert len(chosen) == 9 and set(draw_rows(reverse, 0.3, "p")["image"].to_pylist()) == chosen


def test_generated_pairs_hold_what_the_schema_promises(tiny_model: Path) -> None:
    vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
    chat = render_chat(vlm.processor, PROMPT)
    tokenizer = vlm.processor.tokenizer

    def generate(batch_size: int):  # type: ignore[no-untyped-def]
        return generate_score_pairs(
            vlm, chat, image_table(5), open_picture, min_distance=3, max_new_tokens=12, batch_size=batch_size,
            seed=0, iteration=1, progress=Progress("pairs", 5),
        )  # fmt: skip

    table = conform(generate(4), SCORE_PAIRS.schema)
    assert table.equals(conform(generate(1), SCORE_PAIRS.schema))
    assert table["true_score"].to_pylist() == [0, 1, 2, 3, 4]
    for row in table.to_pylist():
        assert row["prompt"] == chat.prompt
        assert abs(row["true_score"] - row["wrong_score"]) >= 3
        given = vlm.processor(images=picture(row["image"]), text=chat.prompt, add_special_tokens=False)
        assert row["prompt_tokens"] == len(given["input_ids"][0])
        for side, score in (("chosen", "true_score"), ("rejected", "wrong_score")):
            assert row[side].startswith(f"#Score: {row[score]}\n\n#Explain:")
            beginning = tokens(tokenizer, f" #Score: {row[score]}\n\n#Explain:")
            answer = tokens(tokenizer, chat.answer(row[side], finished=row[f"{side}_finished"]))
            assert answer[: len(beginning)] == beginning
            if "\ufffd" not in row[side]:  # noise models write broken characters, whose tokens do not come back
                assert abs(row[f"{side}_tokens"] - len(answer)) <= 3
            assert len(beginning) < row[f"{side}_tokens"] <= len(beginning) + 12


def test_token_counts_are_those_of_the_text(tiny_model: Path) -> None:
    """A model that writes 'dull' and ends: the counts are exact."""
    vlm = load_base(model_ref(tiny_model), torch.device("cpu"))
    chat = render_chat(vlm.processor, PROMPT)
    tokenizer = vlm.processor.tokenizer
    words = [*tokens(tokenizer, " The light is good."), tokenizer.eos_token_id]

    class Script:
        """Stands in for a model whose greedy answer is known."""

        dtype, config, generation_config = torch.float32, vlm.model.config, vlm.model.generation_config

        def modules(self):  # type: ignore[no-untyped-def]
            return []

        def generate(self, input_ids, **_):  # type: ignore[no-untyped-def]  # the prefill
            self.rest = iter(words)
            return SimpleNamespace(past_key_values=DynamicCache(), logits=[torch.zeros(len(input_ids), 1)])

        def __call__(self, input_ids, logits_to_keep, **_):  # type: ignore[no-untyped-def]
            logits = torch.zeros(len(input_ids), logits_to_keep, len(tokenizer))
            logits[..., next(self.rest)] = 1
            return SimpleNamespace(logits=logits)

    table = generate_score_pairs(
        vlm._replace(model=Script()), chat, image_table(3), open_picture, min_distance=3, max_new_tokens=12,
        batch_size=6, seed=0, iteration=1, progress=Progress("pairs", 3),
    )  # fmt: skip
    for row in table.to_pylist():
        assert row["chosen"].endswith("#Explain: The light is good.") and row["chosen_finished"]
        for side in ("chosen", "rejected"):
            assert row[f"{side}_tokens"] == len(tokens(tokenizer, chat.answer(row[side], finished=True)))
