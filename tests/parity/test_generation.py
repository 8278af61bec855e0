"""One prefill an image: the texts and score distributions of the plain path, for every family, and the work counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.testing.tiny import picture
from pipeline_lib.testing.tiny_families import FAMILIES
from pipeline_lib.vlm.chat import tokens
from pipeline_lib.vlm.generate import Generated, Readout, prefix_decoding, prefix_generation
from pipeline_lib.vlm.generate.attention import SHARED
from pipeline_lib.vlm.generate.inputs import model_inputs
from pipeline_lib.vlm.generate.prefix_decoding import Prefix
from pipeline_lib.vlm.load import Vlm
from tests.asking import ask, generate_greedy, read_scores
from tests.families.conftest import Loaded, _load, loaded  # noqa: F401
from tests.parity.pairs import adapted, three_families

SIZES = [(28, 28), (60, 30), (30, 90), (112, 84), (3, 2)]
"""Several aspect ratios and counts of tiles, so that every row is padded differently and M-RoPE's offsets differ."""

SAME = 2e-6
"""In probability. Float32 rounding: batching alone moves the plain path's distributions by up to 0.8e-6 here."""


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[Image.Image]:
    return [picture(f"{size}", side_px=128).crop((0, 0, *size)) for size in sizes]


def pairs(given: Loaded) -> list[list[str]]:
    """A true and a wrong score for each image."""
    prefix = given.chat.separator
    return [[prefix + answer_prefix(score), prefix + answer_prefix(9 - score)] for score in range(len(SIZES))]


def plain(given: Loaded, beginnings: list[list[str]], length: int) -> list[list[Generated]]:
    """Each image read anew for each text, in a batch."""
    images = [image for image, row in zip(pictures(), beginnings, strict=True) for _ in row]
    texts = [text for row in beginnings for text in row]
    results = iter(generate_greedy(given.vlm, given.chat, images, texts, length))
    return [[next(results) for _ in row] for row in beginnings]


