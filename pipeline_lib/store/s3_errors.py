"""What S3 refuses, and what it only stumbles over: the one gets an error with advice, the other is tried again."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from botocore.exceptions import ConnectionError as NoConnection

from pipeline_lib.errors import StoreError

log = logging.getLogger("whyscore.store")


class Patient(Protocol):
    """Says for how long a failing call is repeated."""

    patience_s: float


S = TypeVar("S", bound=Patient)
P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 120.0
"""For so long a server that does not answer, or breaks off, is asked again: a restart is no reason to end a run."""

_OURS_TO_GRANT = "these credentials may not do that; the store needs to list, get, put and delete"
_ADVICE = {
    "NoSuchBucket": "create the bucket first, or correct runtime.store",
    "AccessDenied": _OURS_TO_GRANT,
    "403": _OURS_TO_GRANT,
    "InvalidAccessKeyId": "the server does not know this access key; check AWS_ACCESS_KEY_ID or the AWS profile",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the AWS profile",
    "ExpiredToken": "these temporary credentials have expired; get new ones",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ too much; set this machine's clock",
    "AuthorizationHeaderMalformed": "the server is in another region; set AWS_DEFAULT_REGION",
    "QuotaExceeded": "make room in the bucket, or have its quota raised",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile",
    "PartialCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile",
}
_PASSING = {
    *("500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"),
    *("NoSuchUpload", "ConditionalRequestConflict"),  # another writer, or our own answer that was lost: look again
}
_BROKEN_OFF = (*s3fs.core.S3_RETRYABLE_ERRORS, NoConnection, ConnectionError, TimeoutError)
_FAILURES = (OSError, BotoCoreError, ClientError, *_BROKEN_OFF)


def explained(method: Callable[Concatenate[S, str, P], T]) -> Callable[Concatenate[S, str, P], T]:
    """Repeat what fails for a passing reason; turn what stays wrong into a `StoreError` with advice.

    Every method may be repeated: doing it twice is doing it once. `FileNotFoundError` of a key goes through, and so
    does what this machine's disk refuses.
    """

    @functools.wraps(method)
    def run(self: S, path: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        start, pause_s = time.monotonic(), 0.2
        while True:
            try:
                done = method(self, path, *args, **kwargs)
            except _FAILURES as error:
                code = code_of(error)
                passing = code in _PASSING or isinstance(error, _BROKEN_OFF)
                absent = isinstance(error, FileNotFoundError) and code != "NoSuchBucket"
                local = isinstance(error, OSError) and error.errno and response_of(error) is None  # this machine's disk
                if not passing:
                    self.patience_s = PATIENCE_S  # it answers
                if not passing and (absent or local):
                    raise
                if not passing or time.monotonic() - start + pause_s > self.patience_s:
                    if passing:
                        self.patience_s = 0.0  # what the caller does to clean up need not wait as long again
                    advice = _ADVICE.get(
                        code, "check the endpoint (AWS_ENDPOINT_URL_S3), try again; what is done stays"
                    )
                    raise StoreError(f"S3 store, {method.__name__} {path}: {code}: {error}; {advice}") from error
                log.warning("S3 store, %s %s: %s; trying again", method.__name__, path, code)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)
                continue
            self.patience_s = PATIENCE_S
            return done

    return run


def response_of(error: BaseException) -> dict[str, Any] | None:
    """The server's answer behind an error; None when there was none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return response
        seen = seen.__cause__
    return None


def code_of(error: BaseException) -> str:
    """What the server calls it, else the client."""
    response = response_of(error) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)
