"""The README.md of a model on the hub: its card, with a `model-index` of our figures."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import Column, estimate_text, percent
from pipeline_lib.report.verdict import verdict_of_run
from pipeline_lib.store.runs import RunFolder, RunModel
from pipeline_lib.use.export_folder import Export
from pipeline_lib.use.measured import Figure, Measured, Settings, estimates, measured_of

HUB_NAMES = {"srcc": "spearmanr", "srcc_stated": "spearmanr"}
"""Metrics that the hub knows by another name."""

_LIMITS = {
    "self_improve": (
        "The scores follow the raters of the training data and their taste. They do not measure a person's skill or an"
        " image's worth.",
        "An explanation that agrees with its score does not prove that it names the reasons of the score, or that all"
        " it says about the image is true.",
    ),
    "evo_quality": (
        "No person's score was used in training. The model learned from its own votes, and repeats what they get"
        " wrong.",
    ),
}
_METHODS = {"self_improve": "2506.02708", "evo_quality": "2509.25787", "stic": "2405.19716", "self_judge": "2512.05145"}


def model_page(
    run: RunFolder,
    export: Export,
    usage: str,
    *,
    repository: str,
    licence: str | None,
    data_sets: Sequence[str],
    adapter_only: bool,
) -> str:
    """The card in Markdown with its front matter; `usage` is the README of the exported folder.

    It has figures on test with intervals, licence, data sets, base model, settings and limits. It has no path and no
    name of an image. The data set of a figure is the first of `data_sets`, else what the recipe calls its data.
    """
    fields = run.fields
    config = fields.get("evaluation") or {}
    settings = Settings(config.get("bootstrap_samples", 1000), config.get("confidence", 0.95), fields.get("seed", 0))
    model, base = model_of(run, export), next((one for one in run.models() if one.iteration == 0), None)
    measured = measured_of(run, model)
    before = {
        (found.items, found.data, name): estimate
        for found in (measured_of(run, base) if base else ())
        for name, estimate in estimates(found, settings).items()
    }
    figures = [
        (found, found.figure(name), estimate, before.get((found.items, found.data, name)))
        for found in measured
        for name, estimate in estimates(found, settings).items()
        if math.isfinite(estimate.value)
    ]
    front = _front_matter(fields, export, figures, repository, licence, data_sets, adapter_only, settings)
    parts = [
        f"# {repository.partition('/')[2]}: {export.name} of {export.model.name}",
        f"{export.title} {'A LoRA adapter for' if adapter_only else 'The base with its adapter folded in:'}"
        f" **{export.model.name}**"
        + (f" (revision `{export.model.revision}`)" if export.model.revision else "")
        + f", trained by the method {fields['method']}"
        + (f" (arXiv {_METHODS[fields['method']]})" if fields["method"] in _METHODS else "")
        + " with WhyScore.",
        *_verdict(run, export),
        _figures_table(figures, settings),
        _training(fields),
        _limits(fields, export, measured),
        "## Use\n\n" + _without_title(usage).replace("in the folder", "in a download of this repository"),
    ]
    return f"---\n{front}\n---\n\n" + "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def model_of(run: RunFolder, export: Export) -> RunModel:
    """The model of the run that an export is of."""
    assert export.model.adapter is not None
    for model in run.models():
        ref = run.find(model.role("adapter"))
        if ref == export.model.adapter:
            return model
    return run.models()[-1]


Shown = tuple[Measured, Figure | None, Estimate, Estimate | None]


def _front_matter(
    fields: dict[str, Any],
    export: Export,
    figures: Sequence[Shown],
    repository: str,
    licence: str | None,
    data_sets: Sequence[str],
    adapter_only: bool,
    settings: Settings,
) -> str:
    on_hub = export.model.revision is not None
    results = [
        EvalResult(
            task_type="image-text-to-text",
            task_name="judging images",
            dataset_type=data_sets[0] if data_sets else str(fields["data"]["dataset"]),
            dataset_name=f"{data_sets[0] if data_sets else _data_name(fields)}, {found.data}",
            dataset_split="test",
            metric_type=HUB_NAMES.get(figure.name, figure.name),
            metric_name=figure.heading,
            metric_value=round(estimate.value, 4),
            metric_args={
                "confidence": settings.confidence,
                "low": round(estimate.low, 4),
                "high": round(estimate.high, 4),
                found.items.replace(" ", "_"): estimate.rows,
            }
            if math.isfinite(estimate.low)
            else {found.items.replace(" ", "_"): estimate.rows},
        )
        for found, figure, estimate, _ in figures
        if figure is not None
    ]
    of_base: dict[str, Any] = {"base_model_relation": "adapter" if adapter_only else "finetune"} if on_hub else {}
    card = ModelCardData(
        base_model=export.model.name if on_hub else None,
        license=licence,
        datasets=list(data_sets) or None,
        library_name="peft" if adapter_only else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["image-quality-assessment", "whyscore", str(fields["method"])],
        model_name=repository.partition("/")[2],
        eval_results=results or None,
        **of_base,
    )
    return card.to_yaml().strip()


def _verdict(run: RunFolder, export: Export) -> list[str]:
    verdict = verdict_of_run(run)
    if verdict is None:
        return ["The run has no verdict on its models."]
    lines = [f"- **{point.question}** {point.answer} {' '.join(point.reasons)}".rstrip() for point in verdict.points]
    warned = [f"- {warning}" for warning in verdict.warnings]
    who = f"The verdict of its run, which speaks to the person who trained it. This is {export.name}: {export.why}."
    return ["## What it is worth", who, "\n".join(lines + warned)]


def _figures_table(figures: Sequence[Shown], settings: Settings) -> str:
    if not figures:
        return "## Figures\n\nThe run measured nothing that can be given here."
    lines = ["| | before training | this model | measured on |", "| --- | --- | --- | --- |"]
    for found, figure, estimate, before in figures:
        assert figure is not None
        column = Column(figure.name, figure.heading, figure.decimals, 2)
        heading = figure.heading + (" (lower is better)" if figure.lower_is_better else "")
        by = f", by {figure.measured_with}" if figure.measured_with else ""
        then = estimate_text(column, before) if before else "–"
        lines.append(
            f"| {heading} | {then} | {estimate_text(column, estimate)} | {estimate.rows:,} {found.items} of"
            f" {found.data}{by} |"
        )
    local = any(figure is not None and "round-trip" in figure.measured_with for _, figure, _, _ in figures)
    judge = (
        " The round-trip judge recovers the score from the explanation; it is not the paper's GPT-4o." if local else ""
    )
    return (
        "## Figures\n\n" + "\n".join(lines) + f"\n\n[low high]: {percent(settings.confidence)} bootstrap over groups of"
        f" images, {settings.samples} resamples. They say how much the test images vary, not how much training does."
        + judge
    )


def _training(fields: dict[str, Any]) -> str:
    lines = [f"- Images: {_data_name(fields)}."]
    for name in ("iterations", "rounds", "seed"):
        if name in fields:
            lines.append(f"- {name}: {fields[name]}")
    for section in ("training", "consistency", "merge", "infusion", "votes"):
        if isinstance(fields.get(section), dict):
            flat = [f"{name} {value}" for name, value in _flat(fields[section]) if not _is_place(value)]
            lines.append(f"- {section}: {', '.join(flat)}")
    return "## Training\n\n" + "\n".join(lines)


def _limits(fields: dict[str, Any], export: Export, measured: Sequence[Measured]) -> str:
    said = [
        "It was measured on images like those that it was trained on. Nothing is known of other kinds of images or of"
        " other criteria.",
        *_LIMITS.get(fields["method"], ()),
        "No person has rated its texts.",
        *(f"The verdict of its run: {warning}" for warning in export.warnings),
    ]
    if not measured:
        said.append("It was not measured against any known truth.")
    if export.model.name == "bundled":
        said.append(
            "Its base is the small model that ships with WhyScore, made for trying it out. It says nothing about real"
            " images."
        )
    return "## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in said)


def _data_name(fields: dict[str, Any]) -> str:
    """The data without its place: a known data set, or a table of the user's own."""
    dataset = str(fields["data"].get("dataset", "table"))
    column = fields["data"].get("score_column")
    return (f"own images with scores ({column})" if column else "own images") if dataset == "table" else dataset


def _flat(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif value is not None:
            yield name, value


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and bool(re.search(r"[/\\~]", value))


def _without_title(readme: str) -> str:
    return re.sub(r"\A# .*\n+", "", readme)
