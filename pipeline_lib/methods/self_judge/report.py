"""The report of a run: the paper's table and figures for this run, what was made and kept, and examples."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.axes import Axes
from PIL.Image import Image

from pipeline_lib.methods.self_judge.evaluation import CALIBRATION_BINS, Facts, calibration_bin
from pipeline_lib.methods.self_judge.pairs import STATUSES as PAIR_STATUSES
from pipeline_lib.methods.self_judge.recipe import SelfJudgeRecipe
from pipeline_lib.methods.self_judge.traces import STATUSES, balanced
from pipeline_lib.metrics.figures import mean
from pipeline_lib.metrics.intervals import change, grouped_estimate
from pipeline_lib.metrics.scores import Estimate, estimate_of
from pipeline_lib.report.formatting import Column, decimal, estimate_text, percent
from pipeline_lib.report.page import Drawing, Exhibit, Grid, Page, Paragraph, Part, Section
from pipeline_lib.report.style import CONSISTENCY, GREY, INK, MERGED, SCORE, draw_svg
from pipeline_lib.report.text_table import text_table

Open = Callable[[str, str], Image]

HELD_OUT = "held_out"

FIGURES = {
    "accuracy": "Accuracy",
    "both_orders": "Right in both orders",
    "consistency": "Same answer in both orders",
    "says_a": "Says A",
    "prefers_longer": "Bias to the longer",
    "calibration_error": "Calibration error",
    "parse_rate": "Parsed",
}
"""The figures of the table, and their headings."""

_DASHED = "; the dashed line is the control"

_SHARE = Column("share", "Share", 3, 2)

_WITHOUT_INTERVAL = ("parse_rate",)  # a bootstrap has no width where every answer is parsed

_DROPPED = {
    "pair": "made",
    "equal": "dropped: texts are equal",
    "length": "dropped: lengths differ",
    "unfinished": "dropped: cut off or empty",
    "few_votes": "dropped: no majority",
    "no_other": "dropped: all samples agree",
    "not_known": "dropped: no sample is the known answer",
}


class JudgeResults(NamedTuple):
    """The base (iteration 0) or the judge of an iteration, and what it learned from (None for the base)."""

    iteration: int
    judgements: dict[str, pa.Table]
    metrics: dict[str, pa.Table]
    learned: "LearnedResults | None"

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"iteration {self.iteration}" if self.iteration else "base"


class LearnedResults(NamedTuple):
    """The pairs of an iteration, the reasons on them, those that were kept, and the training."""

    synthesis: pa.Table
    synthesis_metrics: pa.Table
    reasons: pa.Table
    filtered: pa.Table
    filter_metrics: pa.Table
    traces: pa.Table
    training_log: pa.Table


class Results(NamedTuple):
    """Everything that the report shows; `control` is empty where no control has run."""

    recipe: SelfJudgeRecipe
    judge_prompt: str
    inject_prompt: str
    model_name: str
    unreadable: pa.Table
    judges: list[JudgeResults]
    control: list[JudgeResults]
    openers: dict[str, Open]  # of the images of each table of pairs


def report_page(results: Results) -> Page:
    """The page."""
    sections = [
        _accuracy(results),
        _kept(results),
        _calibration(results),
        _training(results),
        _examples(results),
        _settings(results),
    ]
    return Page(results.recipe.name, "self_judge", _lead(results), [section for section in sections if section.parts])


def results_text(results: Results) -> str:
    """The lead and the tables as plain text."""
    parts = [_lead(results)]
    for name in _names(results):
        headings, rows = _figures(results, name)
        parts += [_title(name), text_table(headings, rows)]
    headings, rows = _counts(results)
    return "\n\n".join([*parts, "What each iteration learned from", text_table(headings, rows), ""])


def difference(before: pa.Table, after: pa.Table, of: str, results: Results) -> Estimate:
    """A fact (`accuracy`, `both`, `consistent`) of one judge less that of another on the same pairs."""
    config = results.recipe.evaluation
    values = getattr(Facts.of(after), of) - getattr(Facts.of(before), of)
    return grouped_estimate(
        mean,
        values,
        groups=np.array(before["group"].to_pylist(), dtype=np.str_),
        samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=results.recipe.seed,
    )


def _names(results: Results) -> list[str]:
    return list(results.judges[0].metrics)


def _title(name: str) -> str:
    if name == HELD_OUT:
        return "Held-out synthetic pairs: their preference is the synthetic one, not the truth"
    return f"Pairs of known preference: {name}"


def _lead(results: Results) -> str:
    base, last = results.judges[0], results.judges[-1]
    name = _names(results)[0]
    before, after = (estimate_of(judge.metrics[name], "accuracy").value for judge in (base, last))
    found = difference(base.judgements[name], last.judgements[name], "accuracy", results)
    both = [estimate_of(judge.metrics[name], "both_orders").value for judge in (base, last)]
    what = "synthetic preferences" if name == HELD_OUT else f"pairs of known preference ({name})"
    text = (
        f"On {what} accuracy went from {decimal(before, 3)} to {decimal(after, 3)}: {_words(found)}. In both orders the"
        f" judge was right on {decimal(both[0], 3)} of the pairs before and on {decimal(both[1], 3)} after."
    )
    if results.control:
        other = results.control[-1]
        of_control = difference(base.judgements[name], other.judgements[name], "accuracy", results)
        value = estimate_of(other.metrics[name], "accuracy").value
        text += f" With flipped verdicts in the filter it ended at {decimal(value, 3)}: {_words(of_control)}."
    return text


def _words(found: Estimate) -> str:
    return f"{change(found)}, {estimate_text(_SHARE, found)}"


def _figures(results: Results, name: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of one set of pairs."""
    dimensions = [
        row["metric"] for row in results.judges[0].metrics[name].to_pylist() if row["metric"].startswith("accuracy: ")
    ]
    dimensions = dimensions if len(dimensions) > 1 else []
    headings = ["", *FIGURES.values(), *[metric.removeprefix("accuracy: ").capitalize() for metric in dimensions]]
    rows = []
    named = [(judge.name, judge) for judge in results.judges]
    named += [(f"control, {judge.name}", judge) for judge in results.control if judge.iteration]
    for label, judge in named:
        rows.append([label, *[_cell(judge.metrics[name], metric) for metric in (*FIGURES, *dimensions)]])
    return headings, rows


