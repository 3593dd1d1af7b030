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
_ASKED = frozenset(ASKED)
_NOTHING = "{}"


def identity(entry: dict[str, Any]) -> bytes:
    """16 bytes that are equal for two entries if key, version and what is asked are."""
    asked = _NOTHING
    if not _ASKED.isdisjoint(entry):
        asked = _asked(list(ASKED), tuple(entry.get(name) for name in ASKED))
    return _digest(entry["key"], entry.get("uri"), entry.get("size"), entry.get("etag"), asked)


def identities(plan: pa.Table) -> Iterator[tuple[bytes, bytes]]:
    """Of each row of a plan: its identity, and 8 bytes that stay the same when the photo has another version."""
    given = [name for name in ASKED if plan[name].null_count < len(plan)]
    columns = [plan[name].to_pylist() for name in given]
    asked = [_asked(given, values) for values in zip(*columns, strict=True)] if given else [_NOTHING] * len(plan)
    versions = (plan[name].to_pylist() for name in ("key", *VERSION))
    for values in zip(*versions, asked, strict=True):
        yield _digest(*values), task(values[0], values[4])


def _asked(names: list[str], values: tuple[Any, ...]) -> str:
    """What is asked, without what is not: a column that a later version adds changes no identity."""
    return json.dumps({name: value for name, value in zip(names, values, strict=True) if value is not None})


def task(key: str, asked: str) -> bytes:
    """8 bytes that stand for a photo's key and what is asked of it, whatever its version."""
    return hashlib.blake2b(f"{quoted(key)} {asked}".encode(), digest_size=8).digest()


def _digest(key: str, uri: str | None, size: int | None, etag: str | None, asked: str) -> bytes:
    """Written out, for one json.dumps of all takes twice as long, and a listing may have a million photos."""
    text = f"{quoted(key)} {quoted(uri or '')} {size} {quoted(etag) if etag is not None else None} {asked}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
