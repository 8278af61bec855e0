"""Python processes that begin with the large libraries imported: forked off from a process that has imported them.

A new interpreter takes some twelve seconds of CPU for torch, TRL and Prefect, a forked one nothing. It ends as any
other does: SIGKILL leaves nothing of it. The server that is forked imports and does nothing else, so that no thread of
Python, no event loop and no connection is there for its children to inherit.

One pytest command has one server of libraries, whatever the number of its workers: `pytest_configure` in
`tests/conftest.py` starts it, and it imports nothing before it is asked for something. It ends, with all that it
forked, when the pytest process that began it is gone. A second server, forked off from it, has this project imported
as well.

usage: python -m tests.forked SOCKET MODULE ..
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer
from typing import NoReturn

import psutil

ROOT = Path(__file__).resolve().parents[1]

SOCKET = "WHYSCORE_TEST_FORKS"
"""The variable that tells the workers of pytest where the server of libraries is."""

LIBRARIES = (
    "datasets",
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "peft",
    "prefect.main",
    "prefect_dask.task_runners",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llava.modeling_llava",
    "trl.trainer.dpo_trainer",
)

OURS = (
    "flows.self_improve",
    "pipeline_lib.methods.self_improve.round_trip",
    "pipeline_lib.methods.self_improve.merge",
    "pipeline_lib.methods.self_improve.report.page",
    "pipeline_lib.train.dpo",
    "pipeline_lib.vlm.load",
    "tasks.stage.shards",
)


class Forked:
    """A process that the server forked off, with what tests need of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket):
        self._lines = connection.makefile("r")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None
        connection.close()

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.returncode is None and psutil.pid_exists(self.pid)

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
        self.address = address

    def start(
        self,
        module: str,
        *arguments: object,
        log: Path,
        environment: Mapping[str, str] = os.environ,
        folder: Path = ROOT,
        session: bool = False,
    ) -> Forked:
        """What the process prints, errors too, goes to the file `log`; a session of its own is a process group too.

        The module `-c` is the text that its first argument is.
        """
        log.touch()  # so that it can be read at once
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.address))
        request = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "environment": dict(environment),
            "folder": str(folder),
            "log": str(log),
            "session": session,
        }
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Forked(connection)


@contextlib.contextmanager
def server_of_libraries(folder: Path) -> Iterator[ForkServer]:
    """A server that ends with the body or with this process; its socket is in the folder."""
    address = folder / "libraries"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(address), *LIBRARIES],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # its end tells the server that this process is gone
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == b"ready\n", "the fork server did not start"
    try:
        yield ForkServer(address)
    finally:
        process.stdin.close()
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
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            self.wfile.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def read_prefect_settings() -> None:
    """Prefect, which was imported before the fork, reads the environment as it does when it is imported."""
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging(incremental=False)


def _become(
    module: str, arguments: list[str], environment: dict[str, str], folder: str, log: str, session: bool
) -> NoReturn:
    """Run the module and end as an interpreter does; the frames below belong to the server and are not come back to."""
    status = 1
    try:
        if session:
            os.setsid()
        with open(log, "wb") as file, open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(folder)
        if folder != sys.path[0]:  # another copy of this project: its modules, `tests` too, are to be imported
            sys.path[0] = folder
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import dask

        read_prefect_settings()
        dask.config.refresh()  # as it does when it is imported
        sys.argv = [module, *arguments]
        if module == "-c":
            exec(compile(sys.argv.pop(1), "<text>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    try:  # the end of an interpreter: threads that have something to send, and Prefect's own temporary server
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(address: str, *modules: str) -> None:
    """Until standard input ends; a server that was forked off itself goes on until the first one ends."""
    with _Server(address, _Handler) as server:
        asked = [server] if SOCKET in os.environ else [server, sys.stdin]
        imported = False
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select(asked, [], [])
            if sys.stdin in ready:
                os.killpg(0, signal.SIGKILL)
            if not imported:
                for name in modules:
                    import_module(name)
                assert threading.active_count() == 1, f"threads do not survive a fork: {threading.enumerate()}"
                gc.freeze()
                imported = True
            server.collect_children()
            server.handle_request()


if __name__ == "__main__":
    main(*sys.argv[1:])
