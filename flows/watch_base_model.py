"""A new revision of a base model starts exactly one run, even if several processes notice it several times.

The state after a hard crash: `watched/<what>/<revision>.json` exists, but the run was not started. The next poll starts
it under the same idempotency key: if the run was made before the crash, the server returns that run.
"""

import datetime
import hashlib
import logging
import re
from typing import Any

from prefect import flow
from prefect.deployments import run_deployment
from prefect.events import emit_event
from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.errors import ModelError, S3Error, WhyScoreError
from pipeline_lib.store import ArtifactStore, artifact_key

log = logging.getLogger("whyscore.watch")

EVENT = "whyscore.base-model.landed"


class Watched(BaseModel):
    """A base model to watch, and the recipe to run for each new revision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Hub id (owner/name) or s3://bucket/prefix of a saved model")
    recipe: str = Field(description="A recipe of the form, e.g. demo or own/mine.yaml; its model is replaced")
    overrides: dict[str, Any] = Field({}, description='Fields of the recipe to change, e.g. {"data.table": "s3://.."}')


@flow(name="watch_base_model")
def watch_base_model(
    watched: list[Watched],
    store: str,
    deployment: str = "self_improve/self_improve",
    hub: str | None = None,
    settle_s: int = 600,
) -> list[str]:
    """Start self_improve once for each new revision of a watched base model; returns their runs.

    Args:
        watched: The models and their recipes. A model's revision at the first look counts as new.
        store: Where artifacts are kept; which revisions were noticed and started is written there, below watched/.
        deployment: What to start.
        hub: Address of the hub. None: HF_ENDPOINT, or huggingface.co.
        settle_s: A model in a bucket counts as complete when none of its files has changed for so many seconds.
    """
    artifacts, runs, failed = ArtifactStore(store), [], []
    for item in watched:
        try:
            revision = current_revision(item.model, hub, settle_s)
            if revision is None:
                log.info("%s: still being written; the next poll looks again", item.model)
            else:
                runs.append(start_once(artifacts, item, revision, store, deployment))
        except Exception as error:  # one unreachable model must not stop the others
            log.exception("%s", item.model)
            failed.append(f"{item.model}: {error}")
    if failed:
        raise WhyScoreError("some watched models could not be checked:\n  " + "\n  ".join(failed))
    return runs


def start_once(artifacts: ArtifactStore, item: Watched, revision: str, store: str, deployment: str) -> str:
    """The run of one revision, started if it was not yet; returns its id."""
    task = artifact_key("watch_base_model", 1, {**item.model_dump(), "deployment": deployment, "store": artifacts.root})
    noticed, started = (f"watched/{task[:16]}/{revision}{ending}.json" for ending in ("", ".started"))
    before = artifacts.read_pointer(started)
    if before is not None:
        return str(before["flow_run_id"])
    if artifacts.create_pointer(noticed, {**item.model_dump(), "revision": revision, "deployment": deployment}):
        log.info("%s: new revision %s", item.model, revision)
        emit_event(
            EVENT,
            resource={
                "prefect.resource.id": f"whyscore.base-model.{item.model}",
                "prefect.resource.name": item.model,
                "whyscore.revision": revision,
                "whyscore.recipe": item.recipe,
            },
        )
    name = re.sub(r"[^a-z0-9.-]+", "-", f"{item.recipe}-{item.model.rsplit('/', 1)[-1]}-{revision[:8]}".lower())
    model = {"model.id": item.model, "model.revision": None if item.model.startswith("s3://") else revision}
    run: Any = run_deployment(
        deployment,
        parameters={"recipe": item.recipe, "overrides": {"name": name, **item.overrides, **model}, "store": store},
        timeout=0,
        as_subflow=False,  # the run continues without this flow
        idempotency_key=f"watch-{task}-{revision}",
    )
    artifacts.create_pointer(started, {"flow_run_id": str(run.id)})
    log.info("%s: run %s of recipe %s", item.model, run.id, item.recipe)
    return str(run.id)


def current_revision(model: str, hub: str | None, settle_s: int) -> str | None:
    """The commit of a hub id's main branch, or the digest of an S3 prefix's listing; None while that is changing.

    Raises `ModelError` when there is no such model or the server does not answer.
    """
    if model.startswith("s3://"):
        return _bucket_revision(model, settle_s)
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi(endpoint=hub).model_info(model, timeout=30).sha
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ModelError(f"the hub {hub or ''} did not say which revision {model} is at: {error}") from error
    if not commit or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ModelError(f"the hub {hub or ''} gave {commit!r} as the revision of {model}; expected 40 hex digits")
    return commit


def _bucket_revision(url: str, settle_s: int) -> str | None:
    from pipeline_lib.store.s3_files import reading

    root = url.removeprefix("s3://").rstrip("/")
    try:
        files = {f"{root}/{name}": entry for name, entry in reading().entries(url).items()}
    except S3Error as error:
        raise ModelError(f"{url} cannot be listed: {error.code}: {error.why}") from error
    if not any(path.endswith("/config.json") for path in files):
        raise ModelError(f"{url}: there is no config.json below this prefix; is a saved model there?")
    changed = max(entry.modified for entry in files.values())
    if datetime.datetime.now(datetime.UTC) - changed < datetime.timedelta(seconds=settle_s):
        return None
    listing = "\n".join(f"{path} {entry.size} {entry.etag}" for path, entry in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()[:40]
