"""What makes two lines of a listing the same work, as digests that checkpoints keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import pyarrow as pa

from tasks.store.schema import PLAN

VERSION = ("uri", "size", "etag")
"""Columns that tell one version of a photo from another."""
ASKED = tuple(name for name in PLAN.names if name not in {"shard", "row", "attempt", "key", *VERSION})
"""Columns that say what is asked of the photo."""
_NOTHING = json.dumps([None] * len(ASKED))


def identity(entry: dict[str, Any]) -> bytes:
    """16 bytes that are equal for two entries if key, version and what is asked are."""
    asked = [entry.get(name) for name in ASKED]
    return _digest(
        entry["key"],
        entry.get("uri"),
        entry.get("size"),
        entry.get("etag"),
        _NOTHING if asked == _BLANK else _json(asked),
    )


def identities(plan: pa.Table) -> Iterator[tuple[bytes, bytes]]:
    """Of each row of a plan: its identity, and 8 bytes that stay the same when the photo has another version."""
    key, uri, size, etag = (plan[name].to_pylist() for name in ("key", *VERSION))
    blank = all(plan[name].null_count == len(plan) for name in ASKED)
    rest = [_NOTHING] * len(plan) if blank else [_json(list(row)) for row in zip(*_columns(plan), strict=True)]
    for values in zip(key, uri, size, etag, rest, strict=True):
        yield _digest(*values), task(values[0], values[4])


def _columns(plan: pa.Table) -> list[list[Any]]:
    return [plan[name].to_pylist() for name in ASKED]


def task(key: str, asked: str) -> bytes:
    """8 bytes that stand for a photo's key and what is asked of it, whatever its version."""
    return hashlib.blake2b(f"{quoted(key)} {asked}".encode(), digest_size=8).digest()


def _digest(key: str, uri: str | None, size: int | None, etag: str | None, asked: str) -> bytes:
    """Written out instead of one json.dumps: a million listed photos take three seconds, not six."""
    text = f"{quoted(key)} {quoted(uri or '')} {size} {quoted(etag) if etag is not None else None} {asked}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _json(values: list[Any]) -> str:
    return json.dumps(values)


_BLANK: list[Any] = [None] * len(ASKED)
