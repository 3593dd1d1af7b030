"""The lines of a manifest, however a tool wrote it: CSV with any separator, JSON lines, a JSON array, Parquet.

Text may be UTF-8 or UTF-16, with a byte-order mark or without. A line that cannot be read is a :class:`Broken`, and the
lines after it are read all the same.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.store.cells import Ranges, bytes_leaf, check_group, is_picture
from tasks.store.errors import StoreError

MAX_TEXT = 100_000
"""Characters of one value."""
MAX_COLUMN_BYTES = 2**30
"""Uncompressed bytes of the read columns of one row group."""
PARQUET = b"PAR1"
"""First bytes of a Parquet file."""
PLACES = (
    "uri", "url", "path", "file", "file_name", "filename", "image_path", "image_url", "source_uri", "image", "key",
)  # fmt: skip
"""Columns that may name the photo, the first that is there counts."""
PIE_BENCH_SEED = 1234  # the benchmark's, of every image
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """A line that cannot be read, and why."""

    reason: str


@dataclass(frozen=True)
class Inside:
    """A picture that a table holds itself: its column, its row from 0, and the path it once had."""

    column: str
    row: int
    path: str | None


def read_rows(data: bytes, wanted: frozenset[str]) -> Iterator[Row | Broken]:
    """The lines of a manifest by column names in lower case, only ``wanted`` ones of Parquet.

    Raises ValueError if the whole is none of the formats.
    """
    if data.startswith(PARQUET):
        yield from read_table(io.BytesIO(data), wanted)
        return
    text = as_text(data)
    start = text.lstrip()[:1]
    if start == "[":
        yield from _objects(_json(text))
    elif start == "{":
        yield from _json_lines(text)
    elif start:
        yield from _csv(text, wanted)


def as_text(data: bytes) -> str:
    """UTF-8 or UTF-16 (UTF-32 with its mark) as text. Raises ValueError for other encodings."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    head = data[:4096]
    if b"\0" in head:  # every second byte of UTF-16 that holds mostly ASCII
        return _decoded(data, "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be")
    return _decoded(data, "utf-8")


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not {encoding.upper()}: save it as UTF-8") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({_brief(error)})") from None


def _json_lines(text: str) -> Iterator[Row | Broken]:
    """One object a line; or one object in all, which then is PIE-Bench's mapping file."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and not any(map(_is_object, lines[:20])):
        yield from _pie_bench(_json(text))
        return
    if len(lines) == 1 and _is_mapping(first := _json(lines[0])):
        yield from _pie_bench(first)
        return
    for line in lines:
        try:
            yield from _objects([json.loads(line)])
        except (ValueError, RecursionError) as error:
            yield Broken(f"it is not JSON ({_brief(error)})")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_mapping(value: Any) -> bool:
    """Whether an object is PIE-Bench's mapping file: objects by their numbers."""
    return isinstance(value, dict) and bool(value) and all(isinstance(one, dict) for one in value.values())


def _objects(values: Any) -> Iterator[Row | Broken]:
    for value in values:
        if isinstance(value, dict):
            yield {_name(name): one for name, one in value.items()}
        else:
            yield Broken(f"it is no JSON object but {type(value).__name__}")


def _pie_bench(mapping: Any) -> Iterator[Row | Broken]:
    """PIE-Bench's mapping_file.json: brackets mark the difference between the prompts and are stripped."""
    if not _is_mapping(mapping):
        raise ValueError(
            "it is one JSON object, and not PIE-Bench's mapping file: write a list of objects, or one a line"
        )
    for entry in mapping.values():
        prompts = {
            name: str(entry[name]).replace("[", "").replace("]", "")
            for name in ("original_prompt", "editing_prompt")
            if entry.get(name) is not None
        }
        path = entry.get("image_path")
        yield {
            **prompts,
            "path": path and f"annotation_images/{path}",
            "key": path,
            "blended_word": entry.get("blended_word") or None,
            "mask": entry.get("mask"),
            "editing_type": str(entry.get("editing_type_id", "")) or None,
            "seed": PIE_BENCH_SEED,
        }


def _csv(text: str, wanted: frozenset[str]) -> Iterator[Row | Broken]:
    if text[:4].lower() == "sep=":  # Excel's first line
        text = text.partition("\n")[2]
    header, lines = _header(text, wanted)
    while True:
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield Broken(f"it is not CSV ({error})")
            continue
        if len(values) > len(header) and any(values[len(header) :]):
            yield Broken(f"it has {len(values)} values, and the header {len(header)} columns: put quotes around text")
        elif any(values):
            yield dict(zip(header, values, strict=False))


def _header(text: str, wanted: frozenset[str]) -> tuple[list[str], Iterator[list[str]]]:
    """The columns, and the lines below, with the separator that makes most of the columns known."""
    best: tuple[list[str], Iterator[list[str]]] = ([], iter(()))
    for separator in ",;\t|":
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            header = [_name(name) for name in next(lines)]
        except (csv.Error, StopIteration):
            continue
        if len(wanted & set(header)) > len(wanted & set(best[0])) or not best[0]:
            best = header, lines
    if twice := {name for name in best[0] if name and best[0].count(name) > 1}:
        raise ValueError(f"it has two columns called {min(twice)}")
    return best


def read_table(source: BinaryIO | Ranges, wanted: frozenset[str]) -> Iterator[Row | Broken]:
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
        raise ValueError(f"it is not readable Parquet ({_brief(error)})") from None


def _columns(file: pq.ParquetFile, wanted: frozenset[str]) -> dict[str, str]:
    """Wanted columns, and what the file calls them. A column of pictures is ``image`` if it is the only one."""
    names = {_name(name): name for name in file.schema_arrow.names if _name(name) in wanted}
    pictures = [field.name for field in file.schema_arrow if is_picture(field.type) and field.name != names.get("mask")]
    if "image" not in names and len(pictures) == 1:
        names["image"] = pictures[0]
    elif pictures and names.keys().isdisjoint(PLACES):
        raise ValueError(f"columns {', '.join(pictures)} hold pictures: call the one that is meant image")
    return names


def _picture_leaf(file: pq.ParquetFile, name: str) -> str | None:
    """Where a column's pictures are, if it can hold any; bytes alone are pictures only in a column called image."""
    kind = file.schema_arrow.field(name).type
    return bytes_leaf(kind, name) if is_picture(kind) or _name(name) == "image" else None


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


def _name(name: Any) -> str:
    return str(name).strip().lower()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
