"""What goes wrong on the way to a real S3 server: nothing is lost, nothing is half there."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline_lib.errors import S3Error
from pipeline_lib.store import ArtifactStore, Manifest, patience
from pipeline_lib.store.s3_files import PART_BYTES
from tests.s3.conftest import RealS3
from tests.s3.fault_proxy import FAULTS, Proxy
from tests.unit.store.test_artifact_store import AT, publish, reason

pytestmark = pytest.mark.only_with("--demo-size")

LARGE_BYTES = (2 * PART_BYTES) + (1 << 20)  # goes in three parts


@pytest.fixture
def proxied(store: ArtifactStore, proxy: Proxy) -> ArtifactStore:
    """The store through the proxy; `store` itself goes straight to the server."""
    return ArtifactStore(store.root)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random bytes that is uploaded in parts."""
    path = tmp_path_factory.mktemp("large") / "weights.bin"
    path.write_bytes(os.urandom(LARGE_BYTES))
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_every_third_request_spoiled_changes_nothing(
    proxied: ArtifactStore, store: ArtifactStore, proxy: Proxy, tmp_path: Path, fault: str
) -> None:
    proxy.fault = lambda method, path, seen: fault if seen % 3 == 0 else ""
    manifest = publish(proxied)
    proxied.write_pointer("runs/demo/p.json", {"value": 1})
    assert proxied.lookup(AT) == manifest == proxied.fetch(AT, tmp_path / "fetched")
    assert proxied.read_table(AT, "pairs").num_rows == 2
    assert proxied.verify(AT) == [] and list(proxied.addresses()) == [AT]
    assert proxied.read_pointer("runs/demo/p.json") == {"value": 1}
    proxied.copy_out(AT, "runs/demo/report")
    assert len(store.files.sizes(store.path("runs"))) == 3
    proxied.retract(AT)
    assert store.files.sizes(store.path(AT)) == {}
    assert len({(method, path) for _, method, path in proxy.spoiled}) > 3


@pytest.mark.parametrize("fault", ["cut after", "half the answer"])
@pytest.mark.parametrize("request_of", ["manifest", "one part", "completion", "beginning"])
def test_one_lost_answer_in_an_upload_in_parts(
    proxied: ArtifactStore, store: ArtifactStore, proxy: Proxy, large: Path, fault: str, request_of: str
) -> None:
    def is_it(method: str, path: str) -> bool:
        return {
            "manifest": method == "PUT" and path.endswith("manifest.json"),
            "one part": method == "PUT" and "partNumber=2" in path,
            "completion": method == "POST" and "uploadId=" in path,
            "beginning": method == "POST" and path.endswith("uploads"),
        }[request_of]

    proxy.fault = lambda method, path, seen: fault if is_it(method, path) and not proxy.spoiled else ""
    with proxied.attempt() as attempt:
        os.link(large, attempt.folder / "weights.bin")
        manifest = proxied.publish(AT, attempt, {})
    assert len(proxy.spoiled) == 1
    assert store.lookup(AT) == manifest and store.verify(AT) == []


KILLED = """
import sys
from pathlib import Path
from pipeline_lib.store import ArtifactStore
store = ArtifactStore(sys.argv[1])
store.files.put(store.path("large.bin"), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("before", [None, b"what was there before"])
def test_a_killed_upload_leaves_the_old_object_or_none_and_parts_that_can_be_removed(
    proxied: ArtifactStore, store: ArtifactStore, proxy: Proxy, large: Path, before: bytes | None
) -> None:
    if before:
        store.files.write(store.path("large.bin"), before)
    all_parts_are_there = threading.Event()

    def fault(method: str, path: str, seen: int) -> str:
        if not (method == "POST" and "uploadId=" in path):
            return ""
        all_parts_are_there.set()
        return "cut before"  # as often as the client may ask for the completion

    proxy.fault = fault
    child = subprocess.Popen([sys.executable, "-c", KILLED, store.root, str(large)])
    assert all_parts_are_there.wait(120)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    if before:
        assert store.files.read(store.path("large.bin")) == before
    else:
        assert store.files.sizes(store.root) == {}
    assert store.unfinished_uploads(1) == []  # it is younger than a day
    assert store.unfinished_uploads(0) == ["prefix/large.bin"]
    assert store.unfinished_uploads(0, remove=True) == ["prefix/large.bin"]
    assert store.unfinished_uploads(0) == []
    store.files.put(store.path("large.bin"), large)
    assert store.files.sizes(store.root) == {"large.bin": LARGE_BYTES}


def test_a_server_that_comes_back_is_waited_for(real_s3: RealS3, store: ArtifactStore) -> None:
    real_s3.tell("gateway down")
    back = threading.Timer(8, real_s3.tell, ["gateway up"])
    back.start()
    manifest = publish(store)
    back.join()
    assert store.lookup(AT) == manifest and store.verify(AT) == []


def test_a_server_that_stays_away_ends_in_an_error_and_the_next_try_works(
    real_s3: RealS3, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "WHOLE_S", 1.0)
    assert reason(store) == "not computed yet"  # the server was there
    real_s3.tell("gateway down")
    try:
        with pytest.raises(S3Error) as refused:
            publish(store)
        assert refused.value.code == "EndpointConnectionError"
    finally:
        real_s3.tell("gateway up")
    assert reason(store) == "not computed yet"
    assert isinstance(publish(store), Manifest)


def test_what_an_artifact_costs_in_requests(proxied: ArtifactStore, proxy: Proxy) -> None:
    def cost(call: object) -> int:
        before = len(proxy.requests)
        call()  # type: ignore[operator]
        return len(proxy.requests) - before

    assert cost(lambda: proxied.lookup(AT)) == 1  # not there
    assert cost(lambda: publish(proxied)) == 2 + 2  # its files, what arrived, the manifest
    assert cost(lambda: proxied.lookup(AT)) == 2  # the manifest, its files' sizes
    assert cost(lambda: proxied.read_table(AT, "pairs")) == 3
    assert cost(lambda: proxied.children("steps/generate")) == 1
    assert cost(lambda: proxied.retract(AT)) == 3  # the manifest, a listing, all keys at once
