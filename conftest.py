"""Options of the whole test suite (pytest reads them here, before it collects); see docs/testing.md."""

import pytest

OPTIONS = {
    "--demo-size": "crash, S3 and wheel tests at the size of the demo (make test-crash, make test-s3, make test-wheel)",
    "--all-moments": "a run is killed at each kind of moment (make test-crash, make test-all)",
    "--all-families": "parity with TRL for all eight families of models (make test-all)",
    "--platform": "PostgreSQL, a Prefect server and workers (make test-platform)",
}
"""What plain `make test` leaves out because it takes long."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """All of them are off by default."""
    for name, what in OPTIONS.items():
        parser.addoption(name, action="store_true", help=what)


def pytest_configure(config: pytest.Config) -> None:
    """The one marker of the suite."""
    config.addinivalue_line("markers", "only_with(option): runs with this option of pytest alone")
