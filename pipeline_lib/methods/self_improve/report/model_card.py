"""The Markdown card of a run's final model."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.faithfulness_figures import probed
from pipeline_lib.methods.self_improve.report.judge_error import judge_error
from pipeline_lib.methods.self_improve.report.judges import (
    ROUND_TRIP,
    judge_pairs,
    judged_columns,
    lead_judge,
    unscored,
    who_judged,
)
from pipeline_lib.methods.self_improve.report.lineage import compared, final, on_split
from pipeline_lib.methods.self_improve.report.paper_settings import departures, is_hub_id, recipe_yaml, shown_model_id
from pipeline_lib.methods.self_improve.report.plain_verdict import best_model
from pipeline_lib.methods.self_improve.report.uncertainty_figure import coverage_sentence
from pipeline_lib.methods.self_improve.report.verdict import cons_column, verdict
from pipeline_lib.report.formatting import (
    CONS,
    CONS_CORRECTED,
    MAE_STATED,
    OTHER_SCORE,
    OWN_SCORE,
    PARSE_RATE,
    RECOVERED_SPEARMAN,
    SRCC_STATED,
    TEXT_CHANGE,
    TEXT_CHANGE_BASELINE,
    WITHIN_ONE,
    Column,
    decimal,
    estimate_text,
    percent,
    score_column,
)

_FAITHFULNESS_ROWS = (
    ("Score read from the text, Spearman", RECOVERED_SPEARMAN),
    ("Text change, one score, other image", TEXT_CHANGE),
    ("Text change, own answers to both images", TEXT_CHANGE_BASELINE),
    ("Explanations that name the stated score", OWN_SCORE),
    ("Explanations that name another score", OTHER_SCORE),
)


def model_card(results: RunResults) -> str:
    """A description of the final model: its training, figures with intervals, limits and how to load it.

    The card has no local path; for a base model in a directory it gives only the directory's name.
    """
    environment = jinja2.Environment(  # no escaping: Markdown, and nothing that a model wrote goes into it
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"python": _python_text, "plain": _plain}
    environment.filters |= {"decimal": decimal, "percent": percent, "estimate": partial(estimate_text, CONS)}
    models = compared(results)
    recipe = results.recipe
    judged = [(f"{column.heading}, 0 to 4", column) for column in judged_columns(results)]
    context: dict[str, Any] = {
        "front_matter": yaml.safe_dump(_front_matter(results), sort_keys=False),
        "recipe": recipe,
        "base": shown_model_id(results.model_name),
        "on_hub": is_hub_id(recipe.model.id),
        "final": final(results),
        "models": [model.name for model in models],
        "figures": [
            (heading, [estimate_text(column, model.metric_or_nan(column.metric)) for model in models])
            for heading, column in (*_score_rows(results), *judged, *(_FAITHFULNESS_ROWS if probed(results) else ()))
        ],
        "verdict": verdict(results),
        "best": best_model(results),
        "reading": results.reading,
        "interval": coverage_sentence(results),
        "counts": {split: on_split(results.images, split).num_rows for split in ("train", "val", "test")},
        "criterion": results.prompt.criterion,
        "judge": judge_error(results.judge_holdout),
        "who_judged": who_judged(results),
        "unscored": unscored(results),
        "agreement": next((pair.agreement for pair in judge_pairs(results)[-1:]), None),
        "round_trip_leads": lead_judge(results) == ROUND_TRIP,
        "probed": probed(results),
        "departures": departures(recipe),
        "reference_values": final(results).reference_values.to_pylist(),
        "prompt": results.prompt.text,
        "recipe_yaml": recipe_yaml(recipe),
    }
    return environment.get_template("model_card.md.j2").render(context)


def _python_text(text: str) -> str:
    """A text as a literal of Python that ends neither itself nor the block of code that it is in."""
    return repr(text).replace("`", "\\x60")


def _plain(text: str) -> str:
    """A text that is neither HTML nor Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>&|#])", r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\&", "&amp;")


def _score_rows(results: RunResults) -> list[tuple[str, Column]]:
    used = [(name.upper(), score_column(name, results.reading)) for name in ("srcc", "plcc", "rmse")]
    paper = [(name.upper(), score_column(name, "fitted")) for name in ("srcc", "plcc", "rmse")]
    return [
        ("SRCC, stated", SRCC_STATED),
        ("MAE, stated, bins", MAE_STATED),
        ("Within one bin, stated", WITHIN_ONE),
        *((f"{name}, {results.reading}", column) for name, column in used),
        *((f"{name}, fitted", column) for name, column in paper),
        ("Parse rate", PARSE_RATE),
        *([("Cons, corrected for chance", CONS_CORRECTED)] if cons_column(results) == CONS_CORRECTED else []),
    ]


def _front_matter(results: RunResults) -> dict[str, Any]:
    base = {"base_model": results.recipe.model.id} if is_hub_id(results.recipe.model.id) else {}
    tags = ["image-quality-assessment", "explanations", "dpo", "lora", "whyscore"]
    return base | {"library_name": "peft", "pipeline_tag": "image-text-to-text", "tags": tags}
