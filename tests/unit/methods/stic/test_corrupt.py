"""Corrupted images are really corrupted, as the recipe says, and the same each time."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from pipeline_lib.methods.stic.corrupt import color_jitter, draw_jitter, low_resolution


def plain_image(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize(("size", "small"), [((64, 48), (27, 20)), ((48, 96), (20, 40)), ((200, 20), (200, 20))])
def test_the_shorter_side_has_the_given_pixels_and_proportions_stay(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    assert low_resolution(plain_image((9, 9, 9), size), 20).size == small


def test_detail_is_lost_in_a_low_resolution() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    small = np.asarray(low_resolution(noise, 20), float)
    assert small.std() < 0.5 * np.asarray(noise, float).std()


def test_brightness_multiplies_and_clips() -> None:
    image = plain_image((200, 100, 40))
    assert np.asarray(color_jitter(image, 0.5, 0.0))[0, 0].tolist() == pytest.approx([100, 50, 20], abs=2)
    assert np.asarray(color_jitter(image, 1.5, 0.0))[0, 0].tolist() == pytest.approx([255, 150, 60], abs=3)


@pytest.mark.parametrize("turn", [-0.3, -0.1, 0.1, 0.3])
def test_hue_turns_by_the_share_of_a_circle_and_nothing_else_changes(turn: float) -> None:
    found = np.asarray(color_jitter(plain_image((200, 60, 60)), 1.0, turn))[0, 0] / 255
    before, after = (colorsys.rgb_to_hsv(*rgb) for rgb in ((200 / 255, 60 / 255, 60 / 255), found))
    assert (after[0] - before[0] - turn + 0.5) % 1 - 0.5 == pytest.approx(0, abs=0.01)
    assert after[1:] == pytest.approx(before[1:], abs=0.02)


def test_the_draw_follows_from_seed_and_name_and_fills_its_range() -> None:
    names = [f"{at}.png" for at in range(400)]
    drawn = np.array([draw_jitter(3, name, 0.5, 0.3) for name in names])
    assert np.array_equal(drawn, [draw_jitter(3, name, 0.5, 0.3) for name in names])
    assert not np.array_equal(drawn, [draw_jitter(4, name, 0.5, 0.3) for name in names])
    assert drawn[:, 0].min() < 0.55 and drawn[:, 0].max() > 1.45 and abs(drawn[:, 0].mean() - 1) < 0.05
    assert drawn[:, 1].min() < -0.27 and drawn[:, 1].max() > 0.27 and abs(np.corrcoef(drawn.T)[0, 1]) < 0.15
