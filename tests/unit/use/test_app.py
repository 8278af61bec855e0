"""The page of `whyscore app` over real HTTP: who may ask, what it takes, and that batches take turns."""

import contextlib
import hashlib
import hmac
import io
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import uvicorn
from PIL import Image
from typer.testing import CliRunner

from pipeline_lib.use.app import guard
from pipeline_lib.use.app.queue import Limits, not_scored
from pipeline_lib.use.app.server import PAGE, About, build_app
from pipeline_lib.use.scorer import ScoredImage
from whyscore.cli import app as whyscore

FACTS = About("ite-1 score of run small", "aesthetic score", "mos", 1.0, 9.0, ("Can it tell good from bad? no",))
OWN = {"X-WhyScore": "1"}
PASSWORD = "correct horse battery"


def brightness(paths: list[str]) -> list[ScoredImage]:
    """A scorer without a model: it decodes the files, and its score is their brightness."""
    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                value = image.convert("L").resize((1, 1)).getpixel((0, 0))
        except OSError:
            found.append(not_scored(path, "not an image file"))
            continue
        assert isinstance(value, int)
        found.append(
            replace(
                not_scored(path, ""),
                image_sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
                predicted=value / 28,
                reading="monotone",
                score_distribution=(0.1,) * 10,
                digit_mass=1.0,
                parsed=True,
                stated_score=5,
                explanation="It is <b>bright</b>.",
                text="#Score: 5",
                problem=None,
            )
        )
    return found


@contextlib.contextmanager
def serving(score: Callable[[list[str]], list[ScoredImage]] = brightness, **settings: Any) -> Iterator[httpx.Client]:
    """A client of the page, which is served on a free port by a thread of this process."""
    config = uvicorn.Config(build_app(score, FACTS, **settings), port=0, log_config=None, log_level="error", ws="none")
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    port = web.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=OWN, timeout=30) as client:
            yield client
    finally:
        web.should_exit = True
        thread.join()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with serving() as found:
        yield found


def picture(shade: int = 100, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, kind)
    return buffer.getvalue()


def opened(client: httpx.Client) -> str:
    answer = client.post("/api/batches")
    assert answer.status_code == 201
    return str(answer.json()["batch"])


def give(client: httpx.Client, batch: str, content: bytes, name: str = "a.png") -> httpx.Response:
    return client.post(f"/api/batches/{batch}/images", params={"name": name}, content=content)


def finished(client: httpx.Client, batch: str) -> list[dict[str, Any]]:
    """The items of a batch when all have been scored."""
    for _ in range(1000):
        state = client.get(f"/api/batches/{batch}").json()
        if state["done"] == state["total"]:
            return list(state["changed"])
        time.sleep(0.01)
    raise AssertionError(state)


# ---- what it does ----