def _cell(metrics: pa.Table, metric: str) -> str:
    found = estimate_of(metrics, metric)
    if metric in _WITHOUT_INTERVAL:
        return decimal(found.value, 3)
    return estimate_text(_SHARE, found)


def _accuracy(results: Results) -> Section:
    config = results.recipe.evaluation
    parts: list[Part] = [
        Paragraph(
            "Each pair is judged in both orders, with greedy answers. Accuracy is the mean over both orders; a missing"
            " verdict counts as wrong. “Same answer in both orders” is the consistency. Says A is .5 without a bias of"
            " position; the bias to the longer answer is 0 without one. The calibration error is the mean distance of"
            f" the probability of the verdict and its accuracy. Intervals: {percent(config.confidence)}, bootstrap over"
            " groups of images."
        )
    ]
    for name in _names(results):
        headings, rows = _figures(results, name)
        parts.append(Grid(f"{_title(name)}, {results.judges[0].judgements[name].num_rows} pairs.", headings, rows))
    parts.append(
        Drawing(
            _svg(partial(_draw_accuracy, results=results), "accuracy", "Accuracy by iteration"),
            f"Accuracy by iteration. Bars are the intervals{_DASHED if results.control else ''}.",
        )
    )
    name = _names(results)[0]
    base, last = results.judges[0], results.judges[-1]
    rows = [
        [label, _words(difference(base.judgements[name], last.judgements[name], of, results))]
        for of, label in (
            ("accuracy", "Accuracy"),
            ("both", "Right in both orders"),
            ("consistent", "Same answer in both orders"),
        )
    ]
    parts.append(Grid(f"Last iteration less base, on the same pairs ({name}).", ["", "Paired difference"], rows))
    return Section("How well the judge judges", parts)


