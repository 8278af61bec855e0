"""The one access to S3, for stores, tables, images and models, on AWS, Ceph, SeaweedFS, MinIO and other servers.

Endpoint, region and credentials come from where every S3 client looks: AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws. They are in no recipe.

The state after a hard crash: keys that no manifest names, as in a folder, and parts of an upload that was never
completed, which no listing shows but which take space (`unfinished_uploads`).
"""

import contextlib
import datetime
import email.utils
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import s3fs
from botocore.exceptions import ClientError

from pipeline_lib.store import patience
from pipeline_lib.store.s3_errors import code_of, explained, response_of

T = TypeVar("T")

PART_BYTES = 16 << 20
"""Files of more than two parts go in parts, ten at a time, which are in memory."""


class Entry(NamedTuple):
    """A key: size in bytes, a tag that changes with its content, and when it was last written."""

    size: int
    etag: str
    modified: datetime.datetime


class Upload(NamedTuple):
    """An upload in parts that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    started: datetime.datetime


def file_system(*, once: bool = False, **account: str) -> s3fs.S3FileSystem:
    """The s3fs filesystem with WhyScore's settings; `once` tries each request once, with short timeouts.

    `account` (key, secret, endpoint_url) replaces the environment's. All threads of a process get the same client, and
    a forked process one of its own.
    """
    patient = {"retries": {"max_attempts": 4, "mode": "standard"}, "connect_timeout": 10, "read_timeout": 60}
    config = {"retries": {"total_max_attempts": 1}, "connect_timeout": 5, "read_timeout": 10} if once else patient
    fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=config, **account)  # others write to a bucket too
    fs.retries = 1  # else each of the client's attempts is repeated five times over
    return fs


def make_bucket(fs: s3fs.S3FileSystem, path: str) -> str:
    """Make the bucket of a path if it does not exist; returns its name."""
    bucket = _split(path)[0]
    if not fs.exists(bucket):
        fs.mkdir(bucket)
    return bucket


def reading() -> "S3Files":
    """Access for everything but a store."""
    return S3Files("")


class S3Files:
    """Paths are `s3://bucket/key`. A key is seen whole or not at all: that is how S3 writes.

    Every method raises `S3Error` when the server refuses or stays silent. All of a process share one patience.
    """

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    @property
    def patience(self) -> patience.Patience:
        """How long a failing call is repeated."""
        return patience.OF_THIS_PROCESS

    @property
    def fs(self) -> s3fs.S3FileSystem:
        """The client of this process, also of a forked one; a server that is not waited for is asked once a call."""
        return file_system(once=not self.patience.seconds)

    def reach(self, path: str) -> None:
        """Ask for the bucket once, without patience, so that a wrong setting is reported at once."""
        self.patience.used_up()
        self.ask(path)

    @explained
    def ask(self, path: str) -> None:
        """One request for the bucket, tried once."""
        file_system(once=True).call_s3("list_objects_v2", Bucket=_split(path)[0], MaxKeys=1)

    @explained
    def read(self, path: str) -> bytes:
        """All bytes of a key, in one request; raises `FileNotFoundError`."""
        return bytes(self.fs.cat_file(path, max_concurrency=1))

    @explained
    def read_part(self, path: str, start: int, end: int) -> bytes:
        """The bytes of a key from `start` to before `end`; raises `FileNotFoundError`."""
        return bytes(self.fs.cat_file(path, start=start, end=end))

    @explained
    def with_file(self, path: str, read: Callable[[BinaryIO], T]) -> T:
        """The result of `read` on a key, of which only what `read` asks for is fetched; raises `FileNotFoundError`."""
        with self.fs.open(path, "rb") as file:
            return read(file)

    @explained
    def sha256(self, path: str) -> str:
        """Sha256 of a key's bytes, in hex; raises `FileNotFoundError`."""
        with self.fs.open(path, "rb", block_size=PART_BYTES) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @explained
    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every key below a prefix, by its path relative to it; empty when there is none."""
        return {name: int(found["Size"]) for name, found in self._list(folder)}

    @explained
    def times(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size, and when it was last written in seconds of the epoch, of every key below a prefix; see `sizes`."""
        return {name: (int(found["Size"]), found["LastModified"].timestamp()) for name, found in self._list(folder)}

    @explained
    def entries(self, folder: str, *, below: bool = True) -> dict[str, Entry]:
        """Every key below a prefix by its path relative to it, or only those directly in it; empty when none."""
        how = {} if below else {"Delimiter": "/"}
        found = self._list(folder, **how)
        return {name: _entry(facts, "Size") for name, facts in found if name and not name.endswith("/")}

    @explained
    def entry(self, path: str) -> Entry:
        """The facts of one key; raises `FileNotFoundError`."""
        bucket, key = _split(path)
        return _entry(self.fs.call_s3("head_object", Bucket=bucket, Key=key), "ContentLength")

    @explained
    def is_folder(self, path: str) -> bool:
        """Whether a path is a bucket, or a prefix that keys lie under."""
        bucket, prefix = _split(path)
        page = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=_below(prefix), MaxKeys=1)
        return not prefix or bool(page.get("Contents"))

    def names(self, folder: str) -> list[str]:
        """Names of the keys and prefixes directly below a prefix, sorted; empty when there is none."""
        return sorted({*self.entries(folder, below=False), *self.folders(folder)})

    @explained
    def folders(self, folder: str) -> list[str]:
        """Names of the prefixes directly below a prefix, sorted; empty when there is none."""
        return sorted(name.rstrip("/") for name, _ in self._list(folder, "CommonPrefixes", "Prefix", Delimiter="/"))

    @explained
    def create_if_absent(self, path: str, content: bytes) -> bool:
        """Create a small key by one conditional PUT; False when it exists already with another content.

        The client repeats a PUT whose answer was lost, and is then told that the key exists: it is its own.
        """
        while True:
            try:
                self.fs.pipe_file(path, content, mode="create")
                return True
            except (OSError, ClientError) as error:
                if not isinstance(error, FileExistsError) and code_of(error) not in ("PreconditionFailed", "412"):
                    raise
            with contextlib.suppress(FileNotFoundError):  # removed since: try again
                return bytes(self.fs.cat_file(path, max_concurrency=1)) == content

    @explained
    def write(self, path: str, content: bytes) -> None:
        """Create or replace a small key."""
        self.fs.pipe_file(path, content)

    @explained
    def put(self, path: str, local: Path) -> None:
        """Upload a local file, in parts when it is large."""
        self.fs.put_file(str(local), path, chunksize=PART_BYTES)

    @explained
    def get(self, path: str, local: Path) -> None:
        """Download a key to a local path."""
        self.fs.get_file(path, str(local), chunksize=PART_BYTES)

    @explained
    def remove(self, path: str) -> None:
        """Remove a key; nothing happens when it is gone already."""
        bucket, key = _split(path)
        self.fs.call_s3("delete_object", Bucket=bucket, Key=key)

    @explained
    def remove_folder(self, folder: str) -> None:
        """Remove every key below a prefix; raises when the server refuses one of them."""
        bucket, prefix = _split(folder)
        names = [name for name, _ in self._list(folder)]
        for start in range(0, len(names), 1000):
            keys = [{"Key": f"{prefix}/{name}"} for name in names[start : start + 1000]]
            answer = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if refused := answer.get("Errors"):  # the request as a whole succeeds all the same
                raise ClientError({"Error": refused[0]}, "DeleteObjects")

    @contextlib.contextmanager
    def alone(self, folder: str) -> Iterator[None]:
        """S3 has no locks. Two runs that replace one damaged artifact at once both put whole ones there; one stays."""
        yield

    @explained
    def unfinished_uploads(self, folder: str, older_than_days: float) -> list[Upload]:
        """Uploads in parts below a prefix that were begun so long ago and never completed, oldest first."""
        bucket, prefix = _split(folder)
        limit = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than_days)
        found: list[Upload] = []
        at: dict[str, str] = {}
        while True:
            page = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=_below(prefix), **at)
            found += [Upload(u["Key"], u["UploadId"], u["Initiated"]) for u in page.get("Uploads", [])]
            if not page.get("IsTruncated"):
                return sorted((upload for upload in found if upload.started <= limit), key=lambda u: u.started)
            at = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    @explained
    def abort_upload(self, folder: str, upload: Upload) -> None:
        """Remove the parts of an unfinished upload; nothing happens when it was completed or aborted meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.call_s3(
                "abort_multipart_upload", Bucket=_split(folder)[0], Key=upload.key, UploadId=upload.upload_id
            )

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        self.fs.connect()
        return str(self.fs._s3.meta.endpoint_url)

    @explained
    def clock_skew_s(self, path: str) -> float:
        """How far this machine's clock is ahead of the server's, in seconds; known even when it is too far."""
        try:
            answer: dict[str, Any] = self.fs.call_s3("list_objects_v2", Bucket=_split(path)[0], MaxKeys=1)
        except (OSError, ClientError) as error:
            if code_of(error) != "RequestTimeTooSkewed":
                raise
            answer = response_of(error) or {}
        date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
        return time.time() - email.utils.parsedate_to_datetime(date).timestamp()

    def _list(
        self, folder: str, what: str = "Contents", field: str = "Key", **how: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Entries below a prefix with their names relative to it, a page of 1,000 a request."""
        bucket, prefix = _split(folder)
        prefix = _below(prefix)
        while True:
            page = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **how)
            for entry in page.get(what, []):
                yield entry[field].removeprefix(prefix), entry
            if not page.get("IsTruncated"):
                return
            how["ContinuationToken"] = page["NextContinuationToken"]


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


def _entry(facts: dict[str, Any], size: str) -> Entry:
    return Entry(int(facts[size]), facts["ETag"], facts["LastModified"])


def _below(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""
