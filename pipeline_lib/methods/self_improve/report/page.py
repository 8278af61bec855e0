"""The report of a run as one HTML page that needs no other file."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from PIL.Image import Image

from pipeline_lib.methods.self_improve.report.ceilings import ceilings
from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.methods.self_improve.report.control import control_section
from pipeline_lib.methods.self_improve.report.faithfulness_figures import (
    faithfulness_figures,
    faithfulness_groups,
    probed,
)
from pipeline_lib.methods.self_improve.report.gallery import exhibits
from pipeline_lib.methods.self_improve.report.judge_error import judge_error
from pipeline_lib.methods.self_improve.report.judges import (
    ROUND_TRIP,
    JudgePair,
    is_papers_judge,
    judge_pairs,
    judged_columns,
    lead_judge,
    unscored,
    who_judged,
)
from pipeline_lib.methods.self_improve.report.left_out import left_out
from pipeline_lib.methods.self_improve.report.lineage import (
    compared,
    final,
    is_on_main_line,
    on_split,
    on_validation,
    unparsed_answers,
    zero_shot,
)
from pipeline_lib.methods.self_improve.report.paper_settings import (
    departures,
    paper_settings,
    recipe_yaml,
    shown_model_id,
)
from pipeline_lib.methods.self_improve.report.path_figure import NARROW_PX, WIDE_PX, path_figure, unplaceable
from pipeline_lib.methods.self_improve.report.plain_verdict import plain_verdict
from pipeline_lib.methods.self_improve.report.rated_images import rated_images
from pipeline_lib.methods.self_improve.report.result_tables import (
    change_columns,
    change_rows,
    column_groups,
    cons_rows,
    figure_rows,
    other_columns,
    other_rows,
    other_sentences,
    shown,
    shown_cell,
)
from pipeline_lib.methods.self_improve.report.score_figures import MAX_DOTS, digit_figures, scatter_figures
from pipeline_lib.methods.self_improve.report.seen import seen_section
from pipeline_lib.methods.self_improve.report.training_figures import (
    SMOOTHED_FROM_STEPS,
    longest_training_steps,
    training_figures,
)
from pipeline_lib.methods.self_improve.report.uncertainty_figure import coverage_sentence, reliability_figure
from pipeline_lib.methods.self_improve.report.verdict import cons_column, used_srcc, verdict
from pipeline_lib.methods.self_improve.uncertainty import USED_LEVEL
from pipeline_lib.methods.self_improve.verdict import GRADES
from pipeline_lib.metrics.readings import MONOTONE_FROM
from pipeline_lib.report import formatting
from pipeline_lib.report.formatting import CONS, PARSE_RATE
from pipeline_lib.report.page import html_environment
from pipeline_lib.report.style import stylesheet

_TEMPLATES = Path(__file__).parent / "templates"


def render_report(
    results: RunResults,
    open_image: Callable[[str, str], Image],
    open_full_size: Callable[[str, str], Image] | None = None,
) -> str:
    """The whole report as HTML with style, figures and images inside; the same results give the same bytes.

    It begins with the verdict and large images for everybody; what is for specialists is folded, and printed.
    `open_image(image, image_sha256)` gives a test image, RGB and resized; `open_full_size` as its file has it, for the
    large images. Everything that a model or a user wrote is escaped.
    """
    environment = html_environment(_TEMPLATES)
    environment.filters |= {"decimal": formatting.decimal, "percent": formatting.percent}
    environment.filters |= {"plain_number": formatting.plain_number}
    scores = results.images["score"].to_numpy()
    training, pairs = training_figures(results), judge_pairs(results)
    context = {
        "css": stylesheet(),
        "recipe": results.recipe,
        "prompt": results.prompt,
        "criterion": results.prompt.criterion,
        "model_name": shown_model_id(results.model_name),
        "final": final(results),
        "compared": [model.name for model in compared(results)],
        "collapsed_names": _collapsed(results),
        "counts": {split: on_split(results.images, split).num_rows for split in ("train", "val", "test")},
        "people": plain_verdict(results),
        "rated": rated_images(results, open_full_size or open_image),
        "used_level": formatting.percent(USED_LEVEL),
        "score_range": (float(scores.min()), float(scores.max())),
        "verdict": verdict(results),
        "reading": results.reading,
        "ceilings": ceilings(results),
        "monotone_from": MONOTONE_FROM,
        "key_figures": _key_figures(results),
        "column_groups": column_groups(results),
        "table": [_table_row(results, model) for model in results.models],
        "changes": change_rows(results),
        "change_headings": [heading for heading, _ in change_columns(results)],
        "all_figures": figure_rows(results),
        "cons_rows": cons_rows(results),
        "others": other_rows(results),
        "other_headings": [column.heading for column in other_columns(results)],
        "other_sentences": other_sentences(results),
        "interval": coverage_sentence(results),
        "reliability_figure": reliability_figure(results),
        "validated": [_validated_row(results, model) for model in on_validation(results)],
        "validated_headings": [column.heading for column in formatting.VALIDATION_COLUMNS],
        "judged_headings": [column.heading for column in judged_columns(results)],
        "numbers": _numbers(results, agree=bool(pairs), trained=bool(training)),
        "control": control_section(results.recipe, results.control),
        "judge": judge_error(results.judge_holdout),
        "lead_judge": lead_judge(results),
        "round_trip_leads": lead_judge(results) == ROUND_TRIP,
        "papers_judge": is_papers_judge(results),
        "who_judged": who_judged(results),
        "unscored": unscored(results),
        "judge_pairs": [_pair_row(pair) for pair in pairs],
        "seen": seen_section(results),
        "faithfulness": [_faithfulness_row(results, model) for model in results.models] if probed(results) else [],
        "faithfulness_groups": faithfulness_groups(results),
        "faithfulness_figures": faithfulness_figures(results) if probed(results) else [],
        "grades": GRADES,
        "unplaceable": unplaceable(results),
        "path_figures": {"wide": path_figure(results, WIDE_PX), "narrow": path_figure(results, NARROW_PX)},
        "training_figures": training,
        "left_out": left_out(results),
        "smoothed": longest_training_steps(results) >= SMOOTHED_FROM_STEPS,
        "branches": len({m.kind for m in results.all_models if m.training_log is not None}),
        "scatter_figures": scatter_figures(results),
        "digit_figures": digit_figures(results),
        "max_dots": MAX_DOTS,
        "exhibits": exhibits(results, open_image),
        "bins": _bins(results),
        "fitted_disorder": _is_disordered(results),
        "unreadable": results.unreadable_images.to_pylist(),
        "departures": departures(results.recipe),
        "settings": paper_settings(results.recipe),
        "recipe_yaml": recipe_yaml(results.recipe),
    }
    return environment.get_template("report.html.j2").render(context)


def _collapsed(results: RunResults) -> list[str]:
    limit = results.recipe.evaluation.min_parse_rate
    return [model.name for model in results.models if model.is_collapsed(limit)]


def _numbers(results: RunResults, *, agree: bool, trained: bool) -> dict[str, int]:
    """The numbers of the tables and figures on the page, in order; a run without a second judge has fewer of them."""
    tables = {
        "results": True,
        "branches": bool(results.branches),
        "changes": len(results.models) > 1,
        "readings": True,
        "cons": True,
        "others": bool(results.others),
        "control": results.control is not None,
        "agreement": agree,
        "seen": any(model.seen for model in results.models),
        "faithfulness": probed(results),
        "bins": True,
        "settings": True,
    }
    figures = {"path": True, "probe": probed(results), "training": trained}
    figures |= {"scatter": True, "digits": True, "reliability": True}
    shown = ([name for name, there in kind.items() if there] for kind in (tables, figures))
    return {name: at for names in shown for at, name in enumerate(names, 1)}


def _pair_row(pair: JudgePair) -> dict[str, Any]:
    estimates = (pair.first, pair.second, pair.agreement.spearman, pair.agreement.kappa)
    cells = [{"value": "", "bounds": ""} if estimate is None else shown(CONS, estimate) for estimate in estimates]
    shares = [formatting.percent(share) for share in (pair.agreement.same, pair.agreement.within_one)]
    return {"name": pair.name, "rows": pair.agreement.rows, "cells": cells, "shares": shares}


def _faithfulness_row(results: RunResults, model: ModelResults) -> dict[str, Any]:
    cells = [shown_cell(column, model) for _, columns in faithfulness_groups(results) for column in columns]
    rows = model.metric_or_nan(formatting.TEXT_CHANGE.metric).rows
    return {"name": model.name, "main": is_on_main_line(model), "rows": rows, "cells": cells}


def _validated_row(results: RunResults, model: ModelResults) -> dict[str, Any]:
    cells = [shown(column, model.metric_or_nan(column.metric, "val")) for column in formatting.VALIDATION_COLUMNS]
    collapsed = model.metric("parse_rate", "val").value < results.recipe.evaluation.min_parse_rate
    return {"name": model.name, "main": is_on_main_line(model), "collapsed": collapsed, "cells": cells}


def _key_figures(results: RunResults) -> list[dict[str, Any]]:
    models, cons = [zero_shot(results), final(results)], cons_column(results)
    corrected = "0 is chance, 1 is best" if cons == formatting.CONS_CORRECTED else "0 to 4, mean grade"
    figures = (
        (formatting.SRCC_STATED, "SRCC, stated", "rank correlation of the stated digits with the true scores"),
        (used_srcc(results), f"SRCC, {results.reading}", "the same for predictions on the data set’s own scale"),
        (cons, cons.heading, f"{corrected}; how well the explanation fits the score, by {lead_judge(results)}"),
        (PARSE_RATE, "Parse rate", "share of texts in the required form"),
    )
    return [
        {"title": title, "note": note, "cells": [{"model": m.name, **shown_cell(column, m)} for m in models]}
        for column, title, note in figures
    ]


def _table_row(results: RunResults, model: ModelResults) -> dict[str, Any]:
    mass = pc.mean(on_split(model.predictions, "test")["digit_mass"]).as_py()
    return {
        "name": model.name,
        "iteration": model.iteration,
        "kind": model.kind,
        "main": is_on_main_line(model),
        "collapsed": model.name in _collapsed(results),
        "unparsed": unparsed_answers(model),
        "rows": model.metric("parse_rate").rows,
        "judged": model.metric("cons").rows,
        "digit_mass": mass,
        "cells": [shown_cell(column, model) for _, columns in column_groups(results) for column in columns],
    }


def _is_disordered(results: RunResults) -> bool:
    """Whether any digit of the final model has a lower fitted score than the digit below it."""
    fitted = final(results).reference_values["fitted"].to_pylist()
    return any(after < before for before, after in itertools.pairwise(fitted))


def _bins(results: RunResults) -> list[dict[str, Any]]:
    values = {row["bin"]: row for row in final(results).reference_values.to_pylist()}
    test = on_split(results.images, "test")["bin"].to_pylist()
    return [
        row
        | {"test_images": test.count(row["bin"]), "fitted": values[row["bin"]]["fitted"]}
        | {"used": values[row["bin"]][results.reading]}
        for row in results.bins.to_pylist()
    ]
