"""The report of a run: the paper's table for it, the votes, the trainings, pairs of images, and the controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.axes import Axes
from PIL.Image import Image

from pipeline_lib.methods.evo_quality.controls import control_grid, gain_sentence
from pipeline_lib.methods.evo_quality.figures import READINGS, srcc_difference, vote_figures
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate, estimate_of
from pipeline_lib.report.formatting import Column, bounds_text, decimal, estimate_text, value_text
from pipeline_lib.report.page import Drawing, Exhibit, Grid, Page, Paragraph, Section
from pipeline_lib.report.style import BASE, CONSISTENCY, GREY, MERGED, SCORE, draw_svg
from pipeline_lib.report.text_table import text_table

WIDTH_PX, HEIGHT_PX = 760, 300
_CORRELATION = Column("srcc", "SRCC", 3, 2)
_RATE = Column("rate", "Rate", 3, 2)
_SHOWN_PAIRS = 6


@dataclass(frozen=True)
class RoundResults:
    """The tables of the base (round 0) or of a round's model."""

    round_number: int
    labelled: dict[str, tuple[pa.Table, pa.Table]]  # by data set: ratings, metrics
    held_out: pa.Table  # metrics beside the held-out votes
    votes: pa.Table | None = None
    training_log: pa.Table | None = None

    @property
    def name(self) -> str:
        """As the paper's table calls it."""
        return f"round {self.round_number}" if self.round_number else "base"

    def on(self, data: str, metric: str) -> Estimate:
        """A figure on a labelled data set."""
        return estimate_of(self.labelled[data][1], metric)


@dataclass(frozen=True)
class Results:
    """Everything that the report shows."""

    recipe: EvoQualityRecipe
    model_name: str
    images: pa.Table
    held_out: pa.Table  # votes of the base over pairs of validation images
    rounds: Sequence[RoundResults]
    controls: pa.Table | None = None

    @property
    def data_sets(self) -> list[str]:
        """The labelled data sets, the main one first."""
        return list(self.rounds[0].labelled)


def report_page(results: Results, open_image: Callable[[str, str], Image]) -> Page:
    """The run as a page; `open_image` gives an image as the model sees it."""
    sections = [*_outcome(results), _votes(results), *_training(results), _pairs(results, open_image)]
    if results.controls is not None:
        sections.insert(1, Section("Beside its controls", _controls(results)))
    return Page(results.recipe.name, "evo_quality", headline(results), [*sections, _settings(results)])


def results_text(results: Results) -> str:
    """The tables for a terminal."""
    parts = [results.recipe.name, headline(results)]
    for data in results.data_sets:
        headings, rows = _data_rows(results, data)
        parts.append(text_table([f"On {data}", *headings], rows))
    parts.append(text_table(["Held-out votes", *_AGREEMENT], _agreement_rows(results)))
    parts.append(text_table(["Votes", *_VOTES], _vote_rows(results)))
    if results.controls is not None:
        headings, rows = control_grid(results.controls)
        parts += [text_table(headings, rows), gain_sentence(results.controls)]
    return "\n\n".join(parts) + "\n"


def headline(results: Results) -> str:
    """One sentence: what the last round changed on the main data set, or without labels beside the held-out votes."""
    first, last = results.rounds[0], results.rounds[-1]
    if not results.data_sets:
        before, after = (estimate_of(model.held_out, "vote_agreement_mean") for model in (first, last))
        return (
            f"Without any label, ratings order {decimal(before.value, 3)} of the held-out pairs as the base’s votes do"
            f" before training, and {decimal(after.value, 3)} after {last.name}. Votes are no truth: a labelled set"
            " would tell."
        )
    data = results.data_sets[0]
    difference = _difference(results, data, 0, -1, "mean")
    figures = f"{value_text(_CORRELATION, first.on(data, 'srcc_mean'))} to" + (
        f" {value_text(_CORRELATION, last.on(data, 'srcc_mean'))}"
    )
    word = {"raised": "raised", "lowered": "lowered"}.get(change(difference), "did not change")
    sentence = (
        f"{_rounds(len(results.rounds) - 1)} of voting and ranking, without any label, {word} SRCC of the mean rating"
        f" on {data} from {figures} (difference {estimate_text(_CORRELATION, difference)})."
    )
    if results.controls is None:
        return f"{sentence} No control was run: whyscore control says how much of it shuffled votes would give."
    return f"{sentence} {gain_sentence(results.controls)}"


def _rounds(count: int) -> str:
    return "One round" if count == 1 else f"{count} rounds"


def _difference(results: Results, data: str, before: int, after: int, reading: str) -> Estimate:
    first, second = (results.rounds[at].labelled[data][0] for at in (before, after))
    return srcc_difference(first, second, reading, results.recipe.evaluation.bootstrap, results.recipe.seed)


_CELLS = tuple(
    (f"{name.upper()} {reading}", f"{name}_{reading}") for reading in READINGS for name in ("srcc", "plcc", "krcc")
)


