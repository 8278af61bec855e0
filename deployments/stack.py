"""`make up` and `make down`: the whole stack as plain processes below one supervisor.

    python -m deployments.stack up | down | status [--folder whyscore-data/stack] [--store s3://bucket/prefix]

`up` starts the supervisor unless it runs already, and returns when every service is healthy; calling it twice is
harmless.
"""

import argparse
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from deployments.processes import Service, kill_marked, marked, start, stop
from deployments.services import check_packages, services
from deployments.settings import (
    DEFAULT_STACK,
    create_settings,
    memory_s3,
    read_settings,
    s3_of_environment,
    stack_file,
)

START_PATIENCE_S = 180.0
STOP_PATIENCE_S = 20.0
RESTART_PAUSE_S = 2.0


def up(stack: Path, changes: dict[str, str] | None = None) -> None:
    """Start the services that do not run; returns when all are healthy, raises `SystemExit` when one fails.

    `changes` replace defaults of the settings; only a stack that was never started takes them.
    """
    check_packages(changes or {})
    settings = create_settings(stack, **(changes or {}))
    if differing := [name for name, value in (changes or {}).items() if settings.get(name) != value]:
        raise SystemExit(_other_settings(stack, settings, changes or {}, differing))
    supervisor = None
    if running(stack) is None:
        check_packages(settings)
        _check_ports(stack, settings)
        (stack / "logs").mkdir(exist_ok=True)
        (stack / "state.json").unlink(missing_ok=True)
        with (stack / "logs" / "supervisor.log").open("ab") as log:
            command = [sys.executable, "-m", "deployments.stack", "supervise", "--folder", str(stack.resolve())]
            supervisor = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=Path(__file__).resolve().parents[1],
            )  # fmt: skip
    deadline = time.monotonic() + START_PATIENCE_S
    while not (states := state_of(stack)) or set(states.values()) != {"healthy"}:
        ended = supervisor is not None and supervisor.poll() is not None and running(stack) is None
        if ended or time.monotonic() > deadline:
            raise SystemExit(_why_not(stack, states))
        time.sleep(0.2)
    print(f"Prefect UI: http://127.0.0.1:{settings['PREFECT_PORT']}  (sign in with PREFECT_AUTH_STRING, see settings)")
    print(f"Store: {settings['WHYSCORE_STORE']}   settings and secrets: {stack_file(stack)}   logs: {stack}/logs/")
    print("Next, once and after each upgrade: .venv/bin/whyscore deploy")


def _other_settings(stack: Path, settings: dict[str, str], wanted: dict[str, str], differing: list[str]) -> str:
    """The message that names each setting that differs, and shows the values of those that are no secrets."""
    shown = ("WHYSCORE_STORE", "S3_PORT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION")
    lines = [
        f"{name}: {settings.get(name, 'not set')}, asked for {wanted[name]}" if name in shown else f"{name} differs"
        for name in sorted(differing)
    ]
    return "\n  ".join(
        [
            f"{stack_file(stack)} has other settings than asked for. Run `make down`, change these lines in it, and run"
            " `make up` without STORE. Keep the file: the database was made with its POSTGRES_PASSWORD",
            *lines,
        ]
    )


def _check_ports(stack: Path, settings: dict[str, str]) -> None:
    for name in ("POSTGRES_PORT", "S3_PORT", "PREFECT_PORT"):
        with socket.socket() as probe:
            taken = name in settings and probe.connect_ex(("127.0.0.1", int(settings[name]))) == 0
        if taken and not marked(stack):  # else a killed supervisor left them, and the next one ends them
            raise SystemExit(
                f"port {settings[name]} is taken by another program; stop it, or set {name} in {stack_file(stack)}"
            )


def _why_not(stack: Path, states: dict[str, str]) -> str:
    name, state = next((item for item in states.items() if item[1] != "healthy"), ("supervisor", "not running"))
    log = stack / "logs" / f"{name}.log"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:] if log.exists() else []
    return "\n  ".join([f"the stack did not start: {name} is {state}; {log} ends with", *last])


