"""Runs of one recipe with several seeds: mean, standard deviation, and paired tests over seeds; a page and a text."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from scipy import stats

from pipeline_lib.metrics.intervals import change
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.report.formatting import UNDEFINED, decimal, percent
from pipeline_lib.report.page import Drawing, Grid, Page, Paragraph, Section
from pipeline_lib.report.style import BASE, CONSISTENCY, FAINT, SCORE, draw_svg
from pipeline_lib.report.text_table import text_table
from pipeline_lib.tables.table import Table, required

ZERO_SHOT, FINAL, CONTROL = "zero-shot", "final", "control"

CONFIDENCE = 0.95

FEW = 5
"""Below this number of seeds the page says that a t interval rests on an assumption."""

SEED_FIGURES = Table(
    "seed_figures",
    1,
    pa.schema(
        [
            required("seed", pa.int64()),
            required("model", pa.string()),  # zero-shot, final or control
            required("source", pa.string()),  # the role of the artifact that has the figure, e.g. predictions
            required("metric", pa.string()),  # on test
            required("value", pa.float64()),
            required("low", pa.float64()),  # interval over the images of this seed
            required("high", pa.float64()),
            required("rows", pa.int64()),
        ]
    ),
)

SEED_SUMMARY = Table(
    "seed_summary",
    1,
    pa.schema(
        [
            required("source", pa.string()),
            required("metric", pa.string()),
            required("quantity", pa.string()),  # a model, or a paired difference such as "final less zero-shot"
            required("mean", pa.float64()),  # over seeds
            required("sd", pa.float64()),  # between seeds, n - 1
            required("low", pa.float64()),  # t interval of the mean
            required("high", pa.float64()),
            required("p", pa.float64()),  # two-sided paired t test; NaN for a model
            required("seeds", pa.int64()),  # where the figure is defined
        ]
    ),
)

DIFFERENCES = ((FINAL, ZERO_SHOT), (CONTROL, ZERO_SHOT), (FINAL, CONTROL))

_READINGS = ("stated", "unfitted", "monotone", "fitted")
_WIDTH_PX, _ROW_PX, _FRAME_PX = 760, 46, 64
_MARKS = {ZERO_SHOT: ("s", BASE), FINAL: ("o", SCORE), CONTROL: ("D", CONSISTENCY)}


class Figure(NamedTuple):
    """A figure by the artifact that has it: two judges both have a Cons."""

    source: str
    metric: str

    @property
    def heading(self) -> str:
        """`SRCC unfitted`, `Cons (verdicts)`."""
        name, _, reading = self.metric.partition("_")
        words = {"plcc": "PLCC", "srcc": "SRCC", "krcc": "KRCC", "rmse": "RMSE", "mae": "MAE"}
        if name in words:
            return f"{words[name]} {reading.replace('_', ' ')}" if reading else words[name]
        text = self.metric.replace("_", " ").capitalize()
        return text if self.source == "predictions" else f"{text} ({self.source.replace('_', ' ')})"

    @property
    def is_main(self) -> bool:
        """Whether each seed's figure is shown: SRCC by each reading, and Cons."""
        return self.metric in ("cons", "cons_corrected") or self.metric.startswith("srcc_")


def summarize(figures: pa.Table) -> pa.Table:
    """`SEED_FIGURES` as `SEED_SUMMARY`: each model over seeds, and paired differences with a t interval over seeds.

    A seed without a defined figure is left out of that figure alone. With fewer than two seeds, or equal differences in
    all of them, interval and p are NaN.
    """
    rows = []
    values: dict[Figure, dict[str, dict[int, float]]] = {}
    for row in figures.to_pylist():
        of_model = values.setdefault(Figure(row["source"], row["metric"]), {}).setdefault(row["model"], {})
        if math.isfinite(row["value"]):
            of_model[row["seed"]] = row["value"]
    for figure, models in values.items():
        for model, by_seed in models.items():
            rows.append(_summary(figure, model, list(by_seed.values()), tested=False))
        for after, before in DIFFERENCES:
            both = sorted(models.get(after, {}).keys() & models.get(before, {}).keys())
            if after in models and before in models:
                differences = [models[after][seed] - models[before][seed] for seed in both]
                rows.append(_summary(figure, difference_name(after, before), differences, tested=True))
    return pa.Table.from_pylist(rows, schema=SEED_SUMMARY.schema)


