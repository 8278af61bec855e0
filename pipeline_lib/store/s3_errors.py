"""Errors of S3: a call that fails for a passing reason is repeated, any other failure becomes an error with advice."""

import functools
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import aiohttp
import s3fs
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    EndpointConnectionError,
    FlexibleChecksumError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as NoConnection

from pipeline_lib.errors import S3Error
from pipeline_lib.store.patience import Patience

log = logging.getLogger("whyscore.store")


class Patient(Protocol):
    """Has a patience."""

    @property
    def patience(self) -> Patience:
        """How long a failing call is repeated; each answer of the server restores it."""
        ...


S = TypeVar("S", bound=Patient)
P = ParamSpec("P")
T = TypeVar("T")

_DENIED = "these credentials may not do that; reading needs the rights to list and get, a store also to put and delete"
_ADVICE = {
    "NoSuchBucket": "create the bucket first, or correct its name",
    "AccessDenied": _DENIED,
    "403": _DENIED,
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
_CHANGED_ON_THE_WAY = (ChecksumError, FlexibleChecksumError, IncompleteReadError)
_BROKEN_OFF = (*s3fs.core.S3_RETRYABLE_ERRORS, NoConnection, ConnectionError, TimeoutError, *_CHANGED_ON_THE_WAY)
_FAILURES = (OSError, BotoCoreError, ClientError, *_BROKEN_OFF)


def explained(method: Callable[Concatenate[S, str, P], T]) -> Callable[Concatenate[S, str, P], T]:
    """Repeat what fails for a passing reason; turn what stays wrong into an `S3Error` with advice.

    Every method may be repeated: doing it twice is doing it once. `FileNotFoundError` of a key and errors of this
    machine's disk pass unchanged.
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
                if not passing or (not self.patience.reached and _was_reached(error)):
                    self.patience.answered()
                if not passing and (absent or local):
                    raise
                if not passing or time.monotonic() - start + pause_s > self.patience.seconds:
                    if passing:
                        self.patience.used_up()
                    advice = _ADVICE.get(
                        code, "check the endpoint (AWS_ENDPOINT_URL_S3) and try again; finished work stays"
                    )
                    raise S3Error(method.__name__, path, code, f"{error}; {advice}") from error
                log.warning("S3, %s %s: %s; trying again", method.__name__, path, code)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)
                continue
            self.patience.answered()
            return done

    return run


def _was_reached(error: BaseException) -> bool:
    """Whether a server took the connection: it then failed, was slow, or broke off."""
    if isinstance(error, EndpointConnectionError):  # also of a connection that stood and was reset
        return not isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorError | socket.gaierror)
    return not isinstance(error, NoConnection)


def response_of(error: BaseException) -> dict[str, Any] | None:
    """The server's answer that caused an error; None when there was none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return response
        seen = seen.__cause__
    return None


def code_of(error: BaseException) -> str:
    """The server's code of an error, else the name of the client's exception."""
    response = response_of(error) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)
