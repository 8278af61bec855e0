"""A finished stage as markdown: its address, tables, figures and a plot."""

import base64
import math
from typing import Any

import pyarrow as pa

from pipeline_lib.config.base import SPLITS
from pipeline_lib.progress import duration
from pipeline_lib.store import ArtifactStore, Manifest

WIDTH_PX, HEIGHT_PX = 480, 280

MAX_POINTS = 400
"""Points of a scatter plot; more would show nothing new."""


def stage_card(store: ArtifactStore, manifest: Manifest, state: str, *, plot: bool) -> str:
    """The card of a stage: its state, address, tables with their rows, figures, and a plot.

    Reads the manifest and the table `metrics` alone unless a `plot` is asked for; a stage without either has none.
    """
    parts = [
        f"**{state}** · {'took' if state == 'cached' else 'in'} {duration(manifest.seconds)}"
        f" · {sum(file.size for file in manifest.files.values()):,} bytes",
        f"`{manifest.address}`  \nin `{store.root}`",
        "\n".join(["| table | rows |", "| --- | ---: |", *(f"| {n} | {rows:,} |" for n, rows in manifest.rows.items())])
        if manifest.rows
        else "Files: " + ", ".join(f"`{name}`" for name in manifest.files),
    ]
    if "metrics.parquet" in manifest.files:
        parts.append(metrics_table(store.read_table(manifest.address, "metrics")))
    if plot and (drawn := _plot(store, manifest)):
        parts.append(drawn)
    return "\n\n".join(parts)


def metrics_table(metrics: pa.Table) -> str:
    """A row a metric, a column a split, `value [low high]`."""
    rows = metrics.to_pylist()
    splits = [split for split in SPLITS if any(row["split"] == split for row in rows)]
    cells = {(row["metric"], row["split"]): _estimate(row) for row in rows}
    lines = ["| metric | " + " | ".join(splits) + " |", "| --- |" + " ---: |" * len(splits)]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        lines.append(f"| {metric} | " + " | ".join(cells.get((metric, split), "") for split in splits) + " |")
    return "\n".join(lines)


def _estimate(row: dict[str, Any]) -> str:
    if not math.isfinite(row["value"]):
        return "not defined"
    bounds = f" [{row['low']:.2f} {row['high']:.2f}]" if math.isfinite(row["low"] + row["high"]) else ""
    return f"{row['value']:.3f}{bounds}"


def _plot(store: ArtifactStore, manifest: Manifest) -> str:
    if "training_log.parquet" in manifest.files:
        return _training_plot(store.read_table(manifest.address, "training_log"))
    if "predictions.parquet" in manifest.files:
        return _scatter_plot(store.read_table(manifest.address, "predictions"))
    return ""


def _training_plot(training_log: pa.Table) -> str:
    from pipeline_lib.report.style import SCORE, draw_svg

    def draw(axes: Any) -> None:
        axes.plot(training_log["step"].to_numpy(), training_log["loss"].to_numpy(), color=SCORE, marker=".")
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss (nats)")
        axes.grid(True, axis="y")

    return _image(draw_svg(draw, WIDTH_PX, HEIGHT_PX, name="loss", description="Loss over training steps"), "loss")


def _scatter_plot(predictions: pa.Table) -> str:
    import pyarrow.compute as pc

    from pipeline_lib.report.style import SCORE, draw_svg

    split = "test" if "test" in predictions["split"].to_pylist() else "val"
    table = predictions.filter(pc.equal(predictions["split"], split))
    shown = table.take(list(range(0, table.num_rows, -(-table.num_rows // MAX_POINTS))))

    def draw(axes: Any) -> None:
        true, predicted = shown["score"].to_numpy(), shown["predicted_unfitted"].to_numpy()
        axes.plot([true.min(), true.max()], [true.min(), true.max()], color="#bbbbbb", linewidth=0.8)
        axes.scatter(true, predicted, s=14, color=SCORE, alpha=0.6, linewidths=0)
        axes.set_xlabel(f"score ({shown.num_rows} of {table.num_rows} {split} images)")
        axes.set_ylabel("predicted, unfitted")

    return _image(draw_svg(draw, WIDTH_PX, HEIGHT_PX, name="scatter", description="Predicted over true"), "predicted")


def _image(svg: str, name: str) -> str:
    # White behind it, because the page may be dark; a size, because an image without one fills the page.
    plain = svg.encode().decode()  # markup would escape the inserted text
    sized = plain.replace("<svg ", f'<svg width="{WIDTH_PX}" height="{HEIGHT_PX}" ', 1)
    opening, end, rest = sized.partition(">")
    drawn = f'{opening}{end}<rect width="100%" height="100%" fill="white"/>{rest}'
    return f"![{name}](data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()})"
