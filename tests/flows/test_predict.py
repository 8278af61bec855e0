"""New images, scored and explained by the model of a finished run; and that model on its own."""

import json
import os
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
from pipeline_lib.report.verdict import Best, verdict_of_run, write_verdict
from pipeline_lib.store import ArtifactRef, ArtifactStore
from pipeline_lib.store.runs import RunModel, open_run
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


def best_of(recipe: SelfImproveRecipe) -> RunModel:
    run = open_run(ArtifactStore(recipe.runtime.store), recipe)
    verdict = verdict_of_run(run)
    assert verdict is not None and verdict.best is not None
    return RunModel(verdict.best.iteration, verdict.best.kind)


def evaluated(recipe: SelfImproveRecipe, model: RunModel | None = None) -> dict[str, dict[str, object]]:
    """What the evaluation of a model, or of the best one, found for each image."""
    store = ArtifactStore(recipe.runtime.store)
    pointer = store.read_pointer(f"runs/small/{(model or best_of(recipe)).role('predictions')}.json")
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


def test_the_best_model_predicts_and_one_line_says_why(again, image_set):
    best = best_of(again)
    with listen("whyscore.predict") as lines:
        predict(again, image_set / TEST_IMAGES[0])
    (line,) = (line for line in lines if line.startswith("predicting with"))
    assert f"with {best.name} of run small: the best of the run, with the highest SRCC unfitted on validation" in line
    run = open_run(ArtifactStore(again.runtime.store), again)
    warnings = verdict_of_run(run).warnings
    assert [line for line in lines if line.startswith("the run's verdict: ")] == [
        f"the run's verdict: {warning}" for warning in warnings
    ]


def test_another_best_model_of_the_verdict_is_used_and_without_one_the_newest(again, image_set):
    """The base, too; and a report of an earlier version has no verdict."""
    store = ArtifactStore(again.runtime.store)
    run = open_run(store, again)
    verdict, report = verdict_of_run(run), run.find("report")
    known = {row.name: evaluated(again, row) for row in (RunModel(0, "zero-shot"), RunModel(2, "merged"))}
    base = Best(iteration=0, kind="zero-shot", rule="a rule", value=0.5)
    for best, name, why in ((base, "zero-shot", "with a rule"), (None, "ite-2 merged", "the newest: this run has no")):
        manifest = store.lookup(report.address)
        with store.attempt() as attempt:
            if best:
                write_verdict(verdict.model_copy(update={"best": best}), attempt.folder)
            (attempt.folder / "report.html").write_text("")
            store.publish(f"steps/report/{name[:4]}", attempt, manifest.arguments)
        run.keep("report", ArtifactRef(stage="report", key=name[:4]))
        with listen("whyscore.predict") as lines:
            rows = predict(again, image_set / TEST_IMAGES[0]).to_pylist()
        assert [row["text"] for row in rows] == [known[name][row["image_sha256"]]["text"] for row in rows]
        assert any(f"predicting with {name} of run small" in line and why in line for line in lines)
        run.keep("report", report)


def test_a_table_of_paths_with_another_model_as_csv(again, image_set, tmp_path):
    table = image_set / "mine.csv"
    table.write_text("image\n" + "\n".join([*TEST_IMAGES[:2], TEST_IMAGES[0]]))
    out = tmp_path / "p.csv"
    rows = predict(again, table, out=str(out), iteration=1, kind="score").to_pylist()
    known = evaluated(again, RunModel(1, "score"))
    assert [row["text"] for row in rows] == [known[row["image_sha256"]]["text"] for row in rows]
    options = pa_csv.ParseOptions(newlines_in_values=True)
    written = pa_csv.read_csv(out, parse_options=options)
    assert written["image"].to_pylist() == [*TEST_IMAGES[:2], TEST_IMAGES[0]]
    assert written["p_9"].to_pylist() == pytest.approx([row["score_distribution"][9] for row in rows], abs=6e-4)


