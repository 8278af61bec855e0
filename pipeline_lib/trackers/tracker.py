"""The common form of all trackers, and which of them can be used here."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from pipeline_lib.config.base import TrackerName
from pipeline_lib.errors import RecipeError

PROJECT = "whyscore"
"""Name of the experiment (MLflow) or project, unless the tracker's own environment variable gives another."""


QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # its defaults keep a run waiting for minutes at its end
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
"""Settings of the trackers where the user has none; they are read when a tracker is imported or used."""


class Entry(NamedTuple):
    """What a tracker shows as one run: a training with its curves, or a run of WhyScore with the figures of its stages.

    The same `id` is the same entry, also in another process: a training that is resumed continues its curves.
    """

    id: str
    run: str  # name of the run of WhyScore, which groups entries
    title: str
    settings: Mapping[str, Any]  # numbers, texts and booleans by dotted names


class Record(NamedTuple):
    """A finished stage in the entry of its run."""

    title: str  # label of the stage
    address: str  # of its artifact, in the store
    figures: Mapping[str, float]
    texts: Mapping[str, str]  # results and verdict, by their names


class Tracker(Protocol):
    """One way to keep entries. All calls of an object come from one thread; each may fail, and is then made again."""

    def begin(self, entry: Entry) -> int:
        """Open the entry of a training; returns the last step that it has, -1 for a new one."""

    def callback(self) -> Any:
        """The callback of transformers that logs to the open entry."""

    def end(self, *, finished: bool) -> None:
        """Close the entry of a training."""

    def record(self, entry: Entry, records: Sequence[Record]) -> None:
        """Add finished stages to the entry of a run; those that it has stay as they are."""


def entry_id(store: str, of: str) -> str:
    """The id of an entry: `of` is the address of a training's artifact, or the name of a run."""
    return hashlib.sha256(f"{store}\n{of}".encode()).hexdigest()[:16]


def open_tracker(name: TrackerName) -> Tracker:
    """A tracker by its name; imports its package."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    tracker: Tracker = import_module(f"pipeline_lib.trackers.to_{name}").open_tracker()
    return tracker


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise `RecipeError` for a tracker whose package or address is missing, or that would ask for a key."""
    for name in names:
        if find_spec(name) is None:  # each has the name of its package
            raise RecipeError(
                f"runtime.trackers names {name}, and the package is not installed here; pip install"
                f" 'whyscore[trackers]', or take {name} out of runtime.trackers"
            )
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI") and find_spec("alembic") is None:
        raise RecipeError(
            "runtime.trackers names mlflow, and MLFLOW_TRACKING_URI is not set; set it to the address of a server, or"
            " install the whole package mlflow, which keeps a file here (mlflow-skinny does not)"
        )
    if "wandb" in names and not _wandb_knows_its_key():
        raise RecipeError(
            "runtime.trackers names wandb, and there is no key; run `wandb login`, set WANDB_API_KEY, or set"
            " WANDB_MODE=offline to keep everything on this machine"
        )


def _wandb_knows_its_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return True
    import netrc
    from urllib.parse import urlsplit

    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
