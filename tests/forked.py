"""Python processes that begin with the large libraries imported: forked off from a process that has imported them.

A new interpreter takes some twelve seconds of CPU for torch, TRL and Prefect, a forked one nothing. It ends as any
other does: SIGKILL leaves nothing of it. The server that is forked imports and does nothing else, so that no thread of
Python, no event loop and no connection is there for its children to inherit.

usage: python -m tests.forked SOCKET
"""

import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]

IMPORTED = (
    "flows.self_improve",
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "prefect_dask.task_runners",
    "pipeline_lib.methods.self_improve.round_trip",
    "pipeline_lib.methods.self_improve.merge",
    "pipeline_lib.methods.self_improve.report.page",
    "pipeline_lib.train.dpo",
    "pipeline_lib.vlm.load",
    "tasks.stage.shards",
    "transformers.models.llava.modeling_llava",
)


class Forked:
    """A process that the server forked off, with what tests need of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket):
        self._lines = connection.makefile("r")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None
        connection.close()

    def wait(self) -> int:
        """Its exit status, negative when a signal ended it."""
        if self.returncode is None:
            self.returncode = int(self._lines.readline())
            self._lines.close()
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """Starts modules as `python -m` does, with `environment` in the place of this process's own."""

    def __init__(self, address: Path):
        self._address = address

    def start(self, module: str, *arguments: object, environment: dict[str, str], log: Path) -> Forked:
        """What the process prints, errors too, goes to the file `log`."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._address))
        request = {"module": module, "arguments": [str(argument) for argument in arguments]}
        connection.sendall(json.dumps(request | {"environment": environment, "log": str(log)}).encode() + b"\n")
        return Forked(connection)


@contextlib.contextmanager
def fork_server(folder: Path) -> Iterator[ForkServer]:
    """A server that ends with the body; its socket is in the folder."""
    address = folder / "socket"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(address)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n", "the fork server did not start"
        yield ForkServer(address)
    finally:
        process.kill()
        process.wait()


class _Server(ForkingMixIn, UnixStreamServer):
    """Handles each request in a process of its own, which waits for the one that was asked for."""


class _Handler(StreamRequestHandler):
    def handle(self) -> None:
        request = json.loads(self.rfile.readline())
        child = os.fork()
        if not child:
            self.server.socket.close()
            self.connection.close()
            _become(**request)
        self.wfile.write(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        self.wfile.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(module: str, arguments: list[str], environment: dict[str, str], log: str) -> NoReturn:
    """Run the module and end without the interpreter's own end, which belongs to the server."""
    status = 1
    try:
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.clear()
        os.environ.update(environment)
        import dask
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()  # Prefect and Dask read the environment when they are imported
        dask.config.refresh()
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(address: str) -> None:
    for name in IMPORTED:
        import_module(name)
    assert threading.active_count() == 1, f"threads do not survive a fork: {threading.enumerate()}"
    gc.freeze()
    with _Server(address, _Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