def furthest(one: list[Readout], other: list[Readout]) -> float:
    return max(
        abs(a - b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip([*left.distribution, left.mass], [*right.distribution, right.mass], strict=True)
    )


@contextmanager
def ending_at(vlm: Vlm, token: int) -> Iterator[None]:
    """One more end token, so that some answers of a model of noise end by themselves."""
    own = vlm.model.generation_config.eos_token_id
    vlm.model.generation_config.eos_token_id = [*(own if isinstance(own, list) else [own]), token]
    try:
        yield
    finally:
        vlm.model.generation_config.eos_token_id = own


def frequent_token(given: Loaded, beginnings: list[list[str]]) -> int:
    """A token in the middle of an answer to the first image."""
    text = given.chat.prompt + beginnings[0][0]
    inputs = model_inputs(given.vlm, [pictures()[:1]], [text])
    row = given.vlm.model.generate(**inputs, do_sample=False, max_new_tokens=4)[0]
    return int(row[-1])


def test_true_and_wrong_score_are_explained_as_on_the_plain_path(loaded: Loaded) -> None:  # noqa: F811
    beginnings = pairs(loaded)
    found = ask(loaded.vlm, loaded.chat, pictures(), beginnings, 24, loaded.scores)
    assert found.answers == plain(loaded, beginnings, 24)
    assert furthest(found.readouts, read_scores(loaded.vlm, loaded.chat, loaded.scores, pictures())) < SAME
    assert len({answer.text for row in found.answers for answer in row}) > 5
    with ending_at(loaded.vlm, frequent_token(loaded, beginnings)):
        found = ask(loaded.vlm, loaded.chat, pictures(), beginnings, 24)
        assert found.answers == plain(loaded, beginnings, 24)
    ended = [answer.finished for row in found.answers for answer in row]
    assert any(ended) and (not all(ended) or len({answer.tokens for row in found.answers for answer in row}) > 1)
    assert found.readouts == []


def test_score_distribution_and_answer_come_out_as_on_the_plain_path(loaded: Loaded) -> None:  # noqa: F811
    beginnings = [[""]] * len(SIZES)
    found = ask(loaded.vlm, loaded.chat, pictures(), beginnings, 24, loaded.scores)
    assert found.answers == plain(loaded, beginnings, 24)
    expected = read_scores(loaded.vlm, loaded.chat, loaded.scores, pictures())
    assert furthest(found.readouts, expected) < SAME
    assert furthest(found.readouts, expected[1:] + expected[:1]) > 1000 * SAME


def test_beginnings_of_different_lengths_and_numbers(loaded: Loaded) -> None:  # noqa: F811
    start = loaded.chat.separator
    beginnings = [
        ["", start + answer_prefix(3) + " The light", start],
        [start + "#Score: "],
        [start + answer_prefix(2), start + answer_prefix(2)],
        [],
        ["The picture is sharp"],
    ]
    found = ask(loaded.vlm, loaded.chat, pictures(), beginnings, 10, loaded.scores)
    assert found.answers == plain(loaded, beginnings, 10)
    assert furthest(found.readouts, read_scores(loaded.vlm, loaded.chat, loaded.scores, pictures())) < SAME


def _assert_noticed(
    given: Loaded, wrong: Callable[[list[Prefix]], list[Prefix]], monkeypatch: pytest.MonkeyPatch
) -> None:
    beginnings, decode = pairs(given), prefix_decoding.decode
    monkeypatch.setattr(
        prefix_generation, "decode", lambda model, prefixes, *rest: decode(model, wrong(prefixes), *rest)
    )
    found = ask(given.vlm, given.chat, pictures(), beginnings, 24)
    assert found.answers != plain(given, beginnings, 24)


@pytest.mark.parametrize("loaded", three_families(), indirect=True)
def test_the_prefix_of_the_wrong_image_is_noticed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    _assert_noticed(
        loaded, lambda all_: [one._replace(rows=[(at + 1) % 5 for at in one.rows]) for one in all_], monkeypatch
    )


@pytest.mark.parametrize("loaded", three_families(), indirect=True)
def test_positions_that_are_one_off_are_noticed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    _assert_noticed(loaded, lambda all_: [one._replace(positions=one.positions + 1) for one in all_], monkeypatch)


LENGTHS_DIFFER = ["llava-next-vicuna", "llava-next-mistral", "qwen2.5-vl", "qwen3-vl"]


@pytest.mark.parametrize("loaded", LENGTHS_DIFFER, indirect=True)
def test_positions_of_the_wrong_image_are_noticed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def rolled(prefixes: list[Prefix]) -> list[Prefix]:
        assert len(prefixes) > 1
        others = [*prefixes[1:], prefixes[0]]
        return [
            one._replace(positions=other.positions[:1].expand_as(one.positions))
            for one, other in zip(prefixes, others, strict=True)
        ]

    _assert_noticed(loaded, rolled, monkeypatch)


@pytest.mark.parametrize("loaded", LENGTHS_DIFFER, indirect=True)
def test_padding_that_is_seen_is_noticed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    start = prefix_decoding._Rows.__init__

    def seen(rows: Any, *given: Any) -> None:
        start(rows, *given)
        rows._parts[:, : rows._length] = prefix_decoding.PREFIX

    monkeypatch.setattr(prefix_decoding._Rows, "__init__", seen)
    _assert_noticed(loaded, lambda prefixes: prefixes, monkeypatch)


@pytest.mark.parametrize("loaded", three_families(), indirect=True)
def test_an_answer_that_sees_another_is_noticed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    feed, beginnings = prefix_decoding._Rows.feed, pairs(loaded)
    monkeypatch.setattr(
        prefix_decoding._Rows,
        "feed",
        lambda row, ids, parts, offsets, keep: feed(row, ids, parts.clamp(max=1), offsets, keep),
    )
    found = ask(loaded.vlm, loaded.chat, pictures(), beginnings, 24)
    assert found.answers != plain(loaded, beginnings, 24)


@pytest.mark.parametrize("loaded", ["llava-next-mistral"], indirect=True)
@pytest.mark.parametrize(("window", "fits"), [(8, False), (60, False), (500, True)])
def test_attention_that_does_not_reach_back_to_the_image(
    loaded: Loaded,  # noqa: F811
    window: int,
    fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, asked = loaded.vlm.model.config.text_config, []
    decode = prefix_decoding.decode
    monkeypatch.setattr(prefix_generation, "decode", lambda *given: asked.append(1) or decode(*given))
    own, config.sliding_window = config.sliding_window, window
    try:
        beginnings = [*pairs(loaded)[:4], ["", loaded.chat.separator + "#Score: "]]
        found = ask(loaded.vlm, loaded.chat, pictures(), beginnings, 24, loaded.scores)
        assert found.answers == plain(loaded, beginnings, 24)
        assert furthest(found.readouts, read_scores(loaded.vlm, loaded.chat, loaded.scores, pictures())) < SAME
    finally:
        config.sliding_window = own
    assert (found.answers == plain(loaded, beginnings, 24)) == fits  # the window matters
    assert bool(asked) == fits


def test_every_family_of_the_tests_takes_the_fast_path(loaded: Loaded) -> None:  # noqa: F811
    assert loaded.vlm.model.config.model_type in SHARED
    assert len({family.name for family in FAMILIES}) == 9


class Work:
    """What passes through a model: tiles or patches through the vision tower, tokens through the language model."""

    def __init__(self, vlm: Vlm):
        inner = vlm.model.model
        vision = inner.visual if hasattr(inner, "visual") else inner.vision_tower
        self.seen, self.tokens = 0, 0
        self.prefills: list[int] = []  # images in each
        self._hooks = [
            vision.register_forward_pre_hook(self._see, with_kwargs=True),
            inner.language_model.register_forward_pre_hook(self._read, with_kwargs=True),
        ]

    def _see(self, _module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.seen += len(next(value for value in [*given, *named.values()] if isinstance(value, torch.Tensor)))

    def _read(self, _module: Any, _args: Any, given: dict[str, Any]) -> None:
        rows, length = given["inputs_embeds"].shape[:2]
        past = given.get("past_key_values")
        self.prefills += [rows] if past is None or past.get_seq_length() == 0 else []
        self.tokens += rows * length

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def test_an_image_is_seen_and_read_once(loaded: Loaded) -> None:  # noqa: F811
    """The guard of the speed: one prefill an image instead of two, without padding, and of answers their own tokens."""
    vlm, chat, images, length = loaded.vlm, loaded.chat, pictures()[:4], 6
    padded, read = (lambda mask: (mask.numel(), int(mask.sum())))(
        model_inputs(vlm, [[image] for image in images], [chat.prompt] * 4)["attention_mask"]
    )
    context = len(tokens(vlm.processor.tokenizer, loaded.scores.context))
    beginning = len(tokens(vlm.processor.tokenizer, chat.separator + answer_prefix(7)))

    with Work(vlm) as once:
        for image in images:
            read_scores(vlm, chat, loaded.scores, [image])
    with Work(vlm) as pair:
        answers = ask(vlm, chat, images, pairs(loaded)[:4], length, loaded.scores).answers
    steps = max(answer.tokens for row in answers for answer in row) - 1
    assert (pair.seen, sum(pair.prefills)) == (once.seen, 4)
    assert pair.tokens == read + 4 * context + 8 * (beginning - context) + 8 * steps
    with Work(vlm) as twice:
        plain_texts = [text for row in pairs(loaded)[:4] for text in row]
        generate_greedy(vlm, chat, [image for image in images for _ in (0, 1)], plain_texts, length)
    assert (twice.seen, sum(twice.prefills)) == (2 * once.seen, 8)
    assert twice.tokens == 2 * padded + 8 * beginning + 8 * steps

    with Work(vlm) as asked:
        answers = ask(vlm, chat, images, [[""]] * 4, length, loaded.scores).answers
    steps = max(row[0].tokens for row in answers) - 1
    assert (asked.seen, sum(asked.prefills)) == (once.seen, 4)
    assert asked.tokens == read - 4 + 4 * (1 + context) + 4 * (1 + steps)
    with Work(vlm) as apart:
        read_scores(vlm, chat, loaded.scores, images)
        generate_greedy(vlm, chat, images, [""] * 4, length)
    assert (apart.seen, sum(apart.prefills)) == (2 * once.seen, 8)


def test_images_that_are_alike_are_read_in_one_pass(loaded: Loaded) -> None:  # noqa: F811
    images = [picture(f"{size}", side_px=128).crop((0, 0, *size)) for size in [(60, 30), (28, 28), (60, 30)]]
    with Work(loaded.vlm) as work:
        ask(loaded.vlm, loaded.chat, images, [["One", "Another"]] * 3, 2)
    assert sum(work.prefills) == 3 and len(work.prefills) <= 2


@pytest.mark.parametrize("name", ["llava-next-vicuna", "qwen2.5-vl"])
def test_under_an_adapter_that_is_not_folded_in(name: str) -> None:
    tiny = adapted(name)
    vlm = Vlm(tiny.model, tiny.processor, torch.device("cpu"))
    beginnings = [[tiny.chat.separator + answer_prefix(score) for score in (2, 7)]] * len(SIZES)
    images = [image for image in pictures() for _ in (0, 1)]
    found = ask(vlm, tiny.chat, pictures(), beginnings, 12).answers
    texts = [text for row in beginnings for text in row]
    assert [answer for row in found for answer in row] == generate_greedy(vlm, tiny.chat, images, texts, 12)
    with tiny.model.disable_adapter():
        assert found != ask(vlm, tiny.chat, pictures(), beginnings, 12).answers
