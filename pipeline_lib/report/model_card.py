"""The Markdown card of a run's final model."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline_lib.report.contents import RunResults
from pipeline_lib.report.departures import departures, is_hub_id, recipe_yaml, shown_model_id
from pipeline_lib.report.judge_error import judge_error
from pipeline_lib.report.lineage import compared, final, on_split
from pipeline_lib.report.numerals import (
    CONS,
    PARSE_RATE,
    PLCC,
    RMSE,
    SRCC,
    SRCC_UNFITTED,
    decimal,
    estimate_text,
    percent,
)
from pipeline_lib.report.verdict import verdict
from pipeline_lib.vlm.prompt import load_prompt

_ROWS = (
    ("SRCC, unfitted", SRCC_UNFITTED),
    ("SRCC, fitted", SRCC),
    ("PLCC, fitted", PLCC),
    ("RMSE, fitted", RMSE),
    ("Cons, local judge, 0 to 4", CONS),
    ("Parse rate", PARSE_RATE),
)


def model_card(results: RunResults) -> str:
    """What the final model is, what it was trained on, its figures with intervals, its limits and how to load it.

    The card holds no local path: of a base model in a directory it gives the name alone.
    """
    environment = jinja2.Environment(  # no escaping: Markdown, and nothing that a model wrote goes into it
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"decimal": decimal, "percent": percent}
    models = compared(results)
    recipe = results.recipe
    context: dict[str, Any] = {
        "front_matter": yaml.safe_dump(_front_matter(results), sort_keys=False),
        "recipe": recipe,
        "base": shown_model_id(results.model_name),
        "on_hub": is_hub_id(recipe.model.id),
        "final": final(results),
        "models": [model.name for model in models],
        "figures": [
            (heading, [estimate_text(column, model.metric(column.metric)) for model in models])
            for heading, column in _ROWS
        ],
        "verdict": verdict(results),
        "counts": {split: on_split(results.images, split).num_rows for split in ("train", "val", "test")},
        "judge": judge_error(results.judge_holdout),
        "departures": departures(recipe),
        "reference_values": final(results).reference_values.to_pylist(),
        "prompt": load_prompt(recipe.prompt).text,
        "recipe_yaml": recipe_yaml(recipe),
    }
    return environment.get_template("model_card.md.j2").render(context)


def _front_matter(results: RunResults) -> dict[str, Any]:
    base = {"base_model": results.recipe.model.id} if is_hub_id(results.recipe.model.id) else {}
    tags = ["image-quality-assessment", "explanations", "dpo", "lora", "whyscore"]
    return base | {"library_name": "peft", "pipeline_tag": "image-text-to-text", "tags": tags}
