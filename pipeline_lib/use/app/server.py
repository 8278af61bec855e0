"""The addresses of the page. The browser's part is in `page/`; all texts of users travel as JSON and are never HTML."""

import asyncio
import contextlib
import io
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline_lib.data import files
from pipeline_lib.data.images import decoded
from pipeline_lib.methods.self_improve.tables import NEW_PREDICTIONS
from pipeline_lib.report.style import CSS
from pipeline_lib.tables.images import NEW_IMAGES
from pipeline_lib.use.app.guard import Guard, is_loopback
from pipeline_lib.use.app.queue import Item, Limits, Refused, ScoringQueue
from pipeline_lib.use.output import Predictions, writer
from pipeline_lib.use.scorer import ScoredImage, Scorer
from pipeline_lib.use.views import scores_of

PAGE = Path(__file__).parent / "page"

_STALLED_S = 30.0
"""An upload of which nothing arrives for so long is ended."""

_PREVIEW_PX = 1200
_LONGEST_NAME = 300


class About(NamedTuple):
    """The facts about the model that the page shows."""

    model: str
    criterion: str  # aesthetic score, ..
    score_column: str
    low: float  # least and greatest score that the model can give, on the scale of its training data
    high: float
    verdict: tuple[str, ...] = ()  # of the run, in words; empty: there is none


def about(scorer: Scorer, verdict: Sequence[str] = ()) -> About:
    """The facts about a loaded model."""
    values = scorer.scale.used.values
    return About(
        scorer.name,
        scorer.prompt.criterion.score,
        scorer.score_column,
        float(values.min()),
        float(values.max()),
        tuple(verdict),
    )


def build_app(
    score: Callable[[list[str]], list[ScoredImage]],
    facts: About,
    *,
    host: str = "127.0.0.1",
    password: str | None = None,
    limits: Limits | None = None,
) -> ASGIApp:
    """The application for any ASGI server; `score` is asked by one thread at a time.

    `host` is the address that the server will listen on. Raises `ValueError` when it is not loopback and there is no
    password.
    """
    if not is_loopback(host) and not password:
        raise ValueError(f"a page on {host} needs a password")
    limits = limits or Limits()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="whyscore-app-", ignore_cleanup_errors=True) as folder:
            app.state.queue = ScoringQueue(score, Path(folder), limits)
            app.state.queue.start()
            try:
                yield
            finally:
                await run_in_threadpool(app.state.queue.stop)

    app = Starlette(
        routes=[
            *(Route(f"/{name}" if name != "index.html" else "/", _page(name, kind)) for name, kind in _PAGE.items()),
            Route("/api/about", _about),
            Route("/api/batches", _open_batch, methods=["POST"]),
            Route("/api/batches/{batch}", _state, methods=["GET"]),
            Route("/api/batches/{batch}", _forget, methods=["DELETE"]),
            Route("/api/batches/{batch}/images", _upload, methods=["POST"]),
            Route("/api/batches/{batch}/images/{number:int}", _preview),
            *(Route(f"/api/batches/{{batch}}/{name}", _download(name)) for name in _DOWNLOADS),
        ],
        exception_handlers={Refused: _refused},
        lifespan=lifespan,
    )
    app.state.facts, app.state.limits, app.state.previews = facts, limits, asyncio.Semaphore(1)
    # With a password a foreign page cannot read anything: the browser does not send the password to its name.
    hosts = None if password else ("localhost", "127.0.0.1", "[::1]", host)
    return Guard(app, password, hosts)


_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        content = (PAGE / name).read_bytes()
        return Response(CSS.read_bytes() + content if name == "style.css" else content, media_type=kind)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status)


def _queue(request: Request) -> ScoringQueue:
    queue: ScoringQueue = request.app.state.queue
    return queue


async def _about(request: Request) -> Response:
    limits: Limits = request.app.state.limits
    facts: About = request.app.state.facts
    shown = {"images": limits.images, "megabytes": limits.megabytes, "megapixels": limits.megapixels}
    return JSONResponse(facts._asdict() | {"limits": shown, "endings": files.IMAGE_ENDINGS})


async def _open_batch(request: Request) -> Response:
    return JSONResponse({"batch": await run_in_threadpool(_queue(request).open_batch)}, 201)