def _data_rows(results: Results, data: str) -> tuple[list[str], list[list[str]]]:
    """A row a round: correlations, spreads, parse rate, and the change from the round before."""
    headings = [heading for heading, _ in _CELLS] + ["Spread", "Stated spread", "Parsed", "Change of SRCC mean"]
    rows = []
    for at, model in enumerate(results.rounds):
        cells = [estimate_text(_CORRELATION, model.on(data, metric)) for _, metric in _CELLS]
        cells += [decimal(model.on(data, f"spread_{reading}").value, 2) for reading in READINGS]
        cells.append(decimal(model.on(data, "parse_rate").value, 3))
        if at:
            difference = _difference(results, data, at - 1, at, "mean")
            cells.append(f"{change(difference)} {bounds_text(_CORRELATION, difference)}".strip())
        else:
            cells.append("")
        rows.append([model.name, *cells])
    return headings, rows


_AGREEMENT = ("Mean rating agrees", "Stated rating agrees", "Parsed", "Spread of an image's samples")


def _agreement_rows(results: Results) -> list[list[str]]:
    names = ("vote_agreement_mean", "vote_agreement_stated")
    return [
        [
            model.name,
            *(estimate_text(_RATE, estimate_of(model.held_out, name)) for name in names),
            decimal(estimate_of(model.held_out, "parse_rate").value, 3),
            decimal(estimate_of(model.held_out, "spread_of_samples").value, 2),
        ]
        for model in results.rounds
    ]


def _outcome(results: Results) -> Iterator[Section]:
    parts: list[Paragraph | Grid | Drawing | Exhibit] = []
    for data in results.data_sets:
        headings, rows = _data_rows(results, data)
        count = len(results.rounds[0].labelled[data][0])
        parts.append(Grid(f"On {data}: {count} labelled images, which no training has seen", ["", *headings], rows))
    if results.data_sets:
        parts.append(
            Paragraph(
                "Two readings of a rating: mean is the mean of"
                f" {results.recipe.evaluation.answers} sampled answers, stated is the greedy answer. Brackets are"
                f" {results.recipe.evaluation.confidence:.0%} intervals over groups of images. Spread is the standard"
                " deviation of the ratings over images, in points of 1..5: a correlation of ratings that hardly differ"
                " says little. “Raised” and “lowered” follow from the interval of the paired difference to the round"
                " before."
            )
        )
        parts.append(Drawing(_draw_rounds(results), "SRCC on each labelled data set, by round, with intervals."))
        parts.append(Drawing(_draw_scatter(results), f"Labels and mean ratings on {results.data_sets[0]}."))
    yield Section("What it learned", parts)
    yield Section(
        "Beside held-out votes",
        [
            Paragraph(
                f"{len(results.held_out)} pairs of validation images, which no round trains on. Their votes are the"
                " base’s. The table says how often a model’s ratings of the two images are in the order of the votes;"
                " this needs no label."
            ),
            Grid("Share of decided pairs", ["", *_AGREEMENT], _agreement_rows(results)),
        ],
    )


_VOTES = ("Pairs", "Kind", "Parsed", "Said first", "Agreement", "Ties", "No vote read")


def _vote_rows(results: Results) -> list[list[str]]:
    rows = []
    tables = [("held-out, base", results.held_out)]
    tables += [(f"{model.name}", model.votes) for model in results.rounds if model.votes is not None]
    for name, votes in tables:
        kinds = votes["kind"].to_pylist()
        for kind in dict.fromkeys(kinds):
            found = vote_figures(votes.filter(pa.array([one == kind for one in kinds])))
            shares = [
                decimal(found[figure], 3) for figure in ("parse_rate", "said_first", "agreement", "ties", "unlabelled")
            ]
            rows.append([name, f"{found['pairs']:.0f}", f"two {kind}", *shares])
    return rows


def _votes(results: Results) -> Section:
    config = results.recipe.votes
    how = f"{config.answers} answers a pair" if config.method == "sampled" else "the probabilities of both orders"
    return Section(
        "Votes",
        [
            Paragraph(
                f"Each pair is labelled by {how}. Said first is the share of answers for the image shown"
                " first: .5 without position bias; the orders are drawn at random, so a bias makes votes weaker, not"
                " wrong. Agreement is the share of a pair’s votes that are for its majority."
            ),
            Grid("Votes by round and kind of pair", ["", *_VOTES], _vote_rows(results)),
        ],
    )


def _training(results: Results) -> Iterator[Section]:
    logs = [(model.name, model.training_log) for model in results.rounds if model.training_log is not None]
    if not logs:
        return
    panels = [
        (
            "reward",
            "Reward",
            "Sum of the parts, mean over a step’s answers. A rating that says nothing earns .707, and its form more.",
        ),
        ("kl", "KL", "Divergence from the initial model, nats a token."),
        ("parse_rate", "Parsed", "Share of sampled ratings that could be read."),
        (
            "no_variance_share",
            "Without variance",
            "Share of images whose ratings all earned the same: nothing to learn.",
        ),
    ]
    yield Section("Training", [Drawing(_draw_logs(logs, column, label), caption) for column, label, caption in panels])


