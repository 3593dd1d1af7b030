"""Which photos a manifest names, and what it says of each. A manifest is written by somebody else and is not trusted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tasks.edit_settings import OPTIONS, blend_pair, own_options
from tasks.photos.decode import PhotoLimits, decode_photo
from tasks.photos.manifest_formats import PARQUET, read_rows
from tasks.photos.manifest_rows import MAX_TEXT, PLACES, Broken, Inside, Row
from tasks.photos.manifest_tables import read_table
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.cells import open_table
from tasks.store.errors import StoreError
from tasks.store.objects import open_store, read_uri, stat_uri, store_of
from tasks.store.uris import WEB, Address, Cell, parse, show

MANIFEST_SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".json"}


def is_manifest(name: str) -> bool:
    """Whether a file name is a manifest's, gzipped or not."""
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix in MANIFEST_SUFFIXES


ALIASES = {
    "source_prompt": "prompt",
    "original_prompt": "prompt",
    "target": "target_prompt",
    "editing_prompt": "target_prompt",
}
COLUMNS = ("prompt", "target_prompt", "blended_word", "editing_type", "seed")
GAPS = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "None", "none", "<NA>"})
"""How tools write that nothing is there."""
MAX_MANIFEST_BYTES = 2**29
MAX_LINES = 10_000_000
MASK_LIMITS = PhotoLimits(max_pixels=40_000_000, max_bytes=64_000_000)


def _number(value: Any) -> Any:
    """A number as tools write it: pandas makes 7.0 of 7 beside a gap, and NaN or nothing of the gap."""
    if isinstance(value, str):
        value = None if value.strip() in GAPS else _float(value)
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _float(text: str) -> float:
    try:
        return float(re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", text.strip()))  # a comma where the separator is a semicolon
    except ValueError:
        raise ValueError("must be a number") from None


Number = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_number)]
Text = Annotated[str | None, Field(max_length=10_000)]


