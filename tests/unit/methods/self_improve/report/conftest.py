"""A run made of drawn photographs and invented answers, put through the real metrics and the real judge."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from report_run import drawn_photograph, invented_run

from pipeline_lib.methods.self_improve.report.contents import RunResults

QUALITY_PROMPT = """---
value: build quality of garden gnomes
score: gnome score
scale: "0: Broken 4-5: Average 9: Flawless"
---
Rate the gnome. Output #Score: integer, then #Explain: a brief reason.
"""


@pytest.fixture(scope="session")
def run() -> RunResults:
    """Three iterations; the consistency branch of the second has collapsed."""
    return invented_run()


@pytest.fixture(scope="session")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """The same with the paper's judge beside the round-trip one, faithfulness, and a criterion of the user's own."""
    path: Path = tmp_path_factory.mktemp("prompt") / "gnomes.txt"
    path.write_text(QUALITY_PROMPT, encoding="utf-8")
    return invented_run(judge_model="gpt-4o-2024-08-06", probed=True, prompt=str(path))


@pytest.fixture(scope="session")
def open_image() -> Callable[[str, str], Image.Image]:
    """A photograph for every name."""
    return drawn_photograph
