"""Stands for a flow run below its worker: has it forked off, passes signals on, and ends as it ends.

    python -S -E start_run.py     # imports the standard library alone: it starts in a hundredth of the time

Without a process that has the libraries imported (see `preloaded.py`), it becomes `python -m prefect.engine` itself.
"""

import array
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType

SOCKET = "WHYSCORE_PRELOADED"


def main() -> None:
    """Start the run; the exit status is that of the run, and a signal that ended it ends this process too."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ[SOCKET])
        request = json.dumps({"environment": dict(os.environ), "folder": os.getcwd()}).encode() + b"\n"
        streams = array.array("i", [1, 2]).tobytes()
        connection.sendmsg([request[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(request[1:])
        answers = connection.makefile("r")
        child = int(answers.readline() or 0)
    except (KeyError, OSError):
        child = 0
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = answers.readline()
    if not status:  # the process that forked it is gone
        pass_on(signal.SIGKILL, None)
        sys.exit(1)
    if (code := int(status)) < 0:
        if -code in (signal.SIGTERM, signal.SIGINT):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
