"""A run of stic's demo recipe at a size for tests: same model, same stages, fewer images."""

import json
from pathlib import Path

import yaml

from pipeline_lib.config.load import load_recipe_of
from pipeline_lib.demo.method_data import write_questions, write_unlabelled
from pipeline_lib.methods.stic.recipe import SticRecipe
from tests.small_run import Watched, listen

RECIPE = Path(__file__).parents[1] / "recipes" / "stic" / "demo.yaml"


def write_small_stic(folder: Path, store: Path) -> Path:
    """A recipe over 16 unlabelled images and the questions about 12 training and 8 test images."""
    images = write_unlabelled(folder / "data" / "unlabelled", 5, images=8, variants=1)
    questions = write_questions(folder / "data" / "questions", 5, train=12, val=1, test=8)
    fields = yaml.safe_load(RECIPE.read_text())
    fields["name"] = "small-stic"
    fields["data"]["table"] = str(images)
    for section in ("instructions", "questions"):
        fields[section]["table"] = str(questions)
    fields["preferences"]["images"] = 12
    for section in ("training", "infusion"):
        fields[section] |= {"batch_size": 4, "micro_batch_size": 2, "epochs": 1}
    fields["evaluation"] = {"bootstrap_samples": 100}
    fields["runtime"] |= {"store": str(store), "shard_rows": 6, "checkpoint_every": 2, "generation_batch_size": 8}
    path = folder / "small_stic.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def make_small_stic(folder: Path) -> None:
    """The recipe, its data, the store of its finished run, and what that planned and computed."""
    from flows.stic import stic
    from tasks.stage.plan import plan

    recipe = load_recipe_of(SticRecipe, write_small_stic(folder, folder / "store"))
    planned = [stage.label for stage in plan(stic.fn, recipe)]
    with listen("whyscore") as messages:
        stic(recipe)
    watched = Watched(messages, [])
    seen = {"planned": planned, "computed": watched.computed, "cached": watched.cached}
    (folder / "watched.json").write_text(json.dumps(seen))