def test_every_image_of_every_argument_has_a_row_of_its_own(again, image_set, tmp_path):
    """Two folders with equal names, a file, a table with an empty cell, and Parquet with the images in it."""
    other = tmp_path / "other"
    shutil.copytree(image_set, other)
    shutil.copy(image_set / TEST_IMAGES[0], other / TEST_IMAGES[1])
    (other / "rows.csv").write_text(f"image,note\n{TEST_IMAGES[2]},a\n,b\n{TEST_IMAGES[2]},c\n")
    contents = [(image_set / name).read_bytes() for name in TEST_IMAGES[:2]]
    pq.write_table(pa.table({"image": [{"bytes": c, "path": None} for c in contents]}), other / "struct.parquet")
    pq.write_table(pa.table({"image": [*contents, None]}), other / "plain.parquet")
    given = [image_set, other, image_set / TEST_IMAGES[0], *(other / name for name in ("rows.csv", "struct.parquet"))]
    rows = predict(again, *given).to_pylist()
    names = [row["image"] for row in rows]
    folder = ["broken.jpg", *TEST_IMAGES]
    assert names[:14] == [*(f"{image_set}/{name}" for name in folder), *(f"{other}/{name}" for name in folder)]
    assert names[14:] == [
        f"{image_set}/{TEST_IMAGES[0]}", f"{other}/{TEST_IMAGES[2]}", f"row 2 of {other}/rows.csv",
        f"{other}/{TEST_IMAGES[2]}", f"{other}/struct.parquet/row-00000000", f"{other}/struct.parquet/row-00000001",
    ]  # fmt: skip
    digest = {row["image"]: row["image_sha256"] for row in rows}
    first, second = (digest[f"{image_set}/{name}"] for name in TEST_IMAGES[:2])
    assert digest[f"{other}/{TEST_IMAGES[1]}"] == digest[f"{other}/struct.parquet/row-00000000"] == first != second
    assert digest[f"{other}/struct.parquet/row-00000001"] == second
    assert [row["image"] for row in rows if row["problem"] is None] == [
        name for name in names if "broken" not in name and "row 2" not in name
    ]
    text = {row["image_sha256"]: row["text"] for row in rows if row["problem"] is None}
    assert all(row["text"] == text[row["image_sha256"]] for row in rows if row["problem"] is None)
    plain = predict(again, other / "plain.parquet").to_pylist()
    assert [row["image"] for row in plain] == [f"row-0000000{n}" for n in range(3)]
    assert [row["problem"] for row in plain] == [None, None, "its row holds no bytes"]


def test_what_is_passed_over_is_said(again, image_set):
    (image_set / "inner").mkdir()
    (image_set / "photo.heic").write_text("not read")
    for ending in (".jfif", ".pgm", ".MPO", ".TIFF"):
        Image.new("L", (8, 8)).save(image_set / f"grey{ending}", "PPM" if ending == ".pgm" else "JPEG")
    with listen("whyscore.predict") as lines:
        rows = predict(again, image_set).to_pylist()
    (line,) = (line for line in lines if "passed over" in line)
    assert "1 .txt" in line and "1 .heic" in line and "1 folder(s), e.g. inner" in line
    assert {row["image"] for row in rows if row["problem"] is None} >= {"grey.jfif", "grey.pgm", "grey.MPO"}


def test_an_image_that_the_family_refuses_is_a_row_with_its_problem(again, image_set, monkeypatch):
    from pipeline_lib.vlm import families
    from pipeline_lib.vlm.load import load_config
    from pipeline_lib.vlm.model_ref import resolve_model

    kind = load_config(resolve_model(again.model)).model_type
    family = families.family_of(kind)._replace(max_aspect_ratio=50)
    monkeypatch.setitem(families.FAMILIES, kind, family)
    Image.new("RGB", (2000, 8)).save(image_set / "strip.png")
    rows = {row["image"]: row for row in predict(again, image_set).to_pylist()}
    assert "50 : 1" in rows["strip.png"]["problem"] and rows["strip.png"]["predicted"] is None
    assert all(rows[name]["problem"] is None for name in TEST_IMAGES)


