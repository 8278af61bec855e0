"""Options of the whole test suite (pytest reads them here, before it collects)."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--demo-size`: the crash tests at the size of the demo, at every publish boundary."""
    parser.addoption("--demo-size", action="store_true", help="crash tests at demo size, every publish boundary (long)")
