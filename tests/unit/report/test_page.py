"""The generic page: every part is there, and no text is taken for HTML."""

import re
from html.parser import HTMLParser

from markupsafe import Markup

from pipeline_lib.report.page import Drawing, Exhibit, Grid, Page, Paragraph, Section, render_page
from pipeline_lib.testing.tiny import picture

HOSTILE = "<script>\"&'"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.texts += [value or "" for name, value in attrs if name in ("alt", "aria-label")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_every_part_is_shown_and_escaped() -> None:
    one = [(f"{HOSTILE}{name}", picture(name)) for name in ("left", "right")]
    parts = [
        Paragraph(f"{HOSTILE} paragraph"),
        Grid(f"{HOSTILE} caption", [f"{HOSTILE} h", "n"], [(f"{HOSTILE} row", f"{HOSTILE} cell")]),
        Drawing(Markup("<svg></svg>"), f"{HOSTILE} figure"),
        Exhibit(one, [(f"{HOSTILE} heading", f"{HOSTILE} text")]),
    ]
    page = Page(f"{HOSTILE} title", "toy", f"{HOSTILE} lead", [Section(f"{HOSTILE} section", parts)])
    html = render_page(page)
    found = Tags()
    found.feed(html)
    assert "script" not in found.tags
    for what in ("title", "lead", "section", "paragraph", "caption", "h", "row", "cell", "figure", "heading", "text"):
        assert any(text.startswith(f"{HOSTILE} {what}") for text in found.texts), what
    assert [found.tags.count(tag) for tag in ("section", "table", "svg", "img", "figure")] == [1, 1, 1, 2, 1]
    assert {f"{HOSTILE}left", f"{HOSTILE}right"} <= set(found.texts)
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)  # needs nothing but itself
    assert render_page(page) == html
