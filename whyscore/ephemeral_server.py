"""Prefect's temporary server: it has a database of its own, and ends when a run is killed."""

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

from pipeline_lib.errors import WhyScoreError

_PORT_TAKEN = b"address already in use"  # what uvicorn says; Prefect then tries another port

# The shell starts the server and waits for the end of its own standard input, a pipe that only this process holds: also
# when this process is killed before the server runs. Prefect ends the shell by SIGTERM, and reads its exit code.
_WITH_PARENT = """
exec 3<&0
"$@" < /dev/null 3<&- &
server=$!
end() { kill $server 2> /dev/null; sleep 5; kill -9 $server 2> /dev/null; }
(trap '' TERM; cat <&3 > /dev/null; end) > /dev/null 2>&1 &
watch=$!
trap 'kill $server 2> /dev/null' TERM
exec 3<&-
wait $server; code=$?
while kill -0 $server 2> /dev/null; do wait $server; code=$?; done
kill -9 $watch 2> /dev/null
exit $code
"""


class _Server(subprocess.Popen[Any]):
    """The server's process; while it starts, asking for its state raises what it said if it has failed."""

    starting = True

    def __init__(self, *, args: list[str], env: dict[str, str], said: IO[bytes]):
        self.said = said
        # In a session of its own, or Ctrl-C in a terminal ends the server too, and this process waits for it in vain.
        super().__init__(
            ["/bin/sh", "-c", _WITH_PARENT, "sh", *args],
            env=env,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )

    def poll(self) -> int | None:
        code = super().poll()
        # Prefect takes exit code 3 for a taken port and tries another one; a damaged database has the same code.
        if self.starting and code is not None and _PORT_TAKEN not in _all_of(self.said):
            raise _not_started(self.said)
        return code


def database() -> Path:
    """The temporary server's database: one for each version of Prefect, because their tables differ."""
    from prefect import __version__

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whyscore"
    return Path(os.environ.get("PREFECT_HOME") or cache).expanduser() / f"whyscore-prefect-{__version__}.db"


def tie_server_to_this_process() -> None:
    """Start Prefect's temporary server, if this process needs one, so that it ends however this process ends.

    A user's own server (PREFECT_API_URL, also from a profile) is used instead, and a user's own database too. Raises
    `WhyScoreError` when a server does not answer or does not start.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED, get_current_settings

    if url := PREFECT_API_URL.value():
        check_server(url)
        return
    if not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return
    mine: dict[str, str] = {}
    chosen = get_current_settings().to_environment_variables(exclude_unset=True)
    if not any("DATABASE" in name for name in chosen):
        path = database()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WhyScoreError(f"{path.parent} cannot be made: {error.strerror}; set XDG_CACHE_HOME") from error
        mine["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{path}"
    server = SubprocessASGIServer()
    with tempfile.TemporaryFile() as said:
        start = functools.partial(_start, mine=mine, said=said)
        try:
            with patch("subprocess.Popen", start):
                server.start()
        except RuntimeError:  # Prefect's own time limit
            raise _not_started(said) from None
        finally:  # Prefect asks for its state once more at the end of this process
            if isinstance(server.server_process, _Server):
                server.server_process.starting = False


def _start(*, args: list[str], env: dict[str, str], mine: dict[str, str], said: IO[bytes]) -> _Server:
    args[args.index("prefect.server.api.server:create_app")] = "whyscore.prefect_server:create_app"
    return _Server(args=args, env=env | mine, said=said)


def _all_of(said: IO[bytes]) -> bytes:
    """What the server said; the position, which its process shares, stays at the end."""
    return os.pread(said.fileno(), os.fstat(said.fileno()).st_size, 0)


def _not_started(said: IO[bytes]) -> WhyScoreError:
    last = " ".join(_all_of(said).decode(errors="replace").strip().splitlines()[-1:])
    return WhyScoreError(
        f"Prefect's temporary server did not start{f' ({last[:300]})' if last else ''}. Its database is {database()}:"
        " remove that file if it is damaged, or set PREFECT_API_URL to a server of your own"
    )


def check_server(url: str) -> None:
    """Raise `WhyScoreError` when no server answers there, instead of Prefect's traceback after a minute."""
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WhyScoreError(
            f"PREFECT_API_URL: no Prefect server answers at {url} ({type(error).__name__}); start it (`make up`), or"
            " remove PREFECT_API_URL from the environment and from the profile (`prefect config unset PREFECT_API_URL`)"
        ) from None
