"""Shows a run in the Prefect UI: the recipe, a card for each stage, progress bars, the results.

The cards only show what is in the store. They are sent beside the work, one after the other, so that a slow server
delays nothing; an unreachable one costs some cards, never a run.
"""

import functools
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import yaml
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, SyncClientContext
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.context import get_task_and_flow_run_ids

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.errors import LostArtifactError
from pipeline_lib.progress import Progress, listening
from pipeline_lib.report import verdict as verdicts
from pipeline_lib.report.curves import curves_markdown
from pipeline_lib.report.stage_card import stage_card
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.browse import browser_address

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("whyscore.ui")

TIMEOUT_S = 10.0

CURVES_EVERY_S = 15.0
"""The curves of a training are sent again so often."""

PAUSE_S = 60.0
"""Nothing is sent for so long after a failure, so that a run does not wait for an unreachable server at its end."""

RESULTS = ("results.txt", "comparison.txt")
"""Files that are shown unchanged, below the key `results`."""

_sender = ThreadPoolExecutor(1, "whyscore-ui")  # its queue is emptied before the process ends
_silent_until = 0.0
_shares: dict[tuple["UUID", str], "UUID"] = {}
_of_run: ContextVar[str | None] = ContextVar("of_run", default=None)


def show_recipe(recipe: BaseRecipe) -> None:
    """The recipe in use with all its fields, on the flow run's page."""
    if FlowRunContext.get() is not None:
        fields = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        _show("recipe", f"```yaml\n{fields}```", f"Recipe {recipe.name}")


def show_stage(store: ArtifactStore, manifest: Manifest, title: str, *, cached: bool) -> None:
    """A card of a finished stage: on its task run's page, or on the flow run's alone when it was cached.

    Raises `LostArtifactError` when the artifact is damaged; nothing else that goes wrong ends the stage.
    """
    if FlowRunContext.get() is None:
        return
    try:
        state = "cached" if cached else "computed"
        _show(title, stage_card(store, manifest, state, plot=not cached), f"{title}: {state}")
        if verdicts.FILE in manifest.files:
            verdict = verdicts.Verdict.model_validate_json(store.read_file(manifest.address, verdicts.FILE))
            _show("verdict", verdicts.verdict_markdown(verdict), verdicts.verdict_line(verdict))
        for name in RESULTS:
            if name in manifest.files:
                text = store.read_file(manifest.address, name).decode()
                tables, _, notes = text.rstrip().rpartition("\n\n")  # the notes are sentences, and too long for a line
                markdown = f"```\n{tables}\n```\n\n" + "\n".join(f"- {note}" for note in notes.splitlines())
                _show("results", markdown, "Results")
    except LostArtifactError:
        raise
    except Exception as error:
        log.warning("%s is not shown in the UI: %s", title, error)


def show_report(store: ArtifactStore, page: str, ref: ArtifactRef) -> None:
    """A link to a run's page (its path in the store) with the verdict, on the flow run's page."""
    if FlowRunContext.get() is None:
        return
    verdict = verdicts.verdict_of(store, ref)
    said = verdicts.verdict_line(verdict) if verdict else ""
    _show("report link", f"[Report]({browser_address(store.root, page)})\n\n`{page}`", said or "Report")


@contextmanager
def cards_of_run(name: str) -> Iterator[None]:
    """All cards are of the run with this name meanwhile, in a flow run that computes one stage of it."""
    token = _of_run.set(name)
    try:
        yield
    finally:
        _of_run.reset(token)


def run_name() -> str:
    """The name of the run that this is part of, as in the keys of its cards; empty outside of flow runs."""
    context = FlowRunContext.get()
    return _of_run.get() or (context.flow_run.name if context and context.flow_run else "")


def is_part_of_another_run() -> bool:
    """Whether this flow run computes a stage for another flow, which shows the stage itself."""
    return _of_run.get() is not None


def show_artifact(store: ArtifactStore, ref: ArtifactRef, title: str) -> None:
    """A card of a stage that was computed elsewhere."""
    if FlowRunContext.get() is not None and isinstance(manifest := store.lookup(ref.address), Manifest):
        show_stage(store, manifest, title, cached=False)


