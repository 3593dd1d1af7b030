"""The one retry layer: which failures pass by themselves, and how long to wait for that."""

from __future__ import annotations

import errno
import http.client
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_before_delay, wait_random_exponential

from tasks.store.errors import (
    AccessDenied,
    AlreadyExists,
    NotFound,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from tasks.store.redact import redact

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long one storage operation is tried. All times in seconds."""

    attempts: int = 10
    first_delay: float = 0.2  # the n-th wait is uniform in [0, first_delay · 2ⁿ]: "full jitter"
    max_delay: float = 20.0
    budget: float = 180.0  # no new attempt starts after this
    request_timeout: float = 60.0  # one network request: to connect, and between two pieces of a reply
    object_timeout: float = 600.0  # one attempt to read or write one object, however steadily its bytes drip


class Kind(Enum):
    """What a failure means for the caller."""

    EXISTS = "exists"
    MISSING = "missing"
    DENIED = "denied"
    FULL = "full"
    TRANSIENT = "transient"
    PERMANENT = "permanent"


class Vanished(ConnectionError):
    """A reply that contradicts itself, such as a short body: worth another try."""


_BY_STATUS = {404: Kind.MISSING, 401: Kind.DENIED, 403: Kind.DENIED, 412: Kind.EXISTS, 501: Kind.PERMANENT}
_BY_ERRNO = {
    **dict.fromkeys([errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG], Kind.FULL),
    **dict.fromkeys([errno.EACCES, errno.EPERM], Kind.DENIED),
    **dict.fromkeys(
        [
            *(errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ESTALE, errno.EINTR, errno.EIO),
            *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EPIPE, errno.EMFILE, errno.ENFILE),
        ],
        Kind.TRANSIENT,
    ),
}
_TRANSIENT_CODES = frozenset(
    "RequestTimeout IncompleteBody BadDigest XAmzContentSHA256Mismatch InternalError SlowDown RequestTimeoutException "
    "Throttling ThrottlingException ConditionalRequestConflict OperationAborted ServiceUnavailable".split()
)
_DENIED_CODES = frozenset("ExpiredToken InvalidToken TokenRefreshRequired AuthorizationHeaderMalformed".split())
_NETWORK_CLASSES = frozenset(
    "HTTPClientError ConnectionError FlexibleChecksumError IncompleteReadError ResponseParserError ClientError "
    "ResponseStreamingError ReadTimeoutError URLError ServiceRequestError ServiceResponseError "
    "JSONDecodeError ChecksumError".split()  # gcsfs meets a reply that was cut short
)
_CREDENTIAL_CLASSES = frozenset(
    "NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError SSOError ProfileNotFound "
    "ConfigNotFound ConfigParseError InvalidConfigError GoogleAuthError ClientAuthenticationError".split()
)


def kind_of(error: BaseException) -> Kind:
    """Sort a failure. 409 means "try again", not "exists"; 412 (whatever else the reply says) means "exists"."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _kind_of_reply(response)
    if isinstance(error, FileExistsError):
        return Kind.EXISTS
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return Kind.MISSING
    if isinstance(error, TimeoutError | ConnectionError | EOFError | http.client.HTTPException):
        return Kind.TRANSIENT
    return _kind_by_class(error)


def _kind_of_reply(response: dict[str, dict[str, object]]) -> Kind:
    """Sort an error reply of S3 by its code and its HTTP status."""
    code = str(response.get("Error", {}).get("Code", ""))
    if code in _TRANSIENT_CODES:
        return Kind.TRANSIENT
    if code in _DENIED_CODES:
        return Kind.DENIED
    return _kind_of_status(int(str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))))


def _kind_of_status(status: int) -> Kind:
    if status in {0, 408, 409, 425, 429} or 200 <= status < 300:  # an error inside a 200 is a cut-off reply
        return Kind.TRANSIENT
    return _BY_STATUS.get(status, Kind.TRANSIENT if status >= 500 else Kind.PERMANENT)


def _kind_by_class(error: BaseException) -> Kind:
    """Sort by errno and by class name: the client libraries need not be installed for stores that are not used."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & _CREDENTIAL_CLASSES:
        return Kind.DENIED
    if names & _NETWORK_CLASSES:
        return Kind.TRANSIENT
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, Kind.PERMANENT)
    status = str(getattr(error, "status_code", None) or getattr(error, "code", None))  # Azure's and Google's clients
    return _kind_of_status(int(status)) if status.isdecimal() else Kind.PERMANENT


def with_retries(policy: RetryPolicy, what: str, call: Callable[[], T]) -> T:
    """Run ``call`` until it succeeds, fails for good or the budget is spent.

    Raises:
        StoreError: the failure in plain words; ``what`` (verb and public URI) begins the sentence.
    """
    retrying = Retrying(
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(policy.budget),
        wait=wait_random_exponential(multiplier=policy.first_delay, max=policy.max_delay),
        retry=retry_if_exception(lambda error: kind_of(error) is Kind.TRANSIENT),
        reraise=True,
    )
    try:
        return retrying(call)
    except StoreError:
        raise
    except Exception as error:
        explained = _explain(error, what, policy)
        raise explained from (error if redact(str(error)) == str(error) else None)


OPEN_BUCKETS = (
    ". A public bucket is read without any if FIXPOINT_S3_ANONYMOUS names it, one whose readers pay if "
    "FIXPOINT_S3_REQUESTER_PAYS does"
)
"""Advice for S3."""
CUSTOM_PROCESS = "custom-process"
"""What botocore calls the setting ``credential_process`` of a profile."""


def _denied(error: Exception, what: str, reason: str) -> AccessDenied:
    advice = OPEN_BUCKETS if "s3://" in what else ""
    if CUSTOM_PROCESS in reason:
        advice = (
            ". The command that the profile's setting credential_process names must print one JSON object: Version (1), "
            "AccessKeyId, SecretAccessKey"
        )
    denied = AccessDenied(
        f"{what}: access denied ({reason}); check the credentials in the environment and the rights they give{advice}"
    )
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    denied.recognised = code == "AccessDenied" or isinstance(error, PermissionError)
    return denied


def _explain(error: Exception, what: str, policy: RetryPolicy) -> StoreError:
    reason = redact(f"{type(error).__name__}: {error}")
    match kind_of(error):
        case Kind.MISSING:
            return NotFound(f"{what}: it does not exist; check the spelling and that the bucket or folder is there")
        case Kind.EXISTS:
            return AlreadyExists(f"{what}: it exists already")
        case Kind.DENIED:
            return _denied(error, what, reason)
        case Kind.FULL:
            return StoreFull(f"{what}: no space or not writable ({reason}); free some, then repeat the command")
        case Kind.TRANSIENT:
            return StoreUnavailable(
                f"{what}: still failing after {policy.attempts} attempts or {policy.budget:g} s ({reason}); "
                "check the connection, then run the same command again: it resumes"
            )
    return StoreError(f"{what}: {reason}")