class Line(BaseModel):
    """One line of a manifest: where the photo is, and what is asked for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    where: Annotated[str, Field(min_length=1, max_length=8192)] | Inside
    key: str | None = Field(None, max_length=4096)
    prompt: Text = None
    target_prompt: Text = None
    blended_word: Text = None
    editing_type: Text = None
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, BeforeValidator(_number)] = None
    mask: Annotated[str, Field(max_length=MAX_TEXT)] | list[int] | Inside | None = None
    tokens: Text = None
    padding: Text = None
    reweight: dict[str, Number] | Text = None
    cross_replace: Number = None
    self_replace: Number = None
    blend_start: Number = None
    blend_threshold: Number = None
    amplify: Number = None


WANTED = frozenset({*PLACES, *ALIASES, *COLUMNS, *OPTIONS, "mask"})


def read_manifest(source: str, access: Access = SOURCE_ONLY, pattern: str | None = None) -> Iterator[dict[str, Any]]:
    """Entries as ``list_photos`` gives them. A line that cannot be used is an entry with a ``problem``.

    The photos lie in the manifest (pictures inside Parquet), beside it or below, in its bucket, or where ``access``
    allows. Of a folder the Parquet files are read that fit the ``pattern``, or
    all if its name ends in ``.parquet``.

    Raises ValueError or StoreError, with a sentence that names the fix, if nothing in it can be used.
    """
    place = parse(source)
    parts = _parts(place, pattern)
    own = place if pattern else place.parent
    root = own if place.scheme in WEB | {"file", "memory"} else Address(place.scheme, place.bucket, "")
    reader = _Reader(own, access.beside(root))
    entries = (reader.entry(part, number, row) for part, number, row in _numbered(parts, access))
    first, problems = None, list[dict[str, Any]]()
    for entry in entries:
        if "problem" not in entry:
            first = entry
            break
        problems.append(entry)
    if first is not None:
        yield from chain(problems, [first], entries)
    elif problems:
        raise ValueError(f"No line of the manifest can be used. {problems[0]['problem']}")
    else:
        raise ValueError(f"{place.shown} names no photo: it is empty, or a header with no line below it")


def _numbered(parts: list[Address], access: Access) -> Iterator[tuple[Address, int, Row | Broken]]:
    """File, number from 1, and content of every line."""
    count = 0
    for address in parts:
        try:
            for number, row in enumerate(_rows(address, access), 1):
                count += 1
                if count > MAX_LINES:
                    raise ValueError(f"it has more than {MAX_LINES:,} lines: split it")
                yield address, number, row
        except StoreError:
            raise
        except ValueError as error:
            raise ValueError(f"{address.shown} is not a readable manifest: {error}") from None


def _rows(address: Address, access: Access) -> Iterator[Row | Broken]:
    """Parquet that holds pictures is large, so it is read by ranges, and everything else as a whole."""
    if address.scheme not in WEB and address.path.lower().endswith(".parquet"):
        store, key = store_of(address)
        table = open_table(store, key)
        if table.read(len(PARQUET)) == PARQUET:
            return read_table(table, WANTED)
    return read_rows(read_uri(address, access=access, max_bytes=MAX_MANIFEST_BYTES), WANTED, MAX_MANIFEST_BYTES)


def _parts(place: Address, pattern: str | None) -> list[Address]:
    """The files of a manifest: itself, or of a folder those that fit."""
    if place.scheme in WEB or not (pattern or place.path.rstrip("/").lower().endswith(".parquet")):
        return [place]
    store = open_store(place.uri)
    names = sorted(entry.name for entry in store.list() if fnmatch(entry.key.lower(), (pattern or "*.parquet").lower()))
    parts = [store.address(name) for name in names if not name.rpartition("/")[2].startswith(("_", "."))]
    return parts or [place]


class _Reader:
    """Makes plan entries of lines. ``base``: what relative paths are relative to."""

    def __init__(self, base: Address, access: Access) -> None:
        self._base, self._access = base, access
        self._tags: dict[Address, str | None] = {}

    def entry(self, part: Address, number: int, row: Row | Broken) -> dict[str, Any]:
        """The entry of a line, or one that says what is wrong with it, by row and column."""
        where = f"{part.shown}, row {number}"
        if isinstance(row, Broken):
            return {"key": f"row {number}", "uri": "", "problem": f"{where}: {row.reason}"}
        try:
            line = _line(row)
            entry = self._inside(part, line) if isinstance(line.where, Inside) else self._beside(line.where)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            return {"key": _named(row, number), "uri": "", "problem": f"{where}, {_complaint(found)}"}
        except (ValueError, StoreError) as error:
            return {"key": _named(row, number), "uri": "", "problem": f"{where}: {error}"}
        try:
            return {**entry, **({"key": line.key} if line.key else {}), **self._requests(line, part)}
        except (TypeError, ValueError, OSError, StoreError) as error:
            return {**entry, "problem": f"{where}: {error}"}

    def _beside(self, where: str) -> dict[str, Any]:
        if "\\" in where and self._base.scheme == "file" and not Path(self._base.path, where).exists():
            where = where.replace("\\", "/")  # written on Windows
        address = self._address(where)
        return {"key": _key(where, address), "uri": address.uri}

    def _inside(self, part: Address, line: Line) -> dict[str, Any]:
        """The entry of a picture that the table itself holds."""
        assert isinstance(line.where, Inside)
        if part not in self._tags:
            standing = stat_uri(part)
            self._tags[part] = None if standing is None else standing.etag
        return {"key": _inside_key(part, line.where), "uri": _cell(part, line.where).uri, "etag": self._tags[part]}

    def _address(self, where: str) -> Address:
        """The photo's or mask's place, if it may be read."""
        if "://" in where or where.startswith("/"):
            address = parse(where)
        elif self._base.scheme == "file":
            address = parse(f"{self._base.path}/{where}")
        else:
            address = parse((self._base / where).uri)
        self._access.require(address)
        if address.scheme not in WEB and address.signed:
            raise ValueError(f"{address.shown} is signed: give presigned addresses as https:// and allow --allow-http")
        return address

    def _requests(self, line: Line, part: Address) -> dict[str, Any]:
        """What a line says of its photo besides where it is, in ``PLAN``'s columns."""
        extra = {name: value for name in COLUMNS if (value := getattr(line, name)) is not None}
        blend_pair(line.blended_word)
        if line.mask is not None:
            extra["mask"] = self._mask(line.mask, part)
        given = {name: value for name in OPTIONS if (value := getattr(line, name)) is not None}
        if own := own_options(given):
            extra["edit_settings"] = own
        return extra

    def _mask(self, given: str | list[int] | Inside, part: Address) -> list[int]:
        try:
            if isinstance(given, Inside):
                return mask_of(read_uri(_cell(part, given), max_bytes=MASK_LIMITS.max_bytes))
            if isinstance(given, str) and not given.lstrip().startswith("["):
                return mask_of(read_uri(self._address(given), access=self._access, max_bytes=MASK_LIMITS.max_bytes))
            return mask_runs(given)
        except (TypeError, ValueError, StoreError) as error:
            raise ValueError(f"column mask: {error}") from None