def _draw_accuracy(axes: Axes, results: Results) -> None:
    names, colours = _names(results), (SCORE, CONSISTENCY, MERGED, GREY)
    for at, name in enumerate(names):
        for judges, style in ((results.judges, "-"), (results.control, "--")):
            if not judges:
                continue
            found = [estimate_of(judge.metrics[name], "accuracy") for judge in judges]
            value = np.array([one.value for one in found])
            spread = np.array([[one.value - one.low for one in found], [one.high - one.value for one in found]])
            axes.errorbar(
                [judge.iteration + 0.03 * at for judge in judges],
                value,
                yerr=np.nan_to_num(spread),
                color=colours[at % len(colours)],
                linestyle=style,
                marker="o",
                markersize=4,
                label=name if style == "-" else None,
            )
    axes.axhline(0.5, color=GREY, linewidth=0.7)
    axes.set_xticks([judge.iteration for judge in results.judges])
    axes.set(xlabel="iteration", ylabel="accuracy")
    axes.legend(loc="lower left")


def _learned(judges: Sequence[JudgeResults]) -> list[tuple[JudgeResults, LearnedResults]]:
    return [(judge, judge.learned) for judge in judges if judge.learned]


def _counts(results: Results) -> tuple[list[str], list[list[str]]]:
    """What each iteration made, judged and kept, a column an iteration."""
    learned = [of for _, of in _learned(results.judges)]
    rows = [["questions asked", *[str(of.synthesis.num_rows) for of in learned]]]
    for kind in ("open", "closed"):
        for status in PAIR_STATUSES:
            counts = [_count(of.synthesis, kind, status) for of in learned]
            if any(counts) or status == "pair":
                rows.append([f"{kind} pairs {_DROPPED[status]}", *map(str, counts)])
    for status in STATUSES:
        shares = [estimate_of(of.filter_metrics, status).value for of in learned]
        counts = [sum(found == status for found in of.filtered["status"].to_pylist()) for of in learned]
        cells = [f"{count} ({percent(share)})" for count, share in zip(counts, shares, strict=True)]
        rows.append([f"pairs judged: {status}", *cells])
    for kind in ("open", "closed"):
        rows.append([f"share kept of {kind}", *[_share(of.filter_metrics, f"kept: {kind}") for of in learned]])
    rows.append(["reasons that say A", *[_share(of.filter_metrics, "says_a") for of in learned]])
    rows.append(["reasons without a verdict", *[_share(of.filter_metrics, "no_verdict") for of in learned]])
    rows.append(["reasons kept", *[str(of.traces.num_rows) for of in learned]])
    over = results.recipe.training.balance
    if over != "none":
        rows.append(["trained on, after balancing", *[str(balanced(of.traces, over, "").num_rows) for of in learned]])
    return ["", *[judge.name for judge, _ in _learned(results.judges)]], rows


def _share(metrics: pa.Table, name: str) -> str:
    value = estimate_of(metrics, name).value
    return percent(value) if np.isfinite(value) else "–"


def _count(synthesis: pa.Table, kind: str, status: str) -> int:
    return Counter(zip(synthesis["kind"].to_pylist(), synthesis["status"].to_pylist(), strict=True))[kind, status]


