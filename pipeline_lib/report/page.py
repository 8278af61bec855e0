"""One HTML page that needs no other file, made of parts that know no method.

render_page(Page("run demo", "toy", "What was kept.", [Section("Answers", [Paragraph("Six of eight."), Grid(..)])]))
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup, escape
from PIL.Image import Image

from pipeline_lib.report.style import data_uri
from pipeline_lib.report.verdict import Verdict

_TEMPLATES = Path(__file__).parent / "templates"


class Paragraph(NamedTuple):
    """A text."""

    text: str


class Grid(NamedTuple):
    """A table: its caption, its headings, and rows of as many cells, the first of which names the row."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    of_words: bool = False  # its cells are words, which begin at the left; else figures


class Drawing(NamedTuple):
    """A figure: what `style.draw_svg` drew, and its caption."""

    svg: Markup
    caption: str


class Panels(NamedTuple):
    """Figures of one size side by side, two in a row, and their caption."""

    svgs: Sequence[Markup]
    caption: str


class Exhibit(NamedTuple):
    """Images with their names, and texts with their headings. Images are not enlarged or reduced."""

    images: Sequence[tuple[str, Image]]
    texts: Sequence[tuple[str, str]]


Part = Paragraph | Grid | Drawing | Panels | Exhibit


class Section(NamedTuple):
    """Parts below a heading."""

    heading: str
    parts: Sequence[Part]


class Page(NamedTuple):
    """A report: its title, the method that made it, one sentence of what it shows, its sections, and its verdict."""

    title: str
    method: str
    lead: str
    sections: Sequence[Section]
    verdict: Verdict | None = None


def render_page(page: Page) -> str:
    """The page as HTML, every text escaped; the same page gives the same bytes."""
    return render_template("page.html.j2", page=page, kind=kind_of, data_uri=data_uri)


def kind_of(part: Part) -> str:
    """The name of a part's kind, for templates."""
    return type(part).__name__


def html_environment(folder: Path) -> jinja2.Environment:
    """The environment for HTML templates of a folder: texts are escaped, and a name without a value is an error.

    The templates of this room can be included. Filter `typeset` sets minus signs and lines, `commands` what is between
    backticks.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"typeset": _typeset, "commands": _commands}
    return environment


def render_template(template: str, **values: object) -> str:
    """One of the templates of this room as HTML, with the style sheet of all pages as `css`; texts are escaped."""
    environment = html_environment(_TEMPLATES)
    css = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))  # our own file, nobody's text
    return environment.get_template(template).render(css=css, **values)


def _typeset(text: str) -> str:
    """Minus signs before numbers, and no line break before a per cent sign or inside an interval."""
    text = re.sub(r"(?<![\w.])-(?=[.\d])", "−", text).replace(" %", "\u00a0%")
    return re.sub(r"(\[\S+) (\S+\])", "\\1\u00a0\\2", text)


def _commands(text: str) -> Markup:
    """What is between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
