"""Check a Dask cluster for the long stages: does it run, with this version, and see store and images?"""

import os
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from pipeline_lib.errors import WhyScoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.manifest import environment

CONNECT_S = 10.0

START = "`dask scheduler` on one machine, then `dask worker tcp://HOST:8786 --nthreads 1 --memory-limit 0` on each"
"""The commands that start a cluster (docs/operations.md)."""


def check_cluster(address: str, store: ArtifactStore, folders: Iterable[str] = (), api: str | None = None) -> int:
    """The number of workers; they must see `folders`, as far as this machine has them.

    Raises `WhyScoreError` when no scheduler or no worker answers, or when a worker runs another version, does not see
    the store or a folder, or does not reach Prefect's server at `api`: with what is wrong on which worker.
    """
    try:
        from distributed import Client
        from distributed.comm.core import CommClosedError
    except ImportError as error:
        raise WhyScoreError(
            f"runtime.dask {address}: Dask is not installed here; pip install 'whyscore[cluster]', or set it to null"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// and no certificates
        raise WhyScoreError(
            f"runtime.dask {address}: no Dask scheduler answers there ({error}). Start {START},"
            " or set runtime.dask: null to compute here"
        ) from error
    probe = f"probe-{uuid.uuid4().hex}"
    shared = [folder for folder in folders if os.path.isdir(folder)]
    with client:
        if not client.nthreads():
            raise WhyScoreError(f"runtime.dask {address}: the scheduler has no workers. Start {START}")
        store.write_pointer(probe, {"for": "the workers of a Dask cluster"})
        try:
            asked = client.run(_problems, environment(), store.root, probe, shared, api, on_error="return")
        finally:
            store.files.remove(store.path(probe))
    found = {worker: answer for worker, answer in asked.items() if not isinstance(answer, CommClosedError)}  # it died
    lines = [f"{worker}: {problem}" for worker, answer in found.items() for problem in _as_lines(answer)]
    if lines:
        raise WhyScoreError("\n  ".join([f"runtime.dask {address}: workers that cannot take part", *lines]))
    return len(found)


def other_versions(asked: dict[str, Any]) -> str | None:
    """How this process differs from the environment `asked`, in versions that could change a result."""
    mine = environment()
    pairs = [(name, version, mine["versions"].get(name)) for name, version in asked["versions"].items()]
    if asked["git_commit"] and mine["git_commit"]:
        pairs.append(("commit", asked["git_commit"][:8], mine["git_commit"][:8]))
    # 2.13.0+cpu and 2.13.0 are builds of one version.
    others = [f"{name} {b} instead of {a}" for name, a, b in pairs if a.partition("+")[0] != str(b).partition("+")[0]]
    return f"runs {', '.join(others)}; bring all machines to one version" if others else None


def _problems(asked: dict[str, Any], root: str, probe: str, folders: list[str], api: str | None) -> list[str]:
    """The reasons why this worker cannot take part, asked before a run and before each long stage."""
    problems = [difference] if (difference := other_versions(asked)) else []
    if ArtifactStore(root).read_pointer(probe) is None:
        problems.append(f"does not see the store {root}; share that folder, or use s3://")
    unseen = [folder for folder in folders if not os.path.isdir(folder)]
    problems += [f"does not see {folder}; share that folder, and give its absolute path" for folder in unseen]
    if api and not _answers(api):
        problems.append(f"does not reach Prefect's server at {api}; set PREFECT_API_URL to one that all machines reach")
    return problems


def _answers(api: str) -> bool:
    try:
        with urlopen(f"{api.rstrip('/')}/health", timeout=CONNECT_S):
            return True
    except HTTPError:  # it needs a password, which comes with each task
        return True
    except (URLError, OSError):
        return False


def _as_lines(answer: Any) -> list[str]:
    return [f"cannot run WhyScore: {answer!r}"] if isinstance(answer, BaseException) else answer
