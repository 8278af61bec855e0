"""Votes: counted for the images, whatever order they were shown in; and the labels of the controls."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline_lib.config.base import Model
from pipeline_lib.errors import DataError, ModelError
from pipeline_lib.methods.evo_quality.pairs import draw_pairs
from pipeline_lib.methods.evo_quality.prompt import load_prompts
from pipeline_lib.methods.evo_quality.recipe import Votes
from pipeline_lib.methods.evo_quality.tables import VOTES
from pipeline_lib.methods.evo_quality.votes import (
    Vote,
    counted_row,
    exact_row,
    flip_votes,
    index_tokens,
    preference,
    shuffle_votes,
    vote,
)
from pipeline_lib.progress import Progress
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.generate import Readout
from pipeline_lib.vlm.load import Vlm, load_base
from pipeline_lib.vlm.model_ref import resolve_model

PAIR: dict[str, Any] = {"pair": "round-01/000000", "images": [], "kind": "images"}
FIRST, SECOND = "\\boxed{0}", "\\boxed{1}"


def test_votes_are_counted_for_the_images_and_not_for_their_places() -> None:
    for_first, for_second = [Vote(False, FIRST), Vote(True, SECOND), Vote(True, SECOND)], [Vote(True, FIRST)]
    unread = [Vote(False, "\\boxed{2}"), Vote(True, "both")]
    row = counted_row(PAIR, [*for_first, *for_second, *unread], "majority")
    assert (row["first_votes"], row["second_votes"], row["unparsed"]) == (3, 1, 2)
    assert (row["said_first"], row["shown_swapped"], row["preference"]) == (2, 4, 1.0)
    assert row["answers"][1] == {"swapped": True, "text": SECOND}


def test_a_model_that_always_says_first_gives_no_preference_but_shows_in_the_bias() -> None:
    row = counted_row(PAIR, [Vote(at % 2 == 0, FIRST) for at in range(8)], "majority")
    assert row["preference"] == 0.5 and row["said_first"] == 8


@pytest.mark.parametrize(
    ("first", "second", "majority", "share"),
    [(3, 1, 1.0, 0.75), (0, 2, 0.0, 0.0), (2, 2, 0.5, 0.5), (0, 0, None, None)],
)
def test_labels(first: int, second: int, majority: float | None, share: float | None) -> None:
    assert preference(first, second, "majority") == majority
    assert preference(first, second, "share") == share


def test_exact_votes_weigh_both_orders_alike() -> None:
    row = exact_row(PAIR, Readout([0.9, 0.1], 1.0), Readout([0.6, 0.4], 1.0), "share")
    assert row["first_votes"] == pytest.approx(1.3) and row["second_votes"] == pytest.approx(0.7)
    assert row["preference"] == pytest.approx(0.65) and row["said_first"] == pytest.approx(1.5)


@pytest.fixture(scope="module")
def vlm() -> Vlm:
    return load_base(resolve_model(Model(id="bundled", dtype="float32", resize_px=96)), torch.device("cpu"))


@pytest.fixture(scope="module")
def images() -> dict[str, Image.Image]:
    from pipeline_lib.demo.vision import draw_practice

    drawn = draw_practice(3, 6, split="test")
    return {f"{at}.png": Image.fromarray(pixels) for at, pixels in enumerate(drawn.images)}


def table(images: dict[str, Image.Image]) -> pa.Table:
    return pa.table(
        {
            "image": list(images),
            "image_sha256": [f"{at:064x}" for at in range(len(images))],
            "width_px": [96] * len(images),
            "height_px": [96] * len(images),
        }
    )


def ask(vlm: Vlm, images: dict[str, Image.Image], config: Votes, batch_size: int = 8) -> pa.Table:
    pairs = draw_pairs(table(images), 6, name="round-01", seed=3)
    chat = render_chat(vlm.processor, load_prompts("short").compare, images=2)
    return vote(
        vlm, chat, pairs, lambda name, _: images[name], config, seed=3, batch_size=batch_size, progress=Progress("", 6)
    )


def test_a_real_model_votes_the_same_in_any_batch(vlm: Vlm, images: dict[str, Image.Image]) -> None:
    config = Votes(answers=6, max_new_tokens=8)
    found = ask(vlm, images, config)
    assert found.schema.names == VOTES.schema.names and found.equals(ask(vlm, images, config, batch_size=2))
    read = np.array(found["first_votes"]) + np.array(found["second_votes"]) + np.array(found["unparsed"])
    assert read.tolist() == [6.0] * 6
    swapped = np.array(found["shown_swapped"])
    assert swapped.min() >= 0 and 0 < swapped.sum() < 36  # both orders are asked


def test_exact_votes_are_what_many_sampled_ones_come_to(vlm: Vlm, images: dict[str, Image.Image]) -> None:
    exact = ask(vlm, images, Votes(method="exact", label="share", max_new_tokens=8))
    many = ask(vlm, images, Votes(answers=256, label="share", max_new_tokens=8))
    # 256 votes have a standard deviation of at most .03; unread answers and the rest of the vocabulary add little.
    assert np.array(many["preference"]) == pytest.approx(np.array(exact["preference"]), abs=0.12)


class Merging:
    """A tokenizer that has one token for an index and the brace behind it."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text.replace("0}", "z").replace("1}", "z")]}


