"""The toy's report: three sections."""

from collections.abc import Callable

import pyarrow as pa
from matplotlib.axes import Axes
from PIL.Image import Image
from pipeline_lib.methods.toy.answers import names

from pipeline_lib.report.page import Drawing, Exhibit, Grid, Page, Paragraph, Section
from pipeline_lib.report.style import draw_svg


def toy_page(
    name: str, question: str, answers: pa.Table, kept: pa.Table, log: pa.Table, open_image: Callable[[str, str], Image]
) -> Page:
    """What was asked, how training went, what was kept."""
    pairs = kept.to_pylist()
    counted = [("sampled", str(len(answers))), ("kept", str(len(kept)))]

    def draw(axes: Axes) -> None:
        axes.plot(log["step"].to_numpy(), log["loss"].to_numpy())

    loss = draw_svg(draw, 480, 280, name="loss", description="Loss over training steps")
    shown = [
        Exhibit(
            [(image["image"], open_image(image["image"], image["image_sha256"])) for image in pair["images"]],
            [(names(pair["images"]), pair["chosen"])],
        )
        for pair in pairs[:2]
    ]
    sections = [
        Section("The question", [Paragraph(question), Grid("Answers", ["", "rows"], counted)]),
        Section("Training", [Drawing(loss, "Loss over training steps.")]),
        Section("Kept answers", shown),
    ]
    return Page(name, "toy", f"{len(kept)} of {len(answers)} answers were kept.", sections)
