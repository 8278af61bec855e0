"""Every shipped recipe says what the paper says, in every field, and nothing that is not read."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline_lib.config.load import load_recipe
from pipeline_lib.methods.self_improve.prompt import load_prompt
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe

RECIPES = Path(__file__).parents[2] / "recipes" / "self_improve"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
PAPER = sorted((RECIPES / "paper").glob("*.yaml"))

TABLE_4 = {  # learning rate, beta, LoRA rank
    "ava_llava-next-7b": (5e-5, 0.1, 64),
    "ava_llava-1.5-7b": (3e-5, 0.2, 64),
    "ava_internvl-2b": (5e-5, 0.2, 64),
    "ava_llava-interleave-0.5b": (5e-5, 0.2, 16),
    "aadb_llava-next-7b": (5e-5, 0.1, 64),
    "aadb_llava-1.5-7b": (5e-5, 0.2, 16),
    "aadb_internvl-2b": (5e-5, 0.2, 64),
    "aadb_llava-interleave-0.5b": (1e-4, 0.2, 16),
}
RESULTS = {  # Tables 2 and 5 to 8: PLCC, SRCC, Cons of zero-shot; of iteration 4, merged (one PLCC is not known here)
    "ava_llava-next-7b": (".452 .446 3.36", ".716 .739 3.57"),
    "ava_llava-1.5-7b": (".289 .291 3.20", ".717 .715 3.47"),
    "ava_internvl-2b": (".321 .315 3.28", ".686 .693 3.37"),
    "ava_llava-interleave-0.5b": (".372 .366 2.43", ".674 .685 2.72"),
    "aadb_llava-next-7b": (".504 .509 3.47", ".636 .645 3.48"),
    "aadb_llava-1.5-7b": (".381 .401 3.05", ".576 .580 3.39"),
    "aadb_internvl-2b": (".343 .408 3.23", ".596 .643 3.57"),
    "aadb_llava-interleave-0.5b": (".242 .218 2.33", ".590 2.16"),
}
A_1 = {  # appendix A.1 and sections 3 and 4: what the paper gives for all models
    "iterations": 4,
    "prompt": "aesthetics",
    "model.resize_px": 448,
    "model.max_new_tokens": 256,
    "training.decay_per_iteration": 0.8,
    "training.batch_size": 128,
    "training.epochs": 1,
    "merge.method": "ties",
    "merge.space": "factors",
    "merge.weights": (1.0, 1.0),
    "merge.density": 0.5,
    "merge.majority_sign_method": "frequency",
    "judge.openai.model": "gpt-4o-2024-08-06",
    "judge.openai.rubric": "paper",
}
A_1_OF_A_DATA_SET = {
    "ava": {"generation.fraction": 0.25, "swap.fraction": 0.3, "judge.rows": 1000},
    "aadb": {"generation.fraction": 1.0, "swap.fraction": 1.0, "judge.rows": None},
}
LEFT_TO_THE_DEFAULT = {  # what the paper gives and no recipe repeats
    "training.sft_weight": 0.0,
    "consistency.learning_rate_factor": 1.0,
    "generation.redraw": True,
    "training.start_from": "previous",
    "grid_search.learning_rate": (1e-5, 3e-5, 5e-5, 1e-4, 3e-4),
    "grid_search.beta": (0.05, 0.1, 0.2),
    "grid_search.lora_rank": (16, 64, 256),
    "ablation.rows": ("sft_score", "sft_score_text", "dpo", "iterative_dpo"),
}
PATHS = {"data.table", "data.images", "data.split_lists.train", "data.split_lists.val", "data.split_lists.test"}


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, value and default of every field, those of inner sections too."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.default


def written(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        whole = not isinstance(value, dict) or name == "faults"  # names of the user's own, not fields
        flat |= {f"{prefix}{name}": value} if whole else written(value, f"{prefix}{name}.")
    return flat


def values(recipe: SelfImproveRecipe) -> dict[str, Any]:
    return {name: value for name, value, _ in leaves(recipe)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_field_is_what_the_file_says_or_the_default(path: Path) -> None:
    in_file = written(yaml.safe_load(path.read_text()))
    recipe = load_recipe(path)
    seen = set()
    for name, value, default in leaves(recipe):
        if name not in in_file:
            assert value == default, name
        elif name in PATHS:
            assert Path(value).resolve() == (path.parent / in_file[name]).resolve(), name
        else:
            expected = tuple(in_file[name]) if isinstance(in_file[name], list) else in_file[name]
            if isinstance(expected, dict):
                expected = {key: tuple(words) for key, words in expected.items()}
            assert value == expected and isinstance(value, str) == isinstance(expected, str), name
        seen.add(name)
    assert set(in_file) <= seen
    assert load_prompt(recipe.prompt).name == recipe.prompt
    assert path.stem == recipe.name


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_paper_recipe_is_its_row_of_table_4(path: Path) -> None:
    found, in_file = values(load_recipe(path)), written(yaml.safe_load(path.read_text()))
    learning_rate, beta, rank = TABLE_4[path.stem]
    given = {"training.learning_rate": learning_rate, "training.beta": beta, "training.lora_rank": rank}
    given |= A_1 | A_1_OF_A_DATA_SET[path.stem.split("_")[0]]
    for name, expected in given.items():
        assert found[name] == expected, name
        assert name in in_file, f"{name} is the paper's and should stand in the file"
    for name, expected in LEFT_TO_THE_DEFAULT.items():
        assert found[name] == expected, name
    assert found["data.dataset"] == path.stem.split("_")[0]


def test_all_rows_of_table_4_are_there_and_show_the_papers_results() -> None:
    assert {path.stem for path in PAPER} == set(TABLE_4)
    for path in PAPER:
        header = path.read_text().split("\nname:")[0]
        assert all(line.startswith("#") for line in header.strip().splitlines())
        for result in RESULTS[path.stem]:
            assert result in header, path.stem
        assert "estimate" in header and "Not run here" in header


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_weights_are_pinned_and_what_may_cost_money_is_capped(path: Path) -> None:
    recipe = load_recipe(path)
    if recipe.model.from_run is None and recipe.model.id != "bundled":
        assert recipe.model.revision and re.fullmatch("[0-9a-f]{40}", recipe.model.revision)
        assert recipe.model.revision in (RECIPES / "README.md").read_text()
        assert recipe.runtime.min_memory_gb > 0
    if recipe.judge.openai.model:
        endpoint = recipe.runtime.openai
        assert endpoint.budget_usd and math.isfinite(endpoint.budget_usd)
        assert endpoint.usd_per_million_input_tokens and endpoint.usd_per_million_output_tokens
    assert f"`{path.relative_to(RECIPES)}`" in (RECIPES / "README.md").read_text()


def test_the_commented_lines_of_the_template_are_a_recipe_too() -> None:
    """A user who uncomments the blocks of own.yaml gets fields that exist."""
    text = (RECIPES / "own.yaml").read_text()
    first, _, rest = text.partition("# The bundled model")
    _, _, real = rest.partition("lines above:\n")
    model, _, judge = real.partition("#\n# With a judge model")
    model = re.sub(r"^# ?", "", model, flags=re.M)
    hosted, _, own = re.sub(r"^# ?", "", judge.partition("\n")[2], flags=re.M).partition("or one that")
    fields = yaml.safe_load(first + model)
    endpoint = yaml.safe_load(hosted)
    fields["judge"] = endpoint["judge"]
    fields["runtime"] |= endpoint["runtime"]
    recipe = SelfImproveRecipe.model_validate(fields)
    assert recipe.model.revision and recipe.runtime.openai.budget_usd == 10 and recipe.runtime.min_memory_gb == 40
    fields["runtime"] |= yaml.safe_load(own.partition("\n")[2])
    assert SelfImproveRecipe.model_validate(fields).runtime.openai.base_url == "http://localhost:8000/v1"
