"""Which photos a manifest names, and what it says of each. A manifest is written by somebody else and is not trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tasks.edit_settings import OPTIONS, blend_pair, own_options
from tasks.photos.decode import PhotoLimits, decode_photo
from tasks.photos.manifest_formats import MAX_TEXT, Broken, Row, read_rows
from tasks.store.access import SOURCE_ONLY, Access
from tasks.store.errors import StoreError
from tasks.store.objects import open_store, read_uri
from tasks.store.uris import WEB, Address, parse, show

MANIFEST_SUFFIXES = {".csv", ".tsv", ".jsonl", ".parquet", ".json"}
PLACES = (
    "uri", "url", "path", "file", "file_name", "filename", "image_path", "image_url", "source_uri", "image", "key",
)  # fmt: skip
"""Columns that may name the photo, the first that is there counts."""
ALIASES = {
    "source_prompt": "prompt",
    "original_prompt": "prompt",
    "target": "target_prompt",
    "editing_prompt": "target_prompt",
}
COLUMNS = ("prompt", "target_prompt", "blended_word", "editing_type", "seed")
MAX_MANIFEST_BYTES = 2**29
MAX_LINES = 10_000_000
MASK_LIMITS = PhotoLimits(max_pixels=40_000_000, max_bytes=64_000_000)


def _number(value: Any) -> Any:
    """A number as tools write it: pandas makes 7.0 of 7 beside a gap, and NaN or nothing of the gap."""
    if isinstance(value, str):
        value = None if value.strip().lower() in {"", "nan", "null", "none", "<na>"} else _float(value)
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


Number = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_number)]
Text = Annotated[str | None, Field(max_length=10_000)]


class Line(BaseModel):
    """One line of a manifest: where the photo is, and what is asked for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    where: str = Field(min_length=1, max_length=8192)
    key: str | None = Field(None, max_length=4096)
    prompt: Text = None
    target_prompt: Text = None
    blended_word: Text = None
    editing_type: Text = None
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, BeforeValidator(_number)] = None
    mask: Annotated[str, Field(max_length=MAX_TEXT)] | list[int] | None = None
    tokens: Text = None
    padding: Text = None
    reweight: dict[str, Number] | Text = None
    cross_replace: Number = None
    self_replace: Number = None
    blend_start: Number = None
    blend_threshold: Number = None
    amplify: Number = None


WANTED = frozenset({*PLACES, *ALIASES, *COLUMNS, *OPTIONS, "mask"})


def read_manifest(source: str, access: Access = SOURCE_ONLY) -> Iterator[dict[str, Any]]:
    """Entries as ``list_photos`` gives them. A line that cannot be used is an entry with a ``problem``.

    The photos lie beside the manifest or below, in its bucket, or where ``access`` allows.

    Raises ValueError or StoreError, with a sentence that names the fix, if nothing in it can be used.
    """
    place = parse(source)
    own = place.parent
    root = own if place.scheme in WEB | {"file", "memory"} else Address(place.scheme, place.bucket, "")
    reader = _Reader(own, access.beside(root))
    entries = (reader.entry(shown, number, row) for shown, number, row in _numbered(place, access))
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
        raise ValueError(f"{place.shown} names no photo: it is empty")


def _numbered(place: Address, access: Access) -> Iterator[tuple[str, int, Row | Broken]]:
    """File, number from 1, and content of every line. A folder is read as the Parquet files in it."""
    count = 0
    for address in _parts(place):
        data = read_uri(address, access=access, max_bytes=MAX_MANIFEST_BYTES)
        try:
            for number, row in enumerate(read_rows(data, WANTED), 1):
                count += 1
                if count > MAX_LINES:
                    raise ValueError(f"it has more than {MAX_LINES:,} lines: split it")
                yield str(address.shown), number, row
        except ValueError as error:
            raise ValueError(f"{address.shown} is not a readable manifest: {error}") from None


def _parts(place: Address) -> list[Address]:
    if place.scheme in WEB or not place.path.rstrip("/").lower().endswith(".parquet"):
        return [place]
    store = open_store(place.uri)
    names = sorted(entry.key for entry in store.list() if entry.key.lower().endswith(".parquet"))
    parts = [store.address(name) for name in names if not name.rpartition("/")[2].startswith(("_", "."))]
    return parts or [place]


class _Reader:
    """Makes plan entries of lines. ``base``: what relative paths are relative to."""

    def __init__(self, base: Address, access: Access) -> None:
        self._base, self._access = base, access

    def entry(self, shown: str, number: int, row: Row | Broken) -> dict[str, Any]:
        """The entry of a line, or one that says what is wrong with it, by row and column."""
        where = f"{shown}, row {number}"
        if isinstance(row, Broken):
            return {"key": f"row {number}", "uri": "", "problem": f"{where}: {row.reason}"}
        try:
            line = _line(row)
            address = self._address(line.where)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            return {"key": _named(row, number), "uri": "", "problem": f"{where}, {_complaint(found)}"}
        except (ValueError, StoreError) as error:
            return {"key": _named(row, number), "uri": "", "problem": f"{where}: {error}"}
        entry = {"key": line.key or _key(line.where, address), "uri": address.uri}
        try:
            return {**entry, **self._requests(line)}
        except (TypeError, ValueError, OSError, StoreError) as error:
            return {**entry, "problem": f"{where}: {error}"}

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

    def _requests(self, line: Line) -> dict[str, Any]:
        """What a line says of its photo besides where it is, in ``PLAN``'s columns."""
        extra = {name: value for name in COLUMNS if (value := getattr(line, name)) is not None}
        blend_pair(line.blended_word)
        if line.mask is not None:
            extra["mask"] = self._mask(line.mask)
        given = {name: value for name in OPTIONS if (value := getattr(line, name)) is not None}
        if own := own_options(given):
            extra["edit_settings"] = own
        return extra

    def _mask(self, given: str | list[int]) -> list[int]:
        try:
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
    values = {ALIASES.get(name, name): _path_of(value) for name, value in row.items() if not _is_gap(value)}
    place = next((name for name in PLACES if name in values), None)
    if place is None:
        raise ValueError("no column names the photo; call one of them path or uri")
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
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


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
    return where


def _named(row: Row, number: int) -> str:
    """A key for a line that cannot be used."""
    given = next((str(row[name]) for name in ("key", *PLACES) if isinstance(row.get(name), str) and row[name]), "")
    return str(show(given[:400])) or f"row {number}"