async def _upload(request: Request) -> Response:
    """One image as the body of the request, its name in the query. Nothing of it is kept when it is too large."""
    queue, id = _queue(request), request.path_params["batch"]
    name = request.query_params.get("name", "").strip()[:_LONGEST_NAME] or "image"
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        raise Refused(411, "the size of the file must be given before it is sent")
    megabytes = int(length) / 1e6
    path = await run_in_threadpool(queue.reserve, id, megabytes)
    try:
        await _receive(request, path, int(length))
        item = await run_in_threadpool(queue.add, id, path, name, megabytes)
    except BaseException:
        await asyncio.shield(run_in_threadpool(queue.give_up, id, path, megabytes))
        raise
    return JSONResponse(_as_json(item), 201)


async def _receive(request: Request, path: Path, length: int) -> None:
    parts, received = request.stream().__aiter__(), 0
    with path.open("wb") as file:
        while True:
            try:
                part = await asyncio.wait_for(anext(parts), _STALLED_S)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise Refused(408, f"nothing arrived for {_STALLED_S:.0f} seconds; send the image again") from None
            except ClientDisconnect:
                raise Refused(400, "the upload was ended") from None
            received += len(part)
            if received > length:
                raise Refused(400, "the file is longer than was said")
            await run_in_threadpool(file.write, part)
    if received != length:
        raise Refused(400, "the file is shorter than was said; send it again")


async def _state(request: Request) -> Response:
    since = request.query_params.get("since", "0")
    known = int(since) if since.isascii() and since.isdigit() else 0
    state = await run_in_threadpool(_queue(request).state, request.path_params["batch"], known)
    return JSONResponse(state._asdict() | {"changed": [_as_json(item) for item in state.changed]})


async def _forget(request: Request) -> Response:
    await run_in_threadpool(_queue(request).forget, request.path_params["batch"])
    return Response(status_code=204)


def _as_json(item: Item) -> dict[str, Any]:
    state = "done" if item.scored else "scoring" if item.scoring else "waiting"
    return {"number": item.number, "name": item.name, "state": state, "scored": item.scored and asdict(item.scored)}


async def _preview(request: Request) -> Response:
    """An image as a smaller JPEG, for formats that browsers do not show; one is decoded at a time."""
    items = await run_in_threadpool(_queue(request).items, request.path_params["batch"])
    number = request.path_params["number"]
    if number >= len(items):
        raise Refused(404, "there is no such image")
    async with request.app.state.previews:
        content = await run_in_threadpool(_smaller, items[number], request.app.state.limits.megapixels)
    return Response(content, media_type="image/jpeg")


def _smaller(item: Item, max_megapixels: float) -> bytes:
    try:
        with decoded(item.path.read_bytes(), max_megapixels) as image:
            image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    except (OSError, ValueError) as error:
        raise Refused(404, "this image cannot be shown") from error
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


_DOWNLOADS = {
    "scores.csv": "text/csv; charset=utf-8",
    "scores.xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "gallery.html": "text/html; charset=utf-8",
}


def _download(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        items = await run_in_threadpool(_queue(request).items, request.path_params["batch"])
        async with request.app.state.previews:  # a gallery opens every image
            content = await run_in_threadpool(_written, items, request.app.state.facts, name)
        return Response(
            content, media_type=_DOWNLOADS[name], headers={"content-disposition": f'attachment; filename="{name}"'}
        )

    return answer


def _written(items: Sequence[Item], facts: About, name: str) -> bytes:
    """The items that have been scored, in the file that `whyscore predict` writes for that name."""
    done = [(item, item.scored) for item in items if item.scored]
    scored = pa.Table.from_pylist([asdict(scored) for _, scored in done], schema=NEW_PREDICTIONS.schema)
    files_of = [
        {"image": item.name, "path": str(item.path), "image_sha256": scored.image_sha256, "problem": scored.problem}
        for item, scored in done
    ]
    images = pa.Table.from_pylist(files_of, schema=NEW_IMAGES.schema)
    no_columns = scored.select([])
    predictions = Predictions(scored, scores_of(facts.score_column), facts.model, images, no_columns)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / name
        writer(str(out))(predictions)
        return out.read_bytes()
