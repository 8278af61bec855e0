"""The comparison of runs as a page and as a text for a terminal."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline_lib.metrics.intervals import change, intervals_too_narrow
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.progress import duration
from pipeline_lib.report.comparison import Comparison, Row
from pipeline_lib.report.formatting import UNDEFINED, Column, decimal, estimate_text, percent, value_text
from pipeline_lib.report.page import Drawing, Grid, Panels, Paragraph, Part, Section
from pipeline_lib.report.provenance import provenance, provenance_text
from pipeline_lib.report.style import CONSISTENCY, INK, SCORE, draw_svg, shade
from pipeline_lib.use.compare import (
    Compared,
    Facts,
    Side,
    costs,
    other_differences,
    recipe_differences,
    trained_on_items_of,
    value,
)

COLOURS = {"A": SCORE, "B": CONSISTENCY, "C": INK}
MARKERS = {"A": "o", "B": "D", "C": "^"}
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))

_QUANTITIES = (
    ("loss", "Loss"),
    ("reward_margin", "Reward margin (nats)"),
    ("reward_accuracy", "Reward accuracy"),
    ("reward", "Reward"),
    ("token_accuracy", "Token accuracy"),
    ("learning_rate", "Learning rate"),
)
_SMOOTHED_FROM_STEPS = 60
_MOST_DRAWN = 2


def comparison_of(facts: Facts) -> Comparison:
    """The comparison as the page and the table that experiments have too."""
    columns = [_column(compared, at) for at, compared in enumerate(facts.figures)]
    rows = [_row(facts, side, model) for side in facts.sides for model in _shown(side)]
    drawn = [at for at in range(len(columns)) if sum(_known(row, columns[at]) for row in rows) > 1][:_MOST_DRAWN]
    names = [side.run.name for side in facts.sides]
    return Comparison(
        kind="comparison of runs",
        title=f"{', '.join(names[:-1])} and {names[-1]}",
        lead=tuple(_who(side) for side in facts.sides),
        heading="Figures of the models",
        split="test",
        columns=tuple(columns),
        drawn=tuple(columns[at] for at in drawn) or tuple(columns[:1]),
        rows=rows,
        notes=tuple(_notes(facts)),
        outcome=_outcome(facts),
        sections=tuple(
            section
            for section in (
                _differences(facts),
                _path(facts),
                _recipes(facts),
                _curves(facts),
                _cost(facts),
            )
            if section
        ),
        measured_on="of a model, on what it was measured on",
    )


def _column(compared: Compared, at: int) -> Column:
    return Column(str(at), compared.heading, compared.decimals, 2)


def _row(facts: Facts, side: Side, name: str) -> Row:
    model = side.model if name == "model" else side.base
    assert model is not None
    figures = {("test", str(at)): value(facts, side, model, at) for at in range(len(facts.figures))}
    return Row(f"{side.letter} {model.name}", figures, apart=name == "base", colour=COLOURS[side.letter])


def _shown(side: Side) -> list[str]:
    return ["base", "model"] if side.base and side.base != side.model else ["model"]


def _known(row: Row, column: Column) -> bool:
    return math.isfinite(row.figure(column, "test").value)


def _who(side: Side) -> str:
    return f"{side.letter}: {side.run.name}, a run of {side.method}. Its model is {side.model.name}, {side.why}."


def _outcome(facts: Facts) -> str:
    first, *others = facts.sides
    return " ".join(_against(facts, first, side) for side in others)


def _against(facts: Facts, first: Side, side: Side) -> str:
    """What one run raised and lowered against the first."""
    said: dict[str, list[str]] = {"raised": [], "lowered": [], "no difference shown": []}
    for at, compared in enumerate(facts.figures):
        found = facts.differences[first.letter, side.letter, at]
        if found.how == "not compared":
            continue
        word = change(found.estimate)
        by = "" if word == "no difference shown" else f" by {decimal(abs(found.estimate.value), compared.decimals)}"
        said[word].append(f"{compared.heading}{by}" + (" (unpaired)" if found.how == "unpaired" else ""))
    parts = [f"{word}: {', '.join(figures)}" for word, figures in said.items() if figures]
    if not parts:
        return f"{side.letter} and {first.letter} have no figure that can be compared."
    return f"{side.letter} against {first.letter}: {'; '.join(parts)}."


def _differences(facts: Facts) -> Section:
    first, *others = facts.sides
    parts: list[Part] = []
    for side in others:
        rows = []
        for at, compared in enumerate(facts.figures):
            found = facts.differences[first.letter, side.letter, at]
            column = _column(compared, at)
            there = found.how != "not compared"
            rows.append(
                [
                    compared.heading + (" (lower is better)" if compared.lower_is_better else ""),
                    *(value_text(column, value(facts, each, each.model, at)) for each in (first, side)),
                    _signed(column, found.estimate) if there else UNDEFINED,
                    change(found.estimate) if there else "not compared",
                    f"{found.how}, {found.estimate.rows:,} {compared.items}" if there else "",
                    found.why,
                ]
            )
        names = (first.letter, side.letter)
        caption = (
            f"{side.letter} less {first.letter}: {side.run.name} ({side.model.name}) less {first.run.name}"
            f" ({first.model.name})."
        )
        headings = ["", *names, "Difference", "", "How", "Why"]
        if not any(row[-1] for row in rows):
            headings, rows = headings[:-1], [row[:-1] for row in rows]
        parts.append(Grid(caption, headings, rows, of_words=True))
    parts.append(
        Paragraph(
            "Raised, lowered: the interval of the difference is above or below 0; else no difference is shown. Paired:"
            " each resample of groups of items serves both models, over items of the same content. Each figure is"
            " tested by itself, without correction for their number."
        )
    )
    return Section("Differences", parts)


def _signed(column: Column, estimate: Estimate) -> str:
    # An end of the interval near 0 must not look like 0: it decides the word.
    text = estimate_text(column._replace(bound_decimals=max(3, column.bound_decimals)), estimate)
    return f"+{text}" if estimate.value > 0 else text


def _path(facts: Facts) -> Section | None:
    """The first figure that most runs have, by iteration."""
    able = [
        at
        for at in range(len(facts.figures))
        if any(
            sum(math.isfinite(value(facts, side, model, at).value) for model in side.measured) > 1
            for side in facts.sides
        )
    ]
    if not able:
        return None
    able.sort(key=lambda at: -len(facts.figures[at].places))
    svgs = [_draw_path(facts, at) for at in able[:2]]
    caption = (
        "Each point is the model that the next iteration starts from, with its interval; 0 is the model before any"
        " training."
    )
    return Section("By iteration", [Panels(svgs, caption)])


def _draw_path(facts: Facts, at: int) -> Markup:
    heading = facts.figures[at].heading

    def draw(axes: Axes) -> None:
        count = len(facts.sides)
        for place, side in enumerate(facts.sides):
            line = sorted(model for model in side.measured if math.isfinite(value(facts, side, model, at).value))
            if side.model in line:  # a branch that is the best has no place between the others
                of_iteration = [model for model in line if model.iteration == side.model.iteration]
                line = [model for model in line if model == side.model or model not in of_iteration]
            offset = 0.06 * (place - (count - 1) / 2)
            colour = COLOURS[side.letter]
            found = [value(facts, side, model, at) for model in line]
            x = [model.iteration + offset for model in line]
            axes.plot(x, [one.value for one in found], MARKERS[side.letter] + "-", color=colour, markersize=6)
            for where, one in zip(x, found, strict=True):
                axes.plot([where, where], [one.low, one.high], color=shade(colour, 0.5), linewidth=2.2, zorder=1)
            if x:
                label = f"{side.letter} {side.run.name}"
                axes.plot([], [], MARKERS[side.letter] + "-", color=colour, label=label, markersize=6)
        axes.set_title(heading)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)

    return draw_svg(draw, 530, 300, name=f"path-{at}", description=f"{heading} by iteration; intervals as bars.")


def _recipes(facts: Facts) -> Section:
    rows, alone = recipe_differences(facts.sides)
    letters = [side.letter for side in facts.sides]
    parts: list[Part] = []
    shown = [[field, *values] for field, values in rows if field != "name"]
    if shown:
        parts.append(Grid("Fields of the recipes that differ.", ["", *letters], shown, of_words=True))
    else:
        parts.append(Paragraph("The recipes differ in their names alone."))
    for side in facts.sides:
        if fields := alone[side.letter]:
            sections = dict.fromkeys(field.split(".")[0] for field in fields)
            parts.append(
                Paragraph(
                    f"{side.letter} alone has {len(fields)} fields, in {', '.join(sections)}: its method has other"
                    " settings."
                    if len({each.method for each in facts.sides}) > 1
                    else f"{side.letter} alone has {', '.join(fields)}."
                )
            )
    if others := other_differences(facts.sides):
        caption = "What no recipe says, and differs."
        parts.append(Grid(caption, ["", *letters], [[name, *values] for name, values in others], of_words=True))
    return Section("Recipes", parts)


def _curves(facts: Facts) -> Section | None:
    svgs = []
    kinds: dict[tuple[str, ...], list[str]] = {}
    for side in facts.sides:
        for training in side.trainings:
            kinds.setdefault(tuple(training.log.column_names), []).append(side.letter)
    for names, letters in kinds.items():
        of = "" if len(kinds) == 1 else f" ({', '.join(dict.fromkeys(letters))})"
        for quantity, title in _QUANTITIES:
            if quantity in names:
                svgs.append(_draw_curve(facts, names, quantity, title + of))
    if not svgs:
        return None
    caption = (
        "The trainings of a run one behind the other; dotted lines begin the next. Dashes tell the branches of an"
        " iteration apart. Losses and rewards of recipes with another loss, beta, reward or method are on other scales:"
        " compare their shape, and the figures above for what they led to."
    )
    return Section("Training curves", [Panels(svgs, caption)])


def _draw_curve(facts: Facts, names: tuple[str, ...], quantity: str, title: str) -> Markup:
    def draw(axes: Axes) -> None:
        for side in facts.sides:
            trainings = [one for one in side.trainings if tuple(one.log.column_names) == names and one.log.num_rows]
            branches = list(dict.fromkeys(one.model.kind for one in trainings))
            start, colour = 0, COLOURS[side.letter]
            for iteration in sorted({one.model.iteration for one in trainings}):
                of_iteration = [one for one in trainings if one.model.iteration == iteration]
                if start:
                    axes.axvline(start + 0.5, color=shade(colour, 0.45), linewidth=0.8, linestyle=":", zorder=0)
                for one in of_iteration:
                    steps = one.log["step"].to_numpy() + start
                    values = one.log[quantity].to_numpy().astype(np.float64)
                    dashes = DASHES[branches.index(one.model.kind) % len(DASHES)]
                    if len(values) >= _SMOOTHED_FROM_STEPS:
                        axes.plot(steps, values, color=shade(colour, 0.3), linewidth=0.7)
                        window = 2 * (len(values) // 40) + 1
                        values = np.convolve(values, np.ones(window), "same") / np.convolve(
                            np.ones(len(values)), np.ones(window), "same"
                        )
                    marker = "." if len(values) <= 3 else None
                    axes.plot(steps, values, color=colour, linestyle=dashes, marker=marker, linewidth=1.4)
                start += max(int(one.log["step"].to_numpy().max()) for one in of_iteration)
            for branch in branches:
                dashes = DASHES[branches.index(branch) % len(DASHES)]
                axes.plot([], [], color=colour, linestyle=dashes, label=f"{side.letter} {branch}")
        axes.set_title(title)
        axes.set_xlabel("optimiser step of the run")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(True, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, columnspacing=1.2, handlelength=1.6)

    name = f"curve-{quantity}-{len(names)}"
    return draw_svg(draw, 530, 285, name=name, description=f"{title} by optimiser step.")


def _cost(facts: Facts) -> Section:
    found = {side.letter: costs(side, [other for other in facts.sides if other is not side]) for side in facts.sides}
    totals = {letter: sum(cost.seconds for cost in of_side) for letter, of_side in found.items()}
    stages = list(dict.fromkeys(cost.stage for of_side in found.values() for cost in of_side))
    by = {(letter, cost.stage): cost for letter, of_side in found.items() for cost in of_side}
    stages.sort(key=lambda stage: -max(by[key].seconds for key in by if key[1] == stage))
    rows = []
    for stage in stages:
        cells = []
        for side in facts.sides:
            cost = by.get((side.letter, stage))
            cells.append(f"{duration(cost.seconds)} ({cost.artifacts})" if cost else UNDEFINED)
        rows.append([stage, *cells])
    rows.append(["all", *(duration(totals[side.letter]) for side in facts.sides)])
    parts: list[Part] = [
        Drawing(_draw_cost(facts, found, stages[:12]), "Seconds of computing by stage, the twelve dearest ones."),
        Grid("Time of computing by stage, and in brackets its results.", ["", *(s.letter for s in facts.sides)], rows),
    ]
    for side in facts.sides:
        made = _made(side)
        shared = sum(cost.shared for cost in found[side.letter])
        both = (
            f" {duration(shared)} of that are of results that another of these runs uses too, and were spent once."
            if shared
            else ""
        )
        parts.append(Paragraph(f"{side.letter}: {made}{both}"))
    parts.append(
        Paragraph(
            "Times are those of the run that computed a result; a cached stage keeps the time of when it was computed."
            " Compare them only where machine and load were the same."
        )
    )
    return Section("Cost", parts)


def _made(side: Side) -> str:
    ref = side.run.find("report") or side.run.find(side.model.role("predictions"))
    return provenance_text(provenance(side.manifests, ref.address)) if ref else ""


def _draw_cost(facts: Facts, found: dict[str, list], stages: Sequence[str]) -> Markup:  # type: ignore[type-arg]
    count = len(facts.sides)

    def draw(axes: Axes) -> None:
        axes.set_ylim(len(stages) - 0.4, -0.6)
        axes.set_yticks(range(len(stages)), stages)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)
        thick = 0.7 / count
        for place, side in enumerate(facts.sides):
            seconds = {cost.stage: cost.seconds for cost in found[side.letter]}
            y = [at + thick * (place - (count - 1) / 2) for at in range(len(stages))]
            widths = [seconds.get(stage, 0.0) for stage in stages]
            axes.barh(
                y, widths, height=0.86 * thick, color=COLOURS[side.letter], label=f"{side.letter} {side.run.name}"
            )
        axes.set_xlabel("seconds")
        axes.legend(loc="lower right")

    height = 60 + len(stages) * (12 + 12 * count)
    return draw_svg(draw, 1090, height, name="cost", description="Seconds by stage; the table has the same figures.")


def _notes(facts: Facts) -> list[str]:
    notes = [
        f"[low high]: {percent(facts.settings.confidence)} bootstrap over groups of items, {facts.settings.samples}"
        " resamples. Hollow squares: models before any training.",
        "SRCC is of the scores that whyscore predict gives: in self_improve of the monotone reading (unfitted where"
        " there are too few validation images), in evo_quality of the mean rating. Stated: of the digit or number that"
        " the model says.",
    ]
    for side in facts.sides:
        if not side.measured.get(side.model):
            notes.append(
                f"{side.letter}: {side.method} does not tell what its models were measured on item by item, so nothing"
                " of it is compared but recipe, curves and cost."
            )
    for side in facts.sides:
        for measured in side.measured.get(side.model, ())[:1]:
            if intervals_too_narrow(measured.groups):
                notes.append(
                    f"{side.letter}: there are few groups of {measured.items} in {measured.data}; its intervals are"
                    " too narrow."
                )
    if len({side.method for side in facts.sides}) > 1:
        notes.append(
            "The runs are of different methods, which learn from different data: a difference is one of method, data"
            " and settings together. A figure that one of them lacks has a dash."
        )
    methods = {side.method for side in facts.sides}
    if "evo_quality" in methods and "self_improve" in methods:
        notes.append("Ratings of evo_quality go from 1 to 5, not on the scale of the scores, so they have no MAE.")
    for side in facts.sides:
        for other in facts.sides:
            for data, count in trained_on_items_of(side, other).items() if side is not other else ():
                notes.append(
                    f"{count:,} of the images of {data} that {other.letter} was measured on are among the training"
                    f" images of {side.letter}: figures of {side.letter} on them say too much."
                )
    return notes
