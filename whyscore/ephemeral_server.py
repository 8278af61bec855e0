"""Prefect's temporary server; it must end when a run is killed."""

import functools
import subprocess
from unittest.mock import patch


def tie_server_to_this_process() -> None:
    """Start Prefect's temporary server, if this process needs one, so that it ends however this process ends.

    Prefect stops it at a normal exit. A process that is killed cannot, and would leave a server behind each time; so a
    shell waits for the end of this process (the end of a pipe that only it holds) and stops the server then.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED

    if PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return
    server = SubprocessASGIServer()
    # In a session of its own, or Ctrl-C in a terminal ends the server too, and this process waits for it in vain.
    with patch("subprocess.Popen", functools.partial(subprocess.Popen, start_new_session=True)):
        server.start()
    if server.server_process is not None:
        watch = ["/bin/sh", "-c", 'cat > /dev/null; kill "$0" 2> /dev/null', str(server.server_process.pid)]
        subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
