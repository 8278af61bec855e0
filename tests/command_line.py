"""`python -m whyscore.cli` for a forked process: Prefect, which is imported already, reads its settings again."""

from tests.forked import read_prefect_settings
from whyscore.commands import terminal

prepare_prefect = terminal.prepare_prefect


def prepare_and_read() -> None:
    prepare_prefect()
    read_prefect_settings()


if __name__ == "__main__":
    terminal.prepare_prefect = prepare_and_read
    from whyscore.cli import app

    app()
