"""Which photos a manifest names, and what it says of each: CSV, JSONL, Parquet, PIE-Bench's mapping_file.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from fpcore.evaluation.rle_masks import SIDE, check_runs, encode_mask
from tasks.edit_settings import blend_pair, own_options
from tasks.store.objects import read_uri
from tasks.store.uris import parse

MANIFEST_SUFFIXES = {".csv", ".jsonl", ".parquet", ".json"}
COLUMNS = ("prompt", "target_prompt", "blended_word", "editing_type")
PIE_BENCH_SEED = 1234  # the benchmark's, of every image
ALIASES = {
    "source_prompt": "prompt",
    "original_prompt": "prompt",
    "target": "target_prompt",
    "editing_prompt": "target_prompt",
}


def read_manifest(source: str, suffix: str, allow_http: bool) -> Iterator[dict[str, Any]]:
    """Entries as ``list_photos`` gives them. Raises ValueError or StoreError with a sentence that names the fix."""
    data = read_uri(source, allow_http=allow_http)
    base = source.rpartition("/")[0]
    for number, line in enumerate(_lines(data, suffix, source), 1):
        line = {ALIASES.get(name, name): value for name, value in line.items() if value not in (None, "")}
        where = next(
            (line[name] for name in ("uri", "path", "file", "image_path", "image", "key") if name in line), None
        )
        if where is None:
            raise ValueError(f"{source}, entry {number}: no column names the photo; call one of them path or uri")
        absolute = "://" in str(where) or str(where).startswith("/")
        uri = str(where) if absolute else "/".join(filter(None, [base, str(where)]))
        key = str(line.get("key", PurePosixPath(str(where)).name if absolute else where))
        try:
            extra = _requests(line, base, allow_http)
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(f"{source}, entry {number}: {error}") from error
        yield {"key": key, "uri": str(parse(uri, allow_http=allow_http)), **extra}


def _requests(line: dict[str, Any], base: str, allow_http: bool) -> dict[str, Any]:
    """What a line says of its photo besides where it is, in ``PLAN``'s columns."""
    extra = {name: line[name] for name in COLUMNS if name in line}
    blend_pair(extra.get("blended_word"))
    if "seed" in line:
        extra["seed"] = int(line["seed"])
    if "mask" in line:
        extra["mask"] = read_mask(line["mask"], base, allow_http)
    if own := own_options(line):
        extra["edit_settings"] = own
    return extra


def read_mask(given: Any, base: str = "", allow_http: bool = False) -> list[int]:
    """Runs of pixels as they are or as JSON, or those of a black and white picture, whose white may change.

    Raises ValueError, OSError or StoreError for what is neither.
    """
    if isinstance(given, str) and not given.lstrip().startswith("["):
        uri = given if "://" in given or given.startswith("/") else "/".join(filter(None, [base, given]))
        with Image.open(io.BytesIO(read_uri(uri, allow_http=allow_http))) as picture:
            small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        return encode_mask(torch.from_numpy(np.array(small)) > 127)
    runs = [int(n) for n in (json.loads(given) if isinstance(given, str) else given)]
    check_runs(runs)
    return runs


def _lines(data: bytes, suffix: str, source: str) -> Iterator[dict[str, Any]]:
    try:
        if suffix == ".parquet":
            for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches():
                yield from batch.to_pylist()
        elif suffix == ".csv":
            yield from csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        elif suffix == ".jsonl":
            yield from (json.loads(line) for line in data.decode().splitlines() if line.strip())
        else:
            yield from _pie_bench(json.loads(data))
    except (ValueError, OSError, AttributeError) as error:
        raise ValueError(f"{source} is not a readable {suffix[1:].upper()} manifest: {error}") from error


def _pie_bench(mapping: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """PIE-Bench's mapping_file.json: brackets mark the difference between the prompts and are stripped."""
    for entry in mapping.values():
        clean = {
            name: str(entry[name]).replace("[", "").replace("]", "") for name in ("original_prompt", "editing_prompt")
        }
        yield {
            **clean,
            "path": f"annotation_images/{entry['image_path']}",
            "key": entry["image_path"],
            "blended_word": entry.get("blended_word") or None,
            "mask": entry.get("mask"),
            "editing_type": str(entry.get("editing_type_id", "")) or None,
            "seed": PIE_BENCH_SEED,
        }