def _draw_logs(logs: Sequence[tuple[str, pa.Table]], column: str, label: str) -> Markup:
    def draw(axes: Axes) -> None:
        begins = 0
        for at, (name, log) in enumerate(logs):
            steps = log["step"].to_numpy() + begins
            axes.plot(steps, log[column].to_numpy(), color=_COLOURS[at % len(_COLOURS)], label=name)
            begins = int(steps[-1])
        axes.set(xlabel="Optimiser step", ylabel=label)
        axes.grid(axis="y")
        axes.legend()

    return draw_svg(draw, WIDTH_PX, 220, name=column, description=f"{label} over training steps")


_COLOURS = (SCORE, CONSISTENCY, MERGED, BASE)


def _draw_rounds(results: Results) -> Markup:
    def draw(axes: Axes) -> None:
        places = np.arange(len(results.rounds))
        for at, data in enumerate(results.data_sets):
            for reading, mark in zip(READINGS, ("o", "D"), strict=True):
                found = [model.on(data, f"srcc_{reading}") for model in results.rounds]
                values = np.array([one.value for one in found])
                reach = np.array([[one.value - one.low for one in found], [one.high - one.value for one in found]])
                axes.errorbar(
                    places + 0.04 * (2 * at + (reading == "stated")),
                    values,
                    yerr=np.nan_to_num(reach).clip(0),
                    color=_COLOURS[at % len(_COLOURS)],
                    marker=mark,
                    linestyle="-" if reading == "mean" else "--",
                    label=f"{data}, {reading}",
                )
        axes.set(ylabel="SRCC", xticks=places, xticklabels=[model.name for model in results.rounds])
        axes.axhline(0, color=GREY, linewidth=0.7)
        axes.grid(axis="y")
        axes.legend(loc="lower right")

    return draw_svg(draw, WIDTH_PX, HEIGHT_PX, name="rounds", description="SRCC by round and data set")


def _draw_scatter(results: Results) -> Markup:
    data = results.data_sets[0]

    def draw(axes: Axes) -> None:
        for model, colour in ((results.rounds[0], BASE), (results.rounds[-1], SCORE)):
            ratings = model.labelled[data][0]
            ratings = ratings.filter(ratings["mean"].is_valid())
            scores, means = ratings["score"].to_numpy(), ratings["mean"].to_numpy()
            axes.plot(scores, means, "o", color=colour, alpha=0.55, markersize=4, label=model.name)
        axes.set(xlabel=f"Label of {data}", ylabel="Mean rating, 1..5")
        axes.legend()

    return draw_svg(draw, WIDTH_PX, HEIGHT_PX, name="scatter", description="Labels and mean ratings")


def _pairs(results: Results, open_image: Callable[[str, str], Image]) -> Section:
    decided = [row for row in results.held_out.to_pylist() if row["preference"] is not None]
    by_margin = sorted(decided, key=lambda row: (-abs(row["first_votes"] - row["second_votes"]), row["pair"]))
    half = _SHOWN_PAIRS // 2
    chosen = by_margin if len(by_margin) <= _SHOWN_PAIRS else by_margin[:half] + by_margin[-half:]
    exhibits = [_exhibit(row, open_image) for row in chosen]
    lead = Paragraph(
        "Held-out pairs: first those on which the base’s votes agree most, then those that it is split on."
    )
    return Section("Pairs of images", [lead, *exhibits])


def _exhibit(row: dict[str, Any], open_image: Callable[[str, str], Image]) -> Exhibit:
    images = [
        (f"{place} · {image['image']}", open_image(image["image"], image["image_sha256"]))
        for place, image in zip("AB", row["images"], strict=True)
    ]
    texts = [
        ("Votes", f"{row['first_votes']:g} for A, {row['second_votes']:g} for B, {row['unparsed']} not read"),
        ("Position", f"{row['said_first']:g} for the image that was shown first"),
    ]
    answer = [("An answer", row["answers"][0]["text"])] if row["answers"] else []
    return Exhibit(images, texts + answer)


def _controls(results: Results) -> list[Paragraph | Grid | Drawing | Exhibit]:
    assert results.controls is not None
    headings, rows = control_grid(results.controls)
    return [Paragraph(gain_sentence(results.controls)), Grid("SRCC on the main data set", headings, rows)]


def _settings(results: Results) -> Section:
    recipe, train = results.recipe, results.recipe.training
    rows = [
        ("Base model", results.model_name),
        ("Images", f"{len(results.images)} without labels"),
        ("Seed", str(recipe.seed)),
        ("Votes", f"{recipe.votes.method}, {recipe.votes.answers} answers, label by {recipe.votes.label}"),
        ("Training target", train.target.replace("_", " ")),
        ("Ratings of an image in training (K)", str(train.grpo.answers)),
        ("KL weight, gamma, format weight", f"{train.grpo.beta:g}, {train.gamma:g}, {train.format_weight:g}"),
        ("Learning rate, LoRA rank, pairs a step", f"{train.learning_rate:g}, {train.lora_rank}, {train.batch_size}"),
    ]
    return Section("Settings", [Grid("The recipe in short", ["", ""], rows)])
