"""Which failures are worth another try, and how the tries are spaced."""

from __future__ import annotations

import errno
import http.client
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from botocore import exceptions as boto

from tasks.store import errors, retry
from tasks.store.objects import open_store
from tasks.store.retry import Kind, RetryPolicy, Vanished, kind_of, with_retries

POLICY = RetryPolicy(attempts=6, first_delay=0.1, max_delay=1.0, budget=100)


def reply(status: int, code: str = "") -> boto.ClientError:
    return boto.ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


class HttpError(Exception):
    """As gcsfs raises it."""

    def __init__(self, code: Any) -> None:
        self.code = code


CASES = {
    Kind.EXISTS: [reply(412, "PreconditionFailed"), reply(412), FileExistsError(), HttpError(412)],
    Kind.MISSING: [reply(404, "NoSuchKey"), reply(404, "NoSuchBucket"), reply(404, "404"), FileNotFoundError()],
    Kind.DENIED: [
        reply(403, "AccessDenied"), reply(403, "SignatureDoesNotMatch"), reply(400, "ExpiredToken"), reply(401),
        PermissionError(errno.EACCES, "x"), boto.NoCredentialsError(), HttpError(403),
    ],
    Kind.FULL: [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), OSError(errno.EROFS, "x")],
    Kind.TRANSIENT: [
        reply(409, "ConditionalRequestConflict"), reply(503, "SlowDown"), reply(500, "InternalError"), reply(502),
        reply(504), reply(429), reply(400, "RequestTimeout"), reply(400, "BadDigest"), reply(200, "InternalError"),
        boto.FlexibleChecksumError(error_msg="x"), boto.ReadTimeoutError(endpoint_url="x"),
        boto.ConnectTimeoutError(endpoint_url="x"), boto.EndpointConnectionError(endpoint_url="x"),
        boto.ConnectionClosedError(endpoint_url="x"), boto.ResponseStreamingError(error="x"),
        aiohttp.ClientPayloadError(), aiohttp.ServerDisconnectedError(), aiohttp.ClientOSError(), TimeoutError(),
        ConnectionResetError(), http.client.IncompleteRead(b""), Vanished(), OSError(errno.ESTALE, "x"),
        OSError(errno.EIO, "x"), HttpError(503), HttpError("500"), json.JSONDecodeError("x", "", 0),
    ],
    Kind.PERMANENT: [
        reply(400, "InvalidArgument"), reply(405), reply(501, "NotImplemented"), OSError(errno.EINVAL, "x"),
        OSError(errno.ENAMETOOLONG, "x"), ValueError(), HttpError(None), HttpError(400), KeyError("x"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "error"), [(kind, error) for kind, found in CASES.items() for error in found])
def test_sorting(kind: Kind, error: Exception) -> None:
    assert kind_of(error) is kind


def failing(times: int, error: Exception, calls: list[int]) -> Any:
    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return call


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, not waited."""
    waited: list[float] = []
    retrying = retry.Retrying
    monkeypatch.setattr(retry, "Retrying", lambda **options: retrying(sleep=waited.append, **options))
    return waited


def test_transient_failures_pass(waits: list[float]) -> None:
    calls: list[int] = []
    assert with_retries(POLICY, "Reading x", failing(5, TimeoutError(), calls)) == "done"
    assert len(calls) == 6
    assert len(waits) == 5


def test_waits_are_random_and_grow_to_their_limit(waits: list[float]) -> None:
    policy = RetryPolicy(attempts=400, first_delay=0.1, max_delay=1.0, budget=1e9)
    with_retries(policy, "Reading x", failing(399, TimeoutError(), []))
    assert all(wait <= min(1.0, 0.1 * 2**i) for i, wait in enumerate(waits[:20]))
    late = sorted(waits[20:])
    assert late[0] < 0.05  # full jitter: anything from nothing …
    assert 0.9 < late[-1] <= 1.0  # … to the limit
    assert 0.4 < sum(late) / len(late) < 0.6


@pytest.mark.parametrize("error", [reply(404), reply(403), reply(400, "InvalidArgument"), OSError(errno.ENOSPC, "x")])
def test_permanent_failures_are_tried_once(error: Exception, waits: list[float]) -> None:
    calls: list[int] = []
    with pytest.raises(errors.StoreError):
        with_retries(POLICY, "Reading x", failing(9, error, calls))
    assert len(calls) == 1


def test_attempts_are_limited(waits: list[float]) -> None:
    calls: list[int] = []
    with pytest.raises(errors.StoreUnavailable, match="Reading x: still failing after 6 attempts"):
        with_retries(POLICY, "Reading x", failing(99, reply(503, "SlowDown"), calls))
    assert len(calls) == 6


def test_time_is_limited(waits: list[float]) -> None:
    calls: list[int] = []
    policy = RetryPolicy(attempts=1000, first_delay=50, max_delay=50, budget=0.0)
    with pytest.raises(errors.StoreUnavailable):
        with_retries(policy, "Reading x", failing(999, TimeoutError(), calls))
    assert len(calls) == 1


def test_a_bug_is_not_hidden(waits: list[float]) -> None:
    with pytest.raises(errors.StoreError, match="KeyError"):
        with_retries(POLICY, "Reading x", failing(1, KeyError("x"), []))


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_missing_package_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("no module")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(errors.InvalidLocation, match="pip install"):
        open_store(f"{scheme}://bucket/p")


def test_a_folder_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(errors.AccessDenied, match="rights"):
        open_store(str(tmp_path)).put_new("k", b"x")
