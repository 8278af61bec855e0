"""Prefect servers for tests: forked off, without the services that nothing in the tests waits for."""

import shutil
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.forked import ForkServer

PATIENCE_S = 500.0  # a cold start on a busy machine takes minutes

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_EVENTS_STREAM_OUT_ENABLED": "false",
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}
"""Off: services that nothing in the tests asks for, each of which reads every event. Task runs are recorded."""


def make_prefect_server(libraries: ForkServer, folder: Path) -> None:
    """The folder of a server: `api`, `prefect.db`, and `empty.db`, a copy of that before anything was run."""
    api = start_prefect_server(libraries, folder)
    with closing(sqlite3.connect(folder / "prefect.db")) as new, closing(sqlite3.connect(folder / "empty.db")) as copy:
        new.backup(copy)
    (folder / "api").write_text(api)


def start_prefect_server(libraries: ForkServer, folder: Path, template: Path | None = None) -> str:
    """The API of a server whose database is `folder/prefect.db`: a new one, or a copy of an empty one.

    It ends with the server that it is forked off from, when the tests end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if template:
        shutil.copy(template, folder / "prefect.db")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": database(folder),
        **QUIET,
        # As Prefect starts a temporary server of its own.
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    libraries.start(
        "uvicorn", "--factory", "whyscore.prefect_server:create_app",
        *("--host", "127.0.0.1", "--port", port, "--log-level", "error", "--lifespan", "on"),
        environment=environment, log=folder / "server.log",
    )  # fmt: skip
    api, begun = f"http://127.0.0.1:{port}/api", time.monotonic()
    while not _answers(api):
        assert time.monotonic() - begun < PATIENCE_S, (folder / "server.log").read_text()
        time.sleep(0.1)
    return api


def database(folder: Path) -> str:
    """The URL of a server's database."""
    return f"sqlite+aiosqlite:///{folder / 'prefect.db'}"


@contextmanager
def on_server(api: str, folder: Path) -> Iterator[None]:
    """This process uses the server meanwhile."""
    from prefect.context import _temporary_global_settings_context, get_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    settings = {PREFECT_API_URL: api, PREFECT_SERVER_DATABASE_CONNECTION_URL: database(folder)}
    # The settings of the process too, for threads with a context of their own.
    with temporary_settings(settings), _temporary_global_settings_context(get_settings_context()):
        yield


def _answers(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