def difference_name(after: str, before: str) -> str:
    """`final less zero-shot`."""
    return f"{after} less {before}"


def seeds_text(name: str, figures: pa.Table, summary: pa.Table) -> str:
    """Both tables for a terminal, and what they are."""
    seeds, main, every = _seeds(figures), *_main_and_every(figures)
    parts = [
        f"{name}: seeds {', '.join(map(str, seeds))}",
        text_table(*_each_seed(figures, main)),
        text_table(*_over_seeds(summary, every)),
        "\n".join(textwrap.fill(note, 120) for note in _notes(figures, summary)),
    ]
    return "\n\n".join(parts) + "\n"


def seeds_page(name: str, figures: pa.Table, summary: pa.Table) -> Page:
    """The comparison as a page."""
    seeds, main, every = _seeds(figures), *_main_and_every(figures)
    conclusions, *notes = _notes(figures, summary)
    drawn = [figure for figure in main if figure.metric.startswith("srcc_")]
    parts: list[Paragraph | Grid | Drawing] = [Grid("Figures on test, a row a seed.", *_each_seed(figures, main))]
    if drawn:
        svg = draw_svg(
            lambda axes: _draw(axes, figures, drawn),
            _WIDTH_PX,
            _FRAME_PX + _ROW_PX * len(drawn),
            name="seeds",
            description="SRCC of every seed by each reading; the table has the same figures.",
        )
        marks = "Squares: zero-shot; circles: final models" + (
            "; diamonds: final models of the controls." if CONTROL in _models(figures) else "."
        )
        parts.append(Drawing(svg, f"SRCC on test by each reading, a mark a seed. {marks}"))
    caption, others = "Mean and standard deviation over seeds, and paired tests.", every[len(main) :]
    over = Grid(caption, *_over_seeds(summary, main))
    sections = [
        Section("Over seeds", [Paragraph(conclusions), over, *map(Paragraph, notes)]),
        Section("Each seed", parts),
        *([Section("All other figures", [Grid(caption, *_over_seeds(summary, others))])] if others else []),
    ]
    return Page(f"{name} over {len(seeds)} seeds", "seeds", f"Seeds {', '.join(map(str, seeds))}.", sections)


def _summary(figure: Figure, quantity: str, values: Sequence[float], *, tested: bool) -> dict[str, object]:
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    sd = float(np.std(values, ddof=1)) if n > 1 else math.nan
    low = high = p = math.nan
    if n > 1 and sd > 0:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
        low, high = mean - half, mean + half
        if tested:
            p = float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))
    named = {"source": figure.source, "metric": figure.metric, "quantity": quantity}
    return {**named, "mean": mean, "sd": sd, "low": low, "high": high, "p": p, "seeds": n}


def _seeds(figures: pa.Table) -> list[int]:
    return list(dict.fromkeys(figures["seed"].to_pylist()))


def _models(figures: pa.Table) -> list[str]:
    return list(dict.fromkeys(figures["model"].to_pylist()))


def _main_and_every(figures: pa.Table) -> tuple[list[Figure], list[Figure]]:
    found = list(dict.fromkeys(map(Figure, figures["source"].to_pylist(), figures["metric"].to_pylist())))

    def place(figure: Figure) -> tuple[bool, bool, int]:
        reading = figure.metric.partition("_")[2]
        known = _READINGS.index(reading) if figure.is_main and reading in _READINGS else len(_READINGS)
        return not figure.is_main, figure.source != "predictions", known

    every = sorted(found, key=place)
    return [figure for figure in every if figure.is_main], every


def _each_seed(figures: pa.Table, main: Sequence[Figure]) -> tuple[list[str], list[list[str]]]:
    found = {(row["seed"], row["model"], row["source"], row["metric"]): row for row in figures.to_pylist()}
    rows = []
    for seed in _seeds(figures):
        for model in _models(figures):
            cells = [_with_bounds(found.get((seed, model, *figure))) for figure in main]
            rows.append([f"seed {seed}, {model}", *cells])
    return ["", *(figure.heading for figure in main)], rows


