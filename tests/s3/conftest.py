import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs

from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.s3_server import how_to_install, missing_packages
from tests.s3.fault_proxy import Proxy, between

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RealS3:
    """A running server; its users are `owner` and `guest`, each with an access key and a secret key."""

    url: str
    users: dict[str, tuple[str, str]]
    process: subprocess.Popen[str]

    def tell(self, line: str) -> None:
        """`gateway down` or `gateway up`."""
        assert self.process.stdin and self.process.stdout
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def environment(self, user: str = "owner", url: str | None = None) -> dict[str, str]:
        """What a process needs to reach it as a user."""
        access_key, secret_key = self.users[user]
        return {
            "AWS_ENDPOINT_URL_S3": url or self.url,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    @contextlib.contextmanager
    def reached(self, user: str = "owner", url: str | None = None) -> Iterator[None]:
        """`s3://` means this server meanwhile, in this process and those that it starts."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
                patch.delenv(name, raising=False)
            for name, value in self.environment(user, url).items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            yield
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def real_server() -> Iterator[RealS3]:
    """A real S3 server for the whole session; it ends with the tests, however those end."""
    if missing := missing_packages():
        pytest.skip(how_to_install(missing))
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline_lib.testing.s3_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    started = server.stdout.readline()
    assert started, f"the S3 server did not start, it ended with {server.wait()}"
    told = json.loads(started)
    yield RealS3(told["url"], {name: tuple(keys) for name, keys in told["users"].items()}, server)
    server.stdin.close()
    server.wait(timeout=60)


@pytest.fixture
def real_s3(real_server: RealS3) -> Iterator[RealS3]:
    """The real server, reached by `s3://` in this test."""
    with real_server.reached():
        yield real_server


def new_bucket() -> str:
    """Make a bucket of one's own, so that tests stay apart."""
    name = f"store-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().call_s3("create_bucket", Bucket=name)
    return name


@pytest.fixture
def bucket(real_s3: RealS3) -> str:
    return new_bucket()


@pytest.fixture
def store(bucket: str) -> ArtifactStore:
    store = ArtifactStore(f"s3://{bucket}/prefix")
    assert store.files.endpoint  # type: ignore[union-attr]  # connects now, straight, whatever is reached later
    return store


@pytest.fixture
def proxy(real_server: RealS3, bucket: str) -> Iterator[Proxy]:
    """A proxy in front of the real server; `s3://` goes through it. The bucket was made without it."""
    with between(real_server.url) as proxy, real_server.reached(url=proxy.url):
        yield proxy
