"""A run keeps the recipe's limit of near-duplicates between splits, before it asks the model anything."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline_lib.config.load import load_recipe_of
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from tests.flows.conftest import listen
from tests.flows.test_status_and_gc import refused, whyscore
from tests.small_run import Watched, write_small_recipe


def test_a_copy_of_a_training_image_in_test_stops_the_run(prefect_server: str, tmp_path: Path) -> None:
    from flows.self_improve import self_improve

    path = write_small_recipe(tmp_path, tmp_path / "store")
    images = tmp_path / "data" / "images"
    copy = Image.open(images / "train-00003.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copy.resize((150, 150)).save(images / "test-00005.jpg", quality=60)
    recipe = load_recipe_of(SelfImproveRecipe, path, {"data.max_near_duplicate_fraction": 0.0})
    with listen("whyscore") as messages, pytest.raises(DataError) as raised:
        self_improve(recipe)
    assert Watched(messages, []).computed == ["base check_model", "discretize", "find_near_duplicates"]
    for part in ("images/train-00003.jpg (train)", "images/test-00005.jpg (test)", "max_near_duplicate_fraction"):
        assert part in str(raised.value)

    said = whyscore("check-data", path)
    assert (
        "images/train-00003.jpg (train) ~ images/test-00005.jpg (test)" in said and "Nothing that stops a run" in said
    )
    said = refused("check-data", path, "--set", "data.max_near_duplicate_fraction=0")
    assert "1 problem(s)" in said and "max_near_duplicate_fraction allows 0 %" in said
