"""Compacted files: the rows of many commits in one Parquet object, with what their footers said.

``compacted/000001.parquet``, ``000002``, … are each created once and never changed. The number of a file is one above
those that were read before it was made, it holds commits that none of them has, and its create is exclusive: so no
commit is in two files, however many compactions race or are killed.

Readers take a commit's rows from here where they are here; its own object in ``shards/`` may then be removed. So whoever
asks whether a shard is committed looks for the object first and at the compacted files after that: the file was there
before the object was removed. Should an attempt that is long out of date create the object once more, the rows here count.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.store import parquet
from tasks.store.errors import Corrupt, NotFound, UnknownSchema
from tasks.store.names import COMPACTED, ShardId, compacted_key, compacted_numbers
from tasks.store.objects import Store

FOOTER_TAIL = 64 * 1024
"""Bytes read to get at a Parquet footer; those of commits have 10 to 20 kB."""


@dataclass(frozen=True)
class Place:
    """Where a commit's rows lie in a compacted file, and what its own object was: entity tag and footer."""

    key: str
    row_group: int
    offset: int
    rows: int
    etag: str
    footer: dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A commit that goes into a compacted file: its rows, its footer and its object's entity tag."""

    shard: ShardId
    rows: pa.Table
    footer: dict[str, Any]
    etag: str


class CompactedFiles:
    """The compacted files of one store. Safe to share among threads; what was read once is not read again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.places: dict[ShardId, Place] = {}
        """Of all commits that the files seen so far hold."""
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        self._checked = functools.lru_cache(maxsize=1)(self._read_checked)
        self._group = functools.lru_cache(maxsize=1)(self._read_group)

    def look(self, unreadable: dict[str, str] | None = None) -> Mapping[ShardId, Place]:
        """The places of all commits that are in compacted files now. ``unreadable``: names files instead of raising.

        Raises:
            Corrupt: what is stored differs from what was written, or a file is missing.
            UnknownSchema: it was written by a later version.
        """
        with self._lock:
            numbers = compacted_numbers(entry.key for entry in self.store.list(COMPACTED))
            for number in range(1, max(numbers, default=0) + 1):
                try:
                    self._take(number)
                except (Corrupt, UnknownSchema) as error:
                    if unreadable is None:
                        raise
                    unreadable[compacted_key(number)] = str(error)
        return self.places

    def _take(self, number: int) -> None:
        if number in self._seen:
            return
        key = compacted_key(number)
        try:
            places = dict(_places(key, read_footer(self.store, key), str(self.store.shown(key))))
        except NotFound as error:
            raise Corrupt(f"{self.store.shown(key)} is missing: restore it from a copy") from error
        if places.keys() & self.places.keys():
            raise Corrupt(f"{self.store.shown(key)} holds commits that a file before it holds: restore it from a copy")
        self._seen.add(number)
        self.places = {**self.places, **places}

    @property
    def last(self) -> int:
        """Number of the last file that was read."""
        return max(self._seen, default=0)

    def read(self, place: Place, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a commit, in the schema of this version; the file's digest was compared.

        Raises NotFound, Corrupt or UnknownSchema.
        """
        group = self._group(place.key, place.row_group, None if columns is None else tuple(columns))
        return rows_at(place, group, str(self.store.shown(place.key)))

    def _read_group(self, key: str, row_group: int, columns: tuple[str, ...] | None) -> pa.Table:
        name, data = str(self.store.shown(key)), self._checked(key)
        return parquet.read_table(data, name, parquet.stored_schema(data, name), columns, row_group)

    def _read_checked(self, key: str) -> bytes:
        """The bytes of a file; a damaged reply is read once more. The last file is kept: its commits are read in turn."""
        data, name = self.store.get(key), str(self.store.shown(key))
        try:
            parquet.check(data, name)
        except Corrupt:
            data = self.store.get(key)
            parquet.check(data, name)
        return data


def rows_at(place: Place, group: pa.Table, name: str) -> pa.Table:
    """A commit's rows in the row group that has them. Raises Corrupt if it does not have so many."""
    rows = group.slice(place.offset, place.rows)
    if len(rows) != place.rows:
        raise Corrupt(f"{name} has fewer rows than its footer says: restore it from a copy")
    return rows


def read_footer(store: Store, key: str) -> dict[str, Any]:
    """Our footer entry of a Parquet object: one request, two if the footer is a long one.

    Raises NotFound, Corrupt or UnknownSchema.
    """
    name, tail = str(store.shown(key)), store.get_tail(key, FOOTER_TAIL)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if FOOTER_TAIL < length < MAX_FOOTER:
        tail = store.get_tail(key, length)
    try:
        return parquet.read_footer(tail, name)
    except Corrupt:  # a damaged reply
        return parquet.read_footer(store.get(key), name)


MAX_FOOTER = 256 * 2**20
"""A footer that claims to be longer is damaged."""


def render(commits: Sequence[Sequence[Kept]], attempt_id: str) -> bytes:
    """The bytes of a compacted file; a row group for each of ``commits``.

    Entries that all footers share are stored once.
    """
    every = [kept.footer for group in commits for kept in group]
    common = {key: value for key, value in every[0].items() if all(_has(footer, key, value) for footer in every)}
    listed = [
        [*kept.shard, number, offset, len(kept.rows), kept.etag, _without(kept.footer, common)]
        for number, group in enumerate(commits)
        for kept, offset in zip(group, _offsets(group), strict=True)
    ]
    tables = [pa.concat_tables([kept.rows for kept in group]).combine_chunks() for group in commits]
    return parquet.encode_groups(tables, {"attempt_id": attempt_id, "common": common, "commits": listed})


def _has(footer: dict[str, Any], key: str, value: object) -> bool:
    return key in footer and json.dumps(footer[key]) == json.dumps(value)


def _without(footer: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in footer.items() if key not in common}


def _offsets(group: Sequence[Kept]) -> Iterator[int]:
    at = 0
    for kept in group:
        yield at
        at += len(kept.rows)


def _places(key: str, footer: dict[str, Any], name: str) -> Iterator[tuple[ShardId, Place]]:
    """The commits that a compacted file's footer lists."""
    try:
        for plan, shard, row_group, offset, rows, etag, own in footer["commits"]:
            numbers = (plan, shard, row_group, offset, rows)
            if not all(isinstance(number, int) and number >= 0 for number in numbers) or not isinstance(etag, str):
                raise ValueError("not what a footer holds")
            yield ShardId(plan, shard), Place(key, row_group, offset, rows, etag, {**footer["common"], **own})
    except (LookupError, TypeError, ValueError) as error:
        raise Corrupt(f"{name} has a footer that Fixpoint did not write: restore it from a copy") from error