def test_a_tokenizer_that_merges_the_index_is_refused() -> None:
    with pytest.raises(ModelError, match=r"votes\.method: sampled"):
        index_tokens(Merging(), Chat("p", " ", "e"))


def votes(labels: list[float | None]) -> pa.Table:
    rows = [counted_row(PAIR, [], "majority") | {"preference": label} for label in labels]
    return pa.Table.from_pylist(rows, schema=VOTES.schema)


def test_shuffled_labels_are_the_same_ones_at_other_pairs() -> None:
    labels = [1.0] * 20 + [0.0] * 20 + [None] * 3 + [0.5] * 2
    shuffled = shuffle_votes(votes(labels), seed=1)["preference"].to_pylist()
    assert sorted(map(str, shuffled)) == sorted(map(str, labels)) and shuffled[40:43] == [None] * 3
    assert 5 < sum(one == other for one, other in zip(shuffled[:40], labels[:40], strict=True)) < 35


def test_flipped_labels_say_the_opposite() -> None:
    assert flip_votes(votes([1.0, 0.0, 0.5, None, 0.25]))["preference"].to_pylist() == [0.0, 1.0, 0.5, None, 0.75]


def test_pairs_are_different_images_once_each_and_repeat(images: dict[str, Image.Image]) -> None:
    rows = table(images)
    drawn = draw_pairs(rows, 15, name="round-01", seed=3)  # all there are
    names = [tuple(sorted(image["image"] for image in pair)) for pair in drawn["images"].to_pylist()]
    assert len(set(names)) == 15 and all(one != other for one, other in names)
    assert drawn.equals(draw_pairs(rows, 15, name="round-01", seed=3))
    assert not drawn.equals(draw_pairs(rows, 15, name="round-02", seed=3))
    with pytest.raises(DataError, match="15 pairs, 16"):
        draw_pairs(rows, 16, name="round-01", seed=3)


def test_copies_of_one_file_are_no_pair() -> None:
    rows = table({f"{at}": Image.new("RGB", (1, 1)) for at in range(3)})
    same = rows.set_column(1, "image_sha256", pa.array(["a" * 64, "a" * 64, "b" * 64]))
    drawn = draw_pairs(same, 2, name="round-01", seed=0)
    assert all({"2"} & {image["image"] for image in pair} for pair in drawn["images"].to_pylist())
    with pytest.raises(DataError, match="only 2 of 3"):
        draw_pairs(same, 3, name="round-01", seed=0)
