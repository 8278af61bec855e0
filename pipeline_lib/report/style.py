"""The look of every figure: colours, lines and type, and figures as inline SVG."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.Image import Image

CSS = Path(__file__).parent / "templates" / "report.css"

INK, GREY, FAINT = "#262626", "#6b6b6b", "#d9d9d4"
SCORE, CONSISTENCY, MERGED, BASE = "#0072b2", "#c75b12", "#262626", "#7a7a7a"
"""They differ in hue, in lightness and, as marks of points, in shape; colour-blind readers can tell them apart."""


def stylesheet() -> Markup:
    """The style of every page; it is WhyScore's own file, so it is not escaped."""
    return Markup(CSS.read_text(encoding="utf-8"))


KIND_COLOUR = {"zero-shot": BASE, "score": SCORE, "consistency": CONSISTENCY, "merged": MERGED}
KIND_MARKER = {"zero-shot": "s", "score": "^", "consistency": "D", "merged": "o"}

_RC: Any = {
    "figure.dpi": 72,  # one unit of the SVG is one CSS pixel
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.unicode_minus": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",  # real text: it can be selected, searched and read aloud
}


def draw_svg(draw: Callable[[Axes], None], width_px: int, height_px: int, *, name: str, description: str) -> Markup:
    """Draw on one pair of axes and return the SVG element; the same drawing gives the same bytes.

    `name` keeps the ids of two figures of one page apart. `description` is read aloud in place of the drawing.
    """
    with matplotlib.rc_context(_RC | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width_px / 72, height_px / 72), layout="constrained")
        figure.get_layout_engine().set(w_pad=2 / 72, h_pad=2 / 72)  # type: ignore[union-attr, call-arg]
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # groups are never referred to, and would share ids across figures
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' aria-label="{escape(description)}" viewBox="0 0 {width_px} {height_px}" style="max-width:{width_px}px">'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1))


def shade(colour: str, strength: float) -> tuple[float, float, float]:
    """The colour mixed with white; strength 1 is the colour itself."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return (1 - strength * (1 - red), 1 - strength * (1 - green), 1 - strength * (1 - blue))


def data_uri(image: Image) -> str:
    """The image as a JPEG inside a `data:` address; no metadata, so equal pixels give equal bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=86, optimize=True, exif=b"", icc_profile=None, comment=b"")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
