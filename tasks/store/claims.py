"""Which photos earlier plans have claimed."""

from __future__ import annotations

import collections
import hashlib
import json
from typing import Any

import pyarrow as pa

from tasks.store.schema import PLAN

IDENTITY = tuple(name for name in PLAN.names if name not in {"shard", "row"})
"""Columns that make two lines the same work."""


class Claims:
    """A multiset of planned photos; about 150 bytes each."""

    def __init__(self) -> None:
        self._counts: collections.Counter[bytes] = collections.Counter()

    def add(self, plan: pa.Table) -> None:
        """Add the photos of a plan."""
        for batch in plan.to_batches(max_chunksize=10_000):
            self._counts.update(_identity(row) for row in batch.to_pylist())

    def cover(self, entry: dict[str, Any]) -> bool:
        """Whether a claim covers the entry. Each claim covers one entry, so it is used up."""
        identity = _identity(entry)
        if not self._counts.get(identity):
            return False
        self._counts[identity] -= 1
        return True


def _identity(entry: dict[str, Any]) -> bytes:
    values = [entry.get(name) for name in IDENTITY]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).digest()