@contextmanager
def progress_bars() -> Iterator[None]:
    """Show progress bars and curves meanwhile, but none for work of a few seconds."""
    bars: dict[int, UUID] = {}
    begun: set[int] = set()
    draw = _live_curves()

    def move(progress: Progress, line: str) -> None:
        which, finished = id(progress), progress.done >= progress.total
        if finished and which not in begun:
            return
        begun.add(which)
        draw(progress, line)
        percent = 100.0 * progress.done / max(progress.total, 1)
        new = _artifact("progress", f"{progress.what} progress", percent, line)

        def send(client: "SyncPrefectClient") -> None:
            if which in bars:
                client.update_artifact(bars[which], ArtifactUpdate(data=percent, description=line))
            else:
                bars[which] = client.create_artifact(new).id

        _send(send)

    with listening(move):
        yield


def _live_curves() -> Callable[[Progress, str], None]:
    """Draws the curves of work that has some, in a card that is sent every `CURVES_EVERY_S` and at the end."""
    shown: dict[int, UUID] = {}
    sent: dict[int, float] = {}

    def draw(progress: Progress, line: str) -> None:
        which, now, finished = id(progress), time.monotonic(), progress.done >= progress.total
        if not progress.curves or (now - sent.get(which, -CURVES_EVERY_S) < CURVES_EVERY_S and not finished):
            return
        sent[which] = now
        curves = {name: list(points) for name, points in progress.curves.items()}
        new = _artifact("markdown", f"{progress.what} curves", "", line)

        def send(client: "SyncPrefectClient") -> None:
            markdown = curves_markdown(curves)
            if which in shown:
                client.update_artifact(shown[which], ArtifactUpdate(data=markdown, description=line))
            else:
                shown[which] = client.create_artifact(new.model_copy(update={"data": markdown})).id

        _send(send)

    return draw


def show_share(title: str, percent: float, line: str) -> None:
    """A bar on the flow run's page that moves each time, e.g. how far the whole run is."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    which = context.flow_run.id, title
    new = _artifact("progress", title, percent, line)

    def send(client: "SyncPrefectClient") -> None:
        if which in _shares:
            client.update_artifact(_shares[which], ArtifactUpdate(data=percent, description=line))
        else:
            _shares[which] = client.create_artifact(new).id

    _send(send)


def flush() -> None:
    """Wait until everything has been sent."""
    _sender.submit(int).result()


def _show(title: str, markdown: str, description: str) -> None:
    artifact = _artifact("markdown", title, markdown, description)
    _send(lambda client: client.create_artifact(artifact))


def _artifact(kind: str, title: str, data: str | float, description: str) -> ArtifactCreate:
    """The run's name is in front of the key: artifacts of one key are versions of one thing in the UI."""
    task_run_id, flow_run_id = get_task_and_flow_run_ids()
    name = run_name()
    key = re.sub(r"[^a-z0-9]+", "-", (title if title.startswith(name) else f"{name} {title}").lower()).strip("-")
    return ArtifactCreate(
        key=key, type=kind, data=data, description=description, task_run_id=task_run_id, flow_run_id=flow_run_id
    )


def _send(request: Callable[["SyncPrefectClient"], object]) -> None:
    """Send a request beside the work, by the API of the flow run that this is part of, if any."""
    context = SyncClientContext.get()
    if FlowRunContext.get() is None or context is None:
        return
    api = str(context.client.api_url)

    def deliver() -> None:
        global _silent_until
        if time.monotonic() < _silent_until:
            return
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # the client reads it at each request
                request(_client(api))
        except Exception as error:
            _silent_until = time.monotonic() + PAUSE_S
            log.warning("some cards of this run are missing in the Prefect UI: %s", error or type(error).__name__)

    _sender.submit(deliver)


@functools.cache
def _client(api: str) -> "SyncPrefectClient":
    """A client of the sending thread alone, beside the flow's own."""
    from prefect.client.orchestration import SyncPrefectClient

    return SyncPrefectClient(
        api,
        auth_string=PREFECT_API_AUTH_STRING.value(),
        api_key=PREFECT_API_KEY.value(),
        httpx_settings={"timeout": TIMEOUT_S},
    )
