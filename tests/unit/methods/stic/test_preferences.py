"""Preference data: who is preferred and why, what is stored, and what is left out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline_lib.errors import DataError
from pipeline_lib.methods.stic import preferences
from pipeline_lib.methods.stic.preferences import (
    REASONS,
    choose_images,
    describe_both_ways,
    draw_ways,
    exchange,
    preference_metrics,
    rejected_image,
    usable_preferences,
    with_sizes,
)
from pipeline_lib.methods.stic.prompt import Prompts, load_prompts
from pipeline_lib.methods.stic.recipe import Preferences
from pipeline_lib.methods.stic.tables import PREFERENCES
from pipeline_lib.progress import Progress
from pipeline_lib.tables.table import conform
from pipeline_lib.testing.tiny import image_table, model_ref, open_picture, picture
from pipeline_lib.train.prefix_rows import collate_pairs
from pipeline_lib.vlm.chat import render_chat, tokens
from pipeline_lib.vlm.load import Vlm, load_base

PROMPTS = load_prompts("stic_short")
CONFIG = Preferences(images=None, low_resolution_px=8)


@pytest.fixture(scope="module")
def vlm(tiny_model: Path) -> Vlm:
    return load_base(model_ref(tiny_model), torch.device("cpu"))


@pytest.fixture
def describe(vlm: Vlm) -> Callable[..., pa.Table]:
    def call(records: list[dict[str, Any]], config: Preferences = CONFIG, **changes: Any) -> pa.Table:
        options: dict[str, Any] = {"max_new_tokens": 6, "seed": 3, "batch_size": 4, "prompts": PROMPTS} | changes
        progress = Progress("describing", len(records))
        found = describe_both_ways(vlm, records, open_picture, config=config, progress=progress, **options)
        return conform(found, PREFERENCES.schema)

    return call


def ways(count: int, config: Preferences = CONFIG, prompts: Prompts = PROMPTS) -> list[dict[str, Any]]:
    return draw_ways(image_table(count), config, prompts, 3)


def test_half_of_the_bad_ways_are_prompts_and_the_rest_two_corruptions_alike() -> None:
    records = ways(2000)
    counts = Counter(record["rejected_by"] for record in records)
    assert set(counts) == set(REASONS)
    assert counts["bad_prompt"] == pytest.approx(1000, abs=80)
    assert counts["low_resolution"] == pytest.approx(500, abs=70)
    assert {record["plain_prompt"] for record in records} == set(PROMPTS.plain)
    bad = [record["rejected_prompt"] for record in records if record["rejected_by"] == "bad_prompt"]
    assert set(bad) == set(PROMPTS.bad)
    for record in records:
        if record["rejected_by"] != "bad_prompt":
            assert record["rejected_prompt"] == record["plain_prompt"]
        assert (record["brightness"] is None) == (record["hue"] is None) == (record["rejected_by"] != "color_jitter")


def test_the_draws_follow_from_the_names_alone() -> None:
    all_of_them, table = ways(40), image_table(40)
    assert draw_ways(table.slice(30), CONFIG, PROMPTS, 3) == all_of_them[30:]
    assert draw_ways(table, CONFIG, PROMPTS, 4) != all_of_them


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"bad_prompt_share": 1.0}, {"bad_prompt"}),
        ({"bad_prompt_share": 0.0}, {"low_resolution", "color_jitter"}),
        ({"bad_prompt_share": 0.0, "low_resolution_share": 1.0}, {"low_resolution"}),
    ],
)
def test_the_ablations_are_shares(fields: dict[str, float], reasons: set[str]) -> None:
    assert {record["rejected_by"] for record in ways(60, Preferences.model_validate(fields))} == reasons


def test_images_are_drawn_by_name_among_the_training_images() -> None:
    images = pa.concat_tables([image_table(20), image_table(5, "test")])
    drawn = choose_images(images, 7, 3)
    assert drawn.num_rows == 7 and set(drawn["split"].to_pylist()) == {"train"}
    assert choose_images(images, None, 3).num_rows == choose_images(images, 99, 3).num_rows == 20
    assert choose_images(images, 8, 3)["image"].to_pylist() != choose_images(images, 8, 4)["image"].to_pylist()
    assert set(drawn["image"].to_pylist()) <= set(choose_images(images, 8, 3)["image"].to_pylist())


def test_the_model_sees_the_clean_image_for_one_answer_and_the_corrupted_one_for_the_other(
    describe: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline_lib.vlm.generate as generate

    asked: list[Any] = []
    real = generate.generate_answers
    monkeypatch.setattr(generate, "generate_answers", lambda vlm, rows, how: asked.extend(rows) or real(vlm, rows, how))
    records = ways(24)
    describe(records)
    by_key = {question.key: question for question in asked}
    assert len(asked) == 48
    for record in records:
        chosen, rejected = (by_key[f"{record['image']}:{side}"] for side in ("chosen", "rejected"))
        clean = picture(record["image"])
        assert PROMPTS.curated in chosen.chat.prompt and record["rejected_prompt"] in rejected.chat.prompt
        assert chosen.images[0].tobytes() == clean.tobytes()
        shown = rejected.images[0]
        if record["rejected_by"] == "bad_prompt":
            assert shown.tobytes() == clean.tobytes()
        elif record["rejected_by"] == "low_resolution":
            assert min(shown.size) == CONFIG.low_resolution_px
        else:
            assert shown.size == clean.size and shown.tobytes() != clean.tobytes()


def test_what_is_stored_is_the_plain_prompt_with_its_true_length(describe: Callable[..., pa.Table], vlm: Vlm) -> None:
    rows = describe(ways(6)).to_pylist()
    for row in rows:
        chat = render_chat(vlm.processor, row["plain_prompt"])
        assert row["prompt"] == chat.prompt
        pair = {"image": picture(row["image"]), "prompt": row["prompt"]}
        pair |= {side: chat.answer(row[side], finished=row[f"{side}_finished"]) for side in ("chosen", "rejected")}
        batch = collate_pairs(vlm.processor, [pair])
        assert int((batch["row_parts"] == 0).sum()) == row["prompt_tokens"]
        for side in ("chosen", "rejected"):
            assert len(tokens(vlm.processor.tokenizer, pair[side])) == row[f"{side}_tokens"]


def test_any_division_into_batches_and_shards_gives_the_same_answers(describe: Callable[..., pa.Table]) -> None:
    config = CONFIG.model_copy(update={"temperature": 1.0})
    records, whole = ways(9, config), describe(ways(9, config), config)
    parts = [describe(records[:4], config, batch_size=2), describe(records[4:], config, batch_size=8)]
    assert pa.concat_tables(parts).equals(whole)
    assert not describe(records, config, seed=4).equals(whole)
    greedy = CONFIG.model_copy(update={"temperature": 0.0})
    assert describe(records, greedy, seed=4).equals(describe(records, greedy))


def made(*answers: tuple[str, str]) -> pa.Table:
    count = len(answers)
    columns: dict[str, Any] = {
        "image": [f"{at}.png" for at in range(count)],
        "image_sha256": ["0" * 64] * count,
        "prompt": ["p"] * count,
        "chosen": [chosen for chosen, _ in answers],
        "rejected": [rejected for _, rejected in answers],
        "prompt_tokens": [5] * count,
        "chosen_tokens": [7] * count,
        "rejected_tokens": [8] * count,
        "chosen_finished": [True] * count,
        "rejected_finished": [False] * count,
        "rejected_by": ["bad_prompt"] * count,
        "plain_prompt": ["plain"] * count,
        "rejected_prompt": ["bad"] * count,
        "brightness": pa.nulls(count, pa.float64()),
        "hue": pa.nulls(count, pa.float64()),
    }
    return conform(pa.table(columns), PREFERENCES.schema)


def test_pairs_without_a_difference_or_a_text_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    pairs = made(("a", "b"), ("a", "a"), ("", "b"), ("a", ""))
    assert usable_preferences(pairs)["image"].to_pylist() == ["0.png"]
    assert "3 of 4 pairs" in caplog.text and "1 with two equal answers, 2 with an empty one" in caplog.text
    shares = {row["metric"]: row["value"] for row in preference_metrics(pairs).to_pylist()}
    assert (shares["equal_share"], shares["empty_share"], shares["bad_prompt_share"]) == (0.25, 0.5, 1)
    assert (shares["chosen_cut_off_share"], shares["rejected_cut_off_share"]) == (0, 1)
    with pytest.raises(DataError, match="none of 2 pairs"):
        usable_preferences(made(("a", "a"), ("", "b")))


def test_exchanged_pairs_differ_in_the_two_answers_alone() -> None:
    before, after = made(("a", "b"), ("c", "d")), exchange(made(("a", "b"), ("c", "d")))
    assert after.schema == before.schema and exchange(after).equals(before)
    row, other = before.to_pylist()[0], after.to_pylist()[0]
    assert (other["chosen"], other["rejected"]) == ("b", "a")
    assert (other["chosen_tokens"], other["rejected_tokens"]) == (8, 7)
    assert (other["chosen_finished"], other["rejected_finished"]) == (False, True)
    same = {"image", "prompt", "prompt_tokens", "rejected_by", "rejected_prompt", "plain_prompt"}
    assert all(row[name] == other[name] for name in same)


def test_sizes_are_those_of_the_images() -> None:
    images = pa.table({"image": ["1.png", "0.png"], "width_px": [3, 5], "height_px": [4, 6]})
    assert with_sizes(made(("a", "b"), ("c", "d")), images)["width_px"].to_pylist() == [5, 3]


def test_a_bad_prompt_keeps_the_image() -> None:
    image = Image.new("RGB", (30, 30))
    assert rejected_image(image, {"rejected_by": "bad_prompt"}, CONFIG) is image
    assert preferences.REASONS[0] == "bad_prompt"
