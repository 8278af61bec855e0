"""The shipped recipes of evo_quality: the paper's figures, ablations of one field each, prompts word for word."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.evo_quality.prompt import load_prompts
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe, Labelled

RECIPES = Path(__file__).parents[4] / "recipes" / "evo_quality"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
PAPER = RECIPES / "paper" / "koniq10k_qwen2.5-vl-7b.yaml"
DIFFERS: dict[str, dict[str, Any]] = {
    "_own_mean": {"training.target": "own_mean"},
    "_votes-1": {"votes.answers": 1},
    "_votes-8": {"votes.answers": 8},
    "_share": {"votes.label": "share"},
}


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_is_pinned_and_is_named_in_the_readme(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe, EvoQualityRecipe) and recipe.name.endswith(path.stem.removeprefix("demo"))
    readme = (RECIPES / "README.md").read_text()
    assert f"`{path.relative_to(RECIPES)}`" in readme
    if recipe.model.id != "bundled":
        assert recipe.model.revision and recipe.model.revision in readme
        assert "not run here" in path.read_text().lower()
    load_prompts(recipe.prompts)


def test_the_paper_recipe_says_what_the_paper_gives() -> None:
    recipe, text = load_recipe(PAPER), PAPER.read_text()
    assert isinstance(recipe, EvoQualityRecipe)
    assert (recipe.rounds, recipe.pairs.count, recipe.votes.answers, recipe.votes.label) == (2, 20_000, 32, "majority")
    assert (recipe.training.grpo.answers, recipe.training.grpo.beta, recipe.training.schedule) == (32, 0.05, "linear")
    assert (recipe.pairs.variants.per_image, recipe.pairs.variants.from_round) == (10, 2)
    assert [data.name for data in recipe.evaluation.labelled] == ["koniq10k", "spaq", "kadid10k", "tid2013"]
    for figures in (".761 .840 .835", ".853 .902 .903", ".623 .784 .803", ".615 .751 .770", ".736"):
        assert figures in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize("name", DIFFERS)
def test_an_ablation_differs_from_the_paper_recipe_in_its_field_alone(name: str) -> None:
    paper, ablation = (
        flat(yaml.safe_load(path.read_text())) for path in (PAPER, PAPER.with_name(f"{PAPER.stem}{name}.yaml"))
    )
    del paper["name"], ablation["name"]
    different = {field: value for field, value in ablation.items() if paper.get(field) != value}
    assert different == DIFFERS[name] and paper.keys() <= ablation.keys()


def test_the_papers_prompts_stay_word_for_word() -> None:
    found = load_prompts("paper")
    digest = hashlib.sha256("\n".join([found.compare, found.rate]).encode()).hexdigest()
    assert digest == "a87e780f85804747a7390bae2dc40e1c02abcee35d49c75bb7fb8fedf41eef91"


def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no long; shipped are paper, paper_direct, short"):
        load_prompts("long")
    for text, why in (("compare: x", "rate"), ("- x", "compare"), ("compare: a\nrate: b", "boxed")):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(RecipeError, match=why):
            load_prompts(str(tmp_path / "mine.yaml"))


def test_a_split_needs_its_column() -> None:
    with pytest.raises(ValidationError, match="split_column"):
        Labelled(name="a", table="t.csv", split="test")
    with pytest.raises(ValidationError, match="name of its own"):
        EvoQualityRecipe.model_validate(
            {
                "name": "r",
                "data": {"table": "t"},
                "model": {"id": "bundled"},
                "evaluation": {"labelled": [{"name": "a", "table": "t"}, {"name": "a", "table": "u"}]},
            }
        )