def read_mask(given: str) -> list[int]:
    """Runs of pixels as JSON, or those of a black and white picture, whose white may change.

    Raises ValueError or StoreError for what is neither.
    """
    if given.lstrip().startswith("["):
        return mask_runs(given)
    return mask_of(read_uri(given, max_bytes=MASK_LIMITS.max_bytes))


def mask_of(data: bytes) -> list[int]:
    """The runs of a picture's white. Raises PhotoError for what is no picture of at most 40 megapixels."""
    import torch  # here: a run without masks that has nothing new to do needs none

    from fpcore.evaluation.rle_masks import SIDE, encode_mask

    grey = decode_photo(data, MASK_LIMITS).pixels
    image = Image.fromarray((grey.mean(2) / np.iinfo(grey.dtype).max * 255).astype(np.uint8))
    small = image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return encode_mask(torch.from_numpy(np.array(small)) > 127)


def mask_runs(given: str | list[int]) -> list[int]:
    """Runs of pixels as they are or as JSON. Raises ValueError for what is none."""
    from fpcore.evaluation.rle_masks import check_runs

    try:
        runs = [int(n) for n in (json.loads(given) if isinstance(given, str) else given)]
    except (TypeError, OverflowError, RecursionError):
        raise ValueError("it is no list of whole numbers") from None
    check_runs(runs)
    return runs


def _line(row: Row) -> Line:
    """The line's columns by the names they have here. Raises ValueError or ValidationError."""
    named = ((ALIASES.get(name, name), _path_of(value)) for name, value in row.items())
    values = {name: value for name, value in named if not _is_gap(value)}
    inside = (name for name in PLACES if isinstance(values.get(name), Inside))
    place = next(inside, None) or next((name for name in PLACES if name in values), None)
    if place is None:
        empty = next((name for name in PLACES if name in row), None)
        wrong = f"column {empty} is empty" if empty else "no column names the photo; call one of them path or uri"
        raise ValueError(wrong)
    known = {name: value for name, value in values.items() if name in Line.model_fields}
    return Line(**{**known, "where": values[place], "key": values.get("key")})


def _path_of(value: Any) -> Any:
    """Of a picture as Hugging Face keeps it (bytes and path) the path."""
    if isinstance(value, dict) and "path" in value and value.keys() <= {"bytes", "path"}:
        if value.get("bytes") is not None:
            raise ValueError("the line holds the picture itself, not where it is: write it to a file and name that")
        return value["path"]
    return value


def _is_gap(value: Any) -> bool:
    """Whether a tool meant that nothing is there."""
    return (
        value is None or (isinstance(value, str) and value in GAPS) or (isinstance(value, float) and math.isnan(value))
    )


def _complaint(found: Any) -> str:
    """What pydantic says of a value, with the column's name and the value's start."""
    column = str(found["loc"][0]) if found["loc"] else "?"
    value = str(show(str(found["input"])[:300]))[:60]
    return (
        f"column {'path' if column == 'where' else column}: {found['msg'].removeprefix('Value error, ')}, not {value!r}"
    )


def _key(where: str, address: Address) -> str:
    """The photo's relative path; of a whole address the name alone, which never holds a signature."""
    if "://" in where or where.startswith("/") or address.scheme in WEB:
        return address.name or address.bucket
    return "/".join(part for part in where.split("/") if part != ".")


def _cell(part: Address, inside: Inside) -> Address:
    if part.scheme in WEB:
        raise ValueError(f"column {inside.column} holds the picture itself: copy the table to a folder or bucket first")
    return replace(part, cell=Cell(inside.column, inside.row))


def _inside_key(part: Address, inside: Inside) -> str:
    """The path that a picture inside a table once had (of one on some disk or site the name), or its row."""
    path = (inside.path or "").split("::")[0]
    if "://" in path or path.startswith("/"):
        path = path.rpartition("/")[2]
    return path or f"{part.name.rpartition('.')[0]}/{inside.row:06d}"


def _named(row: Row, number: int) -> str:
    """A key for a line that cannot be used."""
    given = next((str(row[name]) for name in ("key", *PLACES) if isinstance(row.get(name), str) and row[name]), "")
    return str(show(given[:400])) or f"row {number}"
