"""`doctor` and `check-data` for recipes of every method: images without scores, and tables beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib.checks import methods as of_methods
from pipeline_lib.checks.doctor import COMMON, Finding, examine
from pipeline_lib.config.load import method_names, parse_recipe
from pipeline_lib.demo.method_data import write_answer_pairs, write_questions, write_unlabelled
from whyscore.cli import app

BUNDLED = {"id": "bundled", "dtype": "float32", "resize_px": 96}


def write_images(folder: Path, count: int, first: int = 0) -> list[str]:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(first + number).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Twenty images without scores, and ten labelled ones."""
    write_images(tmp_path / "photos", 20)
    names = write_images(tmp_path / "labelled", 10, first=50)
    rows = [f"{name},{at / 2}" for at, name in enumerate(names)]
    (tmp_path / "labelled" / "scores.csv").write_text("\n".join(["image,score", *rows]))
    return {
        "method": "evo_quality",
        "name": "r",
        "data": {"table": str(tmp_path / "photos"), "split_column": None},
        "model": BUNDLED,
        "prompts": "short",
        "pairs": {"count": 10, "held_out": 1, "variants": {"per_image": 2}},
        "evaluation": {"labelled": [{"name": "mine", "table": str(tmp_path / "labelled" / "scores.csv")}]},
        "runtime": {"store": str(tmp_path / "store"), "device": "cpu"},
    }


def findings(recipe: dict[str, Any], **changes: Any) -> list[Finding]:
    return list(examine(parse_recipe({**recipe, **changes})))


def of(found: list[Finding], state: str) -> list[tuple[str, str]]:
    return [(finding.what, finding.message) for finding in found if finding.state == state]


