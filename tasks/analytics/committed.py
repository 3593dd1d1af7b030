"""Reading what a run committed: which shards there are, their footers, and chosen columns of their rows."""

from __future__ import annotations

import functools
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.store.compacted import CompactedFiles, Place, rows_at
from tasks.store.errors import Corrupt, NotFound, UnknownSchema
from tasks.store.names import ShardId, output_name
from tasks.store.objects import Store, open_store
from tasks.store.schema import FOOTER_KEY, SCHEMA_VERSION, shard_schema
from tasks.store.uris import Address

_SHARD = re.compile(r"shards/(\d{6}-\d{5}\.parquet)")
PLACE = ("plan", "shard", "row", "key")
"""Columns of every shard: which planned photo a row is of."""
_BLOCK = 1 << 20
"""Bytes asked for at least when a column is read from a remote shard."""


class Output:
    """An output root: its store, and a file system that can read parts of an object, which a store cannot."""

    def __init__(self, store: Store, fs: Any, root: str) -> None:
        self.store, self.fs, self.root = store, fs, root
        self.compacted = CompactedFiles(store)
        self._row_group = functools.lru_cache(maxsize=1)(self._read_row_group)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it is."""
        return self.store.location.uri.rstrip("/")

    @property
    def run(self) -> str:
        """Name of the run in the tables."""
        return output_name(self.store.location)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.store.location.scheme == "file"

    def open(self, key: str) -> Any:
        """An object as a file. Raises FileNotFoundError, or another OSError."""
        path = f"{self.root}/{key}"
        if self.is_local:
            return self.fs.open(path, "rb")
        return self.fs.open(path, "rb", cache_type="readahead", block_size=_BLOCK)

    def held_rows(self, place: Place, columns: Sequence[str]) -> pa.Table:
        """Columns of a commit in a compacted file, nulls where it lacks one. Raises Corrupt."""
        with self._lock:  # threads that read ahead share a row group: it is read once
            return rows_at(place, self._row_group(place.key, place.row_group, tuple(columns)), place.key)

    def _read_row_group(self, key: str, number: int, columns: tuple[str, ...]) -> pa.Table:
        with self.open(key) as file, _named(key):
            parquet = pq.ParquetFile(file)
            present = [name for name in columns if name in parquet.schema_arrow.names]
            return _complete(parquet.read_row_group(number, columns=present, use_threads=False), columns)


@dataclass(frozen=True)
class Shard:
    """One committed shard object; ``etag`` changes whenever its bytes do, and is empty where nobody listed it."""

    name: str
    etag: str = ""


def open_output(url: str) -> Output:
    """The output root at a folder or URL; nothing is contacted yet.

    Raises:
        InvalidLocation: if the URL is not allowed.
    """
    store = open_store(url)
    place = store.location
    root = "/".join(part for part in (place.bucket, place.path.rstrip("/")) if part)
    return Output(store, _file_system(place), root)


def _file_system(place: Address) -> Any:
    if place.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return fsspec.filesystem("s3", use_listings_cache=False, endpoint_url=endpoint)
    return fsspec.filesystem(place.scheme)


def list_shards(output: Output, unreadable: dict[str, str] | None = None) -> list[Shard]:
    """All committed shards, by name; empty if the run has committed none.

    ``unreadable``: compacted files that cannot be read are named here instead of raising Corrupt.
    """
    entries = ((_SHARD.fullmatch(entry.key), entry.etag) for entry in output.store.list("shards/"))
    etags = {match[1]: etag for match, etag in entries if match}
    held = output.compacted.look(unreadable)  # after the listing: see ``tasks.store.compacted``
    etags |= {shard.name: place.etag for shard, place in held.items()}
    return [Shard(name, etag) for name, etag in sorted(etags.items())]


def row_files(url: str) -> list[str]:
    """The files of a local output that hold its committed rows, each row once, for any Parquet reader."""
    output = open_output(url)
    own = [shard.name for shard in list_shards(output) if _place(output, shard) is None]
    held = sorted({place.key for place in output.compacted.places.values()})
    return [f"{output.root}/{key}" for key in (*held, *(f"shards/{name}" for name in own))]


def read_json(output: Output, key: str) -> dict[str, Any]:
    """The JSON object at ``key``; empty if there is none or it is not an object."""
    try:
        value = json.loads(output.store.get(key))
    except (NotFound, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_shard(output: Output, shard: Shard, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Only ``columns`` of a shard, and its footer. A column the shard lacks comes back as nulls.

    Raises:
        Corrupt: if it is no shard.
        UnknownSchema: if it was written by a later version.
    """
    if place := _place(output, shard):
        return output.held_rows(place, columns), place.footer
    try:
        return _own_rows(output, shard, columns)
    except FileNotFoundError:  # removed since it was listed
        if place := _place(output, shard, look=True):
            return output.held_rows(place, columns), place.footer
        raise