def test_a_name_that_no_table_can_hold_is_a_row_with_its_problem(again, image_set):
    shutil.copy(image_set / TEST_IMAGES[0], os.fsencode(image_set) + b"/caf\xe9.jpg")
    rows = {row["image"]: row for row in predict(again, image_set).to_pylist()}
    assert "not UTF-8" in rows["caf\\udce9.jpg"]["problem"] and len(rows) == 8


def test_a_name_or_text_that_a_spreadsheet_would_run_is_no_formula(again, image_set, tmp_path):
    for name in ("=1+1.jpg", "@x.jpg", "-2.jpg", "+3.jpg"):
        shutil.copy(image_set / TEST_IMAGES[0], image_set / name)
    rows = predict(again, image_set, out=str(tmp_path / "p.csv")).to_pylist()
    options = pa_csv.ParseOptions(newlines_in_values=True)
    written = pa_csv.read_csv(tmp_path / "p.csv", parse_options=options)
    strange = {"=1+1.jpg", "@x.jpg", "-2.jpg", "+3.jpg"}
    assert written["image"].to_pylist() == [
        "'" + row["image"] if row["image"] in strange else row["image"] for row in rows
    ]
    assert not [text for text in written["explanation"].to_pylist() if text and text[0] in "=+-@"]


@pytest.mark.parametrize(("images", "status"), [(["broken.jpg", "absent.jpg"], 1), (["broken.jpg", TEST_IMAGES[0]], 0)])
def test_the_status_is_1_when_nothing_could_be_scored(again, finished, image_set, tmp_path, images, status):
    arguments = ["predict", str(finished[0] / "small.yaml"), *(str(image_set / name) for name in images)]
    out = tmp_path / "p.csv"
    answer = CliRunner().invoke(app, [*arguments, "--out", str(out), "--set", f"runtime.store={again.runtime.store}"])
    assert answer.exit_code == status, answer.output
    assert ("none of the 2 images could be scored" in answer.output) == bool(status)
    options = pa_csv.ParseOptions(newlines_in_values=True)
    assert pa_csv.read_csv(out, parse_options=options).num_rows == 2  # the problems are in the file
    if not status:
        row = pa_csv.read_csv(out, parse_options=options).to_pylist()[1]
        assert f"{TEST_IMAGES[0]}" in answer.output and f"{row['predicted']:.2f}" in answer.output
        assert "not scored: not an image file" in " ".join(answer.output.split())
        said_again = CliRunner().invoke(app, [*arguments, "--out", str(out)])
        assert said_again.exit_code == 1 and "--overwrite" in said_again.output


def test_a_file_that_cannot_be_written_is_said_before_a_model_is_loaded(finished, image_set, tmp_path, monkeypatch):
    from flows import predict as module

    monkeypatch.setattr(module, "predict", None)  # never called
    (tmp_path / "file").write_text("")
    for out, why in (
        (tmp_path, "ends in"),
        (image_set / "p.csv/q.csv", ""),
        (tmp_path / "file" / "p.csv", "no folder"),
    ):
        if not why:
            (image_set / "p.csv").mkdir()
            out, why = image_set / "p.csv", "is a folder"
        arguments = ["predict", str(finished[0] / "small.yaml"), str(image_set), "--out", str(out)]
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 1 and why in answer.output, answer.output


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
    with pytest.raises(DataError, match=r"p\.txt.*\.csv, \.xlsx"):
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
    assert facts["prompt"] in (readme := (folder / "README.md").read_text())
    assert facts["format"] == 2 and ("import BUNDLED" in readme) == adapter_only
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
