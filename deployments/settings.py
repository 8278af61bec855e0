"""The stack's settings and secrets: one file, made with random secrets, readable by its owner only."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from pipeline_lib.errors import WhyScoreError

DEFAULT_STACK = Path("whyscore-data/stack")

OFFLINE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Nothing leaves the machine unless a recipe asks for it."""


def stack_file(stack: Path) -> Path:
    """The file of a stack's settings."""
    return stack / "stack.env"


def create_settings(stack: Path, **changes: str) -> dict[str, str]:
    """The stack's settings: those of its file, else new ones with random secrets, written to it.

    `changes` replace defaults of a new file (e.g. `PREFECT_PORT="4300"`); a file that is there stays as it is. Raises
    `SystemExit` when there is a database but no file: new secrets would not open it.
    """
    path = stack_file(stack)
    if not path.exists():
        if (stack / "postgres").exists():
            raise SystemExit(
                f"{path} is missing, and {stack}/postgres was made with the password in it. Put the file back. If it is"
                f" lost, move {stack}/postgres away: the history of runs is lost with it, and no artifact"
            )
        settings = _new_settings(stack) | changes
        stack.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("# Settings and secrets of this stack; `make up` reads them. Never commit this file.\n")
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
    return read_settings(stack)


def read_settings(stack: Path) -> dict[str, str]:
    """The stack's settings; raises `FileNotFoundError` when it was never started."""
    lines = stack_file(stack).read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def memory_s3(port: int) -> dict[str, str]:
    """Changes to the settings for a stack with the S3 server of the tests, whose keys are no secrets."""
    from pipeline_lib.testing.s3_server import USERS

    key, secret = USERS["owner"]
    return {
        "S3_PORT": str(port),
        "WHYSCORE_STORE": "s3://whyscore/store",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


OF_PEOPLE = ("OPENAI_API_KEY", "WHYSCORE_ENGINE_KEY", "HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE")
"""Settings that people may add for the workers: keys of judge and engine, and variables of the hub's client."""


def s3_of_environment(store: str) -> dict[str, str]:
    """Changes to the settings for a store in a bucket of one's own: the AWS_ variables of this environment."""
    return {"WHYSCORE_STORE": store, **{name: value for name, value in os.environ.items() if name.startswith("AWS_")}}


def use_stack(store: str | None, stack: Path = DEFAULT_STACK) -> str:
    """Reach a server: the one in PREFECT_API_URL, else the one of `make up`; returns the store to use with it.

    Must be called before Prefect is imported. Raises `WhyScoreError` when there is neither server nor store.
    """
    if not os.environ.get("PREFECT_API_URL"):
        if not stack_file(stack).exists():
            raise WhyScoreError("no Prefect server: start the stack with `make up`, or set PREFECT_API_URL")
        os.environ.update(client_environment(read_settings(stack)))
    wanted = store or os.environ.get("WHYSCORE_STORE")
    if not wanted:
        raise WhyScoreError("which store? Give --store s3://bucket/prefix, or set WHYSCORE_STORE")
    return wanted


def client_environment(settings: dict[str, str]) -> dict[str, str]:
    """The variables with which workers and people reach server and store, without those of the database."""
    return {
        **OFFLINE,
        "PREFECT_API_URL": f"http://127.0.0.1:{settings['PREFECT_PORT']}/api",
        "PREFECT_API_AUTH_STRING": settings["PREFECT_AUTH_STRING"],
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": settings["HEARTBEAT_SECONDS"],
        "WHYSCORE_STORE": settings["WHYSCORE_STORE"],
        **{name: value for name, value in settings.items() if name.startswith("AWS_") or name in OF_PEOPLE},
    }


def _new_settings(stack: Path) -> dict[str, str]:
    return {
        "PREFECT_PORT": "4200",
        "PREFECT_AUTH_STRING": f"whyscore:{secrets.token_urlsafe(24)}",
        "POSTGRES_PORT": "5442",
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "HEARTBEAT_SECONDS": "30",
        "WHYSCORE_STORE": str((stack.parent / "store").resolve()),
        "CPU_RUNS": "4",  # flow runs that the CPU worker takes at a time
        "GPUS": ",".join(_gpus()),  # one worker for each; empty: one that sees whatever there is
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
