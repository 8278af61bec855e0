"""Training curves: one panel for each quantity and branch, one line for each iteration."""

from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline_lib.methods.self_improve.report.contents import ModelResults, RunResults
from pipeline_lib.report.style import KIND_COLOUR, draw_svg, shade

WIDTH_PX, HEIGHT_PX = 400, 235

SMOOTHED_FROM_STEPS = 60
"""Trainings with more steps get a running mean in front of the single steps."""

MAX_NAMED = 4
"""With more iterations the legend names only the first and the last."""


class Quantity(NamedTuple):
    """Columns of `TRAINING_LOG` that share a panel, with the axis label."""

    title: str
    label: str
    columns: tuple[str, ...]


QUANTITIES = (
    Quantity("Loss", "loss (nats)", ("loss",)),
    Quantity("Reward margin", "chosen − rejected (nats)", ("reward_margin",)),
    Quantity("Reward accuracy", "share of pairs", ("reward_accuracy",)),
    Quantity("Log-probability", "per answer (nats)", ("chosen_logp", "rejected_logp")),
)


def training_figures(results: RunResults) -> list[Markup]:
    """Panels in reading order: for each quantity the score branch, then the consistency branch if there is one.

    The panels of a quantity share the range of y, so that the branches can be compared.
    """
    branches = [
        (kind, trained)
        for kind in ("score", "consistency")
        if (trained := [m for m in results.all_models if m.kind == kind and m.training_log is not None])
    ]
    return [
        _panel(quantity, kind, trained, _range(quantity, [m for _, models in branches for m in models]))
        for quantity in QUANTITIES
        for kind, trained in branches
    ]


def longest_training_steps(results: RunResults) -> int:
    """The highest step that any training log reaches; 0 without training."""
    logs = [model.training_log for model in results.all_models if model.training_log is not None]
    return max((int(log["step"].to_numpy().max()) for log in logs if log.num_rows), default=0)


def _panel(quantity: Quantity, kind: str, trained: list[ModelResults], y_range: tuple[float, float]) -> Markup:
    def draw(axes: Axes) -> None:
        for model in trained:
            named = len(trained) <= MAX_NAMED or model in (trained[0], trained[-1])
            _draw_log(axes, quantity, model, strength=_strength(model, trained), named=named)
        if quantity.title == "Reward margin":
            axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        if quantity.title == "Reward accuracy":
            axes.axhline(0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.set_title(f"{quantity.title}, {kind}")
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(quantity.label)
        axes.set_ylim(*y_range)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(True, axis="y")
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=MAX_NAMED,
            handlelength=1.1,
            handletextpad=0.4,
            columnspacing=0.8,
            borderaxespad=0.0,
            borderpad=0.3,
        )

    name = f"training-{kind}-{quantity.columns[0]}"
    return draw_svg(draw, WIDTH_PX, HEIGHT_PX, name=name, description=f"{quantity.title} over {kind} training steps")


def _draw_log(axes: Axes, quantity: Quantity, model: ModelResults, *, strength: float, named: bool) -> None:
    assert model.training_log is not None
    steps = model.training_log["step"].to_numpy()
    colour = shade(KIND_COLOUR[model.kind], strength)
    for column, dashes in zip(quantity.columns, ("-", (0, (4, 2))), strict=False):
        values = model.training_log[column].to_numpy().astype(np.float64)
        label = f"ite-{model.iteration}" if named and column == quantity.columns[0] else None
        marker = "." if len(steps) <= 3 else None  # a line through one or two points is hard to see
        if len(steps) >= SMOOTHED_FROM_STEPS:
            axes.plot(steps, values, color=shade(KIND_COLOUR[model.kind], 0.3 * strength), linewidth=0.7)
            values = running_mean(values, len(steps) // 20)
        axes.plot(steps, values, color=colour, linestyle=dashes, marker=marker, label=label)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean over a centred window, cut at both ends; same shape as `values`."""
    ones = np.ones(2 * (window // 2) + 1)
    sums = np.convolve(values, ones, mode="same")
    return np.asarray(sums / np.convolve(np.ones(len(values)), ones, mode="same"))


def _strength(model: ModelResults, trained: list[ModelResults]) -> float:
    """Later iterations are darker."""
    at = trained.index(model)
    return 1.0 if len(trained) == 1 else 0.4 + 0.6 * at / (len(trained) - 1)


def _range(quantity: Quantity, models: list[ModelResults]) -> tuple[float, float]:
    if quantity.title == "Reward accuracy":
        return 0.0, 1.04
    logs = [model.training_log for model in models if model.training_log is not None]
    values = np.concatenate([log[column].to_numpy() for log in logs for column in quantity.columns])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    slack = 0.07 * (high - low) or 0.1
    return low - slack, high + slack