def test_an_image_is_scored_and_its_row_is_in_the_csv(client: httpx.Client) -> None:
    batch = opened(client)
    assert give(client, batch, picture(140), "my photo.png").json()["number"] == 0
    assert give(client, batch, picture(56), "=1+1.png").json()["number"] == 1
    first, second = finished(client, batch)
    assert first["scored"]["image"] == "my photo.png" and first["scored"]["predicted"] == 5.0
    assert second["scored"]["predicted"] == 2.0 and first["state"] == "done"
    answer = client.get(f"/api/batches/{batch}/scores.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="scores.csv"'
    rows = pd.read_csv(io.BytesIO(answer.content))
    assert list(rows["image"]) == ["my photo.png", "'=1+1.png"] and list(rows["predicted"]) == [5.0, 2.0]
    assert "whyscore-app-" not in answer.text  # the server's own folders


def test_excel_and_a_gallery_can_be_downloaded(client: httpx.Client) -> None:
    batch = opened(client)
    give(client, batch, picture(140), "<b>a</b>.png")
    give(client, batch, b"notes", "notes.jpg")
    finished(client, batch)
    sheet = pd.read_excel(io.BytesIO(client.get(f"/api/batches/{batch}/scores.xlsx").content))
    assert list(sheet["image"]) == ["<b>a</b>.png", "notes.jpg"]
    gallery = client.get(f"/api/batches/{batch}/gallery.html")
    assert "attachment" in gallery.headers["content-disposition"]
    assert "data:image/jpeg" in gallery.text and "&lt;b&gt;a&lt;/b&gt;.png" in gallery.text
    assert "notes.jpg" in gallery.text and "<b>a</b>" not in gallery.text and "whyscore-app-" not in gallery.text


def test_a_page_hears_of_changes_alone(client: httpx.Client) -> None:
    batch = opened(client)
    give(client, batch, picture())
    finished(client, batch)
    known = client.get(f"/api/batches/{batch}").json()["changes"]
    give(client, batch, picture(9))
    finished(client, batch)
    later = client.get(f"/api/batches/{batch}", params={"since": known}).json()
    assert [item["number"] for item in later["changed"]] == [1]
    assert client.get(f"/api/batches/{batch}", params={"since": "²"}).status_code == 200


def test_files_that_are_no_images_have_their_problem_and_stop_nobody(client: httpx.Client) -> None:
    batch = opened(client)
    for content in (b"these are notes", picture()[:40], b"", picture()):
        assert give(client, batch, content, "x.jpg").status_code == 201
    items = finished(client, batch)
    assert [item["scored"]["problem"] for item in items] == ["not an image file"] * 3 + [None]
    assert len(pd.read_csv(io.BytesIO(client.get(f"/api/batches/{batch}/scores.csv").content))) == 4


def test_a_format_that_no_browser_shows_has_a_picture(client: httpx.Client) -> None:
    batch = opened(client)
    give(client, batch, picture(kind="TIFF", size=(3000, 20)))
    give(client, batch, b"no image")
    answer = client.get(f"/api/batches/{batch}/images/0")
    shown = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/jpeg" and shown.format == "JPEG" and shown.width == 1200
    for number in (1, 2):
        assert client.get(f"/api/batches/{batch}/images/{number}").status_code == 404


def test_a_model_that_fails_does_not_end_the_page() -> None:
    calls = []

    def fails_once(paths: list[str]) -> list[ScoredImage]:
        calls.append(paths)
        if len(calls) == 1:
            raise RuntimeError("secret details")
        return brightness(paths)

    with serving(fails_once) as client:
        batch = opened(client)
        give(client, batch, picture())
        assert finished(client, batch)[0]["scored"]["problem"] == "the model failed (RuntimeError)"
        give(client, batch, picture())
        assert finished(client, batch)[1]["scored"]["problem"] is None


def test_batches_take_turns_and_the_model_has_one_caller() -> None:
    inside, most = [0], [0]
    order: list[str] = []
    hold = threading.Event()  # until all are there, however slow the machine is

    def slow(paths: list[str]) -> list[ScoredImage]:
        hold.wait(60)
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        order.extend(Path(path).parent.name for path in paths)
        inside[0] -= 1
        return brightness(paths)

    with serving(slow) as client:
        many, one = opened(client), opened(client)
        for _ in range(60):
            give(client, many, picture())
        give(client, one, picture())
        state = client.get(f"/api/batches/{one}").json()
        assert state["ahead"] <= 8
        hold.set()
        finished(client, one)
        finished(client, many)
    assert most == [1] and order.index(one) <= 16


def test_several_browsers_at_once() -> None:
    with serving() as client:
        results: list[list[float]] = []

        def browse(shade: int) -> None:
            with httpx.Client(base_url=client.base_url, headers=OWN, timeout=30) as own:
                batch = opened(own)
                for _ in range(10):
                    give(own, batch, picture(shade))
                results.append([item["scored"]["predicted"] for item in finished(own, batch)])

        threads = [threading.Thread(target=browse, args=(28 * n,)) for n in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [[float(n)] * 10 for n in range(1, 7)]


# ---- limits ----


def test_no_more_images_than_allowed() -> None:
    with serving(limits=Limits(images=2)) as client:
        batch = opened(client)
        statuses = [give(client, batch, picture()).status_code for _ in range(3)]
        assert statuses == [201, 201, 409] and len(finished(client, batch)) == 2
        assert give(client, opened(client), picture()).status_code == 201


def test_no_larger_files_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving(limits=Limits(megabytes=0.01)) as client:
        batch = opened(client)
        refused = give(client, batch, b"x" * 10_001)
        assert refused.status_code == 413 and "0.01 MB" in refused.json()["error"]
        assert give(client, batch, b"x" * 10_000).status_code == 201
        assert client.get("/api/about").json()["limits"]["megabytes"] == 0.01


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never held")


def sent_raw(client: httpx.Client, head: str, body: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=10) as connection:
        connection.sendall((head + "Host: 127.0.0.1\r\nX-WhyScore: 1\r\nConnection: close\r\n\r\n").encode() + body)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_size_that_is_not_said_or_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of unknown length could fill the disk; one that is cut off leaves nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving(limits=Limits(all_megabytes=0.01, megabytes=0.01)) as client:
        batch = opened(client)
        where = f"POST /api/batches/{batch}/images?name=a HTTP/1.1\r\n"
        assert b" 411 " in sent_raw(client, where + "Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\n\r\n")
        for _ in range(3):
            sent_raw(client, where + "Content-Length: 9000\r\n", b"short")
            eventually(lambda: not [path for path in tmp_path.rglob("*") if path.is_file()])
        # The space of the others is free again, soon after their connections have ended.
        eventually(lambda: give(client, batch, b"x" * 9000).status_code == 201)
        assert len(finished(client, batch)) == 1


def test_no_more_pixels_than_allowed() -> None:
    seen = []
    with serving(lambda paths: seen.extend(paths) or brightness(paths), limits=Limits(megapixels=1)) as client:  # type: ignore[func-returns-value]
        batch = opened(client)
        give(client, batch, picture(size=(1001, 1000)))
        give(client, batch, picture(size=(1000, 1000)))
        large, fits = finished(client, batch)
    assert "1001x1000 px are 1.0 million pixels" in large["scored"]["problem"]
    assert fits["scored"]["problem"] is None and len(seen) == 1


def test_large_images_are_decoded_alone() -> None:
    calls: list[int] = []
    hold = threading.Event()

    def counts(paths: list[str]) -> list[ScoredImage]:
        hold.wait(10)
        calls.append(len(paths))
        return brightness(paths)

    with serving(counts) as client:
        batch = opened(client)
        for size in ((8, 8), (9000, 9000), (9000, 9000), (8, 8), (8, 8)):
            buffer = io.BytesIO()
            Image.new("1", size).save(buffer, "PNG")
            give(client, batch, buffer.getvalue())
        hold.set()
        finished(client, batch)
    assert sum(calls) == 5 and len(calls) >= 3


def test_no_more_on_the_disk_than_allowed() -> None:
    with serving(limits=Limits(all_megabytes=0.015)) as client:
        first, second = opened(client), opened(client)
        assert give(client, first, b"x" * 9000).status_code == 201
        assert give(client, second, b"x" * 9000).status_code == 507
        finished(client, first)
        assert client.delete(f"/api/batches/{first}").status_code == 204
        assert give(client, second, b"x" * 9000).status_code == 201


def test_batches_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When they are cleared, when nobody asks for them any more, and when the server ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    with serving(limits=Limits(batches=2, idle_s=0.3)) as client:
        first, second = opened(client), opened(client)
        assert client.post("/api/batches").status_code == 503
        for batch in (first, second):
            give(client, batch, picture())
            finished(client, batch)
        assert len(files()) == 2
        assert stat.S_IMODE(os.stat(next(tmp_path.iterdir())).st_mode) == 0o700  # other users of the machine
        client.delete(f"/api/batches/{first}")
        assert len(files()) == 1 and client.get(f"/api/batches/{first}").status_code == 404
        time.sleep(0.4)
        opened(client)
        assert files() == [] and client.get(f"/api/batches/{second}").status_code == 404
        assert len({first, second}) == 2 and min(len(first), len(second)) >= 20
        give(client, opened(client), picture())
    assert list(tmp_path.iterdir()) == []


# ---- who may ask ----


def routes() -> list[tuple[str, str]]:
    served: Any = build_app(brightness, FACTS)
    found = []
    for route in served._app.routes:
        path = re.sub(r"\{number:int\}", "0", route.path.replace("{batch}", "unknown"))
        found += [(method, path) for method in sorted(route.methods)]
    return found


def test_no_address_answers_without_the_password() -> None:
    assert len(routes()) >= 10
    with serving(password=PASSWORD) as client:
        for method, path in [*routes(), ("GET", "/nowhere"), ("PUT", "/"), ("OPTIONS", "/api/about")]:
            answer = client.request(method, path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic"), (method, path)
            assert "WhyScore" not in answer.text and "run" not in answer.text
        right = httpx.BasicAuth("anyone", PASSWORD)
        assert client.get("/api/about", auth=right).json()["model"] == FACTS.model
        assert client.post("/api/batches", auth=right).status_code == 201


@pytest.mark.parametrize(
    "given",
    ["Basic", "Basic !", "Basic Og==", "Bearer correct", "Basic Y29ycmVjdA==", f"Basic {PASSWORD}", "\xff"],
)
def test_a_wrong_password_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_WRONG_WAITS_S", 0.0)
    with serving(password=PASSWORD) as client:
        headers = {"Authorization": given.encode("latin-1")}
        assert client.get("/", headers=headers).status_code == 401


def test_passwords_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `hmac.compare_digest`, on digests: values of different lengths would end it early."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(guard, "_WRONG_WAITS_S", 0.0)
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))  # type: ignore[func-returns-value]
    with serving(password=PASSWORD) as client:
        for password in ("", "c", PASSWORD + "x", PASSWORD):
            client.get("/", auth=("", password))
    assert len(compared) == 4 and all(len(a) == len(b) == 32 for a, b in compared)


def test_wrong_passwords_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_WRONG_WAITS_S", 0.2)
    with serving(password=PASSWORD) as client:
        address = str(client.base_url)
        begun = time.monotonic()
        threads = [threading.Thread(target=httpx.get, args=(address,), kwargs={"auth": ("", "no")}) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert client.get("/", auth=("", PASSWORD)).status_code == 200
        assert time.monotonic() - begun < 0.7  # the right one does not wait behind them
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun >= 0.8


def test_an_address_that_others_reach_needs_a_password() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.example.org"):
        with pytest.raises(ValueError, match="password"):
            build_app(brightness, FACTS, host=host)
        said = CliRunner().invoke(whyscore, ["app", "none.yaml", "--host", host], env={"WHYSCORE_APP_PASSWORD": None})
        assert said.exit_code == 1 and "WHYSCORE_APP_PASSWORD" in said.output
    short = CliRunner().invoke(whyscore, ["app", "none.yaml"], env={"WHYSCORE_APP_PASSWORD": "short"})
    assert short.exit_code == 1 and "12 or more" in short.output and "short" not in short.output.replace("shorter", "")


def test_another_site_cannot_use_the_page_of_its_visitor(client: httpx.Client) -> None:
    """Neither by a name of its own that leads here (DNS rebinding), nor by a form or a script that posts here."""
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        assert client.get("/api/about", headers={"Host": host}).status_code == 421
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:5"):
        assert client.get("/api/about", headers={"Host": host}).status_code == 200
    batch = opened(client)
    bare = httpx.Client(base_url=client.base_url)
    assert bare.post("/api/batches").status_code == 403
    assert bare.post(f"/api/batches/{batch}/images", content=picture()).status_code == 403
    assert bare.delete(f"/api/batches/{batch}").status_code == 403
    asked = bare.options("/api/batches", headers={"Origin": "https://evil.example", **OWN})
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_the_page_loads_nothing_from_elsewhere_and_no_text_becomes_html(client: httpx.Client) -> None:
    for path in ("/", "/style.css", "/app.js", "/api/about", "/nowhere"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}, file
        for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "@import", " onclick"):
            assert risky not in text
    for address in re.findall(r'(?:href|src)="([^"]+)"', client.get("/").text):
        assert address.startswith("data:") or client.get(f"/{address}").status_code == 200


def test_the_command_refuses_before_it_loads_a_model(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = CliRunner().invoke(whyscore, ["app", str(tmp_path / "none.yaml"), "--port", port])
    assert said.exit_code == 1 and f"port {port}" in said.output
    said = CliRunner().invoke(whyscore, ["app", str(tmp_path / "none.yaml"), "--port", "0", "--kind", "best"])
    assert said.exit_code == 1 and "--kind" in said.output
    said = CliRunner().invoke(whyscore, ["app", str(tmp_path / "none.yaml"), "--port", "0"])
    assert said.exit_code == 1 and "none.yaml" in said.output
    said = CliRunner().invoke(whyscore, ["app", str(tmp_path), "--port", "0", "--set", "name=a"])
    assert said.exit_code == 1 and "--set" in said.output


def test_the_rooms_of_the_page_need_no_prefect() -> None:
    code = "import sys, pipeline_lib.use.app.server; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