def check_data(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check-data", *map(str, arguments)])
    return result.exit_code, result.stdout + (result.stderr if result.exception and not result.stdout else "")


def written(recipe: dict[str, Any], folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_nothing_is_said_against_a_good_recipe(recipe: dict[str, Any]) -> None:
    found = findings(recipe)
    assert [(finding.what, finding.state) for finding in found] == [
        ("recipe", "ok"), ("store", "ok"), ("table", "ok"), ("table", "note"), ("images", "ok"), ("prompt", "ok"),
        ("model", "ok"), ("memory", "ok"), ("labels", "ok"), ("labels", "ok"),
        ("size", "ok"), ("hours", "ok"),
    ]  # fmt: skip
    said = dict(zip([finding.what for finding in found], [finding.message for finding in found], strict=True))
    assert "20 readable" in said["images"] and "10 readable" in said["labels"] and "LoRA on" in said["model"]
    assert "vote" in said["hours"] and "without" not in said["hours"]


def test_every_problem_of_a_recipe_is_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "labelled" / "3.png").write_text("no image")
    pairs = {"count": 400, "held_out": 40, "variants": {"per_image": 1, "from_round": 2, "fraction": 0.5}}
    labelled = [*recipe["evaluation"]["labelled"], {"name": "other", "table": "absent.csv"}]
    stop = {"name": "small", "table": labelled[0]["table"], "split_column": "score", "split": "val"}
    found = findings(
        recipe, pairs=pairs, prompts="mine", evaluation={"labelled": labelled, "stop": stop},
    )  # fmt: skip
    failed = of(found, "FAIL")
    assert [what for what, _ in failed] == ["table", "table", "table", "prompt", "labels"]
    counts, held_out, variants, prompts, labels = (message for _, message in failed)
    assert "pairs.count asks for 400 pairs" in counts and "pairs.held_out asks for 40" in held_out
    assert "pairs.variants.fraction asks for 200 pairs, and the images have 0" in variants
    assert "shipped are" in prompts and "3.png: not an image file" in labels
    assert of(found, "skip")[0][0] == "model"


def test_what_grpo_cannot_train_is_named(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_lib.vlm.generate import attention

    processes = recipe["runtime"] | {"fsdp": True, "training_processes": 2}
    (problem,) = of(findings(recipe, runtime=processes), "FAIL")
    assert problem[0] == "model" and "runtime.fsdp" in problem[1]
    monkeypatch.setattr(attention, "SHARED", frozenset({"qwen3_vl"}))
    (problem,) = of(findings(recipe), "FAIL")
    assert problem == ("model", "GRPO needs a model whose answers share a prefix: qwen3_vl; found llava")


def test_images_without_scores_and_labelled_tables_are_surveyed(recipe: dict[str, Any], tmp_path: Path) -> None:
    code, text = check_data(written(recipe, tmp_path))
    assert code == 0 and text.count("No problem found.") == 2
    images, labelled = text.split("== mine")
    assert "rows    20" in images and "scores" not in images.replace("without scores", "") and "bins" not in text
    assert "rows    10: 0 train, 0 val, 10 test" in labelled and "scores  mean 2.25" in labelled
    assert "splits are drawn" in images and "splits are drawn" not in labelled
    assert "seen in training  0 of 10 images are training images too, 0 more look like one" in labelled


def test_labelled_images_that_are_trained_on_are_counted(recipe: dict[str, Any], tmp_path: Path) -> None:
    splits = "\n".join(["image,split", *(f"{at}.png,{'train' if at < 18 else 'val'}" for at in range(20))])
    (tmp_path / "photos" / "t.csv").write_text(splits)
    photos, labelled = tmp_path / "photos", tmp_path / "labelled"
    (labelled / "1.png").write_bytes((photos / "1.png").read_bytes())
    with Image.open(photos / "2.png") as image:
        image.save(labelled / "2.png", compress_level=1)  # the same pixels in another file
    (labelled / "3.png").write_bytes((photos / "19.png").read_bytes())  # a validation image: nothing trains on it
    (photos / "4.png").write_text("no image")
    data = {"table": str(photos / "t.csv")}
    code, text = check_data(written(recipe | {"data": data}, tmp_path), "--list", tmp_path / "list.txt")
    assert code == 1 and "seen in training  1 of 10 images are training images too, 1 more look like one" in text
    assert (tmp_path / "list.txt").read_text().startswith("4.png\t")
    code, text = check_data(written(recipe | {"data": data | {"max_unreadable_fraction": 0.1}}, tmp_path))
    assert code == 0


def test_a_folder_needs_no_recipe(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "photos" / "9.png").write_bytes((tmp_path / "photos" / "8.png").read_bytes())
    text = check_data(tmp_path / "photos", "--method", "evo_quality", "--no-split-column")[1]
    assert "rows    20" in text and "duplicates  1 image(s)" in text and "scores  " not in text
    assert check_data(tmp_path / "photos")[0] == 1  # the default method reads scores


def test_each_method_has_checks_of_its_own() -> None:
    """A method without a module of its own would be checked for less than its runs refuse."""
    for method in method_names():
        assert set(of_methods.checks_of(method)) > set(COMMON) or method == "self_improve", method
    assert of_methods.checks_of("toy") == COMMON


def test_tables_of_questions_and_of_pairs_are_looked_at(tmp_path: Path) -> None:
    images, questions = write_unlabelled(tmp_path / "a", 7, 6, 2), write_questions(tmp_path / "b", 7, 6, 3, 3)
    pairs, store = write_answer_pairs(tmp_path / "c", 7, 4), {"store": str(tmp_path / "store"), "device": "cpu"}
    of_questions = {"table": str(questions), "group_column": "group"}
    common = {"name": "r", "model": BUNDLED, "runtime": store}
    stic = {
        **common, "method": "stic", "prompts": "stic_short", "data": {"table": str(images), "group_column": "group"},
        "instructions": of_questions, "questions": of_questions,
    }  # fmt: skip
    judge = {
        **common, "method": "self_judge", "data": {**of_questions, "open_prompts": ["What is it?"]},
        "pairs": {"inject_prompt": "short"}, "reasons": {"prompt": "short"},
        "evaluation": {"pairs": [{"name": "known", "table": str(pairs)}]},
    }  # fmt: skip
    for recipe, extra in ((stic, "rows"), (judge, "pairs")):
        found = findings(recipe)
        assert not of(found, "FAIL") and extra in [what for what, _ in of(found, "ok")]
        code, text = check_data(written(recipe, tmp_path))
        assert code == 0, text
        assert text.count("== ") == {"stic": 3, "self_judge": 2}[recipe["method"]]
        assert "images are training images too" in text and "scores  " not in text
    broken = [json.loads(line) for line in questions.read_text().splitlines()]
    broken[0]["question"] = ""
    questions.write_text("\n".join(map(json.dumps, broken)))
    assert [what for what, _ in of(findings(stic), "FAIL")] == ["rows"]
    code, text = check_data(written(stic, tmp_path))
    assert code == 1 and "the question is empty" in text