def _place(output: Output, shard: Shard, *, look: bool = False) -> Place | None:
    """Where a compacted file holds a shard, as far as they are known."""
    held = output.compacted.look() if look else output.compacted.places
    one = ShardId.of(f"shards/{shard.name}")
    return held.get(one) if one else None


def _own_rows(output: Output, shard: Shard, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    with output.open(f"shards/{shard.name}") as file, _named(shard.name):
        parquet = pq.ParquetFile(file)
        told = footer(parquet)
        if not isinstance(version := told.get("schema_version", SCHEMA_VERSION), int) or version > SCHEMA_VERSION:
            raise UnknownSchema(
                f"{shard.name} was written by a newer fixpoint (ledger schema {version}; this one reads up to "
                f"{SCHEMA_VERSION}). Update fixpoint and run the command again."
            )
        if not set(PLACE) <= set(parquet.schema_arrow.names):
            raise Corrupt(f"{shard.name} has no columns {', '.join(PLACE)}: remove it, Fixpoint did not write it")
        present = [name for name in columns if name in parquet.schema_arrow.names]
        return _complete(parquet.read(columns=present, use_threads=False), columns), told


def read_rows(output: Output, shard: Shard, columns: Sequence[str], numbers: set[int]) -> Iterator[dict[str, Any]]:
    """The rows of a shard whose ``row`` is in ``numbers``, a few at a time: pictures never fill the memory."""
    place = _place(output, shard)
    try:
        file = output.open(place.key if place else f"shards/{shard.name}")
    except FileNotFoundError:  # removed since it was listed
        if place or not (place := _place(output, shard, look=True)):
            raise
        file = output.open(place.key)
    with file:
        parquet = pq.ParquetFile(file)
        wanted = {"plan", "shard", "row", *columns}
        present = [name for name in parquet.schema_arrow.names if name in wanted]
        groups = [place.row_group] if place else None
        one = ShardId.of(f"shards/{shard.name}")
        for batch in parquet.iter_batches(batch_size=16, row_groups=groups, columns=present, use_threads=False):
            rows = zip(*(batch.column(name).to_pylist() for name in ("plan", "shard", "row")), strict=True)
            found = [i for i, (plan, number, row) in enumerate(rows) if (plan, number) == one and row in numbers]
            yield from batch.take(pa.array(found, pa.int64())).to_pylist()


def footer(parquet: pq.ParquetFile) -> dict[str, Any]:
    """The footer entry of a plan or shard; empty where it is missing or not JSON."""
    try:
        value = json.loads((parquet.metadata.metadata or {})[FOOTER_KEY])
    except (KeyError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What Arrow says of a damaged file becomes Corrupt; errors of the store, which have a number, stay what they are."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, IndexError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Corrupt(f"{name} is not a readable shard ({error}): remove it or restore it from a copy") from error


def _complete(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """``columns`` in order and in the ledger's types, nulls where the table lacks one."""
    schema = shard_schema()
    arrays = [
        table.column(name).cast(schema.field(name).type)
        if name in table.column_names
        else pa.nulls(table.num_rows, schema.field(name).type)
        for name in columns
    ]
    return pa.table(arrays, schema=pa.schema([schema.field(name) for name in columns]))
