"""Pictures inside Parquet tables, as Hugging Face's datasets keep them: a cell with bytes is a photo.

A table is read by ranges, one row group at a time; the last one stays in memory, for photos of a shard follow each other.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.store.backends import Entry
from tasks.store.bounded import too_large
from tasks.store.errors import Corrupt, NotFound, StoreError
from tasks.store.uris import Address, Cell, Shown

MAX_GROUP_BYTES = 2**30
"""Uncompressed bytes of the pictures of one row group."""


class Store(Protocol):
    """What is asked of a store (``tasks.store.objects.Store``)."""

    def stat(self, key: str) -> Entry | None:
        """Size and tag, None if it is not there."""

    def get_range(self, key: str, start: int, size: int) -> bytes:
        """Exactly these bytes."""

    def address(self, key: str) -> Address:
        """Where it is."""

    def shown(self, key: str) -> Shown:
        """The same for people."""


class Ranges(io.RawIOBase):
    """An object of a store as a file that is read piece by piece."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, or all that are left."""
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        data = self._store.get_range(self._key, self._at, count)
        self._at += count
        return data


def open_table(store: Store, key: str) -> Ranges:
    """The object as a file for pyarrow. Raises NotFound, or another StoreError."""
    entry = store.stat(key)
    if entry is None:
        raise NotFound(f"Reading {store.shown(key)}: it does not exist; check the spelling")
    return Ranges(store, key, entry.size)


def is_picture(kind: pa.DataType) -> bool:
    """Whether a column is of pictures in Hugging Face's convention: structs of bytes and path."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def bytes_leaf(kind: pa.DataType, column: str) -> str | None:
    """Where the bytes of a column of pictures are: in itself, or in its field ``bytes``; None if it can hold none."""
    if is_picture(kind):
        return f"{column}.bytes"
    return column if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


@dataclass(frozen=True)
class _Group:
    """The pictures of a row group, and which table, column and rows they are."""

    table: tuple[Any, ...]
    first: int
    pictures: pa.ChunkedArray

    def holds(self, table: tuple[Any, ...], row: int) -> bool:
        return self.table == table and self.first <= row < self.first + len(self.pictures)


_lock = Lock()
_kept: _Group | None = None


def read_cell(store: Store, key: str, cell: Cell, max_bytes: int) -> bytes:
    """The bytes of one picture.

    Raises:
        NotFound: there is no such table, column or row, or the cell is empty.
        TooLarge: the picture has more than ``max_bytes``, or its row group more than can be kept.
        Corrupt: the table cannot be read.
        StoreError: as for any object.
    """
    global _kept
    entry = store.stat(key)
    table = (store.address(key), cell.column, entry)
    with _lock:  # two readers of a shard want the same row group
        if _kept is None or not _kept.holds(table, cell.row):
            _kept = None  # before the next is read: there is room for one
            _kept = _read_group(store, key, cell, table)
        group = _kept
    value = group.pictures[cell.row - group.first].as_py()
    value = value.get("bytes") if isinstance(value, dict) else value
    if value is None:
        raise NotFound(f"{store.shown(key)}: column {cell.column} holds no picture in row {cell.row + 1}")
    if len(value) > max_bytes:
        raise too_large(store.shown(key), max_bytes)
    return bytes(value)


def _read_group(store: Store, key: str, cell: Cell, table: tuple[Any, ...]) -> _Group:
    try:
        source = open_table(store, key)
        file = pq.ParquetFile(source)
        names = file.schema_arrow.names
        leaf = bytes_leaf(file.schema_arrow.field(cell.column).type, cell.column) if cell.column in names else None
        number, first = _place(file, cell.row)
        if leaf is None or number is None:
            raise NotFound(f"{store.shown(key)} has no picture in row {cell.row + 1} of a column {cell.column}")
        check_group(file, number, [leaf], MAX_GROUP_BYTES)
        source.seek(0)
        packed = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=[leaf])  # a repeated value is kept once
        return _Group(table, first, packed.read_row_group(number, columns=[leaf]).column(0))
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise Corrupt(f"{store.shown(key)} is not readable Parquet ({' '.join(str(error).split())[:200]})") from None


def _place(file: pq.ParquetFile, row: int) -> tuple[int | None, int]:
    """Number of the row group that holds a row, and its first row; None past the end."""
    first = 0
    for number in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        if row < first + count:
            return number, first
        first += count
    return None, first


def check_group(file: pq.ParquetFile, number: int, columns: Collection[str], limit: int) -> None:
    """Raise ValueError if columns of a row group, or their leaves, unpack to more than ``limit`` bytes."""
    group = file.metadata.row_group(number)
    chunks = map(group.column, range(group.num_columns))
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if not {chunk.path_in_schema, chunk.path_in_schema.split(".")[0]}.isdisjoint(columns)
    )
    if size > limit:
        raise ValueError(
            f"row group {number} unpacks to {size:,} bytes, more than the {limit:,} allowed: write it with "
            "row_group_size=100"
        )