def _kept(results: Results) -> Section:
    headings, rows = _counts(results)
    parts: list[Part] = [
        Paragraph(
            "An open pair is an answer and the same with injected errors; a closed pair is the majority of sampled"
            " answers and another one. A pair is kept when the judge finds the synthetic preference"
            + (" in both orders" if results.recipe.filter.both_orders else " in an order")
            + "; inconsistent: in one order alone; wrong: in none."
        ),
        Grid("What each iteration learned from.", headings, rows),
        Drawing(
            _svg(partial(_draw_kept, results=results), "kept", "Share of pairs kept by iteration"),
            f"Share of the pairs that were kept, by iteration{_DASHED if results.control else ''}.",
        ),
    ]
    if known := _known_rows(results):
        parts += [
            Paragraph(
                "Where the answer to a closed question is known, it shows how right the synthetic preference is. The"
                " method does not read it, unless pairs.closed is known_answer. “By the majority” are the pairs of this"
                " run; “by known answers” are those of them that a filter by known answers would leave."
            ),
            Grid(
                "Majority against known answers, closed pairs.",
                ["", "Pairs", "Preferred answer is right", "Other answer is right", "Kept by the judge"],
                known,
            ),
        ]
    return Section("What was made and kept", parts)


def _known_rows(results: Results) -> list[list[str]]:
    rows = []
    way = "by known answers" if results.recipe.pairs.closed == "known_answer" else "by the majority"
    for judge, of in _learned(results.judges):
        pairs = [
            row for row in of.synthesis.to_pylist() if row["status"] == "pair" and row["better_is_known"] is not None
        ]
        status = dict(zip(of.filtered["pair_id"].to_pylist(), of.filtered["status"].to_pylist(), strict=True))
        kept = [row for row in pairs if status[row["pair_id"]] == "kept"]
        right = [row for row in pairs if row["better_is_known"]]
        kept_right = [row for row in right if status[row["pair_id"]] == "kept"]
        for label, made, left in (
            (f"{judge.name}, {way}", pairs, kept),
            (f"{judge.name}, {way}, after the judge", kept, kept),
            (f"{judge.name}, by known answers", right, kept_right),
        ):
            if made:
                shares = [sum(row[name] for row in made) / len(made) for name in ("better_is_known", "worse_is_known")]
                rows.append([label, str(len(made)), *map(percent, shares), percent(len(left) / len(made))])
    return rows


def _draw_kept(axes: Axes, results: Results) -> None:
    for judges, style in ((results.judges, "-"), (results.control, "--")):
        learned = _learned(judges)
        for kind, colour in (("", INK), ("open", SCORE), ("closed", CONSISTENCY)):
            name = f"kept: {kind}" if kind else "kept"
            axes.plot(
                [judge.iteration for judge, _ in learned],
                [estimate_of(of.filter_metrics, name).value for _, of in learned],
                color=colour,
                linestyle=style,
                marker="o",
                markersize=4,
                label=(kind or "all") if style == "-" else None,
            )
    axes.set_xticks([judge.iteration for judge in results.judges[1:]])
    axes.set(xlabel="iteration", ylabel="share kept", ylim=(0, 1))
    axes.legend()


def _calibration(results: Results) -> Section:
    name = _names(results)[0]
    read = [np.isfinite(Facts.of(judge.judgements[name]).p_better).any() for judge in results.judges]
    if not all(read):
        text = "The model's tokenizer has no single token for each letter behind a reason, so no probability was read."
        return Section("Calibration", [Paragraph(text)])
    drawn = _svg(partial(_draw_calibration, results=results, name=name), "calibration", "Accuracy by confidence")
    caption = (
        f"Accuracy by confidence on {name}: the probability of the verdict, read at its letter, mean of both orders."
        " On the grey line both are equal."
    )
    return Section("Calibration", [Drawing(drawn, caption)])


def _draw_calibration(axes: Axes, results: Results, name: str) -> None:
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=0.7)
    for judge, colour in ((results.judges[0], GREY), (results.judges[-1], SCORE)):
        p = Facts.of(judge.judgements[name]).p_better
        p = p[np.isfinite(p)]
        confidence, right = np.maximum(p, 1 - p), p > 0.5
        at = calibration_bin(confidence)
        bins = [number for number in range(CALIBRATION_BINS) if (at == number).any()]
        axes.plot(
            [confidence[at == number].mean() for number in bins],
            [right[at == number].mean() for number in bins],
            color=colour,
            marker="o",
            markersize=4,
            label=judge.name,
        )
    axes.set(xlabel="confidence", ylabel="accuracy", ylim=(0, 1.02))
    axes.legend()


