"""Options of the whole test suite (pytest reads them here, before it collects)."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--demo-size`: crash and S3 tests at the size of the demo; `make test-crash` and `make test-s3` set it."""
    parser.addoption("--demo-size", action="store_true", help="crash and S3 tests at demo size (long)")
