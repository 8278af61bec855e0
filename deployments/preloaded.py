"""Flow runs that begin with the large libraries imported: forks of a process that has imported them.

    python -m deployments.preloaded SOCKET        # a worker starts this (`deployments.worker`), and ends it

An interpreter needs seconds of computing for torch, TRL and Prefect; a fork needs none. This process imports libraries
and does nothing else, so that its forks inherit no thread, no connection and no CUDA; else it says why and ends, and
runs start as interpreters of their own. It imports nothing of this project: each run imports that anew.

The state after a hard crash: nothing is kept here. A run ends when the process that asked for it does
(`deployments/start_run.py`, which the worker watches), and that one ends when the run or this process does.
"""

import array
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

LIBRARIES = (
    "datasets",
    "matplotlib.figure",
    "peft",
    "prefect.flow_engine",
    "prefect.main",
    "s3fs",
    "sklearn.linear_model",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.llava.modeling_llava",
    "trl.trainer.dpo_trainer",
)

LONGEST_REQUEST = 1 << 20


class Request(NamedTuple):
    """A run that was asked for: the environment and folder of who asked, and its standard streams."""

    environment: dict[str, str]
    folder: str
    streams: list[int]


def unfit_to_fork() -> str | None:
    """Why forks of this process would not work; None if they do.

    Threads of OpenBLAS and of Arrow's allocator are no reason: both libraries prepare theirs for a fork.
    """
    if threading.active_count() > 1:
        return f"a library has begun the threads {', '.join(thread.name for thread in threading.enumerate())}"
    opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    if any(path.startswith("/dev/nvidia") for path in opened):
        return "a library has opened the GPU, which a fork cannot use"
    return None


def serve(address: str) -> Request:
    """Fork for each request; returns in the forks alone. This process ends when its standard input does."""
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)  # who asks meanwhile waits
    for name in LIBRARIES:
        import_module(name)
    if why := unfit_to_fork():
        print(f"runs are not forked, because {why}", file=sys.stderr, flush=True)
        sys.exit(1)
    gc.collect()
    gc.freeze()  # the collector of a fork leaves the memory that they share alone
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    print("runs are forked from this process", file=sys.stderr, flush=True)
    asked: dict[int, socket.socket] = {}  # by the process of the run
    while True:
        waiting: list[Any] = [listener, 0, woken, *asked.values()]
        ready, _, _ = select.select(waiting, [], [])
        if woken in ready:
            os.read(woken, 1 << 16)
            _tell_ends(asked)
        if 0 in ready and not os.read(0, 1 << 16):
            for child in asked:
                os.kill(child, signal.SIGKILL)
            sys.exit(0)
        for child, connection in list(asked.items()):
            if connection in ready and not _received(connection):  # whoever asked is gone
                os.kill(child, signal.SIGKILL)
                asked.pop(child).close()
        if listener in ready:
            connection, _ = listener.accept()
            if (request := _request(connection)) is None:
                connection.close()
                continue
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (listener, connection, *asked.values()):
                    each.close()
                os.close(woken)
                os.close(wake)
                return request
            for stream in request.streams:
                os.close(stream)
            asked[child] = connection
            _tell(connection, child)


def become(request: Request, module: str = "prefect.engine") -> None:
    """Turn this fork into the run: its streams, folder and environment, and then Prefect's engine as `python -m`."""
    for number, stream in zip((1, 2), request.streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.umask(0o022)
    os.chdir(request.folder)
    sys.path[0] = request.folder  # as `python -m` does
    os.environ.clear()
    os.environ.update(request.environment)
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()  # Prefect reads the environment again
    setup_logging(incremental=False)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _request(connection: socket.socket) -> Request | None:
    """A request of a process of this user; None for anything else, or when it is gone."""
    connection.settimeout(10)
    try:
        content, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(2 * array.array("i").itemsize))
        streams = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                streams.frombytes(data)
        while content and not content.endswith(b"\n") and len(content) < LONGEST_REQUEST:
            more = connection.recv(1 << 16)
            content = content + more if more else b""
        fields: Any = json.loads(content) if content else None
    except (OSError, ValueError):
        return None
    connection.settimeout(None)
    return Request(fields["environment"], fields["folder"], list(streams)) if fields and len(streams) == 2 else None


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except OSError:
        return b""


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(f"{number}\n".encode())


def _tell_ends(asked: dict[int, socket.socket]) -> None:
    """Tell the exit status of each run that has ended, negative when a signal ended it."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        if connection := asked.pop(child, None):
            _tell(connection, os.waitstatus_to_exitcode(status))
            connection.close()


if __name__ == "__main__":
    if not Path(sys.argv[1]).parent.is_dir():
        raise SystemExit(f"{sys.argv[1]}: its folder does not exist")
    become(serve(sys.argv[1]))
