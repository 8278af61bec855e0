"""A run made of drawn photographs and invented answers, put through the real metrics and the real judge."""

from collections.abc import Callable

import pytest
from PIL import Image
from report_run import drawn_photograph, invented_run

from pipeline_lib.report.contents import RunResults


@pytest.fixture(scope="session")
def run() -> RunResults:
    """Three iterations; the consistency branch of the second has collapsed."""
    return invented_run()


@pytest.fixture(scope="session")
def open_image() -> Callable[[str, str], Image.Image]:
    """A photograph for every name."""
    return drawn_photograph
