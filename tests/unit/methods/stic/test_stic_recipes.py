"""Recipes of stic: the defaults and the paper's recipes are the paper's, and every field is read."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline_lib.config.load import load_recipe, parse_recipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.stic.prompt import load_prompts
from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.methods.stic.training import infused_job, preferences_job
from pipeline_lib.store import ArtifactRef
from pipeline_lib.train.job import DPO, SFT
from pipeline_lib.vlm.model_ref import resolve_model

RECIPES = Path(__file__).parents[4] / "recipes" / "stic"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "method": "stic",
    "name": "r",
    "data": {"table": "t.csv"},
    "model": {"id": "bundled"},
    "instructions": {"table": "i.jsonl"},
    "questions": {"table": "q.jsonl"},
}
PAPER = {
    "preferences": {
        "images": 6000, "bad_prompt_share": 0.5, "low_resolution_share": 0.5, "low_resolution_px": 20,
        "brightness": 0.5, "hue": 0.3, "temperature": 0.2,
    },
    "training": {
        "loss": "dpo", "learning_rate": 1e-7, "beta": 0.1, "alpha": 1 / 1024, "lora_rank": 128, "batch_size": 8,
        "epochs": 1,
    },
    "infusion": {"learning_rate": 2e-5, "lora_rank": 128, "epochs": 1, "describe": True, "start_from": "preferences"},
    "instructions": {"rows": 5000},
}  # fmt: skip


def stic(**fields: Any) -> SticRecipe:
    recipe = parse_recipe({**MINIMAL}, fields)
    assert isinstance(recipe, SticRecipe)
    return recipe


def says_what_the_paper_says(recipe: SticRecipe) -> None:
    for section, fields in PAPER.items():
        for name, value in fields.items():
            assert getattr(getattr(recipe, section), name) == value, f"{section}.{name}"
    assert recipe.prompts == "stic"


def test_the_defaults_are_those_of_the_paper() -> None:
    says_what_the_paper_says(stic())


@pytest.mark.parametrize("path", sorted((RECIPES / "paper").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_says_what_the_paper_says(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, SticRecipe) and recipe.name == path.stem and recipe.model.max_new_tokens == 1024
    says_what_the_paper_says(recipe)
    assert recipe.model.revision and re.fullmatch("[0-9a-f]{40}", recipe.model.revision)
    assert recipe.model.revision in (RECIPES / "README.md").read_text()
    assert "Not run here" in path.read_text() and recipe.runtime.min_memory_gb > 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_are_in_the_readme(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, SticRecipe) and load_prompts(recipe.prompts).name == recipe.prompts
    assert f"`{path.relative_to(RECIPES)}`" in (RECIPES / "README.md").read_text()
    for section in ("data", "instructions", "questions"):
        written = yaml.safe_load(path.read_text())[section]["table"]
        assert Path(getattr(recipe, section).table).resolve() == (path.parent / written).resolve()


def test_the_jobs_are_dpo_with_alpha_and_supervised_training_from_its_adapter() -> None:
    recipe, prompts, stage_1 = stic(), load_prompts("stic"), ArtifactRef(stage="train_preferences", key="k")
    base = resolve_model(recipe.model)
    images: Any = {"table": ArtifactRef(stage="list_images", key="k"), "folder": "", "max_megapixels": 1.0}
    from pipeline_lib.data.image_set import ImageSet

    first = preferences_job(recipe.training, base, ImageSet(**images), prompts, 7)
    second = infused_job(recipe.infusion, base, ImageSet(**images), prompts, stage_1, 7)
    assert first.loss == DPO(beta=0.1, chosen_logp_weight=1 / 1024) and first.start is None
    assert second.loss == SFT() and second.start == stage_1 and first.seed != second.seed
    alone = stic(**{"training.loss": "sft", "infusion.start_from": "base"})
    assert preferences_job(alone.training, base, ImageSet(**images), prompts, 7).loss == SFT()
    assert infused_job(alone.infusion, base, ImageSet(**images), prompts, stage_1, 7).start is None


def test_the_adapter_of_stage_1_fits_stage_2() -> None:
    with pytest.raises(RecipeError, match=r"infusion.lora_rank 8 must be training.lora_rank 128"):
        stic(**{"infusion.lora_rank": 8})
    with pytest.raises(RecipeError, match=r"runtime.training_processes"):
        stic(**{"runtime.fsdp": True})
    assert stic(**{"infusion.lora_rank": 8, "infusion.start_from": "base"}).infusion.lora_rank == 8
