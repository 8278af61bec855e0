"""New images, scored and explained by the model of a finished run; and that model on its own."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import DataError, RecipeError, StoreError
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.store import ArtifactStore
from tests.flows.conftest import listen
from whyscore.cli import app

TEST_IMAGES = [f"test-{n:05d}.jpg" for n in range(6)]


@pytest.fixture
def image_set(finished, tmp_path: Path) -> Path:
    """A folder with test images of the run, and what is no image."""
    folder = tmp_path / "image_set"
    folder.mkdir()
    for name in TEST_IMAGES:
        shutil.copy(finished[0] / "data" / "images" / name, folder / name)
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not asked about")
    return folder


def predict(recipe: SelfImproveRecipe, *images: object, **more: object) -> pa.Table:
    from flows.predict import predict as flow

    ref = flow(recipe, [str(image) for image in images], **more)
    return ArtifactStore(recipe.runtime.store).read_table(ref.address, "new_predictions")


def evaluated(recipe: SelfImproveRecipe, kind: str = "iteration-02/merged") -> dict[str, dict[str, object]]:
    store = ArtifactStore(recipe.runtime.store)
    pointer = store.read_pointer(f"runs/small/{kind}/predictions.json")
    rows = store.read_table(pointer["address"], "predictions").to_pylist()
    return {row["image_sha256"]: row for row in rows}


def test_images_of_the_test_split_get_the_predictions_of_the_evaluation(again, image_set, tmp_path):
    out = tmp_path / "out" / "predictions.parquet"
    rows = predict(again, image_set, out=str(out)).to_pylist()
    assert [row["image"] for row in rows] == ["broken.jpg", *TEST_IMAGES]
    assert "not an image file" in rows[0]["problem"] and rows[0]["predicted"] is None
    known = evaluated(again)
    for row in rows[1:]:
        before = known[row["image_sha256"]]
        assert row["problem"] is None
        assert row["predicted"] == pytest.approx(before["predicted_unfitted"], abs=1e-4)
        assert row["reading"] == "unfitted"  # too few validation images for the monotone one
        assert row["score_distribution"] == pytest.approx(before["score_distribution"], abs=1e-5)
        for name in ("text", "stated_score", "explanation"):
            assert row[name] == before[name]
    assert pq.read_table(out).to_pylist() == rows


def test_a_table_of_paths_with_another_model_as_csv(again, image_set, tmp_path):
    table = image_set / "mine.csv"
    table.write_text("image\n" + "\n".join([*TEST_IMAGES[:2], TEST_IMAGES[0]]))
    out = tmp_path / "p.csv"
    rows = predict(again, table, out=str(out), iteration=1, kind="score").to_pylist()
    known = evaluated(again, "iteration-01/score")
    assert [row["text"] for row in rows] == [known[row["image_sha256"]]["text"] for row in rows]
    options = pa_csv.ParseOptions(newlines_in_values=True)
    written = pa_csv.read_csv(out, parse_options=options)
    assert written["image"].to_pylist() == [*TEST_IMAGES[:2], TEST_IMAGES[0]]
    assert written["p_9"].to_pylist() == pytest.approx([row["score_distribution"][9] for row in rows])


def test_it_goes_on_where_it_was(again, image_set):
    recipe = again.model_copy(update={"runtime": again.runtime.model_copy(update={"shard_rows": 2})})
    first = predict(recipe, image_set)
    store = ArtifactStore(again.runtime.store)
    (key,) = store.children("steps/predict")
    shards = f"steps/predict/{key}/shards"
    before = {name: store.lookup(f"{shards}/{name}") for name in store.children(shards)}
    store.files.remove(store.path(f"steps/predict/{key}/manifest.json"))
    store.retract(f"{shards}/00000002-00000004")
    assert predict(recipe, image_set) == first
    after = {name: store.lookup(f"{shards}/{name}") for name in store.children(shards)}
    assert [name for name in before if after[name] != before[name]] == ["00000002-00000004"]
    with listen("whyscore.stage") as lines:
        predict(recipe, image_set)
    assert any("predict: cached" in line for line in lines)


def test_what_cannot_be_predicted_is_said_at_once(again, finished, image_set, tmp_path):
    with pytest.raises(DataError, match=r"p\.txt.*\.parquet or \.csv"):
        predict(again, image_set, out="p.txt")
    with pytest.raises(DataError, match=r"no image in"):
        (tmp_path / "empty").mkdir()
        predict(again, tmp_path / "empty")
    outside = image_set / "outside.csv"
    outside.write_text("image\n../secret.jpg\n")
    with pytest.raises(DataError, match=r"\.\./secret\.jpg"):
        predict(again, outside)
    with pytest.raises(StoreError, match=r"iteration 7.*ite-1 score, ite-2 consistency"):
        predict(again, image_set, iteration=7)
    other = load_recipe(
        finished[0] / "small.yaml", {"runtime.store": again.runtime.store, "prompt": "technical_quality"}
    )
    with pytest.raises(RecipeError, match='prompt is "technical_quality"'):
        predict(other, image_set)


@pytest.mark.parametrize("adapter_only", [False, True])
def test_an_exported_model_says_the_same_in_plain_transformers(finished, again, tmp_path, adapter_only):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from pipeline_lib.vlm.model_ref import BUNDLED

    folder = tmp_path / "exported"
    arguments = ["predict", str(finished[0] / "small.yaml"), "--export", str(folder)]
    answer = CliRunner().invoke(app, [*arguments, "--adapter-only"] if adapter_only else arguments)
    assert answer.exit_code == 0, answer.output
    facts = json.loads((folder / "whyscore.json").read_text())
    assert facts["prompt"] in (folder / "README.md").read_text()
    assert len(facts["reference_values"]) == 10

    source = BUNDLED if adapter_only else folder
    model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
    if adapter_only:
        model = PeftModel.from_pretrained(model, folder)
    processor = AutoProcessor.from_pretrained(source)
    known = evaluated(again)
    for row in list(known.values())[:3]:
        image = Image.open(finished[0] / "data" / "images" / Path(row["image"]).name).convert("RGB")
        image.thumbnail((facts["resize_px"],) * 2, Image.Resampling.BICUBIC)
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": facts["prompt"]}]}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = processor(images=[image], text=text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=facts["max_new_tokens"])
        said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said.strip() == row["text"].strip()

    again_there = CliRunner().invoke(app, arguments)
    assert again_there.exit_code == 1 and "not empty" in again_there.output