def _with_bounds(row: dict[str, float] | None) -> str:
    if row is None:
        return UNDEFINED
    bounds = f" [{decimal(row['low'], 2)} {decimal(row['high'], 2)}]" if math.isfinite(row["low"]) else ""
    return decimal(row["value"], 3) + bounds


def _over_seeds(summary: pa.Table, every: Sequence[Figure]) -> tuple[list[str], list[list[str]]]:
    rows = []
    found = {(row["source"], row["metric"], row["quantity"]): row for row in summary.to_pylist()}
    differences = [difference_name(*pair) for pair in DIFFERENCES]
    quantities = set(summary["quantity"].to_pylist())
    shown = [model for model in (ZERO_SHOT, FINAL, CONTROL) if model in quantities]
    for figure in every:
        models = [found.get((*figure, model)) for model in shown]
        for difference in differences:
            row = found.get((*figure, difference))
            if row is None:
                continue
            means = [UNDEFINED if model is None else _mean_sd(model) for model in models]
            before = [figure.heading, *means] if difference == differences[0] else [""] * (1 + len(means))
            rows.append([*before, difference, *_tested(row)])
    means = [f"{model}, mean (sd)" for model in shown]
    return ["", *means, "difference", "mean", "interval", "p", "change", "seeds"], rows


def _mean_sd(row: dict[str, float]) -> str:
    return f"{decimal(row['mean'], 3)} ({decimal(row['sd'], 3)})"


def _tested(row: dict[str, float]) -> list[str]:
    bounds = f"[{decimal(row['low'], 3)} {decimal(row['high'], 3)}]" if math.isfinite(row["low"]) else UNDEFINED
    return [decimal(row["mean"], 3), bounds, decimal(row["p"], 4), _word(row), str(row["seeds"])]


def _word(row: dict[str, float]) -> str:
    return change(Estimate(row["mean"], row["low"], row["high"], int(row["seeds"])))


def _notes(figures: pa.Table, summary: pa.Table) -> list[str]:
    seeds = len(_seeds(figures))
    main, _ = _main_and_every(figures)
    found = {(row["source"], row["metric"], row["quantity"]): row for row in summary.to_pylist()}

    def words(after: str, before: str) -> str:
        rows = [(figure, found.get((*figure, difference_name(after, before)))) for figure in main]
        return "; ".join(f"{figure.heading}: {_word(row)}" for figure, row in rows if row is not None)

    beyond = words(FINAL, CONTROL)
    against = f" The final model against that of the control: {beyond}." if beyond else ""
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1))
    return [
        f"The final model against zero-shot over {seeds} seeds: {words(FINAL, ZERO_SHOT)}.{against}",
        f"Intervals over seeds are paired t intervals of {percent(CONFIDENCE)} with {seeds - 1} degree(s) of freedom:"
        f" mean plus and minus {t:.2f} standard errors. Raised, lowered: the interval is above or below 0. p: two-sided"
        " paired t test, without correction for the number of figures."
        + (" With fewer than five seeds intervals are wide, and rest on the assumption of normal differences."
           if seeds < FEW else ""),
        "Intervals of one seed are over its test images. Seeds that share test images are not independent data: the"
        " intervals over seeds then tell how much training varies, not how much images do.",
    ]  # fmt: skip


def _draw(axes: Axes, figures: pa.Table, drawn: Sequence[Figure]) -> None:
    models = _models(figures)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_yticks(range(len(drawn)), [figure.heading for figure in drawn])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    found = {(row["seed"], row["model"], row["source"], row["metric"]): row["value"] for row in figures.to_pylist()}
    offsets = np.linspace(-0.2, 0.2, len(models))
    for at, figure in enumerate(drawn):
        for seed in _seeds(figures):
            path = [found.get((seed, model, *figure), math.nan) for model in models]
            axes.plot(path[:2], at + offsets[:2], color=FAINT, linewidth=1, zorder=1)
        for offset, model in zip(offsets, models, strict=True):
            marker, colour = _MARKS[model]
            values = [found.get((seed, model, *figure), math.nan) for seed in _seeds(figures)]
            axes.plot(values, [at + offset] * len(values), marker, markersize=6.5, color=colour, alpha=0.85)
