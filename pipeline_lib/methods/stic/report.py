"""The report of a run: the paper's table for this run, what was wrong in descriptions, how training went, examples."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from PIL.Image import Image

from pipeline_lib.methods.stic.figures import Model, shares_by_topic
from pipeline_lib.methods.stic.preferences import REASONS, rejected_image
from pipeline_lib.methods.stic.prompt import Prompts
from pipeline_lib.methods.stic.recipe import SticRecipe
from pipeline_lib.metrics.scores import Estimate, estimate_of
from pipeline_lib.report.formatting import Column, decimal, estimate_text, percent
from pipeline_lib.report.page import Drawing, Exhibit, Grid, Page, Paragraph, Section
from pipeline_lib.report.style import BASE, CONSISTENCY, FAINT, GREY, INK, MERGED, SCORE, draw_svg
from pipeline_lib.report.text_table import text_table

Open = Callable[[str, str], Image]

COLUMNS = (
    Column("accuracy_direct", "Accuracy, direct", 3, 2),
    Column("accuracy_described", "Accuracy, described", 3, 2),
    Column("gain_of_describing", "Difference", 3, 2),
    Column("wrong_statements", "Wrong statements", 3, 2),
    Column("absent_things", "Absent things", 3, 2),
    Column("statements", "Statements", 2, 2),
)
DIFFERENCE_COLUMNS = {
    "accuracy_direct": "accuracy, direct",
    "accuracy_described": "accuracy, described",
    "wrong_statements": "share of wrong statements",
    "wrong_statements_same_topics": "share of wrong statements, topics that both name",
    "absent_things": "share of descriptions that name absent things",
}
REASON_NAMES = {"bad_prompt": "bad prompt", "low_resolution": "low resolution", "color_jitter": "colour jitter"}
COLOURS = {"base": BASE, "stage 1": SCORE, "stage 2": MERGED, "control": CONSISTENCY}
EXAMPLES = 6

NOTES = (
    "Accuracy: share of the questions that are answered rightly, direct and behind the model's own description.",
    "Difference: described less direct, on the same questions.",
    "Wrong statements: share of all statements of the descriptions that the table of questions knows to be wrong.",
    "Absent things: share of descriptions that name at least one thing that is not in the image.",
    "Brackets: intervals that resample whole groups of rows.",
)


class Results(NamedTuple):
    """All that the report shows; `models` are base, stage 1, stage 2, and the control where there is one."""

    recipe: SticRecipe
    prompts: Prompts
    model_name: str
    models: Sequence[Model]
    metrics: Sequence[pa.Table]
    differences: pa.Table
    preferences: pa.Table
    preference_metrics: pa.Table
    infused: pa.Table
    logs: Sequence[pa.Table]
    unreadable: pa.Table

    @property
    def confidence(self) -> str:
        """The confidence of intervals, as `95 %`."""
        return percent(self.recipe.evaluation.confidence)


def results_text(results: Results) -> str:
    """The table of the models for a terminal, the differences, and notes."""
    headings, rows = _model_rows(results)
    changes = [[*row] for row in _difference_rows(results.differences)]
    tables = [
        text_table(headings, rows),
        text_table(["later less earlier", "difference", ""], changes),
    ]
    notes = [lead(results), *NOTES]
    return "\n\n".join(tables) + "\n\n" + "\n".join(notes) + "\n"


def report_page(results: Results, open_image: Open, open_question_image: Open) -> Page:
    """The page; `open_image` opens the unlabelled images, `open_question_image` those of the questions."""
    headings, rows = _model_rows(results)
    parts: list[Any] = [Grid(f"Figures on the questions, with {results.confidence} intervals.", headings, rows)]
    parts += [Drawing(_draw_models(results), "Accuracy in both ways of asking, and the share of wrong statements.")]
    parts += [Paragraph(note) for note in _verdicts(results)]
    differences = Grid(
        f"Paired differences on the same rows, with {results.confidence} intervals.",
        ["Later less earlier", "Difference", "Change"],
        _difference_rows(results.differences),
    )
    sections = [
        Section("Base, stage 1, stage 2", parts),
        Section("Differences", [differences]),
        *_topics(results),
        _descriptions(results, open_question_image),
        _preferences(results, open_image),
        _training(results),
        _answers(results, open_question_image),
        _settings(results),
    ]
    return Page(results.recipe.name, "stic", lead(results), sections)


def lead(results: Results) -> str:
    """One sentence on what became of the descriptions, or of the answers where no statement can be checked."""
    for metric, what in (
        ("wrong_statements", "the share of wrong statements in descriptions"),
        ("accuracy_described", "the accuracy of answers behind a description"),
    ):
        found = [
            row
            for row in results.differences.to_pylist()
            if (row["earlier"], row["later"], row["metric"]) == ("base", "stage 2", metric)
        ]
        if found:
            before, after = (_value(results, at, metric) for at in (0, 2))
            word = {"raised": "rose", "lowered": "fell"}.get(found[0]["change"], "shows no difference:")
            same = _same_topics(results) if metric == "wrong_statements" else ""
            return f"From base to stage 2 {what} {word} from {decimal(before, 3)} to {decimal(after, 3)}.{same}"
    return "Nothing was measured."


def _same_topics(results: Results) -> str:
    """A sentence on the topics that both base and stage 2 name: there no easier topic helps."""
    for row in results.differences.to_pylist():
        if (row["earlier"], row["later"], row["metric"]) == ("base", "stage 2", "wrong_statements_same_topics"):
            word = {"raised": "it rose", "lowered": "it fell"}.get(row["change"], "no difference is shown")
            return f" In the topics that both name, {word} ({decimal(row['value'], 3)})."
    return ""


def _value(results: Results, model: int, metric: str) -> float:
    return estimate_of(results.metrics[model], metric).value


def _model_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    shown = [column for column in COLUMNS if any(np.isfinite(_value(results, at, column.metric)) for at in range(3))]
    rows = [
        [model.name, *(estimate_text(column, estimate_of(metrics, column.metric)) for column in shown)]
        for model, metrics in zip(results.models, results.metrics, strict=True)
    ]
    return ["Model", *(column.heading for column in shown)], rows


def _difference_rows(differences: pa.Table) -> list[list[str]]:
    return [
        [
            f"{row['later']} less {row['earlier']}: {DIFFERENCE_COLUMNS[row['metric']]}",
            estimate_text(Column("", "", 3, 3), Estimate(row["value"], row["low"], row["high"], row["rows"])),
            row["change"],
        ]
        for row in differences.to_pylist()
    ]


def _verdicts(results: Results) -> list[str]:
    margin = results.recipe.evaluation.margin
    gain = estimate_of(results.metrics[2], "gain_of_describing")
    kept = gain.low > -margin
    found = [
        f"Describing first does not cost stage 2 more than the margin of {decimal(margin, 2)}: the interval of the"
        f" difference begins at {decimal(gain.low, 3)}."
        if kept
        else f"It is not shown that describing first costs stage 2 less than the margin of {decimal(margin, 2)}: the"
        f" interval of the difference begins at {decimal(gain.low, 3)}."
    ]
    if len(results.models) > 3:
        found.append(f"Control: {results.recipe.control}; nothing else differs from the run.")
    else:
        found.append("This run has no finished control (`whyscore control`).")
    return [*found, *NOTES]


def _draw_models(results: Results) -> Any:
    names = [model.name for model in results.models]
    figures = [column for column in COLUMNS[:2] + COLUMNS[3:5] if np.isfinite(_value(results, 0, column.metric))]

    def draw(axes: Axes) -> None:
        for at, name in enumerate(names):
            for row, column in enumerate(figures):
                found = estimate_of(results.metrics[at], column.metric)
                y = len(figures) - 1 - row - (at - (len(names) - 1) / 2) * 0.17
                if np.isfinite(found.low):
                    axes.plot([found.low, found.high], [y, y], color=COLOURS[name], linewidth=2)
                axes.plot(found.value, y, "o", color=COLOURS[name], markersize=6, label=name if row == 0 else None)
        axes.set_yticks(range(len(figures)), [column.heading for column in reversed(figures)])
        axes.set_xlim(0, 1)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=len(names))

    height = 70 + 62 * len(figures)
    return draw_svg(draw, 680, height, name="models", description="Accuracy and wrong statements of each model")


def _topics(results: Results) -> list[Section]:
    counts = [shares_by_topic(model.checked) for model in results.models]
    topics = list(dict.fromkeys(topic for of_model in counts for topic in of_model))
    if not topics:
        return []
    rows = [
        [topic, *(_share(*of_model.get(topic, (0, 0))) for of_model in counts)]
        for topic in sorted(topics, key=lambda topic: -sum(of_model.get(topic, (0, 0))[1] for of_model in counts))
    ]
    text = (
        "A model can lower its share of wrong statements by being right, or by speaking of easier topics. Compare the"
        " topics one by one, and see the difference in the topics that both models name."
    )
    headings = ["Topic", *(model.name for model in results.models)]
    grid = Grid("Share of wrong statements and number of statements, by topic.", headings, rows)
    return [Section("What is wrong in descriptions", [Paragraph(text), grid])]


def _share(wrong: int, count: int) -> str:
    return f"{decimal(wrong / count, 2)} of {count}" if count else "none"


def _descriptions(results: Results, open_image: Open) -> Section:
    tables = [model.checked.to_pylist() for model in results.models]
    exhibits = []
    for at in _spread(len(tables[0]), EXAMPLES):
        row = tables[0][at]
        texts = [
            (f"{model.name}{_count(rows[at])}", _marked(rows[at]))
            for model, rows in zip(results.models, tables, strict=True)
        ]
        exhibits.append(Exhibit([(row["image"], open_image(row["image"], row["image_sha256"]))], texts))
    intro = Paragraph(
        f"Images of the questions, described on the prompt “{results.prompts.describe}” Statements that are known to be"
        " wrong are in double square brackets."
    )
    return Section("Descriptions", [intro, *exhibits])


def _count(row: dict[str, Any]) -> str:
    if row["statements"] is None:
        return ""
    wrong = sum(not stated["right"] for stated in row["statements"])
    return f" ({wrong} of {len(row['statements'])} wrong)"


def _marked(row: dict[str, Any]) -> str:
    text: str = row["description"]
    for stated in row["statements"] or []:
        at = text.lower().find(stated["words"].lower())
        if not stated["right"] and at >= 0:
            text = f"{text[:at]}[[{text[at : at + len(stated['words'])]}]]{text[at + len(stated['words']) :]}"
    return text or "(empty)"


def _preferences(results: Results, open_image: Open) -> Section:
    shares = {row["metric"]: row["value"] for row in results.preference_metrics.to_pylist()}
    count = results.preferences.num_rows
    pairs = results.preferences.to_pylist()
    words = {
        side: np.mean([len(pair[side].split()) for pair in pairs]) if pairs else float("nan")
        for side in ("chosen", "rejected")
    }
    rows = [
        *([f"dis-preferred by {REASON_NAMES[reason]}", percent(shares[f"{reason}_share"])] for reason in REASONS),
        ["left out: two equal answers", percent(shares["equal_share"])],
        ["left out: an empty answer", percent(shares["empty_share"])],
        ["preferred answers cut off by the length limit", percent(shares["chosen_cut_off_share"])],
        ["dis-preferred answers cut off by the length limit", percent(shares["rejected_cut_off_share"])],
        ["words of a preferred answer, mean", decimal(float(words["chosen"]), 1)],
        ["words of a dis-preferred answer, mean", decimal(float(words["rejected"]), 1)],
    ]
    exhibits = []
    for reason in REASONS:
        for pair in [pair for pair in pairs if pair["rejected_by"] == reason][:2]:
            image = open_image(pair["image"], pair["image_sha256"])
            images = [(pair["image"], image)]
            if reason != "bad_prompt":
                images.append(("corrupted", rejected_image(image, pair, results.recipe.preferences)))
            exhibits.append(
                Exhibit(
                    images,
                    [
                        ("Preferred", pair["chosen"] or "(empty)"),
                        (f"Dis-preferred: {REASON_NAMES[reason]}", pair["rejected"] or "(empty)"),
                        ("Asked for the dis-preferred one", pair["rejected_prompt"]),
                    ],
                )
            )
    return Section("Preference data", [Grid(f"Of {count} unlabelled images.", ["", ""], rows), *exhibits])


def _training(results: Results) -> Section:
    drawings = []
    for stage, log in enumerate(results.logs, 1):
        steps = log["step"].to_numpy()
        figures = [("loss", "loss")]
        figures += [
            (name, title)
            for name, title in (
                ("reward_margin", "reward margin"),
                ("chosen_logp", "log p of preferred"),
                ("token_accuracy", "token accuracy"),
            )
            if name in log.column_names
        ]
        for name, title in figures:
            draw = partial(_draw_curve, steps=steps, values=log[name].to_numpy(), title=title)
            svg = draw_svg(draw, 420, 230, name=f"training-{stage}-{name}", description=f"{title} in stage {stage}")
            drawings.append(Drawing(svg, f"Stage {stage}: {title} over {len(steps)} steps; dark: moving mean."))
    infused = results.infused
    described = infused.num_rows - infused["description"].null_count
    text = f"Stage 2 learnt {infused.num_rows} instructions, {described} of them behind a description of their image."
    return Section("Training", [Paragraph(text), *drawings])


def _draw_curve(axes: Axes, *, steps: Any, values: Any, title: str) -> None:
    axes.plot(steps, values, color=GREY, linewidth=0.8, alpha=0.7)
    window = max(1, len(values) // 15)
    axes.plot(steps[window - 1 :], np.convolve(values, np.ones(window) / window, "valid"), color=INK)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(axis="y", color=FAINT)


def _answers(results: Results, open_image: Open) -> Section:
    first, last = results.models[0].predictions.to_pylist(), results.models[2].predictions.to_pylist()
    changed = [
        at for at, (a, b) in enumerate(zip(first, last, strict=True)) if a["described_right"] != b["described_right"]
    ]
    places = [changed[at] for at in _spread(len(changed), EXAMPLES)] or _spread(len(first), EXAMPLES)
    exhibits = []
    for at in places:
        before, after = first[at], last[at]
        texts = [("Question", after["question"]), ("Right", ", ".join(dict.fromkeys(after["answers"])))]
        texts += [
            (name, f"{row['direct']} (direct), {row['described']} (behind its description)")
            for name, row in (("Base", before), ("Stage 2", after))
        ]
        images = [(image["image"], open_image(image["image"], image["image_sha256"])) for image in after["images"]]
        exhibits.append(Exhibit(images, texts))
    intro = Paragraph("Questions whose answer behind a description became right or wrong from base to stage 2.")
    return Section("Answers", [intro, *exhibits])


def _settings(results: Results) -> Section:
    recipe = results.recipe
    fields = recipe.model_dump(mode="json", exclude={"runtime", "data", "instructions", "questions", "model"})
    rows = [["model", results.model_name]]
    for section, value in fields.items():
        if isinstance(value, dict):
            rows += [[f"{section}.{name}", _shown(item)] for name, item in value.items()]
        else:
            rows.append([section, _shown(value)])
    rows += [[f"questions.{name}", _shown(value)] for name, value in recipe.questions.key_fields().items()]
    prompts = [["curated", results.prompts.curated], ["describe", results.prompts.describe]]
    unreadable = Paragraph(f"Unreadable images that were left out: {results.unreadable.num_rows}.")
    return Section(
        "Settings", [Grid("Prompts", ["", "text"], prompts), Grid("Fields", ["field", "value"], rows), unreadable]
    )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places, evenly spread over `count`."""
    return sorted({int(at) for at in np.linspace(0, count - 1, min(wanted, count))}) if count else []
