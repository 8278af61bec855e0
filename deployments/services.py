"""The services of the stack, in the order in which they start."""

import asyncio
import base64
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from deployments.processes import Service
from deployments.settings import OFFLINE, client_environment

ROOT = Path(__file__).resolve().parents[1]
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
THRIFTY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # idle threads must not spin on few cores


def services(stack: Path, settings: dict[str, str]) -> list[Service]:
    """All services of the stack."""
    return [
        postgres(stack, settings),
        *([s3_server(settings)] if settings.get("S3_PORT") else []),
        prefect_server(stack, settings),
        worker(stack, settings, "cpu", "cpu-0", int(settings["CPU_RUNS"]), {}),
        *gpu_workers(stack, settings),
    ]


def check_packages(settings: dict[str, str]) -> None:
    """Raise `SystemExit` that names the programs which the services need and this machine lacks."""
    _binary("postgres")
    if settings.get("S3_PORT"):
        from pipeline_lib.testing.s3_server import how_to_install, missing_packages

        if missing := missing_packages():
            raise SystemExit(how_to_install(missing))


def postgres(stack: Path, settings: dict[str, str]) -> Service:
    """PostgreSQL on loopback, with a password; it refuses to run as root, so root hands it to another user."""
    data, port = stack.resolve() / "postgres", settings["POSTGRES_PORT"]
    user = _unprivileged_user() if os.geteuid() == 0 else None
    if not (data / "PG_VERSION").exists():
        _create_cluster(data, settings["POSTGRES_PASSWORD"], user)
    return Service(
        "postgres",
        [
            _binary("postgres"), "-D", str(data), "-p", port, "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=",
        ],
        _inherited(),
        lambda: asyncio.run(_create_database(settings)),
        user=user,
        stop_signal=signal.SIGINT,  # "fast": sessions are ended, everything is written
        folder=data,
        others_wait=True,
    )  # fmt: skip


def prefect_server(stack: Path, settings: dict[str, str]) -> Service:
    """Prefect's API and UI behind basic auth, its background services with it."""
    port = settings["PREFECT_PORT"]
    return Service(
        "prefect-server",
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
        _inherited() | OFFLINE | {
            "PREFECT_HOME": str(stack.resolve() / "prefect"),
            "PREFECT_SERVER_API_AUTH_STRING": settings["PREFECT_AUTH_STRING"],
            "PREFECT_API_AUTH_STRING": settings["PREFECT_AUTH_STRING"],
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": _database_url(settings, "postgresql+asyncpg"),
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_UI_URL": f"http://127.0.0.1:{port}",  # of the links in notifications
            "PREFECT_SERVER_UI_V2_ENABLED": "false",  # it makes the browser ask Amplitude, analytics off or not (3.8.8)
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        },
        lambda: _ask(f"http://127.0.0.1:{port}/api/ready", settings) is not None,
        folder=stack.resolve(),
        others_wait=True,
    )  # fmt: skip


def s3_server(settings: dict[str, str]) -> Service:
    """The S3 server of the tests, which keeps everything in memory: only for trials and tests."""
    return Service(
        "s3",
        [sys.executable, "-m", "pipeline_lib.testing.s3_server", "--port", settings["S3_PORT"]],
        _inherited(),
        lambda: _bucket_is_there(settings),
        folder=ROOT,
        others_wait=True,
        lives_on_stdin=True,
    )


def worker(
    stack: Path, settings: dict[str, str], pool: str, name: str, limit: int, environment: dict[str, str]
) -> Service:
    """A process worker: each flow run is a process below it, with the libraries imported."""
    api = f"http://127.0.0.1:{settings['PREFECT_PORT']}/api"
    return Service(
        f"worker-{name}",
        [
            sys.executable, "-m", "deployments.worker", "--pool", pool, "--name", name, "--limit", str(limit),
        ],
        _inherited() | THRIFTY | client_environment(settings) | environment
        | {
            "PREFECT_HOME": str(stack.resolve() / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "whyscore",
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # its default of 10 is long where stages are short
        },
        lambda: _is_online(api, settings, pool, name),
        folder=ROOT,
    )  # fmt: skip


def gpu_workers(stack: Path, settings: dict[str, str]) -> list[Service]:
    """One worker for each GPU, which sees no other and takes one run at a time."""
    gpus = [gpu for gpu in settings["GPUS"].split(",") if gpu]
    if not gpus:
        return [worker(stack, settings, "gpu", "gpu-0", 1, {})]
    return [worker(stack, settings, "gpu", f"gpu-{gpu}", 1, {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def _binary(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps out of PATH."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default="")
    if not found:
        raise SystemExit(f"{name} of PostgreSQL was not found; install PostgreSQL 14 or newer (Debian: postgresql)")
    return found


def _unprivileged_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise SystemExit("PostgreSQL refuses to run as root and there is no user postgres or nobody; run as another user")


def _create_cluster(data: Path, password: str, user: str | None) -> None:
    partial, secret = data.with_name("postgres-new"), data.with_name("postgres-password")
    shutil.rmtree(partial, ignore_errors=True)  # of a first start that was cut off
    partial.mkdir(parents=True, mode=0o700)
    secret.touch(mode=0o600)
    secret.write_text(password, encoding="utf-8")
    if user:
        shutil.chown(partial, user)
        shutil.chown(secret, user)
    command = [_binary("initdb"), "-D", str(partial), "-U", "whyscore", "-E", "UTF8", "--locale=C",
               "--auth=scram-sha-256", f"--pwfile={secret}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, user=user, cwd="/")
    finally:
        secret.unlink()
    if done.returncode:
        raise SystemExit(
            f"initdb failed: {done.stderr.strip()}\nCan the user {user or 'of this process'} reach {data}?"
        )
    partial.rename(data)


def _database_url(settings: dict[str, str], scheme: str, database: str = "prefect") -> str:
    return f"{scheme}://whyscore:{settings['POSTGRES_PASSWORD']}@127.0.0.1:{settings['POSTGRES_PORT']}/{database}"


async def _create_database(settings: dict[str, str]) -> bool:
    """Whether the server takes connections; makes Prefect's database if it is not there."""
    import asyncpg  # type: ignore[import-untyped]

    try:
        connection = await asyncpg.connect(_database_url(settings, "postgresql", "postgres"), timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    try:
        if not await connection.fetchval("select 1 from pg_database where datname = 'prefect'"):
            await connection.execute("create database prefect")
    finally:
        await connection.close()
    return True


def _bucket_is_there(settings: dict[str, str]) -> bool:
    """Whether the store's bucket can be reached; makes it if it does not exist."""
    from botocore.exceptions import BotoCoreError

    from pipeline_lib.store.s3_files import file_system, make_bucket

    account = {
        "key": settings["AWS_ACCESS_KEY_ID"],
        "secret": settings["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": settings["AWS_ENDPOINT_URL_S3"],
    }
    try:
        make_bucket(file_system(once=True, **account), settings["WHYSCORE_STORE"])
    except (OSError, BotoCoreError):
        return False
    return True


def _ask(url: str, settings: dict[str, str], body: object = None) -> Any:
    """The server's answer; None without one."""
    token = base64.b64encode(settings["PREFECT_AUTH_STRING"].encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _is_online(api: str, settings: dict[str, str], pool: str, name: str) -> bool:
    found = _ask(f"{api}/work_pools/{pool}/workers/filter", settings, {})
    return isinstance(found, list) and any(item["name"] == name and item["status"] == "ONLINE" for item in found)
