"""S3 as it goes wrong: each refusal is told apart, with what to do; a lost answer loses nothing."""

import contextlib
import importlib
import logging
import pickle
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from aiobotocore.httpsession import AIOHTTPSession
from typer.testing import CliRunner

from pipeline_lib.config.load import load_recipe
from pipeline_lib.errors import S3Error
from pipeline_lib.store import ArtifactStore, Manifest, patience, s3_errors
from pipeline_lib.store.s3_files import S3Files, file_system, make_bucket, reading
from tests.s3.fault_proxy import DAMAGE, Proxy, between
from whyscore.cli import app
from whyscore.commands import models


@pytest.fixture
def bucket(s3_server: str) -> str:
    name = f"s3-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").call_s3("create_bucket", Bucket=name)
    return name


@pytest.fixture
def proxy(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with between(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
        s3fs.S3FileSystem.clear_instance_cache()


def publish(store: ArtifactStore) -> Manifest:
    with store.attempt() as attempt:
        (attempt.folder / "weights.bin").write_bytes(b"w" * 1000)
        return store.publish("steps/train/k", attempt, {})


def test_a_bucket_that_is_not_there_is_named(s3_server: str) -> None:
    store = ArtifactStore("s3://no-such-bucket-here/prefix")
    with pytest.raises(S3Error, match="no-such-bucket-here") as refused:
        store.check_writable()
    assert refused.value.code == "NoSuchBucket"


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> Iterator[None]:
    """Nothing has been asked yet, as in a process that has just begun."""
    monkeypatch.setattr(patience, "OF_THIS_PROCESS", patience.Patience())
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def refused(new_process: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The server's port is closed. Waiting for it fails the test; the result has the requests that were tried."""
    tried: list[str] = []
    send = AIOHTTPSession.send

    async def counted(self: AIOHTTPSession, request: Any) -> Any:
        tried.append(request.url)
        return await send(self, request)

    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    monkeypatch.setattr(s3_errors.time, "sleep", lambda s: pytest.fail(f"waited {s} s for a closed port"))
    with socket.socket() as taken:  # bound and not listening: nobody else gets this port
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{taken.getsockname()[1]}")
        yield tried


def test_a_server_that_refuses_the_first_connection_is_not_waited_for(refused: list[str], tmp_path: Path) -> None:
    store, path = ArtifactStore("s3://bucket/prefix"), "s3://bucket/prefix/a"
    uses: list[Callable[[], object]] = [
        store.check_writable,
        store.describe,
        lambda: store.lookup("steps/train/k"),
        lambda: list(store.addresses()),
        lambda: store.read_pointer("runs/a/run.json"),
        lambda: store.files.put(path, Path(__file__)),
        lambda: store.files.get(path, tmp_path / "a"),
        lambda: store.files.sha256(path),
        lambda: store.files.with_file(path, lambda file: file.read()),
        lambda: reading().read(path),
        lambda: reading().entry(path),
    ]
    for use in uses:
        refused.clear()
        with pytest.raises(S3Error, match="AWS_ENDPOINT_URL_S3") as said:
            use()
        assert said.value.code == "EndpointConnectionError" and len(refused) == 1, use


COMMANDS = [
    ["status", "--store", "s3://bucket/prefix"],
    *(["status", "small.yaml"], ["report", "small.yaml"], ["gc", "--store", "s3://bucket/prefix"]),
    *(["verify", "s3://bucket/prefix"], ["check-data", "s3://bucket/scores.csv"]),
    ["predict", "small.yaml", "--export", "model"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_every_command_says_at_once_that_the_server_refuses(
    command: list[str], refused: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "prepare_prefect", lambda: None)
    (tmp_path / "small.yaml").write_text(
        "name: r\ndata: {table: t.csv}\nmodel: {id: bundled}\nruntime: {store: 's3://bucket/prefix'}\n"
    )
    answer = CliRunner().invoke(app, command)
    logging.getLogger("whyscore").handlers.clear()
    assert answer.exit_code == 1 and "EndpointConnectionError" in answer.output and len(refused) == 1


@pytest.mark.parametrize("flow", ["self_improve", "evo_quality", "stic", "self_judge"])
def test_every_run_says_at_once_that_the_server_refuses(flow: str, refused: list[str]) -> None:
    recipe = load_recipe(f"recipes/{flow}/demo.yaml", {"runtime.store": "s3://bucket/prefix"})
    run: Any = importlib.import_module(f"tasks.{flow}.run")
    with pytest.raises(S3Error) as said:
        run.prepare(recipe)
    assert said.value.code == "EndpointConnectionError" and len(refused) == 1


@pytest.mark.parametrize("fault", ["status 503", "cut before", "half the answer"])
def test_a_server_that_takes_the_first_connection_and_fails_twice_is_asked_again(
    new_process: None, proxy: Proxy, bucket: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3Files("").write(f"s3://{bucket}/a", b"1")
    monkeypatch.setattr(patience, "OF_THIS_PROCESS", patience.Patience())
    asked = len(proxy.requests)
    proxy.fault = lambda method, path, seen: fault if seen <= asked + 2 else ""
    assert reading().read(f"s3://{bucket}/a") == b"1" and len(proxy.spoiled) == 2


def test_a_server_that_answered_once_is_waited_for(
    new_process: None, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as back:
        with between(s3_server) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
            S3Files("").write(f"s3://{bucket}/a", b"1")

        def start_again(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                back.enter_context(between(s3_server, proxy.server_port))

        pauses: list[float] = []
        monkeypatch.setattr(s3_errors.time, "sleep", start_again)
        assert ArtifactStore(f"s3://{bucket}").files.read(f"s3://{bucket}/a") == b"1" and len(pauses) == 2


def test_work_for_another_process_waits_from_its_first_call_on(refused: list[str]) -> None:
    patience.expect_server()
    with pytest.raises(pytest.fail.Exception, match="waited"):
        reading().read("s3://bucket/a")


def test_missing_credentials_are_said(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(S3Error, match="AWS_ACCESS_KEY_ID"):
        ArtifactStore("s3://bucket/prefix").check_writable()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_stumbles_is_asked_again(proxy: Proxy, bucket: str, status: int) -> None:
    store = ArtifactStore(f"s3://{bucket}/prefix")
    proxy.fault = lambda method, path, seen: f"status {status}" if seen % 3 == 1 else ""
    manifest = publish(store)
    assert store.lookup("steps/train/k") == manifest and store.verify("steps/train/k") == []


def test_a_lost_answer_to_the_manifest_does_not_lose_the_artifact(proxy: Proxy, bucket: str) -> None:
    store = ArtifactStore(f"s3://{bucket}/prefix")
    lost: list[str] = []

    def fault(method: str, path: str, seen: int) -> str:
        if method == "PUT" and path.endswith("manifest.json") and not lost:
            lost.append(path)
            return "cut after"
        return ""

    proxy.fault = fault
    manifest = publish(store)
    assert lost and sum(path.endswith("manifest.json") for method, path in proxy.requests if method == "PUT") == 2
    assert store.lookup("steps/train/k") == manifest


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_object_that_is_damaged_on_its_way_is_read_again(
    proxy: Proxy, bucket: str, tmp_path: Path, damage: str
) -> None:
    store = ArtifactStore(f"s3://{bucket}/prefix")
    manifest = publish(store)
    path = f"{manifest.attempt}/weights.bin"
    for read in (
        lambda: store.read_file("steps/train/k", "weights.bin"),
        lambda: store.fetch("steps/train/k", tmp_path) and (tmp_path / "weights.bin").read_bytes(),
        lambda: store.copy_out("steps/train/k", "runs/a") or store.files.read(store.path("runs/a/weights.bin")),
    ):
        proxy.spoiled.clear()
        proxy.fault = lambda method, asked, seen: (
            damage if method == "GET" and path in asked and not proxy.spoiled else ""
        )
        assert read() == b"w" * 1000 and len(proxy.spoiled) == 1
    assert store.lookup("steps/train/k") == manifest


def test_a_store_that_stays_broken_ends_in_an_error_and_shows_nothing(proxy: Proxy, bucket: str) -> None:
    store = ArtifactStore(f"s3://{bucket}/prefix")
    proxy.fault = lambda method, path, seen: "status 403" if method == "PUT" else ""
    with pytest.raises(S3Error) as refused:
        publish(store)
    assert refused.value.code == "403"
    assert store.lookup("steps/train/k") != Manifest
    proxy.fault = lambda method, path, seen: ""
    assert isinstance(store.lookup("steps/train/k"), type(store.lookup("steps/none/k")))
    assert isinstance(publish(store), Manifest)


def test_a_removal_that_is_refused_inside_an_answer_of_success_is_seen(proxy: Proxy, bucket: str) -> None:
    store = ArtifactStore(f"s3://{bucket}/prefix")
    publish(store)
    refused = "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    proxy.fault = lambda method, path, seen: f"say {refused}" if method == "POST" and "delete" in path else ""
    with pytest.raises(S3Error) as refused_removal:
        store.files.remove_folder(store.path("steps"))
    assert (refused_removal.value.action, refused_removal.value.code) == ("remove_folder", "AccessDenied")


def test_large_files_go_in_parts_and_many_keys_are_listed(bucket: str, tmp_path: Path) -> None:
    files = S3Files(f"s3://{bucket}")
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * (40 << 12))  # 40 MiB: three parts
    files.put(f"s3://{bucket}/a/large.bin", large)
    files.get(f"s3://{bucket}/a/large.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == large.read_bytes()
    files.fs.pipe({f"s3://{bucket}/many/{n:05d}": b"x" for n in range(1100)})  # a listing's page holds 1,000
    assert len(files.sizes(f"s3://{bucket}/many")) == 1100


def test_the_clocks_are_compared(bucket: str) -> None:
    assert abs(S3Files(f"s3://{bucket}").clock_skew_s(f"s3://{bucket}")) < 5


def test_what_lies_under_a_prefix(bucket: str) -> None:
    files, root = S3Files(f"s3://{bucket}"), f"s3://{bucket}/set"
    files.fs.pipe({f"{root}/a.csv": b"1,2", f"{root}/below/b.csv": b"3", f"{root}/below/": b""})
    assert files.names(root) == ["a.csv", "below"] and files.names(f"{root}/none") == []
    assert [files.is_folder(path) for path in (root, f"{root}/", f"s3://{bucket}", f"{root}/a.csv", f"{root}/be")] == [
        *(True, True, True, False, False)
    ]
    assert list(files.entries(root)) == ["a.csv", "below/b.csv"]
    assert files.entries(root, below=False) == {"a.csv": files.entry(f"{root}/a.csv")}
    assert files.read_part(f"{root}/a.csv", 1, 3) == b",2"
    assert files.with_file(f"{root}/a.csv", lambda file: file.read()) == b"1,2"


def test_an_error_keeps_its_fields_between_processes() -> None:
    error = pickle.loads(pickle.dumps(S3Error("read", "s3://b/k", "NoSuchBucket", "create it")))
    assert (error.action, error.path, error.code, error.why) == ("read", "s3://b/k", "NoSuchBucket", "create it")


def test_a_bucket_is_made_once_with_keys_of_ones_own(s3_server: str) -> None:
    for _ in range(2):
        fs = file_system(once=True, key="own", secret="own", endpoint_url=s3_server)
        assert make_bucket(fs, "s3://made-here/prefix") == "made-here"
    assert fs.exists("made-here")
