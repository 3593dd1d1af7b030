"""Parquet objects that prove themselves: explicit schema, page checksums and a digest over every byte."""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.store.errors import Corrupt, UnknownSchema
from tasks.store.schema import FOOTER_KEY, SCHEMA_VERSION, latent_shape, shard_schema

DIGEST_KEY = b"fixpoint.sha256"
"""Footer entry: SHA-256 (hex) of the object with these 64 characters, at their last occurrence, cut out."""


def encode(table: pa.Table, footer: dict[str, Any], row_group_size: int | None = None) -> bytes:
    """Write a table as one Parquet object. Equal table and footer give equal bytes in one version of pyarrow.

    zstd; float32 and float64 byte-stream-split; text by dictionary; statistics of each page, so that a reader can pass
    over pages; ``footer`` as JSON under ``FOOTER_KEY``.
    """
    return encode_groups([table], footer, row_group_size)


def encode_groups(tables: Sequence[pa.Table], footer: dict[str, Any], row_group_size: int | None = None) -> bytes:
    """Write tables of one schema as one Parquet object like ``encode``; each begins a row group of its own."""
    placeholder = secrets.token_hex(32)
    dictionary, split = _encodings(tables[0].schema)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        tables[0].schema,
        compression="zstd",
        use_dictionary=list(dictionary),
        use_byte_stream_split=list(split),
        write_page_checksum=True,
        write_page_index=True,
    ) as writer:
        for table in tables:
            writer.write_table(table, row_group_size)
        body = json.dumps({"schema_version": SCHEMA_VERSION, **footer}, sort_keys=True, ensure_ascii=False)
        writer.add_key_value_metadata({FOOTER_KEY: body.encode(), DIGEST_KEY: placeholder.encode()})
    data: bytes = sink.getvalue().to_pybytes()
    head, _, tail = data.rpartition(placeholder.encode())
    return head + hashlib.sha256(head + tail).hexdigest().encode() + tail


@functools.lru_cache(maxsize=32)
def _encodings(schema: pa.Schema) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Leaf columns to write with a dictionary (text, integers) and byte-stream-split (floats); bytes get neither.

    Nor do float16 latents: splitting would save 8 % of them, but DuckDB cannot read it.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    leaves = [columns.column(i) for i in range(len(columns))]
    split = tuple(leaf.path for leaf in leaves if leaf.physical_type in {"FLOAT", "DOUBLE"})
    texts = {leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"}
    return tuple(leaf.path for leaf in leaves if leaf.path in texts or leaf.physical_type.startswith("INT")), split


def read_footer(data: bytes, name: str) -> dict[str, Any]:
    """Our footer entry of a Parquet object, or of its last bytes if they hold the whole footer.

    Raises:
        Corrupt: if there is none.
        UnknownSchema: if another schema version wrote it.
    """
    return _footer(_metadata(data, name), name)


def _metadata(data: bytes, name: str) -> dict[bytes, bytes]:
    try:
        return dict(pq.read_metadata(pa.BufferReader(data)).metadata or {})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{name} is not a readable Parquet object ({error}): restore it from a copy") from error


def _footer(metadata: dict[bytes, bytes], name: str) -> dict[str, Any]:
    try:
        footer: dict[str, Any] = json.loads(metadata[FOOTER_KEY])
        if not isinstance(footer, dict):
            raise TypeError("no object")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise Corrupt(f"{name} was not written by Fixpoint, or its footer is damaged: remove or restore it") from error
    if footer.get("schema_version") != SCHEMA_VERSION:
        raise UnknownSchema(
            f"{name} has schema version {footer.get('schema_version')}, this program reads {SCHEMA_VERSION}: "
            "use the version of Fixpoint that wrote it, or a newer one"
        )
    return footer


def check(data: bytes, name: str) -> None:
    """Compare every byte with the digest in the footer.

    Raises:
        Corrupt: if any bit differs.
    """
    digest = _metadata(data, name).get(DIGEST_KEY, b"")
    head, found, tail = data.rpartition(digest) if digest else (b"", b"", b"")
    if not found or hashlib.sha256(head + tail).hexdigest().encode() != digest:
        raise Corrupt(f"{name} is damaged: its bytes do not match their digest; restore it from a copy")


def decode(data: bytes, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a checked Parquet object with the schema of this version.

    Columns the file lacks are null, columns it has beyond ours are left out, narrower numbers are widened.

    Raises Corrupt or UnknownSchema.
    """
    check(data, name)
    read_footer(data, name)
    return read_table(data, name, schema, columns)


def read_table(
    data: bytes, name: str, schema: pa.Schema, columns: Sequence[str] | None = None, row_group: int | None = None
) -> pa.Table:
    """As ``decode``, of an object whose digest was compared already; of one row group, or of all.

    Raises Corrupt.
    """
    wanted = [field for field in schema if columns is None or field.name in columns]
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        present = [field.name for field in wanted if field.name in file.schema_arrow.names]
        table = file.read(columns=present) if row_group is None else file.read_row_group(row_group, columns=present)
        return conform(table, pa.schema(wanted))
    except (pa.ArrowException, OSError, IndexError) as error:
        raise Corrupt(f"{name} cannot be read ({error}): restore it from a copy") from error


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns in the schema's order and types, absent ones null."""
    arrays = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def stored_schema(data: bytes, name: str) -> pa.Schema:
    """The shard schema of this version, with the type of latent that the object holds.

    Raises:
        Corrupt: if it is no Parquet object.
    """
    try:
        return shard_schema(latent_shape(pq.read_schema(pa.BufferReader(data))))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{name} is not a readable Parquet object ({error}): restore it from a copy") from error
