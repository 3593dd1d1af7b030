"""Reading what a run committed: which shards there are, their footers, and chosen columns of their rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.store.schema import FOOTER_KEY, shard_schema


@dataclass(frozen=True)
class Output:
    """An output root: its URL, and the file system and path that reach it."""

    url: str
    fs: Any
    root: str

    @property
    def run(self) -> str:
        """Name of the run in the tables: last part of the root and eight hex digits of its URL's SHA-256."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.root.rstrip("/").rsplit("/", 1)[-1]) or "run"
        return f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Shard:
    """One committed shard object; ``etag`` changes whenever its bytes do."""

    name: str
    path: str
    etag: str
    size: int


def open_output(url: str) -> Output:
    """The output root at ``url`` (a folder or any fsspec URL), its URL made absolute and free of credentials."""
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    public = re.sub(r"://[^/@]*@", "://", fs.unstrip_protocol(root))
    return Output(public.rstrip("/"), fs, root.rstrip("/"))


def list_shards(output: Output) -> list[Shard]:
    """All committed shards under ``shards/``, by name; empty if the run has committed none."""
    try:
        entries = output.fs.ls(f"{output.root}/shards", detail=True)
    except FileNotFoundError:
        return []
    found = [_shard(entry) for entry in entries if entry["name"].endswith(".parquet")]
    return sorted(found, key=lambda shard: shard.name)


def _shard(entry: dict[str, Any]) -> Shard:
    tag = entry.get("ETag") or entry.get("etag") or entry.get("mtime") or entry.get("created") or ""
    path, size = str(entry["name"]), int(entry["size"] or 0)
    return Shard(path.rsplit("/", 1)[-1], path, f"{str(tag).strip(chr(34))}:{size}", size)


def read_json(output: Output, key: str) -> dict[str, Any]:
    """The JSON object at ``key``; empty if there is none or it is not an object."""
    try:
        value = json.loads(output.fs.cat_file(f"{output.root}/{key}"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_shard(output: Output, shard: Shard, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Only ``columns`` of a shard, and its footer. A column the shard lacks comes back as nulls."""
    with output.fs.open(shard.path, "rb", cache_type="readahead", block_size=1 << 20) as file:
        parquet = pq.ParquetFile(file)
        present = [name for name in columns if name in parquet.schema_arrow.names]
        table = parquet.read(columns=present, use_threads=False)
        return _complete(table, columns), footer(parquet)


def read_rows(output: Output, shard: Shard, columns: Sequence[str], rows: set[int]) -> Iterator[dict[str, Any]]:
    """The rows of a shard whose number is in ``rows``, a few at a time, so that pictures never fill the memory."""
    with output.fs.open(shard.path, "rb", cache_type="readahead", block_size=1 << 20) as file:
        parquet = pq.ParquetFile(file)
        present = [name for name in ("row", *columns) if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=16, columns=present, use_threads=False):
            wanted = [index for index, row in enumerate(batch.column("row").to_pylist()) if row in rows]
            yield from batch.take(wanted).to_pylist()


def footer(parquet: pq.ParquetFile) -> dict[str, Any]:
    """The footer entry of a plan or shard; empty where it is missing or not JSON."""
    try:
        value = json.loads((parquet.schema_arrow.metadata or {})[FOOTER_KEY])
    except (KeyError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


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
