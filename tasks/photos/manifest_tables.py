"""Rows of Parquet tables: the columns that mean something here, and of pictures where they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.photos.manifest_rows import MAX_TEXT, PLACES, Inside, Row, brief, column_name
from tasks.store.cells import Ranges, bytes_leaf, check_group, is_picture
from tasks.store.errors import StoreError

MAX_COLUMN_BYTES = 2**30
"""Uncompressed bytes of the read columns of one row group."""


def read_table(source: BinaryIO | Ranges, wanted: frozenset[str]) -> Iterator[Row]:
    """The rows of a Parquet file: the columns that mean something here, and of pictures where they are.

    Raises ValueError if it cannot be read, StoreError if its store cannot.
    """
    try:
        file = pq.ParquetFile(source)
        names = _columns(file, wanted)
        leaves = {name: leaf for name in names.values() if (leaf := _picture_leaf(file, name))}
        columns = [part for name in names.values() if (part := _light_part(file, name))]
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        packed = [name for name in columns if name in texts or "." in name]
        file = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=packed)
        row = 0
        for group in range(file.metadata.num_row_groups):
            check_group(file, group, columns, MAX_COLUMN_BYTES)
            full = {name: _filled(file, group, leaf) for name, leaf in leaves.items()}
            for values in _group_rows(file, group, columns, names):
                inside = {name for name in leaves if next(full[name], False)}
                yield {name: _value(values.get(name), own, row, own in inside) for name, own in names.items()}
                row += 1
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"it is not readable Parquet ({brief(error)})") from None


def _columns(file: pq.ParquetFile, wanted: frozenset[str]) -> dict[str, str]:
    """Wanted columns, and what the file calls them. A column of pictures is ``image`` if it is the only one."""
    names = {column_name(name): name for name in file.schema_arrow.names if column_name(name) in wanted}
    pictures = [field.name for field in file.schema_arrow if is_picture(field.type) and field.name != names.get("mask")]
    if "image" not in names and len(pictures) == 1:
        names["image"] = pictures[0]
    elif pictures and names.keys().isdisjoint(PLACES):
        raise ValueError(f"columns {', '.join(pictures)} hold pictures: call the one that is meant image")
    return names


def _picture_leaf(file: pq.ParquetFile, name: str) -> str | None:
    """Where a column's pictures are, if it can hold any; bytes alone are pictures only in a column called image."""
    kind = file.schema_arrow.field(name).type
    return bytes_leaf(kind, name) if is_picture(kind) or column_name(name) == "image" else None


def _light_part(file: pq.ParquetFile, name: str) -> str | None:
    """What of a column is read to plan: all of it, or of pictures their path alone."""
    if _picture_leaf(file, name) is None:
        return name
    kind = file.schema_arrow.field(name).type
    return f"{name}.path" if is_picture(kind) and kind.get_field_index("path") >= 0 else None


def _filled(file: pq.ParquetFile, group: int, leaf: str) -> Iterator[bool]:
    """Whether each cell of a row group holds bytes: as its statistics say, or as is seen, some pictures at a time."""
    for chunk in map(file.metadata.row_group(group).column, range(file.metadata.num_columns)):
        known = chunk.statistics is not None and chunk.statistics.has_null_count
        if chunk.path_in_schema == leaf and known and chunk.statistics.null_count in (0, chunk.num_values):
            return itertools.repeat(chunk.statistics.null_count == 0)
    return _seen(file, group, leaf)


def _seen(file: pq.ParquetFile, group: int, leaf: str) -> Iterator[bool]:
    for batch in file.iter_batches(batch_size=16, row_groups=[group], columns=[leaf]):
        column = batch.column(0)
        yield from pc.is_valid(
            pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
        ).to_pylist()


def _group_rows(file: pq.ParquetFile, group: int, columns: list[str], names: dict[str, str]) -> Iterator[Row]:
    if not columns:  # pictures, and nothing said of them
        yield from itertools.repeat({}, file.metadata.row_group(group).num_rows)
        return
    for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=columns):
        yield from _batch_rows(batch, {name: own for name, own in names.items() if own in batch.schema.names})


def _value(value: Any, column: str, row: int, inside: bool) -> Any:
    """What a row says; of a picture in it, where it is."""
    path = value.get("path") if isinstance(value, dict) else None
    return Inside(column, row, path) if inside else value


def _batch_rows(batch: pa.RecordBatch, names: dict[str, str]) -> Iterator[Row]:
    """Rows of a batch. Texts are cut one character past the limit first, so that none fills the memory a thousand times."""
    columns = {}
    for name, stored in names.items():
        column = batch.column(stored)
        if pa.types.is_dictionary(column.type):
            short = pc.utf8_slice_codeunits(column.dictionary, 0, MAX_TEXT + 1)
            column = pa.DictionaryArray.from_arrays(column.indices, short)
        columns[name] = column
    for index in range(batch.num_rows):
        yield {name: column[index].as_py() for name, column in columns.items()}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
