"""The shipped recipes of self_judge: the paper's figures, and what a recipe must not say."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline_lib.config.load import load_recipe
from pipeline_lib.demo.lessons import INJECT_PROMPT, JUDGE_PROMPT, PLAIN_PROMPTS
from pipeline_lib.judges.vlm_judge import load_judge_prompt
from pipeline_lib.methods.self_judge.pairs import load_inject_prompt
from pipeline_lib.methods.self_judge.recipe import JudgedPairs, Pairs, SelfJudgeRecipe

RECIPES = Path(__file__).parents[4] / "recipes" / "self_judge"
PAPER = RECIPES / "paper" / "qwen2.5-vl-7b.yaml"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_is_pinned_and_is_named_in_the_readme(path: Path) -> None:
    recipe, readme = load_recipe(path), (RECIPES / "README.md").read_text()
    assert isinstance(recipe, SelfJudgeRecipe) and f"`{path.relative_to(RECIPES)}`" in readme
    load_judge_prompt(recipe.reasons.prompt)
    load_inject_prompt(recipe.pairs.inject_prompt)
    if recipe.model.id != "bundled":
        assert recipe.model.revision and recipe.model.revision in readme
        assert "not run here" in path.read_text().lower()


def test_the_paper_recipe_and_the_defaults_say_what_the_paper_gives() -> None:
    recipe, text = load_recipe(PAPER), PAPER.read_text()
    assert isinstance(recipe, SelfJudgeRecipe)
    least = {"data": {"table": "t"}, "model": {"id": "bundled"}}
    for of in (recipe, SelfJudgeRecipe.model_validate({"name": "r", **least})):
        assert (of.iterations, of.pairs.votes, of.pairs.min_votes, of.pairs.closed) == (4, 16, 5, "majority")
        assert (of.training.learning_rate, of.training.epochs, of.reasons.samples) == (1e-5, 5, 1)
        assert (of.reasons.temperature, of.reasons.top_k, of.reasons.top_p) == (0.6, 50, 0.9)
    assert [data.format for data in recipe.evaluation.pairs] == ["vl_rewardbench", "multimodal_rewardbench"]
    assert all(figure in text for figure in (".383", ".538", ".499", ".539", "8.6 %", "9.5 %", "Llama-3.2-11B-Vision"))


def test_the_ablation_differs_from_the_paper_recipe_in_the_closed_pairs_alone() -> None:
    paper, ablation = (
        yaml.safe_load(path.read_text()) for path in (PAPER, RECIPES / "paper/qwen2.5-vl-7b_known_answer.yaml")
    )
    del paper["name"], ablation["name"]
    assert ablation["pairs"].pop("closed") == "known_answer" and ablation["data"].pop("answer_column") == "answer"
    assert ablation == paper


def test_the_demo_asks_what_the_bundled_model_was_taught() -> None:
    recipe: Any = load_recipe(RECIPES / "demo.yaml")
    assert recipe.data.open_prompts == PLAIN_PROMPTS
    assert load_judge_prompt(recipe.reasons.prompt).text == JUDGE_PROMPT
    assert load_inject_prompt(recipe.pairs.inject_prompt).text == INJECT_PROMPT.replace("{description}", "{answer}")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"more than pairs\.votes"):
        Pairs(votes=4, min_votes=5)
    fields: dict[str, Any] = {"name": "r", "data": {"table": "t"}, "model": {"id": "bundled"}}
    with pytest.raises(ValidationError, match="answer_column"):
        SelfJudgeRecipe.model_validate(fields | {"pairs": {"closed": "known_answer"}})
    two = [{"name": "a", "table": "t"}, {"name": "a", "table": "u"}]
    for pairs in (two, [{"name": "held_out", "table": "t"}]):
        with pytest.raises(ValidationError, match="name of its own"):
            SelfJudgeRecipe.model_validate(fields | {"evaluation": {"pairs": pairs}})
    with pytest.raises(ValidationError):
        JudgedPairs(name="a b", table="t")
