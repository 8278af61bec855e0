"""Services as plain processes: start them, find all processes of one, and stop them.

The state after a hard crash of the supervisor: its services continue, but nothing restarts them. Every process inherits
its service's mark in its environment, so the next supervisor finds these processes and ends them before it starts.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

MARK = "WHYSCORE_SERVICE"


class Service(NamedTuple):
    """One process to keep alive, with its health check."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    is_healthy: Callable[[], bool]
    user: str | None = None  # another user than the supervisor's, which must then be root
    stop_signal: signal.Signals = signal.SIGTERM
    folder: Path | None = None
    lives_on_stdin: bool = False  # it ends when its input does, hence with its supervisor
    others_wait: bool = False  # what comes after it starts when it is healthy


def start(service: Service, stack: Path) -> subprocess.Popen[bytes]:
    """Start a service in a session of its own; its output is appended to `logs/<name>.log`."""
    logs = stack / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    account = pwd.getpwnam(service.user) if service.user else None
    with (logs / f"{service.name}.log").open("ab") as log:
        return subprocess.Popen(
            service.command,
            stdin=subprocess.PIPE if service.lives_on_stdin else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=service.folder,
            env={**service.environment, MARK: mark(stack, service.name)},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def mark(stack: Path, name: str = "") -> str:
    """The value that marks every process of a service in its environment."""
    return f"{stack.resolve()}:{name}"


def marked(stack: Path, name: str = "") -> list[int]:
    """Processes of a service, also those that outlived it; without a name, of all services of this stack."""
    wanted, found = f"{MARK}={mark(stack, name)}".encode(), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if any(item == wanted if name else item.startswith(wanted) for item in variables):
                found.append(int(folder.name))
    return found


def stop(stack: Path, name: str, process: subprocess.Popen[bytes], how: signal.Signals, patience_s: float) -> None:
    """Ask a service to stop, and kill the processes that are left after `patience_s`."""
    if process.poll() is None:
        if process.stdin:
            process.stdin.close()
        else:
            process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    kill_marked(stack, name)
    if process.poll() is None:
        process.wait()


def kill_marked(stack: Path, name: str = "") -> None:
    """Kill every process of a service, or of the whole stack, until none is left."""
    while pids := marked(stack, name):
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
