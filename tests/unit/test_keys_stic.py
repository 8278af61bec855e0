"""Which field of a stic recipe changes the key of which stage: every field stands in the table, or the test fails."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.stic import stic
from pipeline_lib.demo.method_data import write_questions, write_unlabelled
from pipeline_lib.methods.stic.prompt import load_prompts
from pipeline_lib.methods.stic.recipe import SticRecipe
from tests.keys import changed, changed_stages, leaves, planned

TRAIN = {"train_preferences", "train_infused"}
ASK = {"describe_both_ways", "compute_preference_logps", "describe", "evaluate_answers", "infuse"}
MODEL = {*TRAIN, *ASK}
LISTS = {"list_images", "list_questions"}
SEED = {*LISTS, "describe_both_ways", "describe", *TRAIN, "evaluate_answers"}
NOWHERE: set[str] = set()

OF_QUESTIONS: dict[str, Any] = {
    "table": "elsewhere", "images": "elsewhere", "image_column": "file", "question_column": "text",
    "answer_column": "reply", "choices_column": None, "split_column": None, "split": "val", "group_column": "group",
    "rows": 3, "list_choices": True, "instruction": "Be short.", "max_unreadable_fraction": 0.1, "max_megapixels": 5.0,
}  # fmt: skip
OF_LORA: dict[str, Any] = {
    "batch_size": 16, "micro_batch_size": 2, "epochs": 2, "schedule": "cosine", "max_grad_norm": 0.5,
}  # fmt: skip

# field -> another value, and the stages whose key it changes by itself
FIELDS: dict[str, tuple[Any, set[str]]] = {
    "name": ("another", NOWHERE),
    "seed": (5, SEED),
    "prompts": ("stic_short", {"describe_both_ways"}),  # which have another curated prompt
    "data.dataset": ("koniq10k", {"list_images"}),
    "data.table": ("elsewhere", NOWHERE),
    "data.images": ("elsewhere", NOWHERE),
    "data.image_column": ("file", {"list_images"}),
    "data.split_column": (None, {"list_images"}),
    "data.group_column": ("group", {"list_images"}),
    "data.split_lists.train": ("train.txt", {"list_images"}),
    "data.split_lists.val": ("val.txt", {"list_images"}),
    "data.split_lists.test": ("test.txt", {"list_images"}),
    "data.val_fraction": (0.2, {"list_images"}),
    "data.test_fraction": (0.2, {"list_images"}),
    "data.max_unreadable_fraction": (0.2, {"list_images"}),
    "data.max_near_duplicate_fraction": (0.5, NOWHERE),
    "data.near_duplicate_bits": (2, {"find_near_duplicates"}),
    "data.max_megapixels": (5.0, {"list_images"}),
    "model.id": ("owner/name", NOWHERE),
    "model.from_run": (None, NOWHERE),
    "model.revision": ("b" * 40, MODEL),
    "model.dtype": ("float32", MODEL),
    "model.resize_px": (64, MODEL),
    "model.max_tiles": (4, MODEL),
    "model.max_new_tokens": (9, {"describe_both_ways", "describe"}),
    "preferences.images": (3, {"describe_both_ways"}),
    "preferences.bad_prompt_share": (1.0, {"describe_both_ways"}),
    "preferences.low_resolution_share": (1.0, {"describe_both_ways"}),
    "preferences.low_resolution_px": (10, {"describe_both_ways"}),
    "preferences.brightness": (0.2, {"describe_both_ways"}),
    "preferences.hue": (0.1, {"describe_both_ways"}),
    "preferences.temperature": (0.0, {"describe_both_ways"}),
    "training.loss": ("sft", {"train_preferences"}),
    "training.learning_rate": (1e-3, {"train_preferences"}),
    "training.beta": (0.2, {"train_preferences"}),
    "training.alpha": (0.0, {"train_preferences"}),
    "training.lora_rank": (8, {"train_preferences"}),
    "training.max_length": (512, {"compute_preference_logps", "train_preferences"}),
    **{f"training.{name}": (value, {"train_preferences"}) for name, value in OF_LORA.items()},
    "infusion.describe": (False, {"infuse"}),
    "infusion.start_from": ("base", {"train_infused"}),
    "infusion.learning_rate": (1e-3, {"train_infused"}),
    "infusion.lora_rank": (8, {"train_infused"}),
    "infusion.max_length": (512, {"train_infused"}),
    **{f"infusion.{name}": (value, {"train_infused"}) for name, value in OF_LORA.items()},
    **{
        f"{section}.{name}": (value, NOWHERE if name in ("table", "images") else {"list_questions"})
        for section in ("instructions", "questions")
        for name, value in OF_QUESTIONS.items()
    },
    "questions.scoring": ("numeric", {"evaluate_answers"}),
    "questions.tolerance": (0.1, {"evaluate_answers"}),
    "questions.max_new_tokens": (9, {"evaluate_answers"}),
    "questions.things": (("dog",), {"evaluate_answers"}),
    "evaluation.bootstrap_samples": (200, {"evaluate_answers"}),
    "evaluation.confidence": (0.9, {"evaluate_answers"}),
    "evaluation.margin": (0.01, NOWHERE),
    "describe_temperature": (0.5, {"describe"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    images = write_unlabelled(folder / "unlabelled", 5, images=8, variants=1)
    rows = pd.read_csv(images)
    rows.assign(file=rows["image"]).to_csv(images, index=False)
    rows[["image", "split"]].assign(MOS=1.0).set_axis(["image_name", "set", "MOS"], axis=1).to_csv(
        images.parent / "koniq10k.csv", index=False
    )
    for split in ("train", "val", "test"):
        (images.parent / f"{split}.txt").write_text("\n".join(rows["image"][:4] if split == "train" else []) + "\n")
    questions = write_questions(folder / "questions", 5, train=8, val=2, test=4)
    lines = pd.read_json(questions, lines=True)
    for column, same in {"file": "image", "text": "question", "reply": "answer"}.items():
        lines[column] = lines[same]
    lines.to_json(questions, orient="records", lines=True)
    return {
        "method": "stic",
        "name": "r",
        "data": {"table": str(images), "max_near_duplicate_fraction": 1.0},  # else no stage looks for them
        "model": {"id": "owner/model", "revision": "a" * 40},
        "instructions": {"table": str(questions)},
        "questions": {"table": str(questions)},
        "runtime": {"store": str(folder / "store")},
    }


def with_field(fields: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    made = changed(SticRecipe, fields, field, value)
    if field.endswith(".lora_rank"):  # both stages train one adapter
        made["infusion"]["start_from"] = "base"
    return made


def test_the_table_knows_every_field_of_the_recipe_and_no_other() -> None:
    fields = {field for field in leaves(SticRecipe) if not field.startswith("runtime.")}  # of all methods alike
    assert fields - {"method"} == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_the_keys_of_its_stages_and_no_others(field: str, base: dict[str, Any], tmp_path: Path) -> None:
    value, stages = FIELDS[field]
    unlabelled, questions = (Path(base[section]["table"]).parent for section in ("data", "questions"))
    start = base
    section, _, leaf = field.partition(".")
    if field == "data.dataset":
        start = changed(SticRecipe, base, "data.table", str(unlabelled / "koniq10k.csv"))
    elif field.endswith(".table"):
        shutil.copytree(unlabelled if section == "data" else questions, tmp_path / "data")
        value = str(tmp_path / "data" / Path(base[section]["table"]).name)
    elif field.endswith(".images") and section != "preferences":
        value = str(unlabelled if section == "data" else questions)
    elif field.startswith("data.split_lists."):
        value = str(unlabelled / value)
    if leaf == "lora_rank":
        start = changed(SticRecipe, base, "infusion.start_from", "base")
    before = planned((stic,), SticRecipe, start if leaf == "lora_rank" else base)
    after = planned((stic,), SticRecipe, with_field(start, field, value))
    assert len(before.keys() & after.keys()) > 10
    assert changed_stages(before, after) == stages


def test_sets_of_prompts_differ_as_the_table_says() -> None:
    paper, short = load_prompts("stic"), load_prompts("stic_short")
    assert {name for name, text in paper.key_fields().items() if text != short.key_fields()[name]} == {"curated"}