def _training(results: Results) -> Section:
    def draw(axes: Axes) -> None:
        first = 0
        for judge, of in _learned(results.judges):
            loss = of.training_log["loss"].to_numpy()
            axes.plot(np.arange(first, first + len(loss)), loss, label=judge.name)
            first += len(loss)
        axes.set(xlabel="step", ylabel="loss, nats a token")
        axes.legend()

    return Section("Training", [Drawing(_svg(draw, "loss", "Loss over training steps"), "Loss over training steps.")])


def _svg(draw: Callable[[Axes], None], name: str, description: str) -> Markup:
    return draw_svg(draw, 560, 300, name=name, description=description)


_SHOWN = 3


def _examples(results: Results) -> Section:
    name = _names(results)[0]
    base, last = (judge.judgements[name].to_pylist() for judge in (results.judges[0], results.judges[-1]))
    parts: list[Part] = []
    groups: dict[str, list[tuple[dict[str, str], dict[str, str]]]] = {
        "Wrong in both orders before, right in both after": [],
        "Right in both orders before, wrong in both after": [],
        "Wrong in both orders before and after": [],
    }
    for before, after in zip(base, last, strict=True):
        was, now = _rights(before), _rights(after)
        if now == 2 and was == 0:
            groups["Wrong in both orders before, right in both after"].append((before, after))
        elif now == 0 and was == 2:
            groups["Right in both orders before, wrong in both after"].append((before, after))
        elif now == was == 0:
            groups["Wrong in both orders before and after"].append((before, after))
    open_image = results.openers[name]
    for heading, rows in groups.items():
        parts.append(Paragraph(f"{heading}: {len(rows)} of {len(base)} pairs."))
        for before, after in _varied(rows):
            texts = [
                ("Question", before["question"]),
                ("Better", before["better"]),
                ("Worse", before["worse"]),
                ("Base, better as A", before["text_first"]),
                (f"{results.judges[-1].name}, better as A", after["text_first"]),
                (f"{results.judges[-1].name}, better as B", after["text_second"]),
            ]
            image = open_image(before["image"], before["image_sha256"])
            parts.append(Exhibit([(before["image"], image)], texts))
    return Section("Examples", parts)


def _varied(rows: list[tuple[dict[str, str], dict[str, str]]]) -> list[tuple[dict[str, str], dict[str, str]]]:
    """The first rows of each dimension in turn, `_SHOWN` at most."""
    seen: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[row[0]["dimension"]])
        seen[row[0]["dimension"]] += 1
    order = sorted(range(len(rows)), key=turns.__getitem__)
    return [rows[at] for at in order[:_SHOWN]]


def _rights(row: dict[str, str]) -> int:
    return (row["verdict_first"] == "A") + (row["verdict_second"] == "B")


def _settings(results: Results) -> Section:
    recipe = results.recipe
    fields = recipe.model_dump(mode="json", include={"iterations", "pairs", "reasons", "filter", "training"})
    rows = [["model", results.model_name], ["iterations", str(recipe.iterations)]]
    for section in ("pairs", "reasons", "filter", "training"):
        rows += [[f"{section}.{name}", str(value)] for name, value in fields[section].items()]
    parts: list[Part] = [
        Grid("Settings.", ["Field", "Value"], rows),
        Paragraph(f"The judge is asked: {results.judge_prompt}"),
        Paragraph(f"Errors are asked for by: {results.inject_prompt}"),
    ]
    if results.unreadable.num_rows:
        names = ", ".join(results.unreadable["image"].to_pylist()[:5])
        parts.append(Paragraph(f"{results.unreadable.num_rows} images could not be read and were left out: {names}"))
    return Section("Settings", parts)
