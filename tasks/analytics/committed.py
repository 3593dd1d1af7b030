"""Reading what a run committed: which shards there are, their footers, and chosen columns of their rows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.store.errors import Corrupt, NotFound, UnknownSchema
from tasks.store.names import output_name
from tasks.store.objects import Store, open_store
from tasks.store.schema import FOOTER_KEY, SCHEMA_VERSION, shard_schema
from tasks.store.uris import Address

_SHARD = re.compile(r"shards/(\d{6}-\d{5}\.parquet)")
PLACE = ("plan", "shard", "row", "key")
"""Columns of every shard: which planned photo a row is of."""
_BLOCK = 1 << 20
"""Bytes asked for at least when a column is read from a remote shard."""


@dataclass(frozen=True)
class Output:
    """An output root: its store, and a file system that can read parts of an object, which a store cannot."""

    store: Store
    fs: Any
    root: str

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
    return Output(store, _file_system(place), "/".join(part for part in (place.bucket, place.path.rstrip("/")) if part))


def _file_system(place: Address) -> Any:
    if place.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return fsspec.filesystem("s3", use_listings_cache=False, endpoint_url=endpoint)
    return fsspec.filesystem(place.scheme)


def list_shards(output: Output) -> list[Shard]:
    """All committed shards, by name; empty if the run has committed none."""
    entries = ((_SHARD.fullmatch(entry.key), entry.etag) for entry in output.store.list("shards/"))
    return sorted((Shard(match[1], etag) for match, etag in entries if match), key=lambda shard: shard.name)


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
    with _open(output, shard) as file, _named(shard):
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
    with _open(output, shard) as file:
        parquet = pq.ParquetFile(file)
        present = [name for name in ("row", *columns) if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=16, columns=present, use_threads=False):
            wanted = [index for index, row in enumerate(batch.column("row").to_pylist()) if row in numbers]
            yield from batch.take(pa.array(wanted, pa.int64())).to_pylist()


def footer(parquet: pq.ParquetFile) -> dict[str, Any]:
    """The footer entry of a plan or shard; empty where it is missing or not JSON."""
    try:
        value = json.loads((parquet.metadata.metadata or {})[FOOTER_KEY])
    except (KeyError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def _named(shard: Shard) -> Iterator[None]:
    """What Arrow says of a damaged file becomes Corrupt; errors of the store, which have a number, stay what they are."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Corrupt(f"{shard.name} is not a readable shard ({error}): remove it or restore it from a copy") from error


def _open(output: Output, shard: Shard) -> Any:
    path = f"{output.root}/shards/{shard.name}"
    if output.is_local:
        return output.fs.open(path, "rb")
    return output.fs.open(path, "rb", cache_type="readahead", block_size=_BLOCK)


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