def down(stack: Path) -> None:
    """Stop every service and wait until the last process is gone."""
    pid = running(stack)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        while running(stack) == pid:
            time.sleep(0.1)
    kill_marked(stack)  # of a supervisor that was killed
    (stack / "state.json").unlink(missing_ok=True)


def running(stack: Path) -> int | None:
    """The supervisor's process, if there is one: it holds a lock that ends with it, however it ends."""
    try:
        with (stack / "supervisor.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def state_of(stack: Path) -> dict[str, str]:
    """Each service's state: starting, healthy, unhealthy or restarting; empty when nothing runs."""
    if running(stack) is None:
        return {}
    try:
        found: dict[str, str] = json.loads((stack / "state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def supervise(stack: Path) -> None:
    """Start all services in order, restart those that die, and stop them in reverse order on SIGTERM."""
    stack.mkdir(parents=True, exist_ok=True)
    with (stack / "supervisor.lock").open("a+") as lock:
        for _ in range(20):  # a process that checks for a supervisor holds the lock for an instant
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            return  # another one was faster
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        stopping = threading.Event()

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            stopping.set()

        signal.signal(signal.SIGTERM, ask_to_stop)
        signal.signal(signal.SIGINT, ask_to_stop)
        kill_marked(stack)  # what a killed supervisor left
        _keep_alive(stack, services(stack, read_settings(stack)), stopping)


def _keep_alive(stack: Path, wanted: list[Service], stopping: threading.Event) -> None:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    states = dict.fromkeys((service.name for service in wanted), "waiting")
    try:
        while not stopping.is_set():
            for service in wanted:
                _look_after(stack, service, processes, states, stopping)
                if service.others_wait and states[service.name] == "starting":
                    break
            stopping.wait(0.5 if "starting" in states.values() else 2)
    finally:
        for service in reversed(wanted):
            if service.name in processes:
                stop(stack, service.name, processes[service.name], service.stop_signal, STOP_PATIENCE_S)
        kill_marked(stack)


def _look_after(
    stack: Path,
    service: Service,
    processes: dict[str, subprocess.Popen[bytes]],
    states: dict[str, str],
    stopping: threading.Event,
) -> None:
    before, process = states[service.name], processes.get(service.name)
    if process is None or process.poll() is not None:
        if process is not None:
            _log(f"{service.name} ended with status {process.returncode}; starting it again")
            kill_marked(stack, service.name)  # a flow run must not continue beside its replacement
            stopping.wait(RESTART_PAUSE_S)
        processes[service.name] = start(service, stack)
        states[service.name] = "starting"
    elif _is_healthy(service):
        states[service.name] = "healthy"
    elif before == "healthy":
        states[service.name] = "unhealthy"
    if states[service.name] != before:
        _log(f"{service.name}: {states[service.name]}")
        partial = stack / "state.json.new"
        partial.write_text(json.dumps(states), encoding="utf-8")
        partial.rename(stack / "state.json")


def _is_healthy(service: Service) -> bool:
    try:
        return service.is_healthy()
    except Exception as error:  # no answer of a service may end the supervisor
        _log(f"{service.name}: {error!r}")
        return False


def _log(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The stack as plain processes")
    parser.add_argument("command", choices=("up", "down", "status", "supervise"))
    parser.add_argument("--folder", type=Path, default=DEFAULT_STACK)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--store", help="for up: a shared folder, or s3:// with this shell's AWS_ variables")
    where.add_argument("--memory-s3", type=int, metavar="PORT", help="for up: with an S3 server that keeps nothing")
    chosen = parser.parse_args()
    changes = memory_s3(chosen.memory_s3) if chosen.memory_s3 else {}
    if chosen.store:
        changes = s3_of_environment(chosen.store)
    if chosen.command == "up":
        up(chosen.folder, changes)
    elif chosen.command == "status":
        print(json.dumps(state_of(chosen.folder), indent=2))
    else:
        {"down": down, "supervise": supervise}[chosen.command](chosen.folder)


if __name__ == "__main__":
    main()
