"""A run whose explanations were rated by a judge that sees the image: its table, its controls, its agreement."""

from collections.abc import Callable

import pyarrow as pa
from PIL import Image

from pipeline_lib.methods.self_improve.report.contents import Judged, RunResults
from pipeline_lib.methods.self_improve.report.page import render_report
from pipeline_lib.methods.self_improve.report.seen import seen_section
from pipeline_lib.methods.self_improve.report.text import results_table
from pipeline_lib.methods.self_improve.tables import VLM_VERDICTS
from pipeline_lib.tables.metrics import METRICS


def _seen(run: RunResults, shuffled_low: float) -> RunResults:
    """The run with verdicts of such a judge on its first model, whose share above shuffled texts begins at a value."""
    first = run.models[0]
    graded = [
        row for row in first.judged.verdicts.to_pylist() if row["split"] == "test" and row["consistency"] is not None
    ]
    verdicts = [
        {name: row[name] for name in ("image", "image_sha256", "group", "stated_score")}
        | {"aspect": "fits_score", "question": "?", "explanation": "e", "other": "o", "reason": "<b>r</b>"}
        | {"grade": 2 * (row["consistency"] // 2)}
        for row in graded
    ]
    figures = {"vlm_fits_score": (3.1, 2.9), "above_shuffled": (0.6, shuffled_low), "above_fixed": (0.7, 0.6)}
    metrics = [
        {"split": "test", "metric": name, "value": value, "low": low, "high": value + 0.1, "rows": len(verdicts)}
        for name, (value, low) in figures.items()
    ]
    judged = Judged(pa.Table.from_pylist(verdicts, VLM_VERDICTS.schema), pa.Table.from_pylist(metrics, METRICS.schema))
    return run._replace(models=[first._replace(seen=judged), *run.models[1:]])


def test_the_judge_stands_in_page_and_text_with_its_agreement(
    run: RunResults, open_image: Callable[[str, str], Image.Image]
) -> None:
    seen = _seen(run, 0.55)
    section = seen_section(seen)
    assert section is not None and section.sentences == [
        f"{run.models[0].name}: the judge tells the explanations from both controls."
    ]
    cells = dict(zip(section.headings, section.rows[0]["cells"], strict=True))
    assert cells["Above shuffled"] == ".60 [.55 .70]" and cells["Useful"] == "–"
    assert float(cells["Spearman with the round-trip judge"].split()[0]) > 0.8  # grades made from those of the other
    html, text = render_report(seen, open_image), results_table(seen)
    assert 'id="seen"' in html and ".60 [.55" in html.replace("\u00a0", " ")
    assert "The judge that sees the image, of zero-shot" in text and section.sentences[0] in text
    assert seen_section(run) is None and 'id="seen"' not in render_report(run, open_image)


def test_a_fooled_judge_is_named(run: RunResults) -> None:
    section = seen_section(_seen(run, 0.45))
    assert section is not None and "the judge is fooled" in section.sentences[0]
    assert "explanations of other images with the same score" in section.sentences[0]
    assert "ten fixed texts" not in section.sentences[0]
